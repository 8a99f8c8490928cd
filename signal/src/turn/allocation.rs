//! One allocation: what a client may send to whom, and for how long.
//!
//! Does no I/O and asks no clock.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use turn_types::stun::message::TransactionId;

use super::bucket::Bucket;
use super::credentials::User;
use super::outbox::Outbox;
use super::socket::{Socket, Target};
use crate::limit::Source;

/// RFC 8656 §9.
const PERMISSION: Duration = Duration::from_secs(300);

/// RFC 8656 §12.
const CHANNEL: Duration = Duration::from_secs(600);

/// Peers of one allocation: hundreds of tunnels, each with all the addresses of an offer.
const MOST_PERMISSIONS: usize = 8_192;

/// Which client an allocation belongs to: the five-tuple, or the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// By UDP.
    Udp {
        /// The number of our socket.
        listener: usize,
        /// The client, as the socket names it.
        client: SocketAddr,
        /// Which of our addresses it sends to.
        to: Option<IpAddr>,
    },
    /// By TCP or TLS.
    Stream(u64),
}

/// How a client is reached.
#[derive(Debug, Clone)]
pub(super) enum Door {
    /// By datagrams.
    Udp(Target),
    /// By what its connection has yet to send.
    Stream(Rc<Outbox>),
}

/// A relayed transport address.
#[derive(Debug)]
pub(super) struct Relayed {
    /// As others see it.
    pub(super) told: SocketAddr,
    /// Where packets for it arrive.
    pub(super) socket: Rc<Socket>,
    /// What receives there.
    pub(super) task: AbortHandle,
}

/// A permission, as long as it holds.
#[derive(Debug, Clone, Copy)]
struct Permission {
    until: Instant,
    own: bool,
}

/// What a client has allocated.
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) key: Key,
    pub(super) user: User,
    pub(super) source: Source,
    pub(super) door: Door,
    /// Of the request that made it, which may be repeated.
    pub(super) transaction: TransactionId,
    pub(super) expires: Instant,
    pub(super) bucket: Bucket,
    /// One for each address family, at most.
    pub(super) relays: Vec<Relayed>,
    permissions: HashMap<IpAddr, Permission>,
    channels: HashMap<u16, (SocketAddr, Instant)>,
    numbers: HashMap<SocketAddr, (u16, Instant)>,
}

/// Why a permission or a channel is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// The number belongs to another peer, or the peer to another number.
    Taken,
    /// There are too many.
    Full,
}

impl Allocation {
    /// Without any permission.
    pub(super) fn new(
        (key, user, source, door): (Key, User, Source, Door),
        transaction: TransactionId,
        expires: Instant,
        bucket: Bucket,
    ) -> Self {
        Self {
            key,
            user,
            source,
            door,
            transaction,
            expires,
            bucket,
            relays: Vec::new(),
            permissions: HashMap::new(),
            channels: HashMap::new(),
            numbers: HashMap::new(),
        }
    }

    /// The relayed address of a peer's family.
    pub(super) fn relay(&self, peer: IpAddr) -> Option<&Relayed> {
        self.relays
            .iter()
            .find(|relay| relay.told.is_ipv4() == peer.is_ipv4())
    }

    /// Permits a peer, or does so for longer; `own` if the address is this server's.
    pub(super) fn permit(&mut self, peer: IpAddr, own: bool, now: Instant) -> Result<(), Denied> {
        if self.permissions.len() >= MOST_PERMISSIONS && !self.permissions.contains_key(&peer) {
            return Err(Denied::Full);
        }
        let until = now + PERMISSION;
        self.permissions.insert(peer, Permission { until, own });
        Ok(())
    }

    /// Whether the peer is permitted; if so, whether its address is this server's.
    pub(super) fn permits(&self, peer: IpAddr, now: Instant) -> Option<bool> {
        let permission = self.permissions.get(&peer)?;
        (permission.until > now).then_some(permission.own)
    }

    /// Binds a channel number to a peer, or does so for longer.
    pub(super) fn bind(
        &mut self,
        number: u16,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<(), Denied> {
        let other_peer = self
            .channels
            .get(&number)
            .is_some_and(|(bound, _)| *bound != peer);
        let other_number = self
            .numbers
            .get(&peer)
            .is_some_and(|(bound, _)| *bound != number);
        if other_peer || other_number {
            return Err(Denied::Taken);
        }
        let until = now + CHANNEL;
        self.channels.insert(number, (peer, until));
        self.numbers.insert(peer, (number, until));
        Ok(())
    }

    /// The peer of a channel number.
    pub(super) fn peer(&self, number: u16, now: Instant) -> Option<SocketAddr> {
        let (peer, until) = self.channels.get(&number)?;
        (*until > now).then_some(*peer)
    }

    /// The channel number of a peer.
    pub(super) fn number(&self, peer: SocketAddr, now: Instant) -> Option<u16> {
        let (number, until) = self.numbers.get(&peer)?;
        (*until > now).then_some(*number)
    }

    /// Forgets what no longer holds.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.permissions
            .retain(|_, permission| permission.until > now);
        self.channels.retain(|_, (_, until)| *until > now);
        self.numbers.retain(|_, (_, until)| *until > now);
    }
}
