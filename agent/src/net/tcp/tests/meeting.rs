//! How streams begin and end.

use super::{
    INTERFACE, address, closed, connect, connected, listen, meet, news, packet, peer, reserved,
    send,
};
use crate::net::tcp::Streams;
use crate::net::tests::{in_namespace, ip, stun};
use std::net::TcpListener;
use tokio::net::TcpStream;
use wice_core::tcp::{TcpInput, TcpOrder};

#[test]
fn stun_goes_both_ways_over_both_families() {
    in_namespace(async || {
        for at in ["127.0.0.1:51820", "[::1]:51820"] {
            let (mut active, mut passive) = (Streams::default(), Streams::default());
            let (ours, theirs) = meet(&mut active, &mut passive, at).await;
            assert_eq!(ours.remote, address(at));
            assert_eq!(theirs.local, address(at));
            assert_eq!(ours.local, theirs.remote);
            send(&mut passive, theirs, stun(2, 40));
            assert_eq!(packet(&mut active).await, (ours, stun(2, 40)));
            send(&mut active, ours, stun(3, 1000));
            assert_eq!(packet(&mut passive).await, (theirs, stun(3, 1000)));
            active.order(TcpOrder::Close(ours));
            closed(&mut passive, theirs).await;
        }
    });
}

#[test]
fn a_reserved_address_takes_no_connection_until_it_is_opened() {
    in_namespace(async || {
        let mut streams = Streams::default();
        let at = "127.0.0.1:51820";
        for open in [false, true, false, true] {
            listen(&mut streams, &[at], open);
            assert_eq!(reserved(&mut streams).await, [address(at)].into());
            let outcome = TcpStream::connect(at).await;
            assert_eq!(outcome.is_ok(), open, "{outcome:?}");
        }
        listen(&mut streams, &[], false);
        assert!(reserved(&mut streams).await.is_empty());
        TcpListener::bind(at).expect("the address is free");
    });
}

#[test]
fn an_address_that_another_program_has_is_not_offered_until_it_is_free() {
    in_namespace(async || {
        let other = TcpListener::bind("127.0.0.1:51820").expect("free");
        let mut streams = Streams::default();
        listen(&mut streams, &["127.0.0.1:51820", "127.0.0.2:51820"], false);
        assert_eq!(
            reserved(&mut streams).await,
            [address("127.0.0.2:51820")].into()
        );
        drop(other);
        assert_eq!(reserved(&mut streams).await.len(), 2);
    });
}

#[test]
fn a_closed_port_and_an_address_that_is_not_ours_are_unreachable() {
    in_namespace(async || {
        let mut streams = Streams::default();
        for (base, remote) in [
            ("127.0.0.1", "127.0.0.1:9"),
            ("192.0.2.1", "127.0.0.1:9"),
            ("::1", "127.0.0.1:9"),
        ] {
            connect(&mut streams, base, remote);
            let input = news(&mut streams, Some).await;
            let expected = TcpInput::Unreachable {
                interface: INTERFACE,
                peer: peer(),
                base: base.parse().expect("an address"),
                remote: address(remote),
            };
            assert_eq!(input, expected);
        }
    });
}

#[test]
fn a_dead_peer_is_noticed_by_both_sides() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        let (ours, theirs) = meet(&mut active, &mut passive, "127.0.0.1:51820").await;
        ip("link set lo down");
        // One side has something to send, the other one is silent.
        send(&mut active, ours, stun(2, 20));
        tokio::join!(closed(&mut active, ours), closed(&mut passive, theirs));
    });
}

#[test]
fn a_firewall_mark_is_on_both_kinds_of_streams() {
    in_namespace(async || {
        // What is marked goes nowhere, not even to this very machine.
        ip("rule add pref 100 lookup local");
        ip("rule del pref 0");
        ip("rule add pref 10 fwmark 77 prohibit");
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        let at = address("127.0.0.1:51820");
        for (ours, theirs) in [(0, 0), (77, 0), (0, 77)] {
            passive.order(TcpOrder::Listen {
                interface: INTERFACE,
                addresses: [at].into(),
                open: true,
                fwmark: theirs,
            });
            assert_eq!(reserved(&mut passive).await, [at].into());
            active.order(TcpOrder::Connect {
                interface: INTERFACE,
                peer: peer(),
                base: at.ip(),
                remote: at,
                fwmark: ours,
            });
            let outcome = news(&mut active, Some).await;
            let connected = matches!(outcome, TcpInput::Connected { .. });
            assert_eq!(connected, ours == theirs, "{ours} {theirs} {outcome:?}");
        }
    });
}

#[test]
fn streams_to_many_peers_end_with_the_agent() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        let at = "127.0.0.1:51820";
        let mut streams = vec![meet(&mut active, &mut passive, at).await];
        for number in 0..40 {
            connect(&mut active, "127.0.0.1", at);
            let ours = connected(&mut active).await;
            send(&mut active, ours, stun(number, 20));
            let (theirs, _) = packet(&mut passive).await;
            passive.order(TcpOrder::Keep(theirs));
            streams.push((ours, theirs));
        }
        drop(active);
        for (_, theirs) in streams {
            closed(&mut passive, theirs).await;
        }
    });
}
