//! What the fixed agents show.
//!
//! Ages lie in the middle of what is shown of them (2 days, 3 hours and a half), so that the time a test takes changes nothing;
//! where moments themselves are shown (JSON), they count from [`THEN`].

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use wice_bus::{
    Backend, BackendState, Candidate, Explanation, FamilyCheck, Filtering, Finding, Interface,
    Mapping, MappingMethod, NetCheck, NetFinding, Pair, PairState, Peer, Reason, Relay, RelayState,
    ServerCheck, Snapshot, State, Udp, Verdict,
};

/// A moment of the past.
pub(crate) const THEN: u64 = 1_750_000_000;
/// A name that clears the screen, begins a line of its own and turns the direction of writing.
pub(crate) const HOSTILE: &str =
    "\u{1b}[2J\u{1b}[31mevil\r\npeer: laptop\u{202e}\u{7}\u{9b}1m\u{200b}\"\\";

/// This moment.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is right").as_secs()
}

/// An agent.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) snapshot: Snapshot,
    pub(crate) check: NetCheck,
    /// What `Restart` and `Reload` are refused with.
    pub(crate) refusal: Option<String>,
}

impl Model {
    /// Two interfaces; peers that are direct, relayed, over TCP, failed, waiting and unmanaged.
    pub(crate) fn ordinary(now: u64) -> Self {
        let laptop = Peer {
            local_candidate: Some(candidate("host", "2001:db8::1", 51820, "udp6")),
            remote_candidate: Some(candidate("prflx", "2001:db8::2", 51821, "udp6")),
            endpoint: "[2001:db8::2]:51821".to_owned(),
            ..connected("wg0", 1, "laptop", "direct", now)
        };
        let phone = Peer {
            local_candidate: Some(candidate("relay", "198.51.100.7", 49200, "udp4")),
            remote_candidate: Some(candidate("srflx", "203.0.113.9", 40000, "udp4")),
            endpoint: "127.0.0.1:40001".to_owned(),
            reason: Reason::DirectPathLost,
            ..connected("wg0", 2, "phone", "relay", now)
        };
        let office = Peer {
            local_candidate: Some(candidate("host", "192.0.2.1", 51820, "tcp4")),
            remote_candidate: Some(candidate("host", "203.0.113.80", 443, "tcp4")),
            ..connected("wg0", 3, "office", "direct", now)
        };
        let printer = Peer {
            state: State::Failed,
            reason: Reason::NoPairWorks,
            since: now - 86_400 - 3 * 3600 - 1800,
            ..peer("wg0", 4, "printer")
        };
        let waiting = Peer {
            state: State::Waiting,
            reason: Reason::NoOffer,
            since: now - 2 * 86_400 - 12 * 3600 - 1800,
            ..peer("wg1", 5, "")
        };
        let alone = Peer {
            state: State::Unmanaged,
            reason: Reason::Configuration,
            since: now - 2 * 86_400 - 12 * 3600 - 1800,
            ..peer("wg1", 6, "")
        };
        let backend = |url: &str, state, error: &str| Backend {
            url: url.to_owned(),
            state,
            error: error.to_owned(),
        };
        let down = backend("mqtts://broker.example", BackendState::Down, "refused");
        let wg1 = Interface {
            firewall_mark: 0xca6c,
            listen_port: 0,
            ..interface("wg1", 101, vec![waiting, alone])
        };
        Self {
            snapshot: Snapshot {
                version: "1.2.3".to_owned(),
                backends: vec![
                    backend("wss://signal.example", BackendState::Up, ""),
                    down.clone(),
                ],
                relays: vec![
                    relay("turn:relay.example", RelayState::Up, ""),
                    relay("turns:relay2.example", RelayState::Down, "401 Unauthorized"),
                ],
                interfaces: vec![
                    interface("wg0", 100, vec![laptop, office, phone, printer]),
                    wg1,
                ],
            },
            check: check(vec![down], "stun:stun.example", "timed out"),
            refusal: None,
        }
    }

    /// The ordinary agent, which lets nobody do anything.
    pub(crate) fn refusing() -> Self {
        Self {
            refusal: Some("not for you: \u{1b}[2Jask the administrator\nor not".to_owned()),
            ..Self::ordinary(now())
        }
    }

    /// Every text that comes from elsewhere is hostile, wide or very long.
    pub(crate) fn hostile(now: u64) -> Self {
        let text = || HOSTILE.to_owned();
        let end = || Some(candidate(HOSTILE, HOSTILE, 1, HOSTILE));
        let evil = Peer {
            endpoint: text(),
            local_candidate: end(),
            remote_candidate: end(),
            allowed_ips: vec![text()],
            ..connected("wg0", 1, HOSTILE, HOSTILE, now)
        };
        let wide = connected("wg0", 2, "笔记本电脑 💻 e\u{301}", "direct", now);
        let long = connected("wg0", 3, &"long".repeat(75), "direct", now);
        let backend = Backend {
            url: text(),
            state: BackendState::Down,
            error: text(),
        };
        Self {
            snapshot: Snapshot {
                version: text(),
                backends: vec![backend.clone()],
                relays: vec![relay(HOSTILE, RelayState::Down, HOSTILE)],
                interfaces: vec![
                    interface("wg0", 100, vec![evil, wide, long]),
                    interface("w\u{1b}[1m\u{202e}\n", 101, Vec::new()),
                ],
            },
            check: check(vec![backend], HOSTILE, HOSTILE),
            refusal: Some(text()),
        }
    }

    /// Nothing is configured, and there is no interface.
    pub(crate) fn empty() -> Self {
        let mut model = Self::default();
        model.snapshot.version = "1.2.3".to_owned();
        model
    }

    /// One interface with many peers.
    pub(crate) fn crowd(now: u64, count: u8) -> Self {
        let name = |seed: u8| format!("peer-{seed:03}");
        let peers = (0..count).map(|seed| connected("wg0", seed, &name(seed), "direct", now));
        let mut model = Self::empty();
        model.snapshot.interfaces = vec![interface("wg0", 250, peers.collect())];
        model
    }

    /// What `Explain` says of a peer.
    pub(crate) fn explanation(&self, peer: &Peer) -> Explanation {
        let local = peer.local_candidate.clone();
        let local = local.unwrap_or_else(|| candidate("host", "192.168.1.2", 51820, "udp4"));
        let remote = peer.remote_candidate.clone();
        let remote = remote.unwrap_or_else(|| candidate("srflx", "203.0.113.77", 61000, "udp4"));
        let tcp = candidate("host", "203.0.113.77", 443, "tcp4");
        let failed = peer.state == State::Failed;
        let pair = |remote: &Candidate, state, sent, answered| Pair {
            local: local.clone(),
            remote: remote.clone(),
            state,
            sent,
            answered,
            received: answered,
        };
        let first = if failed {
            pair(&remote, PairState::Failed, 9, 0)
        } else {
            pair(&remote, PairState::Selected, 9, 9)
        };
        Explanation {
            state: peer.state,
            reason: peer.reason,
            pairs: vec![first, pair(&tcp, PairState::Waiting, 0, 0)],
            local: vec![local.clone()],
            remote: vec![remote, tcp],
            findings: if failed {
                vec![Finding::StunUnanswered, Finding::NothingArrives]
            } else {
                Vec::new()
            },
        }
    }
}

fn key(seed: u8) -> [u8; 32] {
    let mut key = [seed; 32];
    key[..3].fill(0);
    key
}

fn peer(interface: &str, seed: u8, name: &str) -> Peer {
    Peer {
        path: wice_bus::path::peer(interface, &key(seed)).to_string(),
        public_key: STANDARD.encode(key(seed)),
        name: name.to_owned(),
        packet_path: "none".to_owned(),
        allowed_ips: vec![format!("10.0.0.{seed}/32")],
        ..Peer::default()
    }
}

fn connected(interface: &str, seed: u8, name: &str, path: &str, now: u64) -> Peer {
    Peer {
        state: State::Connected,
        reason: Reason::PairNominated,
        packet_path: path.to_owned(),
        rtt_us: 12_345,
        latest_handshake: now - 2 * 86_400 - 3 * 3600 - 1800,
        rx_bytes: 5_000_000,
        tx_bytes: 1023,
        since: now - 3 * 86_400 - 4 * 3600 - 1800,
        restarts: 2,
        ..peer(interface, seed, name)
    }
}

fn interface(name: &str, seed: u8, peers: Vec<Peer>) -> Interface {
    Interface {
        name: name.to_owned(),
        public_key: STANDARD.encode([seed; 32]),
        listen_port: 51820,
        firewall_mark: 0,
        managed: true,
        peers,
    }
}

fn candidate(kind: &str, address: &str, port: u16, network: &str) -> Candidate {
    Candidate {
        kind: kind.to_owned(),
        address: address.to_owned(),
        port,
        network: network.to_owned(),
    }
}

fn relay(url: &str, state: RelayState, error: &str) -> Relay {
    Relay {
        url: url.to_owned(),
        state,
        error: error.to_owned(),
    }
}

/// A NAT with one mapping, a server that answers and one that says `error`.
fn check(backends: Vec<Backend>, url: &str, error: &str) -> NetCheck {
    NetCheck {
        verdict: Verdict::DirectWithSome,
        findings: vec![NetFinding::ServerSilent, NetFinding::NoIpv6],
        families: vec![FamilyCheck {
            family: "ipv4".to_owned(),
            udp: Udp::Works,
            local_address: "192.168.1.2:51820".to_owned(),
            mapped_address: "203.0.113.5:51820".to_owned(),
            mapping: Mapping::EndpointIndependent,
            mapping_method: MappingMethod::Rfc5780,
            filtering: Filtering::AddressAndPortDependent,
            hairpinning: Some(false),
            port_preserved: Some(true),
        }],
        servers: vec![
            ServerCheck {
                url: "turn:relay.example".to_owned(),
                address: "198.51.100.7:3478".to_owned(),
                answered: true,
                rtt_us: 20_500,
                mapped_address: "203.0.113.5:51820".to_owned(),
                relays: Some(true),
                discovery: true,
                error: String::new(),
            },
            ServerCheck {
                url: url.to_owned(),
                error: error.to_owned(),
                ..ServerCheck::default()
            },
        ],
        backends,
    }
}
