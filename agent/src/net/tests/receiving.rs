//! What arrives through the façade, and what does not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdSocket};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::super::datagram;
use super::filtering::ipv4;
use super::{LOOPBACKS, in_namespace, ip, listen, listening, next_datagram, owner, receive, stun};

#[test]
fn stun_arrives_while_an_ordinary_socket_owns_the_port() {
    in_namespace(async || {
        for address in LOOPBACKS {
            let (owner, ours) = owner(address).await;
            let (peer, theirs) = super::owner(address).await;
            let port = listening([ours.port()]);

            peer.send_to(&stun(1, 33), ours)
                .await
                .expect("loopback carries it");

            let packet = receive(&port).await;
            assert_eq!(packet.source, theirs);
            assert_eq!(packet.destination, ours);
            assert_eq!(packet.payload, stun(1, 33));
            assert_eq!(
                next_datagram(&owner).await,
                (theirs, stun(1, 33)),
                "the owner still gets it"
            );
        }
    });
}

#[test]
fn the_destination_is_the_address_that_the_packet_was_sent_to() {
    in_namespace(async || {
        ip("-6 address add fd00::2/128 dev lo nodad");
        for (wildcard, addressed) in [("0.0.0.0", "127.0.0.2"), ("::", "fd00::2")] {
            let (_owner, bound) = owner(wildcard.parse().expect("an address")).await;
            let ours = SocketAddr::new(addressed.parse().expect("an address"), bound.port());
            let port = listening([ours.port()]);
            let (peer, _) = owner(wildcard.parse().expect("an address")).await;

            peer.send_to(&stun(1, 20), ours)
                .await
                .expect("loopback carries it");

            assert_eq!(receive(&port).await.destination, ours);
        }
    });
}

#[test]
fn other_ports_and_other_protocols_are_ignored() {
    in_namespace(async || {
        for address in LOOPBACKS {
            let (_owner, ours) = owner(address).await;
            let (_other, others) = owner(address).await;
            let (peer, _) = owner(address).await;
            let port = listening([ours.port()]);
            let mut no_cookie = stun(1, 20);
            no_cookie[5] = 0;

            for (payload, to) in [
                (stun(2, 20), others),
                (no_cookie, ours),
                (stun(3, 20)[..19].to_vec(), ours),
                (Vec::new(), ours),
                (stun(4, 20), ours),
            ] {
                peer.send_to(&payload, to)
                    .await
                    .expect("loopback carries it");
            }

            // Loopback keeps the order: had one of the others passed, it would come first.
            assert_eq!(receive(&port).await.payload, stun(4, 20));
            assert_eq!(port.try_receive(), None);
        }
    });
}

#[test]
fn ip_options_do_not_hide_stun() {
    in_namespace(async || {
        let port = listening([51820]);

        inject(&ipv4(6, &udp(51820, 28, &stun(1, 20))));

        let packet = receive(&port).await;
        assert_eq!(packet.payload, stun(1, 20));
        assert_eq!(
            packet.source,
            "127.0.0.1:40000".parse().expect("an address")
        );
    });
}

#[test]
fn a_datagram_that_claims_a_wrong_length_is_skipped() {
    in_namespace(async || {
        let port = listening([51820]);

        inject(&ipv4(5, &udp(51820, 200, &stun(1, 20))));
        inject(&ipv4(5, &udp(51820, 27, &stun(2, 20))));
        inject(&ipv4(5, &udp(51820, 0, &stun(3, 20))));
        inject(&ipv4(5, &udp(51820, 28, &stun(4, 20))));

        assert_eq!(receive(&port).await.payload, stun(4, 20));
        assert_eq!(port.try_receive(), None);
    });
}

#[test]
fn what_follows_the_datagram_is_no_part_of_the_payload() {
    in_namespace(async || {
        let port = listening([51820]);

        inject(&ipv4(5, &udp(51820, 28, &stun(1, 24))));

        assert_eq!(receive(&port).await.payload, stun(1, 24)[..20]);
    });
}

#[test]
fn nothing_is_queued_before_the_first_listen() {
    in_namespace(async || {
        for address in LOOPBACKS {
            let (_owner, ours) = owner(address).await;
            let (peer, _) = owner(address).await;
            let port = listening([]);

            peer.send_to(&stun(1, 20), ours)
                .await
                .expect("loopback carries it");
            listen(&port, [ours.port()]);
            assert_eq!(port.try_receive(), None);

            peer.send_to(&stun(2, 20), ours)
                .await
                .expect("loopback carries it");
            assert_eq!(receive(&port).await.payload, stun(2, 20));
        }
    });
}

#[test]
fn a_port_that_is_no_longer_listened_to_delivers_not_even_what_was_queued() {
    in_namespace(async || {
        for address in LOOPBACKS {
            let (_old, old) = owner(address).await;
            let (_new, new) = owner(address).await;
            let (peer, _) = owner(address).await;
            let port = listening([old.port()]);

            peer.send_to(&stun(1, 20), old)
                .await
                .expect("loopback carries it");
            listen(&port, [new.port()]);
            peer.send_to(&stun(2, 20), old)
                .await
                .expect("loopback carries it");
            peer.send_to(&stun(3, 20), new)
                .await
                .expect("loopback carries it");

            assert_eq!(receive(&port).await.payload, stun(3, 20));
            assert_eq!(port.try_receive(), None);
        }
    });
}

#[test]
fn no_packet_is_lost_while_the_set_of_ports_changes() {
    const PACKETS: u32 = 1000;
    in_namespace(async || {
        for address in LOOPBACKS {
            let (_owner, ours) = owner(address).await;
            let port = listening([ours.port()]);
            let sender = thread::spawn(move || {
                let socket = StdSocket::bind((address, 0)).expect("a free port");
                for number in 0..PACKETS {
                    let mut message = stun(0, 24);
                    message[20..].copy_from_slice(&number.to_be_bytes());
                    socket.send_to(&message, ours).expect("loopback carries it");
                }
            });

            let mut round = 0;
            while !sender.is_finished() {
                round += 1;
                listen(&port, [ours.port()].into_iter().chain(1..=round % 200));
            }
            sender.join().expect("the sender sends");

            for number in 0..PACKETS {
                assert_eq!(receive(&port).await.payload[20..], number.to_be_bytes());
            }
            assert_eq!(port.try_receive(), None);
        }
    });
}

#[test]
fn two_hundred_ports_are_all_listened_to() {
    in_namespace(async || {
        for address in LOOPBACKS {
            let port = listening(51800..52000);
            let (peer, _) = owner(address).await;
            for number in 51798..52002 {
                // Nobody owns most of these ports: what the kernel answers to that is not the question.
                let _ = peer.send_to(&stun(1, 20), (address, number)).await;
            }
            let heard: Vec<u16> = std::iter::from_fn(|| port.try_receive())
                .map(|packet| packet.destination.port())
                .collect();
            assert_eq!(heard, Vec::from_iter(51800..52000));
        }
    });
}

#[test]
fn a_dropped_receive_loses_nothing() {
    in_namespace(async || {
        let (_owner, ours) = owner(IpAddr::V4(Ipv4Addr::LOCALHOST)).await;
        let (peer, _) = owner(IpAddr::V4(Ipv4Addr::LOCALHOST)).await;
        let port = listening([ours.port()]);
        for number in 0..50 {
            let abandoned = tokio::time::timeout(Duration::ZERO, port.receive()).await;
            assert!(abandoned.is_err(), "nothing was sent yet");
            peer.send_to(&stun(number, 20), ours)
                .await
                .expect("loopback carries it");
            assert_eq!(receive(&port).await.payload, stun(number, 20));
        }
    });
}

fn udp(port: u16, length: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = datagram::header(40000, port, payload)
        .expect("a short payload")
        .to_vec();
    datagram[4..6].copy_from_slice(&length.to_be_bytes());
    datagram.extend(payload);
    datagram
}

/// Sends a whole IPv4 packet over loopback.
fn inject(packet: &[u8]) {
    let socket = Socket::new(
        Domain::IPV4,
        Type::RAW,
        Some(Protocol::from(nix::libc::IPPROTO_RAW)),
    )
    .expect("root opens raw sockets");
    let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    socket
        .send_to(packet, &loopback.into())
        .expect("loopback carries it");
}
