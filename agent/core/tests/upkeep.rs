//! What becomes of a path that once worked, in virtual time.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{STUN_SERVER, Weather, World, device, key};
use wice_core::io::{Input, LocalAddress};
use wice_core::status::{PathKind, Reason, State};

const MINUTE: Duration = Duration::from_secs(60);

/// A tunnel that has been up for a while.
fn tunnel() -> World {
    let mut world = World::new(1, true);
    world.boot(0);
    world.boot(1);
    assert!(world.run_until(MINUTE, World::connected), "no path");
    world.run(MINUTE);
    world
}

fn local(link: &str, address: &str) -> LocalAddress {
    LocalAddress {
        link: link.into(),
        address: address.parse().expect("an address"),
        deprecated: false,
    }
}

#[test]
fn a_path_that_died_is_not_shown_as_direct_for_ever() {
    let mut world = tunnel();
    // Traffic until the very end: the kernel has just received something when the checks fail.
    for _ in 0..14 {
        for peer in world.hosts[0].device.peers.values_mut() {
            peer.rx_bytes += 100;
        }
        world.crash(1);
        world.run(Duration::from_secs(1));
    }
    world.run(2 * MINUTE);
    assert_ne!(world.peer(0).state, State::Connected);
    assert_eq!(world.peer(0).path, PathKind::None);
    assert_eq!(
        world.hosts[0].paths.last(),
        Some(&PathKind::None),
        "nobody was told"
    );
}

#[test]
fn an_endpoint_that_the_user_sets_after_the_other_agent_left_is_left_alone() {
    let mut world = tunnel();
    world.crash(1);
    world.run(3 * MINUTE);
    let own: SocketAddr = "203.0.113.50:51820".parse().expect("an address");
    for peer in world.hosts[0].device.peers.values_mut() {
        peer.endpoint = Some(own);
    }
    world.run(10 * MINUTE);
    assert_eq!(world.endpoint(0), Some(own));
}

#[test]
fn other_stun_servers_do_not_disturb_a_path_even_if_they_never_answer() {
    let mut world = tunnel();
    let restarts = (world.peer(0).restarts, world.peer(1).restarts);
    let other: SocketAddr = "203.0.113.2:3478".parse().expect("an address");
    world.silent.insert(other);
    for _ in 0..3 {
        for server in [other, STUN_SERVER.parse().expect("an address")] {
            world.input(0, Input::StunServers(vec![server]));
            let disturbed =
                |world: &World| !world.connected() || world.peer(1).round_trip_time.is_none();
            assert!(!world.run_until(MINUTE, disturbed), "with {server}");
        }
    }
    assert_eq!((world.peer(0).restarts, world.peer(1).restarts), restarts);
}

#[test]
fn a_machine_that_roams_to_and_fro_gets_a_new_path_each_time() {
    let mut world = World::new(1, false);
    world.boot(0);
    world.boot(1);
    assert!(world.run_until(MINUTE, World::connected));
    for address in [
        "198.51.100.7",
        "198.51.100.2",
        "198.51.100.7",
        "198.51.100.2",
    ] {
        world.run(MINUTE);
        world.hosts[1].address = address.parse().expect("an address");
        world.input(1, Input::Addresses(vec![local("wlan0", address)]));
        let there = SocketAddr::new(world.hosts[1].address, 51821);
        let start = world.now;
        assert!(world.run_until(MINUTE, |world| world.endpoint(0) == Some(there)));
        let took = world.now - start;
        assert!(took < Duration::from_secs(1), "{took:?} to {address}");
    }
}

#[test]
fn the_address_of_one_tunnel_is_no_candidate_for_another() {
    let mut world = World::new(1, false);
    let mut addresses = vec![
        local("eth0", "198.51.100.1"),
        local("wg1", "198.51.100.200"),
    ];
    world.boot(0);
    world.input(0, Input::Addresses(addresses.clone()));
    let mut second = device(&key(9), 51900, &[]);
    second.name = "wg1".into();
    second.index = 8;
    world.input(0, Input::Device(second.clone()));
    world.hosts[0].sources.clear();
    world.boot(1);
    assert!(world.run_until(MINUTE, World::connected));
    world.run(Duration::from_secs(10));
    let tunnel = addresses[1].address;
    let inside = |source: &SocketAddr| source.ip() == tunnel;
    assert!(
        !world.hosts[0].sources.iter().any(inside),
        "checks went through wg1"
    );
    // Renamed, it is a tunnel all the same.
    second.name = "wg2".into();
    addresses[1].link = "wg2".into();
    world.input(0, Input::Addresses(addresses.clone()));
    world.input(0, Input::Device(second));
    world.hosts[0].sources.clear();
    world.restart(0);
    world.run(Duration::from_secs(10));
    assert!(
        !world.hosts[0].sources.iter().any(inside),
        "checks went through wg2"
    );
}

#[test]
fn a_machine_without_any_address_for_a_while_comes_back() {
    let mut world = tunnel();
    world.cut = true;
    world.input(1, Input::Addresses(vec![]));
    world.run(5 * MINUTE);
    world.cut = false;
    world.input(1, Input::Addresses(vec![local("eth0", "192.168.2.2")]));
    let start = world.now;
    assert!(world.run_until(10 * MINUTE, World::connected));
    let took = world.now - start;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_dead_path_is_noticed_within_twelve_seconds_and_made_anew_when_the_network_is_back() {
    let mut world = tunnel();
    for offset in [0, 1_100, 2_300, 3_700, 4_900] {
        world.run(Duration::from_millis(offset));
        world.cut = true;
        let cut = world.now;
        let lost = |world: &World| world.peer(0).state != State::Connected;
        assert!(world.run_until(MINUTE, lost));
        let took = world.now - cut;
        assert!(took < Duration::from_secs(12), "{took:?}");
        assert!(
            took > Duration::from_secs(5),
            "a short gap must not end a path: {took:?}"
        );
        let first = (world.hosts.iter())
            .any(|host| host.states.last() == Some(&(State::Waiting, Reason::ConsentLost)));
        assert!(first || world.peer(0).reason == Reason::OfferReceived);
        world.run(Duration::from_secs(20));
        world.cut = false;
        assert!(world.run_until(6 * MINUTE, World::connected));
        world.run(MINUTE);
    }
}

#[test]
fn a_gap_of_five_seconds_is_no_reason_to_negotiate_anew() {
    let mut world = tunnel();
    let restarts = world.peer(0).restarts;
    for pause in [0, 700, 1_900, 3_100, 4_300] {
        world.run(Duration::from_millis(pause));
        world.cut = true;
        world.run(Duration::from_secs(5));
        world.cut = false;
        world.run(MINUTE);
        assert!(world.connected());
    }
    assert_eq!(world.peer(0).restarts, restarts);
}

#[test]
fn a_settled_pair_costs_few_packets_and_wake_ups() {
    let mut world = tunnel();
    world.run(MINUTE);
    let before: Vec<_> = (world.hosts.iter())
        .map(|host| (host.transmitted, host.wake_ups))
        .collect();
    let published = world.published;
    world.run(10 * MINUTE);
    assert_eq!(world.published, published);
    for (host, (transmitted, wake_ups)) in world.hosts.iter().zip(before) {
        let (packets, wakes) = (
            (host.transmitted - transmitted) / 10,
            (host.wake_ups - wake_ups) / 10,
        );
        println!("{packets} packets and {wakes} wake-ups a minute");
        // A check and an answer every four to five seconds; a dump every three for the whole interface.
        assert!(packets <= 30, "{packets} packets a minute");
        assert!(wakes <= 15 + 20 + 2, "{wakes} wake-ups a minute");
    }
}

/// Runs for a time and looks at both kernels after every single event.
fn run_without_a_gap(world: &mut World, time: Duration) {
    let gap = |world: &World| !world.is_open(0) || !world.is_open(1);
    assert!(
        !world.run_until(time, gap),
        "after {:?}",
        world.now - world.start
    );
}

#[test]
fn restarts_leave_no_moment_without_a_path() {
    for seed in 0..10 {
        let mut world = World::new(seed, seed % 2 == 0);
        world.boot(0);
        world.boot(1);
        assert!(world.run_until(MINUTE, World::connected));
        run_without_a_gap(&mut world, Duration::from_secs(10));
        world.weather = Weather {
            loss: 0.3,
            duplication: 0.2,
            max_delay: Duration::from_secs(2),
        };
        for pause in [0, 3, 15, 40, 200, 1_000, 5_000, 20_000] {
            world.restart((seed % 2) as usize);
            run_without_a_gap(&mut world, Duration::from_millis(pause));
            world.restart(usize::from(pause % 3 == 0));
            run_without_a_gap(&mut world, Duration::from_millis(pause / 2));
        }
        run_without_a_gap(&mut world, 5 * MINUTE);
        assert!(world.connected(), "seed {seed}");
        for host in &world.hosts {
            assert_eq!(host.paths, [PathKind::Direct], "it was shown as lost");
        }
    }
}

#[test]
fn a_restart_that_nobody_hears_of_leaves_the_old_pair_at_work() {
    let mut world = tunnel();
    world.weather.loss = 1.0;
    world.restart(0);
    run_without_a_gap(&mut world, 10 * MINUTE);
    assert_eq!(
        (world.peer(0).path, world.peer(1).path),
        (PathKind::Direct, PathKind::Direct)
    );
    assert_eq!(world.peer(1).state, State::Connected);
    world.weather.loss = 0.0;
    assert!(world.run_until(2 * MINUTE, World::connected));
    run_without_a_gap(&mut world, MINUTE);
}

#[test]
fn an_agent_that_was_killed_comes_back_without_a_gap() {
    let mut world = tunnel();
    for host in [1, 0, 1] {
        world.crash(host);
        run_without_a_gap(&mut world, Duration::from_secs(2));
        world.hosts[host].clock_offset -= 3_600_000;
        world.boot(host);
        run_without_a_gap(&mut world, MINUTE);
        assert!(world.connected());
    }
}

/// Two machines with two addresses each, IPv6 and IPv4, and no NAT.
fn two_ways() -> World {
    let mut world = World::new(1, false);
    world.hosts[0].second = "2001:db8::1".parse().ok();
    world.hosts[1].second = "2001:db8::2".parse().ok();
    world.boot(0);
    world.boot(1);
    assert!(world.run_until(MINUTE, World::connected));
    world.run(MINUTE);
    world
}

#[test]
fn ipv6_is_preferred_where_both_work() {
    let world = two_ways();
    assert_eq!(world.endpoint(0), "[2001:db8::2]:51821".parse().ok());
    assert_eq!(world.endpoint(1), "[2001:db8::1]:51820".parse().ok());
}

#[test]
fn another_pair_takes_over_without_any_signalling() {
    for side in [0, 1] {
        let mut world = two_ways();
        world.weather.loss = 1.0;
        let gone = world.hosts[side].second.expect("set above");
        world.unplugged.insert(gone);
        let moved = |world: &World| {
            world.endpoint(0) == "198.51.100.2:51821".parse().ok()
                && world.endpoint(1) == "198.51.100.1:51820".parse().ok()
        };
        let start = world.now;
        assert!(world.run_until(5 * MINUTE, moved), "side {side}");
        let took = world.now - start;
        assert!(took < Duration::from_secs(14), "{took:?}");
        world.run(5 * MINUTE);
        assert!(world.connected(), "side {side}");
        assert!(moved(&world));
        assert_eq!((world.peer(0).restarts, world.peer(1).restarts), (0, 0));
    }
}

#[test]
fn a_better_pair_that_comes_back_is_used_again() {
    let mut world = two_ways();
    let gone = world.hosts[1].second.expect("set above");
    world.unplugged.insert(gone);
    world.run(MINUTE);
    world.unplugged.clear();
    world.restart(0);
    let back = |world: &World| world.endpoint(0) == "[2001:db8::2]:51821".parse().ok();
    assert!(world.run_until(MINUTE, back));
}

#[test]
fn a_network_that_is_gone_altogether_is_noticed_as_soon_with_two_pairs_as_with_one() {
    for offset in [0, 1_700, 3_300] {
        let mut world = two_ways();
        world.run(Duration::from_millis(offset));
        world.cut = true;
        let cut = world.now;
        assert!(world.run_until(MINUTE, |world| !world.connected()));
        let took = world.now - cut;
        assert!(took < Duration::from_secs(12), "{took:?}");
    }
}

/// Asks host 0 to look again and tells how long it took until its kernel sent packets another way.
fn moved_after(mut world: World, input: Option<Input>) -> Duration {
    world.weather.loss = 1.0;
    let gone = world.hosts[1].second.expect("set above");
    world.unplugged.insert(gone);
    let start = world.now;
    if let Some(input) = input {
        world.input(0, input.clone());
        world.input(1, input);
    }
    let moved = |world: &World| world.endpoint(0) == "198.51.100.2:51821".parse().ok();
    assert!(world.run_until(MINUTE, moved));
    world.now - start
}

#[test]
fn a_path_that_died_while_the_machine_slept_is_replaced_within_three_seconds() {
    let asleep = moved_after(two_ways(), None);
    let awake = moved_after(two_ways(), Some(Input::Resumed));
    assert!(awake < Duration::from_secs(3), "{awake:?}");
    assert!(asleep > 2 * awake, "{asleep:?} without being told");
}

#[test]
fn a_path_that_lived_through_the_sleep_is_checked_and_stays_as_it_was() {
    let mut world = tunnel();
    world.run(MINUTE);
    let before = (world.peer(0).restarts, world.hosts[0].transmitted);
    let (endpoint, published) = (world.endpoint(0), world.published);
    world.input(0, Input::Resumed);
    world.run(Duration::from_secs(2));
    // One regular check and one answer at most would be due in that time.
    assert!(
        world.hosts[0].transmitted - before.1 > 4,
        "nothing was checked"
    );
    run_without_a_gap(&mut world, MINUTE);
    assert_eq!(world.peer(0).restarts, before.0);
    assert_eq!(world.endpoint(0), endpoint);
    assert_eq!(world.published, published, "it had nothing to tell");
    // And then it is as quiet as ever.
    let settled = world.hosts[0].transmitted;
    world.run(10 * MINUTE);
    assert!(world.hosts[0].transmitted - settled <= 300);
}

#[test]
fn a_hint_that_the_network_changed_asks_each_stun_server_once_and_disturbs_nothing() {
    let mut world = tunnel();
    world.run(MINUTE);
    let (restarts, published) = (world.peer(0).restarts, world.published);
    let server: SocketAddr = STUN_SERVER.parse().expect("an address");
    let mut mesh = world.hosts.remove(0).mesh;
    while mesh.poll().is_some() {}
    let now = wice_core::io::Now {
        instant: world.now,
        unix: Duration::from_secs(1),
    };
    mesh.handle(Input::NetworkHint, now);
    let asked = std::iter::from_fn(|| mesh.poll())
        .filter(|output| {
            matches!(output, wice_core::io::Output::Transmit(it) if it.destination == server)
        })
        .count();
    assert_eq!(asked, 1);
    assert_eq!(world.published, published);
    let name = mesh.interfaces().next().expect("an interface").name;
    let peer = mesh.peers(&name)[0];
    let status = mesh.peer(&name, &peer, now).expect("a peer");
    assert_eq!(
        (status.state, status.restarts),
        (State::Connected, restarts)
    );
}
