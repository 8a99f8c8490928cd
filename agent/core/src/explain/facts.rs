//! What is known of an attempt, and what can be concluded from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{Exchange, Finding, Ledger, Pair, PairState, is_private};
use crate::candidate::{Candidate, Kind, Network};
use crate::ice::LocalCandidate;
use crate::relay::Relayed;
use crate::server::Transport;
use crate::settings::Policy;
use crate::status::{CandidateStatus, PathKind, Reason, State};

/// Checks of a pair without an answer that mean something: by then the first was sent more than half a second ago.
pub(super) const PATIENCE: u32 = 5;

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

impl Facts<'_> {
    /// Every base of ours with every candidate of the peer's family, and what arrived from elsewhere.
    pub(super) fn pairs(&self) -> Vec<Pair> {
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

    pub(super) fn findings(&self) -> BTreeSet<Finding> {
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
        // Behind two NATs what STUN sees is private, too: it was seen all the same.
        let seen = |kind| matches!(kind, Kind::Srflx | Kind::Prflx);
        let unseen = only_private(&ours) && !locals.iter().any(|it| seen(it.kind));
        note(
            Finding::NoStunServer,
            unseen && surroundings.stun_servers == 0,
        );
        let asked = surroundings.stun_servers > 0 && surroundings.end_of_candidates;
        let blocked = surroundings.stun_answered == Some(false)
            && (surroundings.relayed.iter()).any(|it| it.transport != Transport::Udp);
        note(Finding::UdpBlocked, blocked && asked);
        note(Finding::StunUnanswered, unseen && asked && !blocked);
        let peer_unseen = !self.udp_remotes().any(|it| seen(it.kind));
        note(
            Finding::PeerOnlyPrivate,
            only_private(&theirs) && peer_unseen,
        );
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
