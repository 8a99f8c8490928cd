//! Paths over TCP: where UDP leads nowhere, better than a relay, and left for UDP as soon as that works.

mod common;

use std::time::Duration;

use common::World;
use wice_core::candidate::{Kind, Network};
use wice_core::settings::Policy;
use wice_core::status::{PathKind, State};

/// A host whose network passes no UDP, and one that TCP reaches.
fn blocked(seed: u64) -> World {
    let mut world = World::new(seed, true);
    world.hosts[0].udp_blocked = true;
    world.hosts[1].nat = None;
    world.hosts[1].address = "198.51.100.2".parse().expect("an address");
    world.hosts[1].tcp.reachable = true;
    world
}

fn boot(world: &mut World) {
    world.boot(0);
    world.boot(1);
}

fn network(world: &World, host: usize) -> Option<Network> {
    world.peer(host).local_candidate.map(|it| it.network)
}

fn over_tcp(world: &World) -> bool {
    (0..2).all(|host| {
        world.peer(host).state == State::Connected
            && world.peer(host).path == PathKind::Direct
            && network(world, host) == Some(Network::Tcp4)
    })
}

fn over_udp(world: &World) -> bool {
    (0..2).all(|host| {
        world.peer(host).state == State::Connected
            && world.peer(host).path == PathKind::Direct
            && network(world, host) == Some(Network::Udp4)
    })
}

#[test]
fn a_host_without_udp_reaches_a_public_one_within_seconds() {
    let mut world = blocked(1);
    boot(&mut world);
    assert!(world.run_until(Duration::from_secs(4), over_tcp));
    assert!(world.tunnel_works(0) && world.tunnel_works(1));
    let (active, passive) = (world.peer(0), world.peer(1));
    let kinds = |peer: &wice_core::status::PeerStatus| {
        (
            peer.local_candidate.map(|it| it.kind),
            peer.remote_candidate.map(|it| it.kind),
        )
    };
    assert_eq!(kinds(&active), (Some(Kind::Prflx), Some(Kind::Host)));
    assert_eq!(kinds(&passive), (Some(Kind::Host), Some(Kind::Prflx)));
    // It stays.
    world.traffic(Duration::from_secs(60), |_| {});
    assert!(over_tcp(&world));
    assert_eq!((world.hosts[0].lost, world.hosts[1].lost), (0, 0));
    assert_eq!(world.hosts[0].tcp.streams.len(), 1);
}

#[test]
fn the_side_that_connects_may_be_the_controlled_one() {
    let mut world = blocked(2);
    world.hosts.swap(0, 1);
    boot(&mut world);
    assert!(world.run_until(Duration::from_secs(4), over_tcp));
    assert!(world.tunnel_works(0) && world.tunnel_works(1));
}

#[test]
fn both_sides_may_connect_at_once_and_agree_on_one_stream() {
    let mut world = World::new(3, false);
    for host in &mut world.hosts {
        host.udp_blocked = true;
        host.tcp.reachable = true;
    }
    boot(&mut world);
    assert!(world.run_until(Duration::from_secs(4), over_tcp));
    world.traffic(Duration::from_secs(30), |_| {});
    assert_eq!((world.hosts[0].lost, world.hosts[1].lost), (0, 0));
    assert!(over_tcp(&world));
    for host in 0..2 {
        assert_eq!(
            world.hosts[host].tcp.streams.len(),
            1,
            "the other is closed"
        );
    }
    let (ours, theirs) = (world.boarded(0), world.boarded(1));
    assert_eq!(
        ours.map(|it| it.local),
        theirs.map(|it| it.remote),
        "both send on the same one"
    );
}

#[test]
fn nobody_connects_where_udp_works() {
    let mut world = World::new(4, false);
    for host in &mut world.hosts {
        host.tcp.reachable = true;
    }
    boot(&mut world);
    assert!(world.run_until(Duration::from_secs(4), over_udp));
    world.run(Duration::from_secs(60));
    for host in &world.hosts {
        assert!(host.tcp.tried.is_empty());
        assert!(host.tcp.listening.is_empty(), "the port is closed again");
    }
}

#[test]
fn the_port_is_open_only_while_a_peer_is_there_that_udp_does_not_reach() {
    let mut world = blocked(5);
    world.boot(1);
    world.run(Duration::from_secs(30));
    assert!(world.hosts[1].tcp.listening.is_empty(), "nobody is there");
    world.boot(0);
    assert!(world.run_until(Duration::from_secs(4), |world| {
        !world.hosts[1].tcp.listening.is_empty()
    }));
    assert!(world.run_until(Duration::from_secs(4), over_tcp));
}

#[test]
fn tcp_takes_over_from_a_relay_without_losing_a_packet() {
    let mut world = blocked(6);
    world.give_relays([true, true]);
    // The connection is let in after the relay carries.
    world.hosts[1].tcp.reachable = false;
    boot(&mut world);
    assert!(world.run_until(Duration::from_secs(4), World::connected));
    assert_eq!(world.peer(0).path, PathKind::Relay);
    world.hosts[1].tcp.reachable = true;
    let mut seen = false;
    world.traffic(Duration::from_secs(90), |world| seen |= over_tcp(world));
    assert!(seen && over_tcp(&world));
    assert_eq!((world.hosts[0].lost, world.hosts[1].lost), (0, 0));
}

#[test]
fn tcp_wins_over_a_relay_that_was_there_first() {
    let mut world = blocked(7);
    world.give_relays([true, true]);
    boot(&mut world);
    assert!(world.run_until(Duration::from_secs(6), over_tcp));
    world.traffic(Duration::from_secs(30), |_| {});
    assert!(over_tcp(&world));
    assert_eq!((world.hosts[0].lost, world.hosts[1].lost), (0, 0));
}

#[test]
fn udp_takes_over_as_soon_as_it_works() {
    let mut world = blocked(8);
    boot(&mut world);
    assert!(world.run_until(Duration::from_secs(4), over_tcp));
    world.hosts[0].udp_blocked = false;
    let mut seen = false;
    world.traffic(Duration::from_secs(90), |world| seen |= over_udp(world));
    assert!(seen && over_udp(&world));
    assert_eq!((world.hosts[0].lost, world.hosts[1].lost), (0, 0));
    assert!(world.hosts.iter().all(|it| it.tcp.streams.is_empty()));
}

#[test]
fn a_stream_that_breaks_is_replaced() {
    let mut world = blocked(9);
    boot(&mut world);
    assert!(world.run_until(Duration::from_secs(4), over_tcp));
    let stream = world.boarded(0).expect("it carries");
    world.end_stream(0, stream);
    world.tell_closed(0, stream);
    assert!(world.run_until(Duration::from_secs(10), |world| {
        over_tcp(world) && world.boarded(0).is_some_and(|it| it != stream)
    }));
    assert!(world.tunnel_works(0) && world.tunnel_works(1));
}

#[test]
fn a_stream_that_breaks_falls_back_to_the_relay_at_once() {
    let mut world = blocked(10);
    world.give_relays([true, true]);
    boot(&mut world);
    assert!(world.run_until(Duration::from_secs(6), over_tcp));
    world.run(Duration::from_secs(30));
    world.hosts[1].tcp.reachable = false;
    let stream = world.boarded(0).expect("it carries");
    world.end_stream(0, stream);
    world.tell_closed(0, stream);
    assert!(world.run_until(Duration::from_secs(3), |world| {
        (0..2).all(|host| world.peer(host).path == PathKind::Relay) && world.connected()
    }));
    assert!(world.tunnel_works(0) && world.tunnel_works(1));
}

#[test]
fn a_forwarded_port_is_found_behind_a_nat() {
    let mut world = World::new(11, true);
    world.hosts[0].udp_blocked = true;
    world.hosts[1].tcp.reachable = true;
    boot(&mut world);
    assert!(world.run_until(Duration::from_secs(5), over_tcp));
    let remote = world.peer(0).remote_candidate.expect("there is a pair");
    assert_eq!(remote.address.to_string(), "198.51.100.2:51821");
    assert_eq!(remote.kind, Kind::Srflx);
}

#[test]
fn neither_configuration_nor_another_program_on_the_port_lets_tcp_in() {
    for case in 0..3 {
        let mut world = blocked(12);
        match case {
            0 => world.hosts[1].settings.candidates.tcp = false,
            1 => world.hosts[0].settings.candidates.tcp = false,
            _ => _ = world.hosts[1].tcp.taken.insert(51821),
        }
        boot(&mut world);
        world.run(Duration::from_secs(30));
        assert!(world.hosts.iter().all(|it| it.tcp.streams.is_empty()));
        assert!(world.hosts[0].tcp.tried.is_empty(), "case {case}");
    }
    let mut world = blocked(13);
    world.hosts[0].settings.policy = Policy::Relay;
    boot(&mut world);
    world.run(Duration::from_secs(30));
    assert!(world.hosts[0].tcp.tried.is_empty());
}
