//! Why a path is as it is: candidates, pairs with what was sent and came back, and what can be concluded from that.
//!
//! Counts and concludes; decides nothing about a session.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::candidate::{Candidate, Kind, Network};
use crate::ice::LocalCandidate;
use crate::relay::Relayed;
use crate::server::Transport;
use crate::settings::Policy;
use crate::status::{CandidateStatus, PathKind, Reason, State};
use crate::tcp::Stream;

/// Everything that is known about the present attempt to reach a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What the session is doing.
    pub state: State,
    /// Why it is in that state.
    pub reason: Reason,
    /// Our candidates.
    pub local: Vec<CandidateStatus>,
    /// The candidates of the peer's newest offer.
    pub remote: Vec<CandidateStatus>,
    /// The pairs of the present checks.
    pub pairs: Vec<Pair>,
    /// What stands in the way of a direct path; empty when there is one.
    pub findings: Vec<Finding>,
}

/// An address of ours and one of the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Our end: the address of this machine that checks leave from.
    pub local: CandidateStatus,
    /// The peer's end.
    pub remote: CandidateStatus,
    /// How far its checks are.
    pub state: PairState,
    /// What was sent and came back.
    pub exchange: Exchange,
}

/// How far the checks of a pair are; the numbers are those of the D-Bus contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum PairState {
    /// No check was sent yet.
    Waiting = 10,
    /// Checks were sent, and answers may still come.
    Checking = 20,
    /// Checks were answered.
    Answered = 30,
    /// It carries packets.
    Selected = 40,
    /// Checks were sent, and no answer came.
    Failed = 50,
}

/// What stands in the way of a direct path; the numbers are those of the D-Bus contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Finding {
    /// We have no candidate at all.
    NoLocalCandidates = 10,
    /// All our addresses are private, and no STUN server is configured.
    NoStunServer = 20,
    /// All our addresses are private: no STUN server answered.
    StunUnanswered = 30,
    /// The peer's offer has no candidate.
    NoRemoteCandidates = 40,
    /// All of the peer's addresses are private.
    PeerOnlyPrivate = 50,
    /// One side has IPv4 only, the other IPv6 only.
    NoCommonFamily = 60,
    /// Checks were sent, and nothing at all came from the peer.
    NothingArrives = 70,
    /// The peer's checks arrive, but ours are not answered.
    Unanswered = 80,
    /// Our NAT has another port for each destination.
    MappingVaries = 90,
    /// The peer's NAT has another port for each destination.
    PeerMappingVaries = 100,
    /// No STUN server answers over UDP, but a TURN server does over TCP.
    UdpBlocked = 110,
    /// The configuration asks for relays only.
    RelayOnly = 120,
    /// The peer offers nothing but relayed addresses.
    PeerRelayOnly = 130,
}

/// Messages of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exchange {
    /// Checks that we sent.
    pub sent: u32,
    /// Answers to them.
    pub answered: u32,
    /// Checks of the peer's that arrived.
    pub received: u32,
}

/// Messages per pair of base and remote address.
#[derive(Debug, Default)]
pub struct Ledger {
    udp: BTreeMap<(SocketAddr, SocketAddr), Exchange>,
    tcp: BTreeMap<(SocketAddr, SocketAddr), Exchange>,
}

/// The pairs that are counted; an offer has 16 candidates at most, and a machine about as many addresses.
const MAX_PAIRS: usize = 256;

impl Ledger {
    /// Counts a STUN message that was sent.
    pub fn sent(&mut self, base: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        count_sent(&mut self.udp, (base, remote), payload);
    }

    /// Counts a STUN message of the peer's.
    pub fn received(&mut self, base: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        count_received(&mut self.udp, (base, remote), payload);
    }

    /// Counts a STUN message that was sent on a stream.
    pub fn sent_on(&mut self, stream: Stream, payload: &[u8]) {
        count_sent(&mut self.tcp, (stream.local, stream.remote), payload);
    }

    /// Counts a STUN message of the peer's that came on a stream.
    pub fn received_on(&mut self, stream: Stream, payload: &[u8]) {
        count_received(&mut self.tcp, (stream.local, stream.remote), payload);
    }
}

fn count_sent(
    exchanges: &mut BTreeMap<(SocketAddr, SocketAddr), Exchange>,
    ends: (SocketAddr, SocketAddr),
    payload: &[u8],
) {
    if is_request(payload)
        && let Some(exchange) = exchange(exchanges, ends)
    {
        exchange.sent = exchange.sent.saturating_add(1);
    }
}

fn count_received(
    exchanges: &mut BTreeMap<(SocketAddr, SocketAddr), Exchange>,
    ends: (SocketAddr, SocketAddr),
    payload: &[u8],
) {
    if let Some(exchange) = exchange(exchanges, ends) {
        let count = if is_request(payload) {
            &mut exchange.received
        } else {
            &mut exchange.answered
        };
        *count = count.saturating_add(1);
    }
}

fn exchange(
    exchanges: &mut BTreeMap<(SocketAddr, SocketAddr), Exchange>,
    ends: (SocketAddr, SocketAddr),
) -> Option<&mut Exchange> {
    let room = exchanges.len() < MAX_PAIRS || exchanges.contains_key(&ends);
    room.then(|| exchanges.entry(ends).or_default())
}

/// Checks of a pair without an answer that mean something: by then the first was sent more than half a second ago.
const PATIENCE: u32 = 5;

/// What an interface knows of its candidates.
pub(crate) struct Surroundings<'a> {
    pub(crate) locals: &'a [LocalCandidate],
    pub(crate) end_of_candidates: bool,
    pub(crate) stun_servers: usize,
    /// Whether any STUN server that was asked has answered.
    pub(crate) stun_answered: Option<bool>,
    pub(crate) relayed: &'a [Relayed],
    pub(crate) policy: Policy,
}

/// What an explanation is made of.
pub(crate) struct Facts<'a> {
    pub(crate) state: State,
    pub(crate) reason: Reason,
    pub(crate) path: PathKind,
    pub(crate) surroundings: &'a Surroundings<'a>,
    pub(crate) remotes: &'a [Candidate],
    pub(crate) ledger: Option<&'a Ledger>,
    /// Base and remote address of the pair that carries packets.
    pub(crate) selected: Option<(SocketAddr, SocketAddr)>,
}

impl Explanation {
    pub(crate) fn new(facts: &Facts<'_>) -> Self {
        Self {
            state: facts.state,
            reason: facts.reason,
            local: facts
                .surroundings
                .locals
                .iter()
                .map(|local| CandidateStatus {
                    kind: local.kind,
                    network: Network::udp(&local.address.ip()),
                    address: local.address,
                })
                .collect(),
            remote: facts
                .remotes
                .iter()
                .map(|remote| CandidateStatus {
                    kind: remote.kind,
                    network: remote.network,
                    address: remote.socket_addr(),
                })
                .collect(),
            pairs: facts.pairs(),
            findings: facts.findings().into_iter().collect(),
        }
    }
}

impl Facts<'_> {
    /// Every base of ours with every candidate of the peer's family, and what arrived from elsewhere.
    fn pairs(&self) -> Vec<Pair> {
        let Some(ledger) = self.ledger else {
            return Vec::new();
        };
        let bases: BTreeSet<SocketAddr> = self
            .surroundings
            .locals
            .iter()
            .map(|local| local.base)
            .collect();
        let mut ends: BTreeSet<(SocketAddr, SocketAddr)> = ledger.udp.keys().copied().collect();
        for remote in self.udp_remotes() {
            let remote = remote.socket_addr();
            let bases = bases
                .iter()
                .filter(|base| base.is_ipv4() == remote.is_ipv4());
            ends.extend(bases.map(|base| (*base, remote)));
        }
        let pair = |(base, remote): (SocketAddr, SocketAddr), over: Network| {
            let exchanges = if over.is_tcp() {
                &ledger.tcp
            } else {
                &ledger.udp
            };
            let exchange = exchanges.get(&(base, remote)).copied().unwrap_or_default();
            let kind = (self.remotes.iter())
                .find(|it| it.network == over && it.socket_addr() == remote)
                .map_or(Kind::Prflx, |candidate| candidate.kind);
            Pair {
                local: CandidateStatus {
                    kind: self.base_kind(base),
                    network: over,
                    address: base,
                },
                remote: CandidateStatus {
                    kind,
                    network: over,
                    address: remote,
                },
                state: self.pair_state((base, remote), exchange),
                exchange,
            }
        };
        let udp = (ends.into_iter()).map(|ends| pair(ends, Network::udp(&ends.1.ip())));
        let tcp = (ledger.tcp.keys()).map(|ends| pair(*ends, Network::tcp(&ends.1.ip())));
        udp.chain(tcp).collect()
    }

    fn udp_remotes(&self) -> impl Iterator<Item = &Candidate> {
        self.remotes.iter().filter(|it| !it.network.is_tcp())
    }

    fn base_kind(&self, base: SocketAddr) -> Kind {
        let relays = (self.surroundings.relayed.iter()).any(|it| it.address == base);
        if relays { Kind::Relay } else { Kind::Host }
    }

    /// The messages of pairs without a relay at either end.
    fn direct(&self) -> BTreeMap<(SocketAddr, SocketAddr), Exchange> {
        let relays = |remote: SocketAddr| {
            (self.udp_remotes()).any(|it| it.kind == Kind::Relay && it.socket_addr() == remote)
        };
        let pairs = self.ledger.into_iter().flat_map(|ledger| &ledger.udp);
        pairs
            .filter(|((base, remote), _)| self.base_kind(*base) == Kind::Host && !relays(*remote))
            .map(|(pair, exchange)| (*pair, *exchange))
            .collect()
    }

    fn pair_state(&self, pair: (SocketAddr, SocketAddr), exchange: Exchange) -> PairState {
        if self.selected == Some(pair) {
            PairState::Selected
        } else if exchange.answered > 0 {
            PairState::Answered
        } else if exchange.sent == 0 {
            PairState::Waiting
        } else if matches!(self.state, State::Gathering | State::Checking) {
            PairState::Checking
        } else {
            PairState::Failed
        }
    }

    fn findings(&self) -> BTreeSet<Finding> {
        let mut findings = BTreeSet::new();
        let negotiates = matches!(
            self.state,
            State::Gathering | State::Checking | State::Connected | State::Failed
        );
        if self.ledger.is_none() {
            return findings;
        }
        // A path of an earlier session may still be in use while this one finds none.
        let direct = self.state == State::Connected && self.path == PathKind::Direct;
        if !negotiates || direct {
            return findings;
        }
        let mut note = |finding, holds: bool| {
            if holds {
                findings.insert(finding);
            }
        };
        let surroundings = self.surroundings;
        let locals = surroundings.locals;
        let direct = |kind| kind != Kind::Relay;
        let ours: Vec<SocketAddr> = (locals.iter())
            .filter(|it| direct(it.kind))
            .map(|it| it.address)
            .collect();
        let theirs: Vec<SocketAddr> = (self.udp_remotes())
            .filter(|it| direct(it.kind))
            .map(Candidate::socket_addr)
            .collect();
        let relay_only = surroundings.policy == Policy::Relay;
        note(Finding::RelayOnly, relay_only);
        note(Finding::NoLocalCandidates, ours.is_empty() && !relay_only);
        let offered = !self.remotes.is_empty();
        note(Finding::NoRemoteCandidates, !offered);
        note(Finding::PeerRelayOnly, offered && theirs.is_empty());
        let only_private = |addresses: &[SocketAddr]| {
            !addresses.is_empty() && addresses.iter().all(|it| is_private(it.ip()))
        };
        let unseen = only_private(&ours);
        note(
            Finding::NoStunServer,
            unseen && surroundings.stun_servers == 0,
        );
        let asked = surroundings.stun_servers > 0 && surroundings.end_of_candidates;
        let blocked = surroundings.stun_answered == Some(false)
            && (surroundings.relayed.iter()).any(|it| it.transport != Transport::Udp);
        note(Finding::UdpBlocked, blocked && asked);
        note(Finding::StunUnanswered, unseen && asked && !blocked);
        note(Finding::PeerOnlyPrivate, only_private(&theirs));
        let apart = ours
            .iter()
            .all(|our| theirs.iter().all(|their| our.is_ipv4() != their.is_ipv4()));
        let both = !ours.is_empty() && !theirs.is_empty();
        note(Finding::NoCommonFamily, apart && both);
        let ledger = self.direct();
        let sent = ledger.values().any(|it| it.sent >= PATIENCE);
        let answered = ledger.values().any(|it| it.answered > 0);
        let received = ledger.values().any(|it| it.received > 0);
        note(Finding::NothingArrives, sent && !answered && !received);
        note(Finding::Unanswered, sent && !answered && received);
        note(Finding::MappingVaries, self.mapping_varies());
        let from = ledger
            .iter()
            .filter(|(_, exchange)| exchange.received > 0)
            .map(|((_, remote), _)| *remote);
        note(Finding::PeerMappingVaries, self.peer_mapping_varies(from));
        findings
    }

    /// Two servers saw one address of ours differently.
    fn mapping_varies(&self) -> bool {
        let mut mapped = BTreeMap::<SocketAddr, SocketAddr>::new();
        let locals = self.surroundings.locals;
        let mut reflexive = locals.iter().filter(|it| it.kind == Kind::Srflx);
        reflexive.any(|local| *mapped.entry(local.base).or_insert(local.address) != local.address)
    }

    /// Two servers saw one address of the peer's differently, or we see it where none of them did.
    fn peer_mapping_varies(&self, mut from: impl Iterator<Item = SocketAddr>) -> bool {
        let mut mapped = BTreeMap::new();
        let reflexive = || self.udp_remotes().filter(|it| it.kind == Kind::Srflx);
        let differs = reflexive().any(|remote| {
            let address = remote.socket_addr();
            let base = remote.related_address.zip(remote.related_port);
            base.is_some_and(|base| *mapped.entry(base).or_insert(address) != address)
        });
        differs
            || from.any(|from| {
                let known = self.udp_remotes().any(|it| it.socket_addr() == from);
                !known && reflexive().any(|it| it.address == from.ip())
            })
    }
}

/// Not reachable from another network: RFC 1918, RFC 6598, RFC 4193, link-local and loopback addresses.
pub(crate) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let shared = first == 100 && second & 0xc0 == 64;
            address.is_private() || address.is_link_local() || address.is_loopback() || shared
        }
        IpAddr::V6(address) => {
            address.is_unique_local() || address.is_unicast_link_local() || address.is_loopback()
        }
    }
}

/// A binding request: class and method are the first two bytes (RFC 8489 §5).
fn is_request(payload: &[u8]) -> bool {
    payload.starts_with(&[0x00, 0x01])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Network;

    const REQUEST: [u8; 2] = [0, 1];
    const ANSWER: [u8; 2] = [1, 1];

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn local(kind: Kind, address: &str, base: &str) -> LocalCandidate {
        LocalCandidate {
            kind,
            address: at(address),
            base: at(base),
        }
    }

    fn remote(kind: Kind, address: &str, base: Option<&str>) -> Candidate {
        let address = at(address);
        let base = base.map(at);
        Candidate {
            kind,
            foundation: "1".to_owned(),
            component: 1,
            network: Network::udp(&address.ip()),
            priority: 1,
            address: address.ip(),
            port: address.port(),
            related_address: base.map(|it| it.ip()),
            related_port: base.map(|it| it.port()),
            tcp_type: None,
        }
    }

    fn surroundings(locals: &[LocalCandidate]) -> Surroundings<'_> {
        Surroundings {
            locals,
            end_of_candidates: true,
            stun_servers: 1,
            stun_answered: None,
            relayed: &[],
            policy: Policy::All,
        }
    }

    fn findings(locals: &[LocalCandidate], remotes: &[Candidate], ledger: &Ledger) -> Vec<Finding> {
        let facts = Facts {
            state: State::Failed,
            reason: Reason::NoPairWorks,
            path: PathKind::None,
            surroundings: &surroundings(locals),
            remotes,
            ledger: Some(ledger),
            selected: None,
        };
        Explanation::new(&facts).findings
    }

    #[test]
    fn addresses_that_cannot_meet_are_found() {
        let empty = Ledger::default();
        assert_eq!(
            findings(&[], &[], &empty),
            [Finding::NoLocalCandidates, Finding::NoRemoteCandidates]
        );
        let ours = [local(Kind::Host, "192.168.1.2:1", "192.168.1.2:1")];
        let theirs = [remote(Kind::Host, "[2001:db8::1]:1", None)];
        assert_eq!(
            findings(&ours, &theirs, &empty),
            [Finding::StunUnanswered, Finding::NoCommonFamily]
        );
        let theirs = [remote(Kind::Host, "100.64.0.1:1", None)];
        assert_eq!(
            findings(&ours, &theirs, &empty),
            [Finding::StunUnanswered, Finding::PeerOnlyPrivate]
        );
    }

    #[test]
    fn a_nat_with_a_port_for_each_destination_is_found_on_either_side() {
        let base = "192.168.1.2:1";
        let ours = [
            local(Kind::Srflx, "198.51.100.1:4001", base),
            local(Kind::Srflx, "198.51.100.1:4002", base),
        ];
        let theirs = [remote(Kind::Srflx, "198.51.100.2:5001", Some("10.0.0.2:1"))];
        let mut ledger = Ledger::default();
        for _ in 0..PATIENCE {
            ledger.sent(at(base), at("198.51.100.2:5001"), &REQUEST);
        }
        assert_eq!(
            findings(&ours, &theirs, &ledger),
            [Finding::NothingArrives, Finding::MappingVaries]
        );
        ledger.received(at(base), at("198.51.100.2:5009"), &REQUEST);
        assert_eq!(
            findings(&ours[..1], &theirs, &ledger),
            [Finding::Unanswered, Finding::PeerMappingVaries]
        );
        let theirs = [
            remote(Kind::Srflx, "198.51.100.2:5001", Some("10.0.0.2:1")),
            remote(Kind::Srflx, "198.51.100.2:5002", Some("10.0.0.2:1")),
        ];
        assert!(
            findings(&ours[..1], &theirs, &Ledger::default()).contains(&Finding::PeerMappingVaries)
        );
    }

    #[test]
    fn a_pair_says_how_far_it_is() {
        let locals = [local(Kind::Host, "198.51.100.1:1", "198.51.100.1:1")];
        let remotes = [
            "198.51.100.2:1",
            "198.51.100.3:1",
            "198.51.100.4:1",
            "198.51.100.5:1",
        ]
        .map(|address| remote(Kind::Host, address, None));
        let mut ledger = Ledger::default();
        let base = locals[0].base;
        for (index, remote) in remotes.iter().enumerate().skip(1) {
            ledger.sent(base, remote.socket_addr(), &REQUEST);
            if index > 1 {
                ledger.received(base, remote.socket_addr(), &ANSWER);
            }
        }
        let mut facts = Facts {
            state: State::Checking,
            reason: Reason::OfferReceived,
            path: PathKind::None,
            surroundings: &surroundings(&locals),
            remotes: &remotes,
            ledger: Some(&ledger),
            selected: Some((base, remotes[3].socket_addr())),
        };
        let states =
            |facts: &Facts<'_>| facts.pairs().iter().map(|it| it.state).collect::<Vec<_>>();
        let (waiting, answered) = (PairState::Waiting, PairState::Answered);
        assert_eq!(
            states(&facts),
            [waiting, PairState::Checking, answered, PairState::Selected]
        );
        facts.state = State::Failed;
        assert_eq!(states(&facts)[1], PairState::Failed);
    }

    #[test]
    fn something_stands_in_the_way_of_a_new_session_though_an_old_path_is_in_use() {
        let locals = [local(Kind::Host, "198.51.100.1:1", "198.51.100.1:1")];
        let remotes = [remote(Kind::Host, "198.51.100.2:1", None)];
        let mut ledger = Ledger::default();
        for _ in 0..PATIENCE {
            ledger.sent(locals[0].base, remotes[0].socket_addr(), &REQUEST);
        }
        let mut facts = Facts {
            state: State::Checking,
            reason: Reason::OfferReceived,
            path: PathKind::Direct,
            surroundings: &surroundings(&locals),
            remotes: &remotes,
            ledger: Some(&ledger),
            selected: None,
        };
        assert!(facts.findings().contains(&Finding::NothingArrives));
        facts.state = State::Connected;
        assert!(facts.findings().is_empty(), "it is direct");
    }
}
