//! Connectivity checks (RFC 8445): the only module that knows the ICE library.
//!
//! Knows addresses and credentials; knows no offer, no kernel and no other peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use is::stun::{StunMessage, StunPacket};
use is::{IceAgent, IceAgentEvent, IceConnectionState, IceCreds, Protocol};

use crate::candidate::{Candidate, Kind};
use crate::explain::Ledger;
use crate::io::Packet;
use crate::offer::{Credentials, Role};
use crate::status::CandidateStatus;

/// The checks of one session.
#[derive(Debug)]
pub struct Ice {
    agent: IceAgent,
    locals: Vec<LocalCandidate>,
    remotes: BTreeMap<SocketAddr, Candidate>,
    /// The address that the peer saw us at, per pair of base and remote address.
    mapped: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
    selected: Option<(SocketAddr, SocketAddr)>,
    ledger: Ledger,
}

/// Pacing of checks: the default of 50 ms would dominate a connection on one LAN (RFC 8445 §14.2 allows 5 ms).
const TIMING_ADVANCE: Duration = Duration::from_millis(5);
/// First retransmission: the first check of one side meets the other's closed NAT, so it is repeated soon.
const INITIAL_RTO: Duration = Duration::from_millis(40);

/// A local candidate and the address that its packets leave from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalCandidate {
    /// Host or server-reflexive.
    pub kind: Kind,
    /// As the peer may reach it.
    pub address: SocketAddr,
    /// The address of this machine that it leaves from.
    pub base: SocketAddr,
}

/// What the checks want or found.
#[derive(Debug, PartialEq, Eq)]
pub enum IceEvent {
    /// Send this from `source`, an address of this machine.
    Transmit {
        /// Our address and WireGuard's port.
        source: SocketAddr,
        /// Where to.
        destination: SocketAddr,
        /// The STUN message.
        payload: Vec<u8>,
    },
    /// This pair carries packets from now on; emitted again whenever a better one takes over.
    Selected(SelectedPair),
    /// No pair answers any more, or none ever did.
    Disconnected,
}

/// The pair that was nominated last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectedPair {
    /// Our end.
    pub local: CandidateStatus,
    /// The peer's end: WireGuard's endpoint.
    pub remote: CandidateStatus,
}

impl Ice {
    /// Prepares checks that answer with `credentials`.
    pub fn new(credentials: &Credentials, role: Role, tie_breaker: u64) -> Self {
        let mut agent = IceAgent::new(creds(credentials));
        agent.set_controlling(role == Role::Controlling);
        agent.set_control_tie_breaker(tie_breaker);
        agent.set_timing_advance(TIMING_ADVANCE);
        agent.set_initial_stun_rto(INITIAL_RTO);
        agent.set_mtu(256..=1200);
        Self {
            agent,
            locals: Vec::new(),
            remotes: BTreeMap::new(),
            mapped: BTreeMap::new(),
            selected: None,
            ledger: Ledger::default(),
        }
    }

    /// Our own username fragment: what the peer's checks are addressed to.
    pub fn ufrag(&self) -> &str {
        &self.agent.local_credentials().ufrag
    }

    /// Takes the peer's credentials: checks may start.
    pub fn set_remote(&mut self, credentials: &Credentials) {
        self.agent.set_remote_credentials(creds(credentials));
    }

    /// Makes the local candidates exactly these.
    pub fn set_locals(&mut self, locals: &[LocalCandidate]) {
        for gone in self.locals.iter().filter(|old| !locals.contains(old)) {
            if let Some(candidate) = to_local(gone) {
                self.agent.invalidate_candidate(&candidate);
            }
        }
        for new in locals.iter().filter(|new| !self.locals.contains(new)) {
            if let Some(candidate) = to_local(new) {
                self.agent.add_local_candidate(candidate);
            }
        }
        self.locals = locals.to_vec();
    }

    /// Makes the remote candidates exactly these; TCP ones are ignored.
    pub fn set_remotes(&mut self, candidates: &[Candidate]) {
        let new: BTreeMap<SocketAddr, Candidate> = candidates
            .iter()
            .filter(|candidate| candidate.tcp_type.is_none())
            .map(|candidate| (candidate.socket_addr(), candidate.clone()))
            .collect();
        for (address, gone) in &self.remotes {
            if !new.contains_key(address)
                && let Some(candidate) = to_remote(gone)
            {
                self.agent.invalidate_candidate(&candidate);
            }
        }
        for (address, candidate) in &new {
            if !self.remotes.contains_key(address)
                && let Some(candidate) = to_remote(candidate)
            {
                self.agent.add_remote_candidate(candidate);
            }
        }
        self.remotes = new;
    }

    /// Takes a STUN message; false when it is not for this session.
    pub fn handle_packet(&mut self, packet: &Packet, now: Instant) -> bool {
        let Ok(message) = StunMessage::parse(&packet.payload) else {
            return false;
        };
        let mapped = message
            .is_successful_binding_response()
            .then(|| message.mapped_address())
            .flatten();
        let accepted = self.agent.handle_packet(
            now,
            StunPacket {
                proto: Protocol::Udp,
                source: packet.source,
                destination: packet.destination,
                message,
            },
        );
        if accepted && let Some(mapped) = mapped {
            self.mapped
                .insert((packet.destination, packet.source), mapped);
        }
        if accepted {
            self.ledger
                .received(packet.destination, packet.source, &packet.payload);
        }
        // What arrived may allow a check or a nomination at once.
        if accepted {
            self.agent.handle_timeout(now);
        }
        accepted
    }

    /// Moves the checks on.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
    }

    /// When [`Ice::handle_timeout`] is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.agent.poll_timeout()
    }

    /// The next thing that the checks want or found.
    pub fn poll(&mut self) -> Option<IceEvent> {
        if let Some(transmit) = self.agent.poll_transmit() {
            self.ledger
                .sent(transmit.source, transmit.destination, &transmit.contents);
            return Some(IceEvent::Transmit {
                source: transmit.source,
                destination: transmit.destination,
                payload: transmit.contents.to_vec(),
            });
        }
        while let Some(event) = self.agent.poll_event() {
            match event {
                IceAgentEvent::NominatedSend {
                    source,
                    destination,
                    ..
                } => {
                    self.selected = Some((source, destination));
                    return self.selected_pair().map(IceEvent::Selected);
                }
                IceAgentEvent::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                    self.selected = None;
                    return Some(IceEvent::Disconnected);
                }
                _ => {}
            }
        }
        None
    }

    /// The pair that carries packets.
    pub fn selected_pair(&self) -> Option<SelectedPair> {
        let (base, remote) = self.selected?;
        let mapped = self.mapped.get(&(base, remote)).copied().unwrap_or(base);
        let local_kind = self
            .locals
            .iter()
            .find(|local| local.address == mapped)
            .map_or(Kind::Prflx, |local| local.kind);
        let remote_kind = self
            .remotes
            .get(&remote)
            .map_or(Kind::Prflx, |candidate| candidate.kind);
        Some(SelectedPair {
            local: CandidateStatus {
                kind: local_kind,
                address: mapped,
            },
            remote: CandidateStatus {
                kind: remote_kind,
                address: remote,
            },
        })
    }

    /// What was sent and came back, per pair.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Our base and the peer's address of the pair that carries packets.
    pub const fn selected_ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.selected
    }

    /// Round-trip time of the selected pair.
    pub fn round_trip_time(&self) -> Option<Duration> {
        self.agent.nominated_pair_rtt()
    }
}

/// The username fragment of the session that a STUN request is addressed to, if it is one.
pub fn addressee(payload: &[u8]) -> Option<String> {
    let message = StunMessage::parse(payload).ok()?;
    if !message.is_binding_request() {
        return None;
    }
    message.split_username().map(|(local, _)| local.to_owned())
}

fn creds(credentials: &Credentials) -> IceCreds {
    IceCreds {
        ufrag: credentials.ufrag.clone(),
        pass: credentials.pwd.expose().to_owned(),
    }
}

fn to_local(local: &LocalCandidate) -> Option<is::Candidate> {
    match local.kind {
        Kind::Host => is::Candidate::host(local.base, "udp").ok(),
        Kind::Srflx => is::Candidate::server_reflexive(local.address, local.base, "udp").ok(),
        Kind::Prflx | Kind::Relay => None,
    }
}

fn to_remote(candidate: &Candidate) -> Option<is::Candidate> {
    let kind = match candidate.kind {
        Kind::Host => is::CandidateKind::Host,
        Kind::Srflx => is::CandidateKind::ServerReflexive,
        Kind::Prflx => is::CandidateKind::PeerReflexive,
        Kind::Relay => is::CandidateKind::Relayed,
    };
    Some(is::Candidate::from_parts(
        candidate.foundation.clone(),
        candidate.component,
        Protocol::Udp,
        candidate.priority,
        candidate.socket_addr(),
        kind,
        None,
        None,
        None,
    ))
}
