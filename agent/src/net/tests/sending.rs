//! What an ordinary receiver sees of the packets that leave from WireGuard's port.

use std::net::{IpAddr, SocketAddr};

use super::super::NetError;
use super::super::datagram::MAX_PAYLOAD;
use super::{
    LOOPBACKS, in_namespace, ip, listening, next_datagram, owner, receive, stun, transmit,
};

#[test]
fn packets_leave_from_a_port_that_another_socket_owns() {
    in_namespace(async || {
        for address in LOOPBACKS {
            let (_owner, ours) = owner(address).await;
            let (peer, theirs) = owner(address).await;
            let port = listening([]);

            // The kernel drops a datagram whose checksum is wrong, so each length is a checksum that was right.
            for length in 20..150 {
                let payload = stun(0xfe, length);
                port.send(&transmit(ours, theirs, payload.clone()))
                    .expect("loopback carries it");
                assert_eq!(
                    next_datagram(&peer).await,
                    (ours, payload),
                    "{length} bytes"
                );
            }
        }
    });
}

#[test]
fn the_checksum_that_comes_out_as_zero_is_right_too() {
    in_namespace(async || {
        for address in LOOPBACKS {
            let (_owner, ours) = owner(address).await;
            let (peer, theirs) = owner(address).await;
            let port = listening([]);
            // One of all values of two bytes makes the sum come out as zero; it would be dropped, or unprotected.
            for value in 0..=u16::MAX {
                let mut payload = stun(0, 22);
                payload[20..].copy_from_slice(&value.to_be_bytes());
                port.send(&transmit(ours, theirs, payload.clone()))
                    .expect("loopback carries it");
                assert_eq!(next_datagram(&peer).await.1, payload);
            }
        }
    });
}

#[test]
fn the_source_address_is_the_one_that_was_asked_for() {
    in_namespace(async || {
        ip("-6 address add fd00::2/128 dev lo nodad");
        for (wanted, to) in [("127.0.0.2", "127.0.0.1"), ("fd00::2", "::1")] {
            let (peer, theirs) = owner(to.parse().expect("an address")).await;
            let ours = SocketAddr::new(wanted.parse().expect("an address"), 51820);

            listening([])
                .send(&transmit(ours, theirs, stun(1, 21)))
                .expect("the address is ours");

            assert_eq!(next_datagram(&peer).await.0, ours);
        }
    });
}

#[test]
fn routing_chooses_the_source_when_none_is_given() {
    in_namespace(async || {
        for to in LOOPBACKS {
            let (peer, theirs) = owner(to).await;
            for unspecified in ["0.0.0.0:51820", "[::]:51820"] {
                let source = unspecified.parse().expect("an address");

                listening([])
                    .send(&transmit(source, theirs, stun(1, 21)))
                    .expect("loopback has a route");

                assert_eq!(next_datagram(&peer).await.0, SocketAddr::new(to, 51820));
            }
        }
    });
}

#[test]
fn an_address_of_another_machine_is_refused_as_source() {
    in_namespace(async || {
        for (wanted, to) in [
            ("192.0.2.1:51820", "127.0.0.1:9"),
            ("[2001:db8::1]:51820", "[::1]:9"),
        ] {
            let source = wanted.parse().expect("an address");
            let destination = to.parse().expect("an address");

            let outcome = listening([]).send(&transmit(source, destination, stun(1, 20)));

            assert!(
                matches!(outcome, Err(NetError::Source { .. })),
                "{outcome:?}"
            );
        }
    });
}

#[test]
fn a_destination_without_route_is_an_error_and_the_next_packet_leaves() {
    in_namespace(async || {
        for address in LOOPBACKS {
            let (peer, theirs) = owner(address).await;
            let port = listening([]);
            let unspecified = SocketAddr::new("0.0.0.0".parse().expect("an address"), 51820);
            let away = if address.is_ipv4() {
                "192.0.2.1:9"
            } else {
                "[2001:db8::1]:9"
            };

            let outcome = port.send(&transmit(
                unspecified,
                away.parse().expect("an address"),
                stun(1, 20),
            ));
            assert!(matches!(outcome, Err(NetError::Send { .. })), "{outcome:?}");

            port.send(&transmit(unspecified, theirs, stun(2, 20)))
                .expect("loopback has a route");
            assert_eq!(next_datagram(&peer).await.1, stun(2, 20));
        }
    });
}

#[test]
fn a_source_of_the_other_family_and_a_payload_too_long_are_refused() {
    in_namespace(async || {
        let port = listening([]);
        let [v4, v6] = LOOPBACKS.map(|address: IpAddr| SocketAddr::new(address, 51820));
        for (source, destination) in [(v4, v6), (v6, v4)] {
            let outcome = port.send(&transmit(source, destination, stun(1, 20)));
            assert!(
                matches!(outcome, Err(NetError::Families { .. })),
                "{outcome:?}"
            );
        }
        let outcome = port.send(&transmit(v4, v4, vec![0; MAX_PAYLOAD + 1]));
        assert!(
            matches!(outcome, Err(NetError::TooLong { .. })),
            "{outcome:?}"
        );
    });
}

#[test]
fn the_firewall_mark_steers_routing_and_is_taken_off_again() {
    in_namespace(async || {
        for (family, address) in ["-4", "-6"].into_iter().zip(LOOPBACKS) {
            // Marked packets meet a prohibition before the table of local addresses.
            ip(&format!("{family} rule add pref 100 lookup local"));
            ip(&format!("{family} rule add pref 50 fwmark 51820 prohibit"));
            ip(&format!("{family} rule del pref 0"));
            let (peer, theirs) = owner(address).await;
            let port = listening([]);
            let unspecified = SocketAddr::new("0.0.0.0".parse().expect("an address"), 51820);
            for source in [SocketAddr::new(address, 51820), unspecified] {
                let plain = transmit(source, theirs, stun(1, 20));
                let mut marked = plain.clone();
                marked.fwmark = 51820;

                let outcome = port.send(&marked);
                assert!(matches!(outcome, Err(NetError::Send { .. })), "{outcome:?}");
                port.send(&plain)
                    .expect("without the mark there is a route");

                assert_eq!(next_datagram(&peer).await.1, stun(1, 20));
            }
        }
    });
}

#[test]
fn what_is_sent_to_our_own_listened_port_comes_back() {
    in_namespace(async || {
        for address in LOOPBACKS {
            let (_owner, ours) = owner(address).await;
            let port = listening([ours.port()]);

            port.send(&transmit(ours, ours, stun(1, 28)))
                .expect("loopback carries it");

            let packet = receive(&port).await;
            assert_eq!(
                (packet.source, packet.destination, packet.payload),
                (ours, ours, stun(1, 28))
            );
        }
    });
}
