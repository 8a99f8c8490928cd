//! A client of one TURN server (RFC 8656): an allocation, who may send through it, and the channels in it.
//!
//! No I/O: what the server sent comes in with `now`, what to send goes out, whole messages both ways. Knows no peer and no
//! candidate, and not how the server is reached, except whether what is sent may be lost.

mod auth;
mod failure;
mod request;
mod response;
mod tables;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stun_types::message::{Message, MessageClass};
use turn_types::channel::ChannelData;
use turn_types::message::DATA;

use crate::server::Credential;

use auth::Auth;
pub use failure::{Failure, Refusal};
use request::{Families, Request, Transaction};
use tables::{Channels, Permissions};

/// One allocation on one server.
#[derive(Debug)]
pub struct Client {
    auth: Auth,
    /// Whether the transport repeats what is lost.
    reliable: bool,
    rng: StdRng,
    state: State,
    transactions: BTreeMap<u128, Transaction>,
    permissions: Permissions,
    channels: Channels,
    /// What waits for a permission.
    held: VecDeque<(SocketAddr, Vec<u8>)>,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server relays from these addresses: one of each family that it has, IPv4 first.
    Allocated(Vec<SocketAddr>),
    /// Packets to and from the peer travel in this channel from now on.
    Bound {
        /// The peer.
        peer: SocketAddr,
        /// The channel's number.
        number: u16,
    },
    /// They do not any more: the server does not prolong the channel.
    Unbound {
        /// The peer.
        peer: SocketAddr,
        /// The channel's number.
        number: u16,
    },
    /// A peer sent something.
    Data {
        /// The peer.
        peer: SocketAddr,
        /// What it sent.
        payload: Vec<u8>,
    },
    /// The server lets nobody send from this address.
    NotPermitted {
        /// The peer's address.
        peer: IpAddr,
        /// What the server said.
        refusal: Refusal,
    },
    /// The server does not prolong the allocation, which ends by itself within minutes: its credentials have expired.
    NotProlonged(Refusal),
    /// There is no allocation, or not any more; nothing follows.
    Failed(Failure),
}

/// An allocation is asked for this long; one that is not released ends after it (RFC 8656 §2.2).
const LIFETIME: Duration = Duration::from_secs(600);
/// It is refreshed this often: a NAT forgets a silent mapping after 30 s at the earliest that is common, and a server that
/// forgot the allocation is noticed.
const REFRESH: Duration = Duration::from_secs(25);
/// A refused refresh is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// A request is sent again with another nonce, or another way of asking, at most this often.
const TRIES: u8 = 6;
/// What waits for permissions is a few checks of each of many peers.
const HELD: usize = 512;

#[derive(Debug)]
enum State {
    Allocating,
    Allocated {
        relayed: Vec<SocketAddr>,
        refresh: Instant,
        refreshing: bool,
        expires: Instant,
    },
    Over,
}

impl Client {
    /// Asks for an allocation. A `reliable` transport repeats by itself what is lost.
    pub fn new(
        username: &str,
        password: Option<&Credential>,
        reliable: bool,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let mut client = Self {
            auth: Auth::new(username, password),
            reliable,
            rng: StdRng::from_seed(seed),
            state: State::Allocating,
            transactions: BTreeMap::new(),
            permissions: Permissions::default(),
            channels: Channels::default(),
            held: VecDeque::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        client.request(Request::Allocate(Families::Both), 0, now);
        client
    }

    /// The addresses that the server relays from.
    pub fn relayed(&self) -> &[SocketAddr] {
        match &self.state {
            State::Allocated { relayed, .. } => relayed,
            State::Allocating | State::Over => &[],
        }
    }

    /// Lets exactly these addresses send through the allocation, from now on. A private address is passed over where the
    /// server relays from a public one: it cannot be reached from there, and coturn ends an allocation whose packets have no
    /// way.
    pub fn permit(&mut self, peers: &BTreeSet<IpAddr>, now: Instant) {
        self.permissions.want(peers);
        self.ask(now);
    }

    /// Binds a channel to a peer, and keeps it bound.
    pub fn bind(&mut self, peer: SocketAddr, now: Instant) {
        self.channels.want(peer, now);
        self.ask(now);
    }

    /// Lets a peer's channel expire.
    pub fn unbind(&mut self, peer: SocketAddr) {
        self.channels.leave(peer);
    }

    /// Sends to a peer: in its channel where one is bound, else in a Send indication. Waits for a permission that is under
    /// way, and is dropped where there will be none.
    pub fn send(&mut self, peer: SocketAddr, payload: &[u8]) {
        if let Some(number) = self.channels.number(peer) {
            self.transmits
                .push_back(request::channel_data(number, payload, self.reliable));
        } else if self.permissions.is_granted(peer.ip()) {
            let id = self.transaction();
            self.transmits
                .push_back(request::indication(id, peer, payload));
        } else if self.permissions.is_asked(peer.ip()) && self.held.len() < HELD {
            self.held.push_back((peer, payload.to_vec()));
        }
    }

    /// Asks the server whether it still has the allocation. Silence, or a refusal, ends it.
    pub fn probe(&mut self, now: Instant) {
        if let State::Allocated { refreshing, .. } = &mut self.state
            && !std::mem::replace(refreshing, true)
        {
            self.request(Request::Refresh, 0, now);
        }
    }

    /// The server was heard of otherwise: a probe that it did not answer yet says nothing.
    pub fn heard(&mut self, now: Instant) {
        for transaction in self.transactions.values_mut() {
            transaction.patience(now, self.reliable);
        }
    }

    /// Gives the allocation back; nothing follows but what is to be sent.
    pub fn release(&mut self) {
        if matches!(self.state, State::Allocated { .. }) {
            let id = self.transaction();
            self.transmits.clear();
            self.transmits
                .extend(request::encode(&Request::Release, id, &self.auth));
        }
        self.end();
    }

    /// Takes a message of the server.
    pub fn handle(&mut self, bytes: &[u8], now: Instant) {
        let Ok(message) = Message::from_bytes(bytes) else {
            if let Ok(data) = ChannelData::parse(bytes)
                && let Some(peer) = self.channels.peer(data.id())
            {
                self.events.push_back(Event::Data {
                    peer,
                    payload: data.data().to_vec(),
                });
            }
            return;
        };
        match message.class() {
            MessageClass::Indication if message.has_method(DATA) => self.data(&message),
            MessageClass::Success | MessageClass::Error => self.response(&message, now),
            MessageClass::Indication | MessageClass::Request => {}
        }
    }

    /// What to send next.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Client::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let requests = self.transactions.values().map(|waiting| waiting.due);
        let tables = match &self.state {
            State::Allocated {
                refresh,
                refreshing,
                expires,
                ..
            } => {
                let refresh = if *refreshing { *expires } else { *refresh };
                [
                    Some(refresh.min(*expires)),
                    self.permissions.due(),
                    self.channels.due(),
                ]
            }
            State::Allocating | State::Over => [None; 3],
        };
        requests.chain(tables.into_iter().flatten()).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for waiting in self.transactions.values_mut() {
            if waiting.due > now {
                continue;
            }
            match waiting.again(now, self.reliable) {
                Some(bytes) => self.transmits.push_back(bytes),
                None => return self.fail(Failure::Silent),
            }
        }
        if let State::Allocated {
            refresh,
            refreshing,
            expires,
            ..
        } = &self.state
        {
            if *expires <= now {
                return self.fail(Failure::Gone);
            }
            if *refresh <= now && !refreshing {
                self.probe(now);
            }
        }
        self.ask(now);
    }

    /// Asks for whatever permissions and channels are due.
    fn ask(&mut self, now: Instant) {
        let State::Allocated { relayed, .. } = &self.state else {
            return;
        };
        let relayed = relayed.clone();
        for peers in self.permissions.ask(&relayed, now) {
            self.request(Request::Permit(peers), 0, now);
        }
        for (peer, number) in self.channels.ask(&relayed, now) {
            self.request(Request::Bind { peer, number }, 0, now);
        }
    }

    fn request(&mut self, request: Request, tries: u8, now: Instant) {
        let id = self.transaction();
        // A name that does not fit into a message was never one that the server gave out.
        let Some(bytes) = request::encode(&request, id, &self.auth) else {
            return self.fail(Failure::Unusable);
        };
        self.transmits.push_back(bytes.clone());
        let transaction = Transaction::new(request, bytes, tries, self.reliable, now);
        self.transactions.insert(id, transaction);
    }

    fn transaction(&mut self) -> u128 {
        self.rng.random::<u128>() >> 32
    }

    fn fail(&mut self, failure: Failure) {
        self.end();
        self.events.push_back(Event::Failed(failure));
    }

    fn end(&mut self) {
        self.state = State::Over;
        self.transactions.clear();
        self.held.clear();
    }
}
