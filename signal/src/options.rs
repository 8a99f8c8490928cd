//! What an operator may set, with the defaults.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::token::Tokens;
use crate::turn::Secret;

mod nats;

pub use nats::{
    BucketName, InvalidStore, NatsAuth, NatsOptions, NatsServers, NatsUser, StoreFileError,
};

/// How a server is set up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where HTTP and WebSocket are served; port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Serve all of `listen` over TLS.
    pub tls: Option<TlsFiles>,
    /// Where STUN binding requests are answered over UDP.
    pub stun: Vec<SocketAddr>,
    /// A TURN server, if there is to be one.
    pub turn: Option<TurnOptions>,
    /// The reverse proxies that say whose requests they hand on.
    pub trusted_proxies: Vec<IpNet>,
    /// What a client must present one of, if anything.
    pub tokens: Option<Tokens>,
    /// Share the mailboxes with other servers; else they are in memory.
    pub store: Option<NatsOptions>,
    /// Where metrics are served for Prometheus, without TLS and token; nowhere unless it is said.
    pub metrics: Option<SocketAddr>,
    /// Bounds on what clients may use.
    pub limits: Limits,
}

/// A certificate and its key, both in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub cert: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// How the TURN server is set up.
#[derive(Debug, Clone)]
pub struct TurnOptions {
    /// Where clients are served over UDP and over TCP; port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Where clients are served over TLS, with the server's certificate.
    pub tls: Vec<SocketAddr>,
    /// The relays' addresses as others see them, one a family at most; default: those of `listen`, else those that the
    /// default route leads out from.
    pub external: Vec<IpAddr>,
    /// The ports of relayed addresses.
    pub ports: RangeInclusive<u16>,
    /// Relays to private, shared and link-local addresses too.
    pub allow_private: bool,
    /// Relays to loopback addresses too; for tests on one machine.
    pub allow_loopback: bool,
    /// What credentials are derived from; default: a secret of this process.
    pub secret: Option<Secret>,
    /// How long credentials hold.
    pub ttl: Duration,
    /// Bounds on what clients may use.
    pub limits: TurnLimits,
}

impl Default for TurnOptions {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            tls: Vec::new(),
            external: Vec::new(),
            // RFC 8656 §7.2.
            ports: 49_152..=65_535,
            allow_private: false,
            allow_loopback: false,
            secret: None,
            ttl: Duration::from_secs(3600),
            limits: TurnLimits::default(),
        }
    }
}

/// Bounds on what TURN clients may use.
#[derive(Debug, Clone)]
pub struct TurnLimits {
    /// Allocations in all.
    pub allocations: usize,
    /// Allocations with one client's credentials.
    pub allocations_per_user: usize,
    /// Allocations of one client address.
    pub allocations_per_address: usize,
    /// Bits relayed in a second, in all and both ways; 0 is no bound.
    pub bits_per_second: u64,
    /// The same for one allocation.
    pub bits_per_second_per_allocation: u64,
    /// How long a TCP client may take for a TLS handshake, for the rest of a frame, and to make an allocation.
    pub patience: Duration,
}

impl Default for TurnLimits {
    /// An agent holds an allocation or two for each interface and server address.
    fn default() -> Self {
        Self {
            allocations: 4_000,
            allocations_per_user: 32,
            allocations_per_address: 256,
            bits_per_second: 0,
            bits_per_second_per_allocation: 0,
            patience: Duration::from_secs(20),
        }
    }
}

/// Bounds on what clients may use. An address is an IPv4 address or an IPv6 /64, which is what one
/// subscriber commands.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest message in bytes (protocol §2).
    pub message_bytes: usize,
    /// Mailboxes that hold a message, in all.
    pub mailboxes: usize,
    /// Mailboxes that hold a message last written from one address.
    pub mailboxes_per_address: usize,
    /// Bytes of messages kept, in all.
    pub stored_bytes: usize,
    /// Mailboxes in one poll or one WebSocket operation.
    pub mailboxes_per_request: usize,
    /// Mailboxes waited for, in all.
    pub subscriptions: usize,
    /// Mailboxes waited for from one address.
    pub subscriptions_per_address: usize,
    /// Clients that wait for one mailbox: its recipient, with what a reconnect left behind.
    pub subscribers_per_mailbox: usize,
    /// Requests and WebSocket operations from one address in a minute; as many may come at once.
    pub requests_per_minute: u32,
    /// Requests and WebSocket operations with one token in a minute; as many may come at once.
    pub requests_per_minute_per_token: u32,
    /// Requests and WebSockets under way with one token.
    pub connections_per_token: usize,
    /// STUN requests answered to one address in a minute. Sources of UDP can be forged, so this
    /// bounds what can be reflected at a victim.
    pub stun_per_minute: u32,
    /// TCP connections in all.
    pub connections: usize,
    /// TCP connections from one address.
    pub connections_per_address: usize,
    /// How long a message is kept after it was last written.
    pub expiry: Duration,
    /// How long clients have to leave when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    /// Sized for an address that is an office behind one NAT: some ten agents of a thousand peers each.
    fn default() -> Self {
        Self {
            message_bytes: 16 * 1024,
            mailboxes: 100_000,
            mailboxes_per_address: 10_000,
            stored_bytes: 512 * 1024 * 1024,
            mailboxes_per_request: 2_000,
            subscriptions: 400_000,
            subscriptions_per_address: 20_000,
            subscribers_per_mailbox: 32,
            requests_per_minute: 12_000,
            requests_per_minute_per_token: 1_200_000,
            connections_per_token: 10_000,
            stun_per_minute: 1_200,
            connections: 10_000,
            connections_per_address: 500,
            expiry: Duration::from_secs(3600),
            // Long polls answer and WebSockets say goodbye at once; only a client that reads nothing needs longer.
            drain: Duration::from_secs(4),
        }
    }
}
