//! What was sent and what came, counted for each pair of addresses. Concludes nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::tcp::Stream;

/// Messages of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exchange {
    /// Checks that we sent.
    pub sent: u32,
    /// Answers to them.
    pub answered: u32,
    /// Checks of the peer's that arrived.
    pub received: u32,
}

/// Messages per pair of base and remote address.
#[derive(Debug, Default)]
pub struct Ledger {
    pub(super) udp: BTreeMap<(SocketAddr, SocketAddr), Exchange>,
    pub(super) tcp: BTreeMap<(SocketAddr, SocketAddr), Exchange>,
}

/// The pairs that are counted; an offer has 16 candidates at most, and a machine about as many addresses.
const MAX_PAIRS: usize = 256;

impl Ledger {
    /// Counts a STUN message that was sent.
    pub fn sent(&mut self, base: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        count_sent(&mut self.udp, (base, remote), payload);
    }

    /// Counts a STUN message of the peer's.
    pub fn received(&mut self, base: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        count_received(&mut self.udp, (base, remote), payload);
    }

    /// Counts a STUN message that was sent on a stream.
    pub fn sent_on(&mut self, stream: Stream, payload: &[u8]) {
        count_sent(&mut self.tcp, (stream.local, stream.remote), payload);
    }

    /// Counts a STUN message of the peer's that came on a stream.
    pub fn received_on(&mut self, stream: Stream, payload: &[u8]) {
        count_received(&mut self.tcp, (stream.local, stream.remote), payload);
    }
}

fn count_sent(
    exchanges: &mut BTreeMap<(SocketAddr, SocketAddr), Exchange>,
    ends: (SocketAddr, SocketAddr),
    payload: &[u8],
) {
    if is_request(payload)
        && let Some(exchange) = exchange(exchanges, ends)
    {
        exchange.sent = exchange.sent.saturating_add(1);
    }
}

fn count_received(
    exchanges: &mut BTreeMap<(SocketAddr, SocketAddr), Exchange>,
    ends: (SocketAddr, SocketAddr),
    payload: &[u8],
) {
    if let Some(exchange) = exchange(exchanges, ends) {
        let count = if is_request(payload) {
            &mut exchange.received
        } else {
            &mut exchange.answered
        };
        *count = count.saturating_add(1);
    }
}

fn exchange(
    exchanges: &mut BTreeMap<(SocketAddr, SocketAddr), Exchange>,
    ends: (SocketAddr, SocketAddr),
) -> Option<&mut Exchange> {
    let room = exchanges.len() < MAX_PAIRS || exchanges.contains_key(&ends);
    room.then(|| exchanges.entry(ends).or_default())
}

/// A binding request: class and method are the first two bytes (RFC 8489 §5).
fn is_request(payload: &[u8]) -> bool {
    payload.starts_with(&[0x00, 0x01])
}
