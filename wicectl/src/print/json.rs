//! The status as JSON, version 1; described in `docs/dbus.md`.
//!
//! Fields are only ever added; what would break a reader gets another version.

use serde::Serialize;
use wice_bus::{Backend, Candidate, Interface, Peer, Relay, Snapshot};

/// The version of every document and line.
pub(crate) const VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    agent: AgentFields<'a>,
    interfaces: Vec<InterfaceFields<'a>>,
}

#[derive(Serialize)]
struct AgentFields<'a> {
    version: &'a str,
    backends: Vec<ServerFields<'a>>,
    relays: Vec<ServerFields<'a>>,
}

/// A backend or a relay.
#[derive(Serialize)]
pub(crate) struct ServerFields<'a> {
    url: &'a str,
    state: &'static str,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct InterfaceFields<'a> {
    name: &'a str,
    public_key: Option<&'a str>,
    listen_port: u16,
    managed: bool,
    peers: Vec<PeerFields<'a>>,
}

#[derive(Serialize)]
struct PeerFields<'a> {
    public_key: &'a str,
    name: &'a str,
    state: &'static str,
    reason: &'static str,
    path: &'a str,
    endpoint: Option<&'a str>,
    local_candidate: Option<CandidateFields<'a>>,
    remote_candidate: Option<CandidateFields<'a>>,
    rtt_us: Option<u64>,
    latest_handshake: u64,
    allowed_ips: &'a [String],
    rx_bytes: u64,
    tx_bytes: u64,
    since: u64,
    restarts: u32,
}

/// An address of a path.
#[derive(Serialize)]
pub(crate) struct CandidateFields<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    address: &'a str,
    port: u16,
    network: &'a str,
}

/// The document without a line break in it.
pub(crate) fn status(snapshot: &Snapshot) -> String {
    super::json_line(&document(snapshot))
}

/// The document, indented.
pub(crate) fn status_pretty(snapshot: &Snapshot) -> String {
    super::json_pretty(&document(snapshot))
}

fn document(snapshot: &Snapshot) -> Document<'_> {
    Document {
        version: VERSION,
        agent: AgentFields {
            version: &snapshot.version,
            backends: snapshot.backends.iter().map(backend).collect(),
            relays: snapshot.relays.iter().map(relay).collect(),
        },
        interfaces: snapshot.interfaces.iter().map(interface).collect(),
    }
}

fn relay(relay: &Relay) -> ServerFields<'_> {
    ServerFields {
        url: &relay.url,
        state: relay.state.word(),
        error: filled(&relay.error),
    }
}

/// The fields of a backend.
pub(crate) fn backend(backend: &Backend) -> ServerFields<'_> {
    ServerFields {
        url: &backend.url,
        state: backend.state.word(),
        error: filled(&backend.error),
    }
}

fn interface(interface: &Interface) -> InterfaceFields<'_> {
    InterfaceFields {
        name: &interface.name,
        public_key: filled(&interface.public_key),
        listen_port: interface.listen_port,
        managed: interface.managed,
        peers: interface.peers.iter().map(peer).collect(),
    }
}

fn peer(peer: &Peer) -> PeerFields<'_> {
    PeerFields {
        public_key: &peer.public_key,
        name: &peer.name,
        state: peer.state.word(),
        reason: peer.reason.word(),
        path: &peer.packet_path,
        endpoint: filled(&peer.endpoint),
        local_candidate: peer.local_candidate.as_ref().map(candidate),
        remote_candidate: peer.remote_candidate.as_ref().map(candidate),
        rtt_us: (peer.rtt_us > 0).then_some(peer.rtt_us),
        latest_handshake: peer.latest_handshake,
        allowed_ips: &peer.allowed_ips,
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
        since: peer.since,
        restarts: peer.restarts,
    }
}

/// The fields of a candidate.
pub(crate) fn candidate(candidate: &Candidate) -> CandidateFields<'_> {
    CandidateFields {
        kind: &candidate.kind,
        address: &candidate.address,
        port: candidate.port,
        network: &candidate.network,
    }
}

/// Text, or null for none.
pub(crate) fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
