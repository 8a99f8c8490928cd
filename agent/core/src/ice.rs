//! Connectivity checks (RFC 8445): the only module that knows the ICE library.
//!
//! Knows addresses and credentials; knows no offer, no kernel and no other peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use is::stun::{StunMessage, StunPacket};
use is::{IceAgent, IceAgentEvent, IceConnectionState, IceCreds, Protocol};

use crate::candidate::{Candidate, Kind, Network};
use crate::explain::Ledger;
use crate::gather::priority;
use crate::io::Packet;
use crate::offer::{Credentials, Role};
use crate::relay::{Relayed, Route};
use crate::status::{CandidateStatus, PathKind};
use crate::tcp::Stream;

mod consent;
mod streams;

use consent::Consent;

/// The checks of one session.
#[derive(Debug)]
pub struct Ice {
    agent: IceAgent,
    role: Role,
    locals: Vec<LocalCandidate>,
    remotes: BTreeMap<SocketAddr, Remote>,
    /// Remote candidates so far, those that are gone included.
    added: u16,
    /// Relayed candidates of the peer that are not to be used.
    refused: BTreeSet<SocketAddr>,
    /// Where the peer may be: its candidates, and what its checks came from.
    reach: BTreeSet<IpAddr>,
    /// Streams that are checked, and what the peer calls its end where we connected to it.
    streams: BTreeMap<Stream, Option<Kind>>,
    /// TCP candidates of the peer that the library knows.
    passive: BTreeSet<SocketAddr>,
    /// The last answer per pair of base and remote address.
    heard: BTreeMap<(SocketAddr, SocketAddr), Answer>,
    selected: Option<(SocketAddr, SocketAddr)>,
    consent: Consent,
    lost: bool,
    /// The relay of the selected pair is gone.
    withdrawn: bool,
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
/// Addresses of one peer that relays let through.
const MAX_REACH: usize = 32;

/// A local candidate and the address that its packets leave from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalCandidate {
    /// Host, server-reflexive or relayed.
    pub kind: Kind,
    /// As the peer may reach it.
    pub address: SocketAddr,
    /// The address of this machine that it leaves from; of a relayed one, the address itself.
    pub base: SocketAddr,
}

/// What the checks want or found.
#[derive(Debug, PartialEq, Eq)]
pub enum IceEvent {
    /// Send this from `source`, an address of this machine or one that is relayed to it.
    Transmit {
        /// Our address and WireGuard's port, or a relayed address.
        source: SocketAddr,
        /// A relay sends it.
        relayed: bool,
        /// Where to.
        destination: SocketAddr,
        /// The STUN message.
        payload: Vec<u8>,
    },
    /// Send this on a stream.
    Stream {
        /// The stream.
        stream: Stream,
        /// The STUN message.
        payload: Vec<u8>,
    },
    /// This pair carries packets from now on; emitted again whenever a better one takes over.
    Selected(SelectedPair),
    /// No pair answers any more, or none ever did.
    Disconnected,
    /// The relay of the selected pair is gone, and no other pair has taken over.
    Withdrawn,
}

/// The pair that was nominated last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectedPair {
    /// The address of this machine that packets leave from.
    pub base: SocketAddr,
    /// Our end.
    pub local: CandidateStatus,
    /// The peer's end: WireGuard's endpoint, unless there is a route.
    pub remote: CandidateStatus,
    /// The relay that carries the packets.
    pub route: Option<Route>,
    /// The TCP stream that carries them.
    pub stream: Option<Stream>,
}

/// What carries a pair's packets, from the worst to the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// A relay of ours or of the peer's.
    Relay,
    /// A TCP stream.
    Stream,
    /// WireGuard's own packets, straight to the peer.
    Udp,
}

impl SelectedPair {
    /// Tells whether WireGuard cannot send to the peer's end itself.
    pub const fn needs_route(&self) -> bool {
        self.route.is_some() || self.stream.is_some()
    }

    /// What carries its packets, from the worst to the best.
    pub fn means(&self) -> Means {
        match (self.path(), self.stream) {
            (PathKind::Direct, None) => Means::Udp,
            (PathKind::Direct, Some(_)) => Means::Stream,
            _ => Means::Relay,
        }
    }

    /// How packets travel by it.
    pub fn path(&self) -> PathKind {
        if self.local.kind == Kind::Relay || self.remote.kind == Kind::Relay {
            PathKind::Relay
        } else {
            PathKind::Direct
        }
    }
}

impl Ice {
    /// Prepares checks that answer with `credentials`.
    pub fn new(credentials: &Credentials, role: Role, tie_breaker: u64) -> Self {
        let mut agent = IceAgent::new(creds(credentials));
        agent.set_controlling(role == Role::Controlling);
        agent.set_control_tie_breaker(tie_breaker);
        agent.set_timing_advance(TIMING_ADVANCE);
        agent.set_initial_stun_rto(INITIAL_RTO);
        let consent = Consent::new(tie_breaker);
        agent.set_max_stun_rto(consent.interval());
        agent.set_mtu(256..=1200);
        Self {
            agent,
            role,
            locals: Vec::new(),
            remotes: BTreeMap::new(),
            added: 0,
            refused: BTreeSet::new(),
            reach: BTreeSet::new(),
            streams: BTreeMap::new(),
            passive: BTreeSet::new(),
            heard: BTreeMap::new(),
            selected: None,
            consent,
            lost: false,
            withdrawn: false,
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
    ///
    /// Tells whether an address of this machine is new.
    pub fn set_locals(&mut self, locals: &[LocalCandidate], now: Instant) -> bool {
        let base = self.selected.map(|(base, _)| base);
        let relayed = base.is_some_and(|base| self.relays_from(base));
        for gone in self.locals.iter().filter(|old| !locals.contains(old)) {
            if let Some(candidate) = self.to_local(gone) {
                self.agent.invalidate_candidate(&candidate);
            }
        }
        let old = std::mem::replace(&mut self.locals, locals.to_vec());
        for new in locals.iter().filter(|new| !old.contains(new)) {
            if let Some(candidate) = self.to_local(new) {
                self.agent.add_local_candidate(candidate);
            }
        }
        if relayed && base.is_some_and(|base| !self.relays_from(base)) {
            self.withdraw(now);
        }
        let known = |it: &LocalCandidate| old.iter().any(|old| old.address.ip() == it.address.ip());
        (locals.iter()).any(|it| it.kind != Kind::Relay && !known(it))
    }

    /// Makes the remote candidates exactly these; TCP ones are ignored, and relayed ones where `direct_only`.
    pub fn set_remotes(&mut self, candidates: &[Candidate], direct_only: bool, now: Instant) {
        let refused = |it: &Candidate| direct_only && it.kind == Kind::Relay;
        self.refused = (candidates.iter())
            .filter(|it| refused(it))
            .map(Candidate::socket_addr)
            .collect();
        let new: BTreeMap<SocketAddr, &Candidate> = candidates
            .iter()
            .filter(|candidate| candidate.tcp_type.is_none() && !refused(candidate))
            .map(|candidate| (candidate.socket_addr(), candidate))
            .collect();
        let selected = self.selected.map(|(_, remote)| remote);
        let mut gone = false;
        let (agent, role) = (&mut self.agent, self.role);
        self.remotes.retain(|address, remote| {
            let kept = new.contains_key(address);
            if !kept {
                agent.invalidate_candidate(&remote.to_library(role));
                gone |= selected == Some(*address) && remote.candidate.kind == Kind::Relay;
            }
            kept
        });
        // One of their checks may have been here before the offer.
        for refused in &self.refused {
            let early: Vec<_> = (agent.remote_candidates())
                .filter(|it| it.addr() == *refused)
                .collect();
            for candidate in &early {
                agent.invalidate_candidate(candidate);
                gone |= selected == Some(*refused);
            }
        }
        for (address, candidate) in new {
            self.reach(address.ip());
            if self.remotes.contains_key(&address) {
                continue;
            }
            self.added = self.added.wrapping_add(1);
            let remote = Remote {
                candidate: candidate.clone(),
                added: self.added,
            };
            self.agent
                .add_remote_candidate(remote.to_library(self.role));
            self.remotes.insert(address, remote);
        }
        if gone {
            self.withdraw(now);
        }
    }

    /// A relay of the selected pair is gone: another pair takes over, or nothing carries packets.
    fn withdraw(&mut self, now: Instant) {
        self.selected = None;
        self.withdrawn = true;
        self.agent.handle_timeout(now);
    }

    fn reach(&mut self, address: IpAddr) {
        if self.reach.len() < MAX_REACH {
            self.reach.insert(address);
        }
    }

    /// Tells whether packets from this address leave through a relay.
    fn relays_from(&self, source: SocketAddr) -> bool {
        (self.locals.iter()).any(|local| local.kind == Kind::Relay && local.base == source)
    }

    /// Takes a STUN message; false when it is not for this session.
    pub fn handle_packet(&mut self, packet: &Packet, now: Instant) -> bool {
        let Packet {
            source,
            destination,
            payload,
        } = packet;
        !self.refused.contains(source)
            && self.take(Protocol::Udp, *source, *destination, payload, now)
    }

    fn take(
        &mut self,
        proto: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> bool {
        let Ok(message) = StunMessage::parse(payload) else {
            return false;
        };
        let mapped = message
            .is_successful_binding_response()
            .then(|| message.mapped_address())
            .flatten();
        let accepted = self.agent.handle_packet(
            now,
            StunPacket {
                proto,
                source,
                destination,
                message,
            },
        );
        if accepted && let Some(mapped) = mapped {
            let answer = Answer { mapped, at: now };
            self.heard.insert((destination, source), answer);
        }
        if accepted {
            self.reach(source.ip());
            if proto == Protocol::Tcp {
                let stream = Stream {
                    local: destination,
                    remote: source,
                };
                self.ledger.received_on(stream, payload);
            } else {
                self.ledger.received(destination, source, payload);
            }
            // What arrived may allow a check or a nomination at once.
            self.agent.handle_timeout(now);
        }
        accepted
    }

    /// The next thing that the checks want or found.
    pub fn poll(&mut self) -> Option<IceEvent> {
        while let Some(transmit) = self.agent.poll_transmit() {
            if transmit.proto == Protocol::Tcp {
                let stream = Stream {
                    local: transmit.source,
                    remote: transmit.destination,
                };
                // The library pairs every end of ours with every candidate of theirs, streams or not.
                if !self.streams.contains_key(&stream) {
                    continue;
                }
                self.ledger.sent_on(stream, &transmit.contents);
                return Some(IceEvent::Stream {
                    stream,
                    payload: transmit.contents.to_vec(),
                });
            }
            // A candidate may have gone since.
            if !(self.locals.iter()).any(|local| local.base == transmit.source) {
                continue;
            }
            let relayed = self.relays_from(transmit.source);
            if relayed && !Relayed::reaches(transmit.source.ip(), transmit.destination.ip()) {
                continue;
            }
            self.ledger
                .sent(transmit.source, transmit.destination, &transmit.contents);
            return Some(IceEvent::Transmit {
                source: transmit.source,
                relayed,
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
                    proto,
                    source,
                    destination,
                } => {
                    if proto == Protocol::Tcp && self.stream((source, destination)).is_none() {
                        continue;
                    }
                    self.selected = Some((source, destination));
                    self.withdrawn = false;
                    self.consent.selected();
                    return self.selected_pair().map(IceEvent::Selected);
                }
                IceAgentEvent::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                    self.selected = None;
                    self.withdrawn = false;
                    return Some(IceEvent::Disconnected);
                }
                _ => {}
            }
        }
        std::mem::take(&mut self.withdrawn).then_some(IceEvent::Withdrawn)
    }

    /// Addresses that the peer may send from.
    pub const fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.reach
    }

    /// The pair that carries packets.
    pub fn selected_pair(&self) -> Option<SelectedPair> {
        let (base, remote) = self.selected?;
        let heard = self.heard.get(&(base, remote));
        let relayed = self.relays_from(base);
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
        let stream = self.stream((base, remote));
        let (local_kind, mapped, remote_kind) = match stream {
            Some(stream) if mapped == base => (Kind::Host, base, self.remote_kind(stream)),
            Some(stream) => (Kind::Prflx, mapped, self.remote_kind(stream)),
            None if relayed => (Kind::Relay, base, remote_kind),
            None => (local_kind, mapped, remote_kind),
        };
        let network = match stream {
            Some(_) => Network::tcp,
            None => Network::udp,
        };
        Some(SelectedPair {
            base,
            stream,
            local: CandidateStatus {
                kind: local_kind,
                network: network(&mapped.ip()),
                address: mapped,
            },
            remote: CandidateStatus {
                kind: remote_kind,
                network: network(&remote.ip()),
                address: remote,
            },
            route: relayed.then_some(Route {
                relayed: base,
                remote,
            }),
        })
    }

    fn to_local(&self, local: &LocalCandidate) -> Option<is::Candidate> {
        match local.kind {
            Kind::Host => is::Candidate::host(local.base, "udp").ok(),
            Kind::Srflx => is::Candidate::server_reflexive(local.address, local.base, "udp").ok(),
            Kind::Relay => Some(self.to_relayed(local)),
            Kind::Prflx => None,
        }
    }

    /// With the priority that the offer has: the library's own differs, and what its checks tell the peer is that of a direct
    /// path, which would win over the real ones where the check is there before the offer.
    fn to_relayed(&self, local: &LocalCandidate) -> is::Candidate {
        let mut relays = (self.locals.iter()).filter(|it| it.kind == Kind::Relay);
        let index = relays.position(|it| it == local).unwrap_or_default();
        is::Candidate::from_parts(
            "relay".to_owned(),
            1,
            Protocol::Udp,
            relay_priority(priority(Kind::Relay, index), self.role),
            local.address,
            is::CandidateKind::Relayed,
            None,
            None,
            None,
        )
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

/// Relays of the controlled side come after those of the controlling one. Else each side prefers the other's relay, because a
/// host candidate of its own counts for more than the peer's reflexive one, and what one sends has no route at the other.
fn relay_priority(offered: u32, side: Role) -> u32 {
    match side {
        Role::Controlling => offered,
        Role::Controlled => offered.saturating_sub(0x8000 << 8).max(1),
    }
}

impl Remote {
    /// As the library takes it, on the side of this role.
    fn to_library(&self, role: Role) -> is::Candidate {
        let kind = match self.candidate.kind {
            Kind::Host => is::CandidateKind::Host,
            Kind::Srflx => is::CandidateKind::ServerReflexive,
            Kind::Prflx => is::CandidateKind::PeerReflexive,
            Kind::Relay => is::CandidateKind::Relayed,
        };
        // The related address decides nothing in checks, but is part of what the library compares.
        let number = SocketAddr::from(([0, 0, 0, 0], self.added));
        let priority = match self.candidate.kind {
            Kind::Relay => relay_priority(self.candidate.priority, role.opposite()),
            Kind::Host | Kind::Srflx | Kind::Prflx => self.candidate.priority,
        };
        is::Candidate::from_parts(
            self.candidate.foundation.clone(),
            self.candidate.component,
            Protocol::Udp,
            priority,
            self.candidate.socket_addr(),
            kind,
            Some(number),
            None,
            None,
        )
    }
}
