//! The flags of the TURN server.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use wice_signal::{Secret, SecretError, TurnLimits, TurnOptions};

use super::credential;

/// What makes a relay of the server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "TURN (relays for peers that have no direct path)")]
pub(super) struct TurnFlags {
    /// Serve TURN here, over UDP and TCP; STUN is answered too. May be repeated; the usual port is 3478. Clients that
    /// pass the token check get credentials that hold for a short time.
    #[arg(long, value_name = "ADDR:PORT")]
    turn: Vec<SocketAddr>,

    /// Serve TURN over TLS here, with the certificate of --tls-cert. May be repeated; the usual port is 5349,
    /// and 443 passes most firewalls.
    #[arg(long, value_name = "ADDR:PORT")]
    turn_tls: Vec<SocketAddr>,

    /// The address of relayed packets as others see it, where it is not the one that is listened on: behind 1:1 NAT or
    /// on a wildcard address. Once for each address family [default: the address that the default route leads out
    /// from].
    #[arg(long, value_name = "ADDR")]
    turn_external: Vec<IpAddr>,

    /// The UDP ports of relayed addresses.
    #[arg(long, value_name = "LOW-HIGH", default_value = "49152-65535", value_parser = ports)]
    turn_ports: RangeInclusive<u16>,

    /// Relay to private, shared (CGNAT), link-local and unique local addresses too. Loopback, multicast and the
    /// server's own addresses stay out of reach.
    #[arg(long)]
    turn_allow_private: bool,

    /// Relay to loopback addresses too, for tests on one machine.
    #[arg(long, hide = true)]
    turn_allow_loopback: bool,

    /// Derive credentials from the secret in this file, so that several servers take each other's [default: the
    /// systemd credential turn-secret, if there is one; else a secret of this process].
    #[arg(long, value_name = "FILE")]
    turn_secret_file: Option<PathBuf>,

    /// Seconds for which credentials hold. Clients are told new ones before that; an allocation that was made ends with
    /// its lifetime, at most an hour later.
    #[arg(long, value_name = "SECONDS", default_value_t = TurnOptions::default().ttl.as_secs(),
        value_parser = clap::value_parser!(u64).range(60..=604_800))]
    turn_ttl: u64,

    /// TURN allocations in all.
    #[arg(long, value_name = "COUNT", default_value_t = TurnLimits::default().allocations)]
    turn_allocations: usize,

    /// TURN allocations with the credentials of one client.
    #[arg(long, value_name = "COUNT", default_value_t = TurnLimits::default().allocations_per_user)]
    turn_allocations_per_user: usize,

    /// TURN allocations of one client address.
    #[arg(long, value_name = "COUNT", default_value_t = TurnLimits::default().allocations_per_address)]
    turn_allocations_per_address: usize,

    /// Megabits that are relayed in a second, in all and both ways; what is above is dropped [default: no bound].
    #[arg(
        long,
        value_name = "MBIT",
        default_value_t = 0,
        hide_default_value = true
    )]
    turn_rate: u32,

    /// The same for one allocation [default: no bound].
    #[arg(
        long,
        value_name = "MBIT",
        default_value_t = 0,
        hide_default_value = true
    )]
    turn_rate_per_allocation: u32,
}

impl TurnFlags {
    /// How the TURN server is set up, with the secret read; `None` if there is to be none.
    pub(super) fn options(self) -> Result<Option<TurnOptions>, SecretError> {
        if self.turn.is_empty() && self.turn_tls.is_empty() {
            return Ok(None);
        }
        let file = self.turn_secret_file.or_else(|| credential("turn-secret"));
        Ok(Some(TurnOptions {
            listen: self.turn,
            tls: self.turn_tls,
            external: self.turn_external,
            ports: self.turn_ports,
            allow_private: self.turn_allow_private,
            allow_loopback: self.turn_allow_loopback,
            secret: file.as_deref().map(Secret::read).transpose()?,
            ttl: Duration::from_secs(self.turn_ttl),
            limits: TurnLimits {
                allocations: self.turn_allocations,
                allocations_per_user: self.turn_allocations_per_user,
                allocations_per_address: self.turn_allocations_per_address,
                bits_per_second: u64::from(self.turn_rate) * 1_000_000,
                bits_per_second_per_allocation: u64::from(self.turn_rate_per_allocation)
                    * 1_000_000,
                ..TurnLimits::default()
            },
        }))
    }
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(low, high)| {
        let low: u16 = low.trim().parse().ok()?;
        let high: u16 = high.trim().parse().ok()?;
        (low > 0 && low <= high).then_some(low..=high)
    });
    range.ok_or_else(|| "expected two ports, the lower one first, such as 49152-65535".into())
}
