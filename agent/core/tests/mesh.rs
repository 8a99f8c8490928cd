//! Two agents in virtual time: what their users would see.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Nat, Weather, World, key};
use wice_core::io::{Input, LocalAddress, Packet};
use wice_core::mailbox::Sealed;
use wice_core::status::{PathKind, Reason, State};

const MINUTE: Duration = Duration::from_secs(60);

fn tunnel() -> World {
    let mut world = World::new(1, true);
    world.boot(0);
    world.run(Duration::from_secs(5));
    world.boot(1);
    assert!(world.run_until(MINUTE, World::connected), "no path");
    world
}

#[test]
fn two_agents_behind_port_restricted_nats_set_each_others_mapped_address_as_endpoint() {
    let mut world = tunnel();
    world.run(Duration::from_secs(1));
    assert_eq!(world.endpoint(0), "198.51.100.2:40000".parse().ok());
    assert_eq!(world.endpoint(1), "198.51.100.1:40000".parse().ok());
    for host in 0..2 {
        let peer = world.peer(host);
        assert_eq!(peer.path, PathKind::Direct);
        assert_ne!(
            peer.latest_handshake,
            Duration::ZERO,
            "the kernel was made to handshake"
        );
        assert!(
            peer.round_trip_time
                .is_some_and(|time| time >= Duration::from_millis(20))
        );
    }
}

#[test]
fn the_path_is_there_soon_after_the_second_agent_starts() {
    let mut world = World::new(1, true);
    world.boot(0);
    world.run(Duration::from_secs(5));
    world.boot(1);
    let start = world.now;
    assert!(world.run_until(MINUTE, World::connected));
    // 2σ + 4D of 10 ms each is the bound for cold ICE; retransmission and pacing come on top.
    let took = world.now - start;
    assert!(took < Duration::from_millis(160), "{took:?}");
}

#[test]
fn hosts_without_nat_use_their_own_addresses() {
    let mut world = World::new(3, false);
    world.boot(0);
    world.boot(1);
    assert!(world.run_until(MINUTE, World::connected));
    assert_eq!(world.endpoint(0), "198.51.100.2:51821".parse().ok());
    assert_eq!(world.endpoint(1), "198.51.100.1:51820".parse().ok());
}

#[test]
fn a_restart_never_interrupts_the_tunnel() {
    let mut world = tunnel();
    world.run(Duration::from_secs(10));
    for host in [0, 1, 0] {
        let before = world.peer(host).restarts;
        world.restart(host);
        assert_eq!(world.peer(host).restarts, before + 1);
        assert_eq!(
            world.peer(host).path,
            PathKind::Direct,
            "the old pair carries on"
        );
        let broken = |world: &World| (0..2).any(|host| world.endpoint(host).is_none());
        assert!(!world.run_until(Duration::from_millis(5), broken));
        assert!(world.run_until(MINUTE, World::connected), "no new path");
        assert!(world.tunnel_works(0) && world.tunnel_works(1));
        world.run(Duration::from_secs(3));
    }
    for host in &world.hosts {
        // One side need not write it at all: the other's handshake brings it.
        assert!(
            host.endpoints_set.len() <= 1,
            "one and the same address all the time"
        );
    }
}

#[test]
fn restarts_that_cross_converge() {
    let mut world = tunnel();
    world.restart(0);
    world.restart(1);
    assert!(world.run_until(MINUTE, World::connected));
    world.run(Duration::from_secs(30));
    assert!(world.connected());
    let silent = world.published;
    world.run(10 * MINUTE);
    assert_eq!(world.published, silent, "nothing to say once acknowledged");
}

#[test]
fn a_crashed_agent_comes_back_without_breaking_the_tunnel() {
    let mut world = tunnel();
    world.run(Duration::from_secs(10));
    world.crash(1);
    world.run(3 * MINUTE);
    assert!(
        world.tunnel_works(0) && world.tunnel_works(1),
        "the kernel needs no agent"
    );
    assert_eq!(world.peer(0).state, State::Waiting);
    world.boot(1);
    assert!(world.run_until(MINUTE, World::connected));
    assert!(world.tunnel_works(0) && world.tunnel_works(1));
}

#[test]
fn a_peer_without_agent_is_never_touched() {
    let mut world = World::new(5, false);
    let endpoint: SocketAddr = "203.0.113.77:1000".parse().expect("an address");
    for peer in world.hosts[0].device.peers.values_mut() {
        peer.endpoint = Some(endpoint);
    }
    world.boot(0);
    world.run(30 * MINUTE);
    assert_eq!(world.endpoint(0), Some(endpoint));
    assert!(world.hosts[0].endpoints_set.is_empty());
    assert_eq!(world.hosts[0].nudges, 0);
    assert_eq!(world.peer(0).state, State::Waiting);
}

#[test]
fn nothing_that_is_left_in_a_mailbox_by_a_stranger_or_replayed_does_harm() {
    let mut world = tunnel();
    world.run(Duration::from_secs(10));
    let archive = world.archive.clone();
    let before = (world.peer(0), world.peer(1));
    let published = world.published;
    for (mailbox, sealed) in archive {
        let truncated = &sealed.as_str()[..sealed.as_str().len() / 2];
        for text in ["", "....", "{}", truncated, "é", sealed.as_str()] {
            let message = Sealed::new(text).expect("short");
            world.deliver(0, mailbox, message.clone());
            world.deliver(1, mailbox, message);
        }
    }
    world.run(Duration::from_secs(2));
    assert!(world.connected());
    assert_eq!(
        (world.peer(0).restarts, world.peer(1).restarts),
        (before.0.restarts, before.1.restarts)
    );
    assert!(
        world.published <= published + 4,
        "answers to stale offers are limited"
    );
    assert!(
        world.hosts[0].mesh.rejected().values().sum::<u64>() > 0,
        "refusals are counted"
    );
}

#[test]
fn stun_garbage_on_the_port_changes_nothing() {
    let mut world = tunnel();
    let destination = SocketAddr::new(world.hosts[0].address, 51820);
    let mut payload = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    for length in 0..120_u8 {
        payload.push(length.wrapping_mul(37));
        let source = "203.0.113.9:9".parse().expect("an address");
        let packet = Packet {
            source,
            destination,
            payload: payload.clone(),
        };
        world.input(0, Input::Packet(packet));
    }
    world.run(MINUTE);
    assert!(world.connected());
    assert_eq!(world.hosts[0].endpoints_set.len(), 1);
}

#[test]
fn an_endpoint_that_another_program_overwrote_is_put_back_and_the_pauses_grow() {
    let mut world = tunnel();
    world.run(Duration::from_secs(20));
    let right = world.endpoint(0);
    let mut count = 0;
    for _ in 0..6 {
        for peer in world.hosts[0].device.peers.values_mut() {
            peer.endpoint = "192.0.2.66:6".parse().ok();
        }
        let back = |world: &World| world.endpoint(0) == right;
        if world.run_until(Duration::from_secs(10), back) {
            count += 1;
        }
    }
    assert!(
        (2..6).contains(&count),
        "put back {count} times in a minute"
    );
}

#[test]
fn a_roaming_kernel_is_left_alone_while_packets_arrive() {
    let mut world = tunnel();
    world.run(Duration::from_secs(20));
    let roamed: SocketAddr = "198.51.100.99:999".parse().expect("an address");
    for _ in 0..40 {
        for peer in world.hosts[0].device.peers.values_mut() {
            peer.endpoint = Some(roamed);
            peer.rx_bytes += 1_000;
        }
        world.run(Duration::from_secs(1));
        assert_eq!(world.endpoint(0), Some(roamed));
    }
}

#[test]
fn a_machine_that_moves_to_another_network_gets_a_new_path() {
    let mut world = tunnel();
    world.run(Duration::from_secs(20));
    let address = "192.168.9.9".parse().expect("an address");
    world.hosts[1].address = address;
    let written = world.hosts[1].endpoints_set.len();
    world.hosts[1].nat = Some(Nat::new("198.51.100.77"));
    let link = "wlan0".into();
    world.input(
        1,
        Input::Addresses(vec![LocalAddress {
            link,
            address,
            deprecated: false,
        }]),
    );
    let start = world.now;
    assert!(
        world.run_until(MINUTE, |world| world.endpoint(0)
            == "198.51.100.77:40000".parse().ok()),
        "the other side never learned the new address"
    );
    let took = world.now - start;
    assert!(took < Duration::from_secs(2), "{took:?}");
    world.run(Duration::from_secs(30));
    assert!(world.connected());
    assert!(world.tunnel_works(0) && world.tunnel_works(1));
    assert!(
        world.hosts[1].endpoints_set.len() > written,
        "written again though it is the same, so that userspace WireGuard forgets the old source"
    );
}

#[test]
fn no_possible_path_ends_in_failed_and_is_tried_again() {
    let mut world = World::new(1, true);
    for host in &mut world.hosts {
        if let Some(nat) = &mut host.nat {
            nat.symmetric = true;
        }
    }
    world.boot(0);
    world.boot(1);
    assert!(world.run_until(MINUTE, |world| world.peer(0).state == State::Failed));
    assert_eq!(world.peer(0).reason, Reason::NoPairWorks);
    for host in &mut world.hosts {
        if let Some(nat) = &mut host.nat {
            nat.symmetric = false;
        }
    }
    assert!(
        world.run_until(10 * MINUTE, World::connected),
        "it keeps trying"
    );
}

#[test]
fn an_interface_without_key_or_port_says_so_and_works_once_it_has_them() {
    let mut world = World::new(1, true);
    world.hosts[0].device.private_key = None;
    world.boot(0);
    assert_eq!(world.peer(0).reason, Reason::NoPrivateKey);
    world.hosts[0].device.private_key = Some(key(1));
    world.hosts[0].device.listen_port = 0;
    world.dump(0);
    assert_eq!(world.peer(0).reason, Reason::NoListenPort);
    world.hosts[0].device.listen_port = 51820;
    world.dump(0);
    world.boot(1);
    assert!(world.run_until(MINUTE, World::connected));
}

#[test]
fn a_renamed_interface_keeps_its_sessions() {
    let mut world = tunnel();
    let restarts = world.peer(0).restarts;
    world.hosts[0].device.name = "wg9".into();
    world.dump(0);
    let peer = world.hosts[1].key.public();
    let now = world.time(0);
    let status = world.hosts[0]
        .mesh
        .peer("wg9", &peer, now)
        .expect("it is there under the new name");
    assert_eq!(
        (status.state, status.restarts),
        (State::Connected, restarts)
    );
    assert!(world.hosts[0].mesh.interface("wg0").is_none());
}

#[test]
fn a_deleted_and_recreated_interface_connects_again() {
    let mut world = tunnel();
    world.hosts[0].device.index = 8;
    for peer in world.hosts[0].device.peers.values_mut() {
        *peer = wice_core::device::Peer {
            allowed_ips: peer.allowed_ips.clone(),
            ..Default::default()
        };
    }
    world.dump(0);
    assert!(world.run_until(MINUTE, |world| world.connected()
        && world.endpoint(0).is_some()));
}

#[test]
fn lost_repeated_late_and_reordered_offers_cost_only_time() {
    for seed in 0..20 {
        let mut world = World::new(seed, true);
        world.weather = Weather {
            loss: 0.3,
            duplication: 0.2,
            max_delay: Duration::from_secs(4),
        };
        world.boot(0);
        world.boot(1);
        assert!(
            world.run_until(10 * MINUTE, World::connected),
            "seed {seed}"
        );
        world.run(10 * MINUTE);
        assert!(
            world.connected(),
            "seed {seed}: flapped: {:?}",
            world.hosts[0].states
        );
    }
}

#[test]
fn of_two_interfaces_with_the_same_keys_one_connects_and_the_other_follows_when_it_is_gone() {
    let mut world = tunnel();
    let mut twin = world.hosts[0].device.clone();
    twin.name = "wg1".into();
    twin.index = 8;
    twin.listen_port = 51900;
    world.input(0, Input::Device(twin.clone()));
    world.run(MINUTE);
    assert!(world.connected(), "the first one is disturbed");
    let peer = world.hosts[1].key.public();
    let state = |world: &World| {
        let now = world.time(0);
        let twin = world.hosts[0].mesh.peer("wg1", &peer, now);
        twin.map(|peer| peer.state)
    };
    assert_eq!(state(&world), Some(State::Failed));
    world.input(0, Input::Gone("wg0".into()));
    world.hosts[0].device = twin.clone();
    world.input(0, Input::Device(twin));
    assert!(world.run_until(MINUTE, |world| state(world) == Some(State::Connected)));
}
