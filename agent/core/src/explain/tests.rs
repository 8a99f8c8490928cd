//! What follows from which facts.

use std::net::SocketAddr;

use super::facts::PATIENCE;
use super::*;
use crate::candidate::{Candidate, Kind};
use crate::ice::LocalCandidate;
use crate::settings::Policy;
use crate::status::PathKind;

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
    // What a NAT behind a NAT shows is private, and no STUN server is to blame.
    let ours = [
        ours[0].clone(),
        local(Kind::Srflx, "10.0.0.11:4001", "192.168.1.2:1"),
    ];
    let theirs = [remote(Kind::Srflx, "10.0.0.12:1", Some("192.168.2.2:1"))];
    assert_eq!(findings(&ours, &theirs, &empty), []);
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
    let states = |facts: &Facts<'_>| facts.pairs().iter().map(|it| it.state).collect::<Vec<_>>();
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
