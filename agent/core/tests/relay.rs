//! Paths through relays, onto them and off them again, in virtual time.

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use common::{Relay, World};
use wice_core::candidate::Kind;
use wice_core::explain::Finding;
use wice_core::io::{Input, LocalAddress};
use wice_core::server::Transport;
use wice_core::settings::{Policy, Settings};
use wice_core::status::{CandidateStatus, PathKind, Reason, State};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn boot(world: &mut World) -> Duration {
    world.boot(0);
    world.boot(1);
    let start = world.now;
    assert!(world.run_until(MINUTE, World::connected), "no path");
    world.now - start
}

fn paths(world: &World) -> [PathKind; 2] {
    [world.peer(0).path, world.peer(1).path]
}

/// Opens the NATs: from now on a port is the same for every destination.
fn make_cones(world: &mut World) {
    for host in &mut world.hosts {
        host.nat.as_mut().expect("it has one").symmetric = false;
    }
}

#[test]
fn two_symmetric_nats_meet_at_a_relay_whoever_has_one() {
    for relays in [[true, false], [false, true], [true, true]] {
        let mut world = World::symmetric(1, relays);
        let took = boot(&mut world);
        assert!(took < SECOND / 2, "{relays:?}: {took:?}");
        assert_eq!(paths(&world), [PathKind::Relay; 2], "{relays:?}");
        assert!(world.tunnel_works(0) && world.tunnel_works(1), "{relays:?}");
        let open = |host: usize| {
            let relay = world.hosts[host].relay.as_ref();
            relay.is_some_and(|relay| relay.route.is_some())
        };
        assert!(open(0) || open(1), "{relays:?}: no route");
        world.run(5 * MINUTE);
        assert!(world.connected());
        assert_eq!(paths(&world), [PathKind::Relay; 2]);
    }
}

#[test]
fn both_sides_go_by_the_same_relay_where_each_has_one() {
    for symmetric in [false, true] {
        let mut world = World::symmetric(1, [true, true]);
        if !symmetric {
            make_cones(&mut world);
            world.direct_cut = true;
        }
        boot(&mut world);
        world.traffic(MINUTE, |_| ());
        let ends = |host: usize| {
            let peer = world.peer(host);
            let kind = |it: Option<CandidateStatus>| it.expect("it is selected").kind;
            [kind(peer.local_candidate), kind(peer.remote_candidate)]
        };
        let relays = |ends: [Kind; 2]| ends.map(|kind| kind == Kind::Relay);
        let [ours, theirs] = relays(ends(1));
        assert_eq!(relays(ends(0)), [theirs, ours], "symmetric: {symmetric}");
        assert!(ours != theirs, "one relay is enough");
        for host in &world.hosts {
            assert!(host.lost <= 2, "symmetric: {symmetric}: {}", host.lost);
        }
    }
}

#[test]
fn a_host_without_any_udp_is_reached_through_its_relay_and_so_are_two() {
    for blocked in [[true, false], [true, true]] {
        let mut world = World::new(1, true);
        world.give_relays(blocked);
        for (host, blocked) in blocked.into_iter().enumerate() {
            world.hosts[host].udp_blocked = blocked;
        }
        let took = boot(&mut world);
        assert!(took < SECOND / 2, "{blocked:?}: {took:?}");
        assert_eq!(paths(&world), [PathKind::Relay; 2]);
        assert!(
            world.tunnel_works(0) && world.tunnel_works(1),
            "{blocked:?}"
        );
        world.traffic(10 * SECOND, |_| ());
        let lost: usize = world.hosts.iter().map(|host| host.lost).sum();
        assert_eq!(lost, 0, "{blocked:?}");
    }
}

#[test]
fn a_direct_path_wins_over_a_relay_and_leaves_it() {
    for natted in [false, true] {
        let mut world = World::new(1, natted);
        world.give_relays([true, true]);
        boot(&mut world);
        world.run(20 * SECOND);
        assert_eq!(paths(&world), [PathKind::Direct; 2]);
        for host in &world.hosts {
            let relay = host.relay.as_ref().expect("it has one");
            assert!(relay.route.is_none(), "a route stays open");
            assert_eq!(relay.opened, relay.closed);
        }
        let restarts = (world.peer(0).restarts, world.peer(1).restarts);
        world.run(30 * MINUTE);
        assert_eq!((world.peer(0).restarts, world.peer(1).restarts), restarts);
        assert_eq!(paths(&world), [PathKind::Direct; 2]);
    }
}

#[test]
fn a_path_moves_from_the_relay_to_a_direct_one_without_losing_a_packet() {
    for relays in [[true, false], [false, true], [true, true]] {
        let mut world = World::new(1, true);
        world.give_relays(relays);
        world.direct_cut = true;
        boot(&mut world);
        world.traffic(5 * SECOND, |_| ());
        assert_eq!(paths(&world), [PathKind::Relay; 2]);
        world.direct_cut = false;
        let states = world.hosts[0].states.len() + world.hosts[1].states.len();
        let published = world.published;
        let mut direct = None;
        world.traffic(2 * MINUTE, |world| {
            if paths(world) == [PathKind::Direct; 2] {
                direct.get_or_insert(world.now);
            }
        });
        assert!(direct.is_some(), "{relays:?}: still relayed");
        assert!(world.published > published);
        // Both kernels stay on the direct path though packets were late.
        for host in 0..2 {
            let endpoint = world.endpoint(host).expect("it has one");
            assert!(!endpoint.ip().is_loopback(), "{relays:?}: {endpoint}");
            assert_eq!(world.hosts[host].lost, 0, "{relays:?}: host {host}");
            let sets = world.hosts[host].endpoints_set.len();
            assert!(sets < 8, "{relays:?}: set {sets} times");
        }
        let end = world.hosts[0].states.len() + world.hosts[1].states.len();
        assert_eq!(states, end, "users saw the attempt");
        assert_eq!((world.peer(0).restarts, world.peer(1).restarts), (0, 0));
    }
}

#[test]
fn a_direct_path_that_is_cut_under_load_is_replaced_within_three_seconds() {
    for relays in [[true, false], [false, true], [true, true]] {
        for offset in [0, 170, 390] {
            let mut world = World::new(1, true);
            world.give_relays(relays);
            boot(&mut world);
            world.traffic(20 * SECOND + Duration::from_millis(offset), |_| ());
            assert_eq!(paths(&world), [PathKind::Direct; 2]);
            world.direct_cut = true;
            let cut = world.now;
            let mut before = [world.hosts[0].received, world.hosts[1].received];
            let mut heard = [cut; 2];
            let mut silence = Duration::ZERO;
            world.traffic(20 * SECOND, |world| {
                for host in 0..2 {
                    let received = world.hosts[host].received;
                    if received > before[host] {
                        before[host] = received;
                        heard[host] = world.now;
                    }
                    silence = silence.max(world.now - heard[host]);
                }
            });
            assert!(silence < 3 * SECOND, "{relays:?} {offset}: {silence:?}");
            assert!(
                silence > SECOND,
                "a short gap must not move a path: {silence:?}"
            );
            assert_eq!(paths(&world), [PathKind::Relay; 2]);
            assert_eq!(world.peer(0).reason, Reason::DirectPathLost, "{relays:?}");
            assert_eq!((world.peer(0).restarts, world.peer(1).restarts), (0, 0));
            // And back, when the direct path works again.
            world.direct_cut = false;
            world.traffic(2 * MINUTE, |_| ());
            assert_eq!(paths(&world), [PathKind::Direct; 2], "{relays:?}");
            assert_eq!(world.peer(0).reason, Reason::PairNominated);
        }
    }
}

#[test]
fn an_idle_direct_path_that_is_cut_is_replaced_too() {
    for relays in [[true, false], [false, true]] {
        let mut world = World::new(1, true);
        world.give_relays(relays);
        boot(&mut world);
        world.run(MINUTE);
        world.direct_cut = true;
        let cut = world.now;
        let moved = |world: &World| paths(world) == [PathKind::Relay; 2];
        assert!(world.run_until(MINUTE, moved), "{relays:?}");
        let took = world.now - cut;
        assert!(took < 20 * SECOND, "{relays:?}: {took:?}");
        assert!(world.run_until(SECOND, |world| world.connected()));
    }
}

#[test]
fn a_relay_that_dies_and_comes_back_carries_again_within_five_seconds() {
    for relays in [[true, false], [false, true], [true, true]] {
        let mut world = World::symmetric(1, relays);
        boot(&mut world);
        world.traffic(10 * SECOND, |_| ());
        for host in (0..2).filter(|host| relays[*host]) {
            world.kill_relay(host, SECOND);
        }
        world.traffic(2 * SECOND, |_| ());
        assert!(!world.connected(), "{relays:?}");
        for host in (0..2).filter(|host| relays[*host]) {
            world.revive_relay(host);
        }
        let back = world.now;
        let mut works = None;
        let received = [world.hosts[0].received, world.hosts[1].received];
        world.traffic(20 * SECOND, |world| {
            if (0..2).all(|host| world.hosts[host].received > received[host]) {
                works.get_or_insert(world.now);
            }
        });
        let took = works.expect("it came back") - back;
        assert!(took < 3 * SECOND, "{relays:?}: {took:?}");
        assert!(world.connected(), "{relays:?}");
        assert_eq!(paths(&world), [PathKind::Relay; 2]);
    }
}

#[test]
fn the_loss_of_one_of_two_relays_is_made_good_by_the_other() {
    for dead in 0..2 {
        let mut world = World::symmetric(1, [true, true]);
        boot(&mut world);
        world.traffic(10 * SECOND, |_| ());
        world.kill_relay(dead, SECOND);
        let received = [world.hosts[0].received, world.hosts[1].received];
        world.traffic(5 * SECOND, |_| ());
        for (host, received) in received.into_iter().enumerate() {
            assert!(world.hosts[host].received > received + 50, "{dead} {host}");
        }
        assert!(world.connected());
        assert_eq!(paths(&world), [PathKind::Relay; 2]);
    }
}

#[test]
fn a_direct_path_is_tried_again_with_growing_intervals_and_nobody_sees_it() {
    let mut world = World::symmetric(1, [true, false]);
    boot(&mut world);
    world.run(5 * SECOND);
    let states = [world.hosts[0].states.len(), world.hosts[1].states.len()];
    let opened = world.hosts[0].relay.as_ref().map(|relay| relay.opened);
    let mut sessions = BTreeSet::new();
    let end = world.now + 90 * MINUTE;
    let start = world.now;
    let mut published = world.published;
    while world.now < end {
        world.run(SECOND);
        if world.published != published {
            published = world.published;
            sessions.insert((world.now - start).as_secs() / 5);
        }
        assert_eq!(paths(&world), [PathKind::Relay; 2]);
        assert!(world.tunnel_works(0) && world.tunnel_works(1));
    }
    let times: Vec<u64> = sessions.into_iter().map(|slot| slot * 5).collect();
    println!("{times:?}");
    assert!((20..=45).contains(&times[0]), "{times:?}");
    assert!((12..=30).contains(&times.len()), "{times:?}");
    let last = times[times.len() - 1] - times[times.len() - 2];
    assert!((470..=730).contains(&last), "{times:?}");
    assert_eq!(
        [world.hosts[0].states.len(), world.hosts[1].states.len()],
        states
    );
    assert_eq!((world.peer(0).restarts, world.peer(1).restarts), (0, 0));
    let relay = world.hosts[0].relay.as_ref();
    assert_eq!(
        relay.map(|relay| relay.opened),
        opened,
        "the route was opened anew"
    );
}

#[test]
fn looking_for_a_direct_path_in_vain_loses_no_packet() {
    for seed in 0..4 {
        let mut world = World::symmetric(seed, [seed != 0, seed != 1]);
        boot(&mut world);
        world.traffic(3 * SECOND, |_| ());
        for host in &mut world.hosts {
            host.lost = 0;
        }
        world.traffic(3 * MINUTE, |_| ());
        assert_eq!(paths(&world), [PathKind::Relay; 2]);
        let lost: Vec<usize> = world.hosts.iter().map(|host| host.lost).collect();
        assert_eq!(lost, [0, 0], "seed {seed}");
    }
}

#[test]
fn a_direct_path_is_tried_at_once_when_an_address_changes() {
    for side in 0..2 {
        let mut world = World::symmetric(1, [true, false]);
        boot(&mut world);
        world.run(30 * MINUTE);
        make_cones(&mut world);
        // The machine moves to another network, whose NAT is a better one.
        let inside = "10.9.0.2";
        let nat = common::Nat::new("198.51.100.77");
        world.hosts[side].nat = Some(nat);
        world.hosts[side].address = inside.parse().expect("an address");
        let address = LocalAddress {
            link: "wlan0".into(),
            address: world.hosts[side].address,
            deprecated: false,
        };
        world.input(side, Input::Addresses(vec![address]));
        let moved = world.now;
        let direct = |world: &World| paths(world) == [PathKind::Direct; 2];
        assert!(world.run_until(MINUTE, direct), "side {side}");
        let took = world.now - moved;
        assert!(took < 5 * SECOND, "side {side}: {took:?}");
    }
}

#[test]
fn no_relay_is_used_where_the_policy_says_direct() {
    for side in 0..2 {
        let mut world = World::symmetric(1, [true, true]);
        world.hosts[side].settings = Settings {
            policy: Policy::Direct,
            ..Settings::default()
        };
        world.boot(0);
        world.boot(1);
        assert!(!world.run_until(MINUTE, |world| world.connected()));
        let relay = world.hosts[side].relay.as_ref().expect("it has one");
        assert!(!relay.wanted, "it was asked for");
        assert!(!world.hosts[side].paths.contains(&PathKind::Relay));
        // It is no obstacle to a direct path.
        make_cones(&mut world);
        assert!(world.run_until(6 * MINUTE, |world| world.connected()));
        assert_eq!(paths(&world), [PathKind::Direct; 2]);
    }
}

#[test]
fn only_relays_are_used_where_the_policy_says_relay() {
    for policies in [
        [Policy::Relay, Policy::All],
        [Policy::All, Policy::Relay],
        [Policy::Relay, Policy::Relay],
    ] {
        let mut world = World::new(1, false);
        world.give_relays([true, true]);
        for (host, policy) in policies.into_iter().enumerate() {
            world.hosts[host].settings.policy = policy;
        }
        boot(&mut world);
        world.traffic(MINUTE, |_| ());
        assert_eq!(paths(&world), [PathKind::Relay; 2], "{policies:?}");
        for host in (0..2).filter(|host| policies[*host] == Policy::Relay) {
            let local = world.peer(host).local_candidate.expect("it has one");
            assert_eq!(local.kind, Kind::Relay);
            assert!(world.hosts[host].sources.is_empty(), "it sent by itself");
            assert!(!world.hosts[host].paths.contains(&PathKind::Direct));
        }
        let lost: usize = world.hosts.iter().map(|host| host.lost).sum();
        assert_eq!(lost, 0);
    }
}

#[test]
fn a_restart_that_a_user_asks_for_keeps_the_route_in_use() {
    let mut world = World::symmetric(1, [true, true]);
    boot(&mut world);
    for side in [0, 1, 0] {
        world.restart(side);
        world.traffic(5 * SECOND, |_| ());
        assert!(world.connected());
        assert_eq!(world.peer(side).state, State::Connected);
    }
    let lost: usize = world.hosts.iter().map(|host| host.lost).sum();
    assert_eq!(lost, 0);
    for host in &world.hosts {
        assert!(
            !host.paths[1..].contains(&PathKind::None),
            "{:?}",
            host.paths
        );
    }
}

#[test]
fn the_relay_lets_every_public_address_of_the_peer_through_and_nobody_else() {
    let mut world = World::symmetric(1, [true, false]);
    boot(&mut world);
    let relay = world.hosts[0].relay.as_ref().expect("it has one");
    let expected: BTreeSet<_> = ["198.51.100.2"]
        .map(|it| it.parse().expect("an address"))
        .into();
    assert_eq!(relay.permits, expected, "and no private one");
    world.hosts[0].device.peers.clear();
    world.dump(0);
    world.run(SECOND);
    let relay = world.hosts[0].relay.as_ref().expect("it has one");
    assert!(!relay.wanted, "nobody needs it any more");
    assert!(relay.route.is_none(), "the route stays open");
}

#[test]
fn a_restart_of_a_direct_path_does_not_go_by_the_relay_meanwhile() {
    let mut world = World::new(1, true);
    world.give_relays([true, true]);
    boot(&mut world);
    world.traffic(5 * SECOND, |_| ());
    assert_eq!(paths(&world), [PathKind::Direct; 2]);
    let before = [world.hosts[0].paths.len(), world.hosts[1].paths.len()];
    for side in [0, 1, 0] {
        world.restart(side);
        // The relay answers first.
        world.direct_cut = true;
        world.traffic(SECOND / 2, |_| ());
        world.direct_cut = false;
        world.traffic(5 * SECOND, |_| ());
        assert!(world.connected());
    }
    for (host, before) in world.hosts.iter().zip(before) {
        assert_eq!(host.paths[before..], [], "it was shown as changed");
    }
}

#[test]
fn blocked_udp_and_symmetric_nats_are_named_as_what_keeps_a_path_relayed() {
    let mut world = World::new(1, true);
    world.hosts[0].udp_blocked = true;
    world.hosts[0].relay = Some(Relay::new("203.0.113.10:50000", Transport::Tls));
    boot(&mut world);
    world.run(10 * SECOND);
    let findings = |world: &World, host: usize| {
        let peer = world.hosts[1 - host].key.public();
        let now = world.time(host);
        let explanation = world.hosts[host].mesh.explain("wg0", &peer, now);
        explanation.expect("the peer is known").findings
    };
    let found = findings(&world, 0);
    assert!(found.contains(&Finding::UdpBlocked), "{found:?}");
    assert!(!found.contains(&Finding::StunUnanswered), "{found:?}");
    assert!(!findings(&world, 1).contains(&Finding::UdpBlocked));
    let mut world = World::symmetric(1, [true, false]);
    boot(&mut world);
    world.run(10 * SECOND);
    let found = findings(&world, 0);
    assert!(found.contains(&Finding::NothingArrives), "{found:?}");
    assert!(!found.contains(&Finding::UdpBlocked), "{found:?}");
}

#[test]
fn the_same_seed_gives_the_same_course() {
    let course = || {
        let mut world = World::symmetric(3, [true, true]);
        boot(&mut world);
        world.traffic(10 * SECOND, |_| ());
        make_cones(&mut world);
        world.traffic(MINUTE, |_| ());
        let sets: Vec<Vec<SocketAddr>> = (world.hosts.iter())
            .map(|host| host.endpoints_set.clone())
            .collect();
        (sets, world.published, world.now - world.start)
    };
    assert_eq!(course(), course());
}
