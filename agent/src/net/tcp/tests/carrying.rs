//! Packets of a tunnel over a stream, with ordinary sockets in the place of WireGuard.

use super::{DEADLINE, closed, meet, news, packet, send};
use crate::net::tcp::Streams;
use crate::net::tests::{in_namespace, stun};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use wice_core::tcp::{Stream, TcpInput, TcpOrder};

const AT: &str = "127.0.0.1:51820";

async fn wireguard() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let port = socket.local_addr().expect("it is bound").port();
    (socket, port)
}

async fn carry(streams: &mut Streams, stream: Stream, port: u16) -> SocketAddr {
    streams.order(TcpOrder::Carry { stream, port });
    let endpoint = news(streams, |input| match input {
        TcpInput::Carries {
            stream: which,
            endpoint,
        } if which == stream => Some(endpoint),
        _ => None,
    });
    endpoint.await.expect("there is a loopback address")
}

async fn receive(socket: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut buffer = vec![0; 1 << 16];
    let received = tokio::time::timeout(DEADLINE, socket.recv_from(&mut buffer)).await;
    let (length, source) = received.expect("it arrives").expect("the socket works");
    buffer.truncate(length);
    (source, buffer)
}

#[test]
fn packets_of_any_length_go_both_ways_and_stun_between_them() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        let (ours, theirs) = meet(&mut active, &mut passive, AT).await;
        let ((here, port), (there, far_port)) = (wireguard().await, wireguard().await);
        let near = carry(&mut active, ours, port).await;
        let far = carry(&mut passive, theirs, far_port).await;
        assert!(near.ip().is_loopback() && near != far);
        for length in [1, 32, 148, 1420, 9000, 65_000] {
            let data = vec![4; length];
            here.send_to(&data, near).await.expect("it is sent");
            assert_eq!(receive(&there).await, (far, data.clone()));
            there.send_to(&data, far).await.expect("it is sent");
            assert_eq!(receive(&here).await, (near, data));
        }
        send(&mut active, ours, stun(5, 100));
        assert_eq!(packet(&mut passive).await, (theirs, stun(5, 100)));
    });
}

#[test]
fn what_the_peer_sends_a_moment_too_early_is_delivered() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        let (ours, theirs) = meet(&mut active, &mut passive, AT).await;
        let ((here, port), (there, far_port)) = (wireguard().await, wireguard().await);
        let near = carry(&mut active, ours, port).await;
        here.send_to(&[1; 148], near).await.expect("it is sent");
        // What comes behind it on the stream shows that it is there.
        while packet_or_none(&mut active, &mut passive, ours)
            .await
            .is_none()
        {}
        let far = carry(&mut passive, theirs, far_port).await;
        assert_eq!(receive(&there).await, (far, vec![1; 148]));
    });
}

/// Sends STUN until some arrives.
async fn packet_or_none(
    active: &mut Streams,
    passive: &mut Streams,
    ours: Stream,
) -> Option<Vec<u8>> {
    send(active, ours, stun(7, 20));
    let arrived = tokio::time::timeout(DEADLINE / 20, packet(passive)).await;
    arrived.ok().map(|(_, payload)| payload)
}

#[test]
fn bursts_arrive_whole_and_in_their_order() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        let (ours, theirs) = meet(&mut active, &mut passive, AT).await;
        let ((here, port), (there, far_port)) = (wireguard().await, wireguard().await);
        let near = carry(&mut active, ours, port).await;
        carry(&mut passive, theirs, far_port).await;
        for burst in 0..50_u8 {
            for index in 0..20_u8 {
                let mut data = vec![burst; 1400];
                data[1] = index;
                here.send_to(&data, near).await.expect("it is sent");
            }
            for index in 0..20 {
                let (_, data) = receive(&there).await;
                assert_eq!((data[0], data[1], data.len()), (burst, index, 1400));
            }
        }
    });
}

#[test]
fn only_wireguard_itself_is_carried() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        let (ours, theirs) = meet(&mut active, &mut passive, AT).await;
        let ((here, port), (there, far_port)) = (wireguard().await, wireguard().await);
        let near = carry(&mut active, ours, port).await;
        carry(&mut passive, theirs, far_port).await;
        let (intruder, _) = wireguard().await;
        intruder.send_to(&[6; 50], near).await.expect("it is sent");
        here.send_to(&[4; 50], near).await.expect("it is sent");
        assert_eq!(receive(&there).await.1, [4; 50]);
    });
}

#[test]
fn late_packets_come_in_the_name_of_the_new_endpoint() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        let (ours, theirs) = meet(&mut active, &mut passive, AT).await;
        let ((here, port), (there, far_port)) = (wireguard().await, wireguard().await);
        let near = carry(&mut active, ours, port).await;
        carry(&mut passive, theirs, far_port).await;
        let endpoint: SocketAddr = "127.0.0.9:4321".parse().expect("an address");
        let base = there.local_addr().expect("it is bound");
        passive.order(TcpOrder::HandOver {
            stream: theirs,
            endpoint,
            base,
        });
        // The order may come after the first packets.
        let mut source = None;
        while source != Some(endpoint) {
            here.send_to(&[4; 50], near).await.expect("it is sent");
            let (from, data) = receive(&there).await;
            assert_eq!(data, [4; 50]);
            source = Some(from);
        }
    });
}

#[test]
fn a_peer_that_reads_nothing_loses_its_stream_and_delays_no_other() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        let (ours, theirs) = meet(&mut active, &mut passive, AT).await;
        let mut deaf = TcpStream::connect(AT).await.expect("it listens");
        deaf.write_all(&[&[0, 20][..], &stun(9, 20)].concat())
            .await
            .expect("it is connected");
        let (its, _) = packet(&mut passive).await;
        passive.order(TcpOrder::Keep(its));
        let ((here, port), (there, far_port)) = (wireguard().await, wireguard().await);
        let near = carry(&mut active, ours, port).await;
        let far = carry(&mut passive, theirs, far_port).await;
        let nowhere = carry(&mut passive, its, far_port).await;
        let busy = async {
            loop {
                for _ in 0..100 {
                    there
                        .send_to(&[4; 1400], nowhere)
                        .await
                        .expect("it is sent");
                }
                there.send_to(&[5; 50], far).await.expect("it is sent");
                assert_eq!(receive(&here).await, (near, vec![5; 50]));
            }
        };
        tokio::select! {
            () = busy => {}
            () = closed(&mut passive, its) => {}
        }
    });
}
