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
    remotes: BTreeMap<SocketAddr, Remote>,
    /// Remote candidates so far, those that are gone included.
    added: u16,
    /// The last answer per pair of base and remote address.
    heard: BTreeMap<(SocketAddr, SocketAddr), Answer>,
    selected: Option<(SocketAddr, SocketAddr)>,
    /// Answers on the selected pair, and when the last one came.
    answers: u64,
    answered: Option<Instant>,
    lost: bool,
    ledger: Ledger,
}

/// An answer to a check.
#[derive(Debug, Clone, Copy)]
struct Answer {
    /// The address that the peer saw us at.
    mapped: SocketAddr,
    at: Instant,
}

/// A candidate of the peer; the library never removes one twice, so each addition must look different to it.
#[derive(Debug)]
struct Remote {
    candidate: Candidate,
    added: u16,
}

/// Pacing of checks: the default of 50 ms would dominate a connection on one LAN (RFC 8445 §14.2 allows 5 ms).
const TIMING_ADVANCE: Duration = Duration::from_millis(5);
/// First retransmission: the first check of one side meets the other's closed NAT, so it is repeated soon.
const INITIAL_RTO: Duration = Duration::from_millis(40);
/// Between checks of a pair that works, to keep its consent (RFC 7675 §5.1): at most this, and up to a fifth less, so that
/// the checks of many peers that connected at once do not stay together.
const CONSENT_INTERVAL: Duration = Duration::from_secs(5);
/// Without an answer for this long, consent is lost. Sooner than RFC 7675's 30 s, because losing it only starts another
/// session beside this one; late enough for two regular checks and a handful of quick repetitions.
const CONSENT_TIMEOUT: Duration = Duration::from_secs(12);

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
    /// The address of this machine that packets leave from.
    pub base: SocketAddr,
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
        agent.set_max_stun_rto(CONSENT_INTERVAL - Duration::from_millis(tie_breaker % 1_000));
        agent.set_mtu(256..=1200);
        Self {
            agent,
            locals: Vec::new(),
            remotes: BTreeMap::new(),
            added: 0,
            heard: BTreeMap::new(),
            selected: None,
            answers: 0,
            answered: None,
            lost: false,
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
        let new: BTreeMap<SocketAddr, &Candidate> = candidates
            .iter()
            .filter(|candidate| candidate.tcp_type.is_none())
            .map(|candidate| (candidate.socket_addr(), candidate))
            .collect();
        let agent = &mut self.agent;
        self.remotes.retain(|address, remote| {
            let kept = new.contains_key(address);
            if !kept {
                agent.invalidate_candidate(&remote.to_library());
            }
            kept
        });
        for (address, candidate) in new {
            if self.remotes.contains_key(&address) {
                continue;
            }
            self.added = self.added.wrapping_add(1);
            let remote = Remote {
                candidate: candidate.clone(),
                added: self.added,
            };
            self.agent.add_remote_candidate(remote.to_library());
            self.remotes.insert(address, remote);
        }
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
            let answer = Answer { mapped, at: now };
            self.heard
                .insert((packet.destination, packet.source), answer);
        }
        if accepted {
            self.ledger
                .received(packet.destination, packet.source, &packet.payload);
        }
        // What arrived may allow a check or a nomination at once.
        if accepted {
            let answers = self.agent.nominated_pair_responses_received();
            if answers.is_some_and(|answers| answers != self.answers) {
                self.answers = answers.unwrap_or_default();
                self.answered = Some(now);
            }
            self.agent.handle_timeout(now);
        }
        accepted
    }

    /// Moves the checks on.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
        if self.consent_ends().is_some_and(|at| at <= now) {
            self.answered = None;
            self.lost = !self.fall_back(now);
        }
    }

    /// When [`Ice::handle_timeout`] is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let checks = self.agent.poll_timeout()?;
        Some(self.consent_ends().map_or(checks, |at| at.min(checks)))
    }

    fn consent_ends(&self) -> Option<Instant> {
        self.selected?;
        Some(self.answered? + CONSENT_TIMEOUT)
    }

    /// Gives up the selected pair where another remote address answers, so that a pair with that one takes over: the library
    /// alone keeps a dead pair for another ten seconds. False when nothing else answers.
    fn fall_back(&mut self, now: Instant) -> bool {
        let Some((_, dead)) = self.selected else {
            return false;
        };
        let answers = (self.heard.iter()).any(|((_, remote), answer)| {
            *remote != dead
                && now < answer.at + CONSENT_TIMEOUT / 2
                && self.agent.has_viable_remote_candidate(*remote)
        });
        if answers {
            let gone: Vec<_> = (self.agent.remote_candidates())
                .filter(|candidate| candidate.addr() == dead)
                .collect();
            for candidate in &gone {
                self.agent.invalidate_candidate(candidate);
            }
            self.remotes.remove(&dead);
            self.agent.handle_timeout(now);
        }
        answers
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
        if std::mem::take(&mut self.lost) {
            self.selected = None;
            return Some(IceEvent::Disconnected);
        }
        while let Some(event) = self.agent.poll_event() {
            match event {
                IceAgentEvent::NominatedSend {
                    source,
                    destination,
                    ..
                } => {
                    self.selected = Some((source, destination));
                    // The next answer counts, whatever number of this pair's it is.
                    self.answers = u64::MAX;
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
        let heard = self.heard.get(&(base, remote));
        let mapped = heard.map_or(base, |answer| answer.mapped);
        let local_kind = self
            .locals
            .iter()
            .find(|local| local.address == mapped)
            .map_or(Kind::Prflx, |local| local.kind);
        let remote_kind = self
            .remotes
            .get(&remote)
            .map_or(Kind::Prflx, |remote| remote.candidate.kind);
        Some(SelectedPair {
            base,
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

impl Remote {
    fn to_library(&self) -> is::Candidate {
        let kind = match self.candidate.kind {
            Kind::Host => is::CandidateKind::Host,
            Kind::Srflx => is::CandidateKind::ServerReflexive,
            Kind::Prflx => is::CandidateKind::PeerReflexive,
            Kind::Relay => is::CandidateKind::Relayed,
        };
        // The related address decides nothing in checks, but is part of what the library compares.
        let number = SocketAddr::from(([0, 0, 0, 0], self.added));
        is::Candidate::from_parts(
            self.candidate.foundation.clone(),
            self.candidate.component,
            Protocol::Udp,
            self.candidate.priority,
            self.candidate.socket_addr(),
            kind,
            Some(number),
            None,
            None,
        )
    }
}
