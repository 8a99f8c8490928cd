//! The command line.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use wice_signal::{Limits, Options, SecretError, StoreFileError, TlsFiles, TokenError, Tokens};

use crate::log::LogLevel;

mod store;
mod turn;

const PORT: u16 = 8080;

/// Where to listen when nothing is said: all addresses of both families.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT);

/// The same where there is no IPv6.
pub(crate) const DEFAULT_IPV4: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);

/// The rendezvous server of WICE: agents leave sealed offers for each other in its mailboxes and ask its STUN server
/// for their public addresses. With --turn it also relays for those that have no direct path.
///
/// It keeps the newest message of each mailbox for a time and cannot read any: in memory or, with --store, in NATS, for
/// any number of servers together. HTTP REST and WebSocket are served on the same addresses; GET /v1/openapi.json describes them.
#[derive(Debug, Parser)]
#[command(
    version = env!("WICE_VERSION"),
    after_help = "SIGHUP reads certificate and key again. SIGTERM and SIGINT stop the server: clients are told\n\
        to leave, over the first half of --drain where others share its store; a second one ends it at once.\n\
        Exit status: 0 stopped by a signal, 1 failed, 2 wrong usage."
)]
pub(crate) struct Cli {
    /// Serve HTTP and WebSocket here [default: the sockets that systemd hands over, else [::]:8080, which takes IPv4
    /// too]. May be repeated; port 0 takes a free one, and the log says which.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<SocketAddr>,

    /// Serve TLS (HTTPS, WSS) with this certificate chain in PEM [default: the systemd credentials tls-cert and
    /// tls-key, if both are there].
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Believe reverse proxies in this network (an address, or CIDR) when they say whose request they hand on, in
    /// X-Forwarded-For, so that limits count their clients and not them. May be repeated.
    #[arg(long, value_name = "CIDR", value_parser = network)]
    trusted_proxy: Vec<IpNet>,

    /// Answer STUN binding requests here, over UDP. May be repeated; the usual port is 3478.
    #[arg(long, value_name = "ADDR:PORT")]
    stun: Vec<SocketAddr>,

    /// Ask clients for a bearer token in this file, which has one a line [default: the systemd credential
    /// signaling-token, if there is one; else none is asked for]. Each may have limits of its own.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Seconds that clients have to leave when the server stops; GET /readyz says so meanwhile.
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().drain.as_secs(),
        value_parser = clap::value_parser!(u64).range(0..=3600))]
    drain: u64,

    /// Serve metrics for Prometheus here, at /metrics, to whoever can connect: without TLS and without the token.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,

    /// How much is logged, to the journal under systemd and else to standard error.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: LogLevel,

    /// Print the manual page as roff, and exit.
    #[arg(long, hide = true)]
    pub(crate) generate_man: bool,

    #[command(flatten)]
    store: store::StoreFlags,

    #[command(flatten)]
    turn: turn::TurnFlags,

    #[command(flatten)]
    limits: LimitFlags,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits (an address is an IPv4 address or an IPv6 /64)")]
struct LimitFlags {
    /// Seconds for which a message is kept after it was last written.
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().expiry.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    expiry: u64,

    /// Mailboxes with a message, in all.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().mailboxes)]
    mailboxes: usize,

    /// Mailboxes with a message last written from one address.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().mailboxes_per_address)]
    mailboxes_per_address: usize,

    /// Requests from one address in a minute; see --trusted-proxy where clients come through one.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().requests_per_minute,
        value_parser = clap::value_parser!(u32).range(1..))]
    requests_per_minute: u32,

    /// Requests with one token in a minute.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().requests_per_minute_per_token,
        value_parser = clap::value_parser!(u32).range(1..))]
    requests_per_minute_per_token: u32,

    /// Requests and WebSockets under way with one token [default: as many as --connections].
    #[arg(long, value_name = "COUNT")]
    connections_per_token: Option<usize>,

    /// Mailboxes that clients wait for at the same time, in all.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().subscriptions)]
    subscriptions: usize,

    /// Mailboxes that clients of one address wait for at the same time.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().subscriptions_per_address)]
    subscriptions_per_address: usize,

    /// TCP connections at the same time, in all; each is an open file.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().connections)]
    connections: usize,

    /// TCP connections from one address at the same time.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().connections_per_address)]
    connections_per_address: usize,
}

/// A secret that is asked for and cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidOptions {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Store(#[from] StoreFileError),
}

impl Cli {
    /// What the server is made of, with token and secret read.
    pub(crate) fn options(self) -> Result<Options, InvalidOptions> {
        let tokens = match (&self.token_file, credential("signaling-token")) {
            (Some(file), _) => Some(Tokens::read(file)?),
            (None, Some(file)) => Some(Tokens::read(&file)?),
            (None, None) => None,
        };
        let listen = if self.listen.is_empty() {
            vec![DEFAULT]
        } else {
            self.listen
        };
        let credentials = || credential("tls-cert").zip(credential("tls-key"));
        let tls = self.tls_cert.zip(self.tls_key).or_else(credentials);
        Ok(Options {
            listen,
            tls: tls.map(|(cert, key)| TlsFiles { cert, key }),
            stun: self.stun,
            turn: self.turn.options()?,
            trusted_proxies: self.trusted_proxy,
            tokens,
            store: self.store.options()?,
            metrics: self.metrics,
            limits: Limits {
                expiry: Duration::from_secs(self.limits.expiry),
                drain: Duration::from_secs(self.drain),
                mailboxes: self.limits.mailboxes,
                mailboxes_per_address: self.limits.mailboxes_per_address,
                requests_per_minute: self.limits.requests_per_minute,
                requests_per_minute_per_token: self.limits.requests_per_minute_per_token,
                connections_per_token: (self.limits.connections_per_token)
                    .unwrap_or(self.limits.connections),
                subscriptions: self.limits.subscriptions,
                subscriptions_per_address: self.limits.subscriptions_per_address,
                connections: self.limits.connections,
                connections_per_address: self.limits.connections_per_address,
                ..Limits::default()
            },
        })
    }
}

/// Reads a network, or one address as the network of itself.
fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or(address).map_err(|_| {
        format!("{text:?} is no network: write 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32")
    })
}

/// The file of this name among systemd's credentials, if the unit was given one.
fn credential(name: &str) -> Option<PathBuf> {
    let directory = env::var_os("CREDENTIALS_DIRECTORY")?;
    let file = Path::new(&directory).join(name);
    file.exists().then_some(file)
}
