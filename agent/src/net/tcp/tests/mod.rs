//! Streams on the real kernel, in network namespaces that end with the test.

mod carrying;
mod meeting;
mod strangers;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use wice_core::key::{PrivateKey, PublicKey};
use wice_core::tcp::{Stream, TcpInput, TcpOrder};

use super::Streams;

const DEADLINE: Duration = Duration::from_secs(20);
const INTERFACE: u32 = 7;

fn peer() -> PublicKey {
    PrivateKey::from_bytes([1; 32]).expect("not zero").public()
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn listen(streams: &mut Streams, addresses: &[&str], open: bool) {
    streams.order(TcpOrder::Listen {
        interface: INTERFACE,
        addresses: addresses.iter().map(|it| address(it)).collect(),
        open,
        fwmark: 0,
    });
}

fn connect(streams: &mut Streams, base: &str, remote: &str) {
    streams.order(TcpOrder::Connect {
        interface: INTERFACE,
        peer: peer(),
        base: base.parse().expect("an address"),
        remote: address(remote),
        fwmark: 0,
    });
}

/// Waits for the first news that `wanted` makes something of.
async fn news<T>(streams: &mut Streams, mut wanted: impl FnMut(TcpInput) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = wanted(streams.next().await) {
                return found;
            }
        }
    };
    (tokio::time::timeout(DEADLINE, wait).await).expect("the news come in time")
}

async fn reserved(streams: &mut Streams) -> BTreeSet<SocketAddr> {
    news(streams, |input| match input {
        TcpInput::Reserved { addresses, .. } => Some(addresses),
        _ => None,
    })
    .await
}

async fn connected(streams: &mut Streams) -> Stream {
    news(streams, |input| match input {
        TcpInput::Connected { stream, .. } => Some(stream),
        TcpInput::Unreachable { remote, .. } => panic!("cannot connect to {remote}"),
        _ => None,
    })
    .await
}

async fn packet(streams: &mut Streams) -> (Stream, Vec<u8>) {
    news(streams, |input| match input {
        TcpInput::Packet { stream, payload } => Some((stream, payload)),
        _ => None,
    })
    .await
}

async fn closed(streams: &mut Streams, which: Stream) {
    news(streams, |input| {
        (input == TcpInput::Closed(which)).then_some(())
    })
    .await;
}

fn send(streams: &mut Streams, stream: Stream, payload: Vec<u8>) {
    streams.order(TcpOrder::Transmit { stream, payload });
}

/// A stream from `active` to `passive` that both sides keep, as each of them names it.
async fn meet(active: &mut Streams, passive: &mut Streams, at: &str) -> (Stream, Stream) {
    listen(passive, &[at], true);
    assert_eq!(reserved(passive).await, [address(at)].into());
    connect(active, &address(at).ip().to_string(), at);
    let ours = connected(active).await;
    send(active, ours, crate::net::tests::stun(1, 20));
    let (theirs, _) = packet(passive).await;
    passive.order(TcpOrder::Keep(theirs));
    (ours, theirs)
}
