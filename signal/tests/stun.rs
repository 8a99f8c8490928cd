//! What a STUN client gets, and what it does not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Running, soon};
use std::net::SocketAddr;
use stun_types::attribute::{
    AttributeType, ErrorCode, Fingerprint, RawAttribute, Software, UnknownAttributes,
    XorMappedAddress,
};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageWrite, MessageWriteExt, MessageWriteVec,
};
use tokio::net::UdpSocket;
use wice_signal::{Limits, Options};

async fn start(address: &str, limits: Limits) -> Running {
    Running::start(Options {
        stun: vec![address.parse().unwrap()],
        limits,
        ..Options::default()
    })
    .await
}

/// A socket on `own` that hears only `server`, as behind a NAT.
async fn client(own: &str, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(own).await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

fn request() -> MessageWriteVec {
    Message::builder_request(BINDING, MessageWriteVec::new())
}

async fn ask(socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
    socket.send(request).await.unwrap();
    let mut buffer = [0; 1500];
    let length = soon(socket.recv(&mut buffer)).await.unwrap();
    buffer[..length].to_vec()
}

/// The address that a client is told.
async fn mapped(socket: &UdpSocket) -> SocketAddr {
    let request = request().finish();
    let sent = Message::from_bytes(&request).unwrap().transaction_id();
    let answer = ask(socket, &request).await;
    let answer = Message::from_bytes(&answer).unwrap();
    assert!(answer.has_class(MessageClass::Success));
    assert_eq!(answer.transaction_id(), sent);
    let mapped = answer.attribute::<XorMappedAddress>().unwrap();
    mapped.addr(sent)
}

#[tokio::test]
async fn a_client_is_told_its_own_address_over_both_families() {
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let server = start(loopback, Limits::default()).await;
        let socket = client(loopback, server.stun[0]).await;
        assert_eq!(mapped(&socket).await, socket.local_addr().unwrap());
    }
}

#[tokio::test]
async fn a_wildcard_socket_answers_from_the_address_that_was_asked() {
    for wildcard in ["0.0.0.0:0", "[::]:0"] {
        let server = start(wildcard, Limits::default()).await;
        // Not the address that the route back to the client would choose.
        let asked = SocketAddr::new([127, 0, 0, 9].into(), server.stun[0].port());
        let socket = client("127.0.0.1:0", asked).await;
        assert_eq!(mapped(&socket).await, socket.local_addr().unwrap());
    }
    let server = start("[::]:0", Limits::default()).await;
    let asked = SocketAddr::new("::1".parse().unwrap(), server.stun[0].port());
    let socket = client("[::1]:0", asked).await;
    assert_eq!(mapped(&socket).await, socket.local_addr().unwrap());
}

#[tokio::test]
async fn a_fingerprint_is_answered_with_one() {
    let server = start("127.0.0.1:0", Limits::default()).await;
    let socket = client("127.0.0.1:0", server.stun[0]).await;
    let mut request = request();
    let software = Software::new("test").unwrap();
    request.add_attribute(&software).unwrap();
    request.add_fingerprint().unwrap();
    let answer = ask(&socket, &request.finish()).await;
    let answer = Message::from_bytes(&answer).unwrap();
    assert!(answer.attribute::<Fingerprint>().is_ok());
    assert!(answer.attribute::<XorMappedAddress>().is_ok());
}

#[tokio::test]
async fn a_request_for_the_unknown_is_told_what_is_unknown() {
    let server = start("127.0.0.1:0", Limits::default()).await;
    let socket = client("127.0.0.1:0", server.stun[0]).await;
    // CHANGE-REQUEST of RFC 5780, which takes a second address.
    let change = AttributeType::new(3);
    let mut request = request();
    request
        .add_attribute(&RawAttribute::new(change, &[0, 0, 0, 6]))
        .unwrap();
    let answer = ask(&socket, &request.finish()).await;
    let answer = Message::from_bytes(&answer).unwrap();
    assert_eq!(answer.attribute::<ErrorCode>().unwrap().code(), 420);
    let unknown = answer.attribute::<UnknownAttributes>().unwrap();
    assert!(unknown.has_attribute(change));
}

#[tokio::test]
async fn everything_else_is_ignored() {
    let server = start("127.0.0.1:0", Limits::default()).await;
    let socket = client("127.0.0.1:0", server.stun[0]).await;
    let request = request().finish();
    let mut no_cookie = request.clone();
    no_cookie[4] ^= 1;
    let mut response = request.clone();
    response[0] = 1;
    let mut too_short = request.clone();
    too_short[3] = 8;
    let indication = Message::builder_indication(BINDING, MessageWriteVec::new()).finish();
    let many = b"GET / HTTP/1.1\r\n\r\n".repeat(70);
    let garbage: [&[u8]; 7] = [
        b"",
        b"\0",
        &many,
        &no_cookie,
        &response,
        &too_short,
        &indication,
    ];
    for datagram in garbage {
        socket.send(datagram).await.unwrap();
    }
    // The first answer is the one to the only request.
    assert_eq!(mapped(&socket).await, socket.local_addr().unwrap());
}

#[tokio::test]
async fn a_forged_source_is_flooded_only_so_much() {
    let limits = Limits {
        stun_per_minute: 5,
        ..Limits::default()
    };
    let server = start("127.0.0.1:0", limits).await;
    let socket = client("127.0.0.1:0", server.stun[0]).await;
    for _ in 0..50 {
        socket.send(&request().finish()).await.unwrap();
    }
    // Another address is still answered, after all of those were looked at.
    let other = client("127.0.0.2:0", server.stun[0]).await;
    mapped(&other).await;
    let mut answers = 0;
    while socket.try_recv(&mut [0; 1500]).is_ok() {
        answers += 1;
    }
    assert_eq!(answers, 5);
}
