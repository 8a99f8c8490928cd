//! What an agent says about its path, between two meshes and their NATs.

mod common;

use std::time::Duration;

use common::{Nat, World};
use wice_core::explain::{Explanation, Finding, PairState};
use wice_core::status::State;

fn explain(world: &World, host: usize) -> Explanation {
    let peer = world.hosts[1 - host].key.public();
    let now = world.time(host);
    let mesh = &world.hosts[host].mesh;
    mesh.explain("wg0", &peer, now).expect("the peer is known")
}

#[test]
fn a_direct_path_is_a_selected_pair_and_nothing_stands_in_its_way() {
    let mut world = World::new(1, true);
    world.boot(0);
    world.boot(1);
    assert!(world.run_until(Duration::from_secs(10), World::connected));
    world.run(Duration::from_secs(5));

    let explanation = explain(&world, 0);

    assert_eq!(explanation.state, State::Connected);
    assert_eq!(explanation.findings, []);
    assert_eq!(explanation.local.len(), 2, "own and server-reflexive");
    let selected: Vec<_> = explanation
        .pairs
        .iter()
        .filter(|pair| pair.state == PairState::Selected)
        .collect();
    let [pair] = selected.as_slice() else {
        panic!("{explanation:?}");
    };
    assert_eq!(Some(pair.remote.address), world.endpoint(0));
    assert!(pair.exchange.answered > 0);
}

#[test]
fn two_symmetric_nats_are_pairs_that_failed_without_an_answer() {
    let mut world = World::new(2, true);
    for host in 0..2 {
        let nat: &mut Option<Nat> = &mut world.hosts[host].nat;
        nat.as_mut().expect("it is behind one").symmetric = true;
    }
    world.boot(0);
    world.boot(1);
    let failed = |world: &World| world.peer(0).state == State::Failed;
    assert!(world.run_until(Duration::from_secs(60), failed));

    let explanation = explain(&world, 0);

    assert_eq!(explanation.findings, [Finding::NothingArrives]);
    assert!(!explanation.pairs.is_empty());
    for pair in &explanation.pairs {
        assert_eq!(pair.state, PairState::Failed, "{pair:?}");
        assert!(pair.exchange.sent > 0 && pair.exchange.answered == 0);
    }
}

#[test]
fn without_an_offer_there_is_nothing_to_explain_but_our_own_candidates() {
    let mut world = World::new(3, true);
    world.boot(0);
    world.run(Duration::from_secs(5));

    let explanation = explain(&world, 0);

    assert_eq!(explanation.state, State::Waiting);
    assert!(!explanation.local.is_empty());
    assert!(explanation.remote.is_empty() && explanation.pairs.is_empty());
    assert_eq!(explanation.findings, []);
}
