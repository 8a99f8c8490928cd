//! What anybody who can reach the port may do, and what not.

use super::{DEADLINE, address, connect, connected, listen, meet, packet, reserved, send};
use crate::net::tcp::Streams;
use crate::net::tests::{in_namespace, stun};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use wice_core::tcp::TcpOrder;

const AT: &str = "127.0.0.1:51820";

async fn open(streams: &mut Streams) {
    listen(streams, &[AT], true);
    assert_eq!(reserved(streams).await, [address(AT)].into());
}

async fn stranger(from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind(SocketAddr::new(from.parse().expect("an address"), 0))
        .expect("the whole network is ours");
    socket.connect(address(AT)).await.expect("it listens")
}

/// Waits until the other side has closed the connection without a word.
async fn is_closed(stream: &mut TcpStream) {
    let read = tokio::time::timeout(DEADLINE, stream.read(&mut [0; 1])).await;
    let outcome = read.expect("it is closed in time");
    assert!(
        !matches!(outcome, Ok(1..)),
        "it answers nothing: {outcome:?}"
    );
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short");
    [&length.to_be_bytes(), payload].concat()
}

#[test]
fn garbage_is_hung_up_on_at_once() {
    in_namespace(async || {
        let mut streams = Streams::default();
        open(&mut streams).await;
        let long = [&2049_u16.to_be_bytes()[..], &stun(1, 20)].concat();
        let many = framed(&stun(1, 20)).repeat(33);
        for garbage in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            framed(&[4; 32]),
            long,
            many,
        ] {
            let mut stream = stranger("127.0.0.1").await;
            stream.write_all(&garbage).await.expect("it is connected");
            let hung_up = tokio::time::timeout(Duration::from_secs(3), is_closed(&mut stream));
            hung_up.await.expect("at once, not when its time is over");
        }
    });
}

#[test]
fn whoever_says_nothing_or_little_is_hung_up_on_and_holds_nobody_up() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        open(&mut passive).await;
        let mut silent = stranger("127.0.0.1").await;
        let mut slow = stranger("127.0.0.1").await;
        slow.write_all(&framed(&stun(1, 20))[..9])
            .await
            .expect("it is connected");
        let (ours, theirs) = meet(&mut active, &mut passive, AT).await;
        is_closed(&mut silent).await;
        is_closed(&mut slow).await;
        // Who introduced itself is still there.
        send(&mut active, ours, stun(2, 20));
        assert_eq!(packet(&mut passive).await, (theirs, stun(2, 20)));
    });
}

#[test]
fn one_address_cannot_keep_others_out() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        open(&mut passive).await;
        let mut greedy = Vec::new();
        for _ in 0..200 {
            greedy.push(stranger("127.0.0.1").await);
        }
        connect(&mut active, "127.0.0.2", AT);
        let ours = connected(&mut active).await;
        send(&mut active, ours, stun(1, 20));
        let (theirs, _) = packet(&mut passive).await;
        assert_eq!(theirs.remote, ours.local);
        let mut alive = 0;
        for stream in &mut greedy {
            let mut byte = [0];
            let read = stream.read(&mut byte);
            let quiet = tokio::time::timeout(Duration::from_millis(1), read).await;
            alive += usize::from(quiet.is_err());
        }
        assert!(alive <= 8, "{alive} connections of one address stay");
    });
}

#[test]
fn a_peer_that_floods_its_stream_holds_no_other_up() {
    in_namespace(async || {
        let (mut active, mut passive) = (Streams::default(), Streams::default());
        let (ours, theirs) = meet(&mut active, &mut passive, AT).await;
        let mut loud = stranger("127.0.0.1").await;
        let message = framed(&stun(9, 20));
        loud.write_all(&message).await.expect("it is connected");
        let (its, _) = packet(&mut passive).await;
        passive.order(TcpOrder::Keep(its));
        // An answer shows that the stream is a known one by now.
        send(&mut passive, its, stun(9, 20));
        loud.read_exact(&mut [0; 22]).await.expect("it is kept");
        let flood = async {
            while loud.write_all(&message.repeat(1000)).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        let talk = async {
            // A check may be lost among so many; it is repeated, as ICE does it.
            let mut sent = 0;
            loop {
                send(&mut active, ours, stun(2, 20));
                sent += 1;
                let answer = async {
                    loop {
                        let (from, payload) = packet(&mut passive).await;
                        if from == theirs {
                            return payload;
                        }
                    }
                };
                if let Ok(payload) = tokio::time::timeout(DEADLINE / 100, answer).await {
                    assert_eq!(payload, stun(2, 20));
                    return;
                }
                assert!(sent < 100, "the other stream gets no turn");
            }
        };
        tokio::select! {
            () = flood => panic!("the stream was closed"),
            () = talk => {}
        }
    });
}
