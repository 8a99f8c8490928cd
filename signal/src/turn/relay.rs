//! The relay: all allocations, and the way of each packet through them.
//!
//! Lives on one thread and is never waited in. What clients ask for is in [`requests`](super::requests).

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use quinn_udp::EcnCodepoint;
use tracing::{debug, trace};
use turn_types::attribute::{Data, XorPeerAddress};
use turn_types::message::{DATA, SEND};
use turn_types::stun::attribute::{Attribute, AttributeFromRaw, AttributeStaticType};
use turn_types::stun::message::{
    BINDING, Message, MessageClass, MessageWrite, MessageWriteExt, MessageWriteVec,
};

use super::allocation::{Allocation, Door, Key};
use super::bucket::Bucket;
use super::credentials::{Issuer, Secret, User};
use super::home::Homes;
use super::nonce::Nonces;
use super::peers::{Peers, Policy};
use super::socket::{Batch, Received, Scratch, Socket, Target};
use crate::limit::{Rate, Shares, Source};
use crate::metrics::{Direction, Metrics};
use crate::options::{TurnLimits, TurnOptions};
use crate::stun;

/// The number of an allocation.
pub(super) type Id = u64;

/// Everything that is relayed.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) this: Weak<RefCell<Self>>,
    pub(super) scratch: Rc<RefCell<Scratch>>,
    pub(super) started: Instant,
    pub(super) issuer: Issuer,
    pub(super) nonces: Nonces,
    pub(super) peers: Peers,
    pub(super) homes: Homes,
    pub(super) limits: TurnLimits,
    pub(super) shares: Shares,
    pub(super) users: HashMap<User, usize>,
    pub(super) clients: HashMap<Key, Id>,
    pub(super) allocations: HashMap<Id, Allocation>,
    metrics: Metrics,
    /// Bytes to peers, and to clients.
    sent: Counter,
    received: Counter,
    pub(super) relayed: HashMap<SocketAddr, Id>,
    pub(super) last: Id,
    rate: Arc<Rate>,
    total: Bucket,
    batch: Batch,
    look: Instant,
}

/// How often the addresses of this machine are looked up.
const LOOK: Duration = Duration::from_secs(30);

/// Whoever sent something.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) key: Key,
    /// Its address, IPv4 as IPv4.
    pub(super) address: SocketAddr,
    pub(super) door: Door,
}

/// An answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    /// Whether the client has shown that it knows a password.
    pub(super) authentic: bool,
}

impl Relay {
    /// Relays nothing yet. To be called on the runtime that it lives on.
    pub(super) fn new(
        options: &TurnOptions,
        issuer: Issuer,
        secret: Secret,
        homes: Homes,
        rate: Arc<Rate>,
        metrics: Metrics,
    ) -> Rc<RefCell<Self>> {
        let now = Instant::now();
        let policy = Policy {
            private: options.allow_private,
            loopback: options.allow_loopback,
        };
        let limits = options.limits.clone();
        Rc::new_cyclic(|this| {
            RefCell::new(Self {
                this: this.clone(),
                scratch: Rc::new(RefCell::new(Scratch::new())),
                started: now,
                issuer,
                nonces: Nonces::new(secret),
                peers: Peers::new(policy, homes.told()),
                homes,
                shares: Shares::new(limits.allocations, limits.allocations_per_address),
                users: HashMap::new(),
                clients: HashMap::new(),
                allocations: HashMap::new(),
                relayed: HashMap::new(),
                last: 0,
                rate,
                sent: metrics.relaying(Direction::In),
                received: metrics.relaying(Direction::Out),
                metrics,
                total: Bucket::new(limits.bits_per_second, now),
                batch: Batch::new(),
                look: now + LOOK,
                limits,
            })
        })
    }

    /// Takes what clients sent to a UDP socket of ours.
    pub(super) fn clients_sent(
        &mut self,
        listener: usize,
        socket: &Rc<Socket>,
        received: &Received<'_>,
    ) {
        let now = Instant::now();
        for train in received.trains() {
            let key = Key::Udp {
                listener,
                client: train.from,
                to: train.to,
            };
            for datagram in train.datagrams() {
                if is_channel_data(datagram) {
                    if let Some(&id) = self.clients.get(&key) {
                        self.channel_data(id, datagram, train.ecn, now);
                    }
                    continue;
                }
                let target = Target {
                    socket: Rc::clone(socket),
                    to: train.from,
                    from: train.to,
                };
                let client = Client {
                    key,
                    address: canonical(train.from),
                    door: Door::Udp(target.clone()),
                };
                let Some(answer) = self.message(&client, datagram, now) else {
                    continue;
                };
                let source = Source::from(client.address.ip());
                if !answer.authentic && self.rate.take(source, now).is_err() {
                    trace!(client = %client.address, "too many requests without credentials");
                    continue;
                }
                self.batch.push(&target, None, &answer.bytes, &[]);
            }
        }
        self.batch.flush();
    }

    /// Takes one frame of a connection: a message or channel data.
    pub(super) fn frame(&mut self, client: &Client, frame: &[u8]) -> Option<Answer> {
        let now = Instant::now();
        if is_channel_data(frame) {
            if let Some(&id) = self.clients.get(&client.key) {
                self.channel_data(id, frame, None, now);
            }
            return None;
        }
        self.message(client, frame, now)
    }

    /// Sends what waits for more of its kind.
    pub(super) fn flush(&mut self) {
        self.batch.flush();
    }

    /// Takes what peers sent to a relayed address.
    pub(super) fn peers_sent(&mut self, id: Id, received: &Received<'_>) {
        let now = Instant::now();
        for train in received.trains() {
            let from = SocketAddr::new(train.from.ip(), train.from.port());
            for datagram in train.datagrams() {
                self.arrived(id, from, datagram, train.ecn, now);
            }
        }
        self.batch.flush();
    }

    /// Whether the client has an allocation.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.clients.contains_key(key)
    }

    /// Ends the allocation of a client that has left.
    pub(super) fn gone(&mut self, key: &Key) {
        if let Some(&id) = self.clients.get(key) {
            self.remove(id, "the connection ended");
        }
    }

    /// Ends an allocation.
    pub(super) fn remove(&mut self, id: Id, why: &'static str) {
        let Some(allocation) = self.allocations.remove(&id) else {
            return;
        };
        self.clients.remove(&allocation.key);
        self.shares.remove(allocation.source, 1);
        if let Some(count) = self.users.get_mut(&allocation.user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&allocation.user);
            }
        }
        for relay in &allocation.relays {
            relay.task.abort();
            self.relayed.remove(&relay.told);
        }
        debug!(id, why, "TURN allocation ended");
    }

    /// Ends what has expired.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        if now >= self.look {
            self.look = now + LOOK;
            self.peers.refresh();
        }
        let mut expired = Vec::new();
        for (id, allocation) in &mut self.allocations {
            allocation.sweep(now);
            if allocation.expires <= now {
                expired.push(*id);
            }
        }
        for id in expired {
            self.remove(id, "it expired");
        }
        self.metrics.allocations(self.allocations.len());
    }

    fn message(&mut self, client: &Client, bytes: &[u8], now: Instant) -> Option<Answer> {
        let message = Message::from_bytes(bytes).ok()?;
        match (message.class(), message.method()) {
            (MessageClass::Request, BINDING) => Some(Answer {
                bytes: stun::respond(bytes, client.address)?,
                authentic: false,
            }),
            (MessageClass::Request, _) => self.request(client, &message, now),
            (MessageClass::Indication, SEND) => {
                let id = *self.clients.get(&client.key)?;
                self.indication(id, &message, now);
                None
            }
            _ => None,
        }
    }

    /// RFC 8656 §11.2.
    fn indication(&mut self, id: Id, message: &Message<'_>, now: Instant) -> Option<()> {
        let mut peer = None;
        let mut data = None;
        for (_, attribute) in message.iter_attributes() {
            match attribute.get_type() {
                XorPeerAddress::TYPE => {
                    let address = XorPeerAddress::from_raw(attribute).ok()?;
                    peer = Some(address.addr(message.transaction_id()));
                }
                Data::TYPE => data = Some(Data::from_raw(attribute).ok()?),
                kind if kind.comprehension_required() => return None,
                _ => {}
            }
        }
        self.forward(id, peer?, data?.data(), None, now);
        Some(())
    }

    /// RFC 8656 §12.6.
    fn channel_data(&mut self, id: Id, frame: &[u8], ecn: Option<EcnCodepoint>, now: Instant) {
        let [n0, n1, l0, l1, rest @ ..] = frame else {
            return;
        };
        let number = u16::from_be_bytes([*n0, *n1]);
        let length = u16::from_be_bytes([*l0, *l1]);
        let allocation = self.allocations.get(&id);
        let peer = allocation.and_then(|allocation| allocation.peer(number, now));
        if let (Some(data), Some(peer)) = (rest.get(..usize::from(length)), peer) {
            self.forward(id, peer, data, ecn, now);
        }
    }

    /// From a client to a peer.
    fn forward(
        &mut self,
        id: Id,
        peer: SocketAddr,
        data: &[u8],
        ecn: Option<EcnCodepoint>,
        now: Instant,
    ) {
        let Some(allocation) = self.allocations.get_mut(&id) else {
            return;
        };
        let Some(own) = allocation
            .permits(peer.ip(), now)
            .filter(|_| peer.port() != 0)
        else {
            return;
        };
        if !allocation.bucket.take(data.len(), now) || !self.total.take(data.len(), now) {
            return;
        }
        let Some(relay) = allocation.relay(peer.ip()) else {
            return;
        };
        self.sent.inc_by(data.len() as u64);
        if own {
            // Another relayed address of this very server: no socket between, and nothing else of the server is reached.
            let from = relay.told;
            if let Some(&other) = self.relayed.get(&peer) {
                self.arrived(other, from, data, ecn, now);
            }
            return;
        }
        let target = Target {
            socket: Rc::clone(&relay.socket),
            to: peer,
            from: None,
        };
        self.batch.push(&target, ecn, &[], data);
    }

    /// From a peer to the client.
    fn arrived(
        &mut self,
        id: Id,
        from: SocketAddr,
        data: &[u8],
        ecn: Option<EcnCodepoint>,
        now: Instant,
    ) {
        let Some(allocation) = self.allocations.get_mut(&id) else {
            return;
        };
        if allocation.permits(from.ip(), now).is_none() {
            return;
        }
        if !allocation.bucket.take(data.len(), now) || !self.total.take(data.len(), now) {
            return;
        }
        self.received.inc_by(data.len() as u64);
        let length = u16::try_from(data.len());
        let number = allocation.number(from, now);
        match number.zip(length.ok()) {
            Some((number, length)) => {
                let mut head = [0; 4];
                head[..2].copy_from_slice(&number.to_be_bytes());
                head[2..].copy_from_slice(&length.to_be_bytes());
                match &allocation.door {
                    Door::Udp(target) => self.batch.push(target, ecn, &head, data),
                    Door::Stream(outbox) => outbox.datagram(&head, data),
                }
            }
            None => {
                let Some(message) = data_indication(from, data) else {
                    return;
                };
                match &allocation.door {
                    Door::Udp(target) => self.batch.push(target, ecn, &message, &[]),
                    Door::Stream(outbox) => outbox.datagram(&message, &[]),
                }
            }
        }
    }
}

/// RFC 8656 §11.3. `None` for a datagram that does not fit.
fn data_indication(from: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
    let room = MessageWriteVec::with_capacity(data.len() + 64);
    let mut message = Message::builder_indication(DATA, room);
    let peer = XorPeerAddress::new(from, message.transaction_id());
    message.add_attribute(&peer).ok()?;
    message.add_attribute(&Data::new(data)).ok()?;
    Some(message.finish())
}

/// Messages begin with two zero bits, channel numbers with 01 (RFC 5766 §11).
fn is_channel_data(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x40..=0x7f))
}

/// An IPv4 address that came to an IPv6 socket is an IPv4 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
