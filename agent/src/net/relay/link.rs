//! One allocation at work: the TURN client and its socket, and the packets that pass between.
//!
//! WireGuard's packets do not pass through the client: a channel's number is all that they need of it.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::debug;
use wice_core::io::Packet;
use wice_core::relay::Relayed;
use wice_core::server::{IceServer, Transport};
use wice_core::turn::{Client, Event};

use super::conduit::{Conduit, Room};
use super::problem::Problem;
use super::route::Carried;
use crate::net::batch::Train;
use crate::net::datagram::is_stun;

/// An allocation on a server, or one that is being asked for.
#[derive(Debug)]
pub(super) struct Link {
    server: SocketAddr,
    transport: Transport,
    conduit: Conduit,
    room: Rc<Room>,
    client: RefCell<Client>,
    /// The client has something to send, or another deadline.
    wake: Notify,
    channels: RefCell<Vec<Option<Channel>>>,
    routes: RefCell<BTreeMap<SocketAddr, Rc<Carried>>>,
    /// What came from peers before they had a route.
    early: RefCell<VecDeque<(SocketAddr, Vec<u8>)>>,
    /// What is on its way out, and in; room that is used again and again.
    outgoing: RefCell<Train>,
    incoming: RefCell<Train>,
    /// Something was sent since anything was heard.
    unanswered: Cell<bool>,
    /// Something was heard since the client was last told.
    heard: Cell<bool>,
    /// Why nothing can be sent any more.
    broken: RefCell<Option<Problem>>,
    /// Where STUN from peers goes.
    packets: tokio::sync::mpsc::Sender<Packet>,
}

#[derive(Debug)]
struct Channel {
    peer: SocketAddr,
    route: Option<Rc<Carried>>,
}

/// Packets go out and none comes back for this long: the server is asked whether it is still there.
const DOUBT: Duration = Duration::from_secs(1);
/// Channel numbers begin here (RFC 8656 §12).
const FIRST_CHANNEL: u16 = 0x4000;
const LAST_CHANNEL: u16 = 0x4fff;
const CHANNEL_HEADER: usize = 4;
/// A handshake that comes before its route is worth keeping: WireGuard repeats it after 5 s only.
const EARLY: usize = 64;
/// Batches received before others get their turn.
const TURN: usize = 4;

impl Link {
    /// Asks for an allocation through a socket.
    pub(super) fn begin(
        conduit: Conduit,
        server: &IceServer,
        (address, transport): (SocketAddr, Transport),
        room: Rc<Room>,
        packets: tokio::sync::mpsc::Sender<Packet>,
    ) -> Self {
        let client = Client::new(
            &server.username,
            server.credential.as_ref(),
            conduit.is_stream(),
            rand::random(),
            Instant::now(),
        );
        Self {
            server: address,
            transport,
            conduit,
            room,
            client: RefCell::new(client),
            wake: Notify::new(),
            channels: RefCell::default(),
            routes: RefCell::default(),
            early: RefCell::default(),
            outgoing: RefCell::default(),
            incoming: RefCell::default(),
            unanswered: Cell::new(false),
            heard: Cell::new(false),
            broken: RefCell::new(None),
            packets,
        }
    }

    /// Where peers reach us through it.
    pub(super) fn relayed(&self) -> Vec<Relayed> {
        let client = self.client.borrow();
        let relayed = client.relayed().iter();
        relayed
            .map(|address| Relayed {
                address: *address,
                server: self.server,
                transport: self.transport,
            })
            .collect()
    }

    /// Says whether this address is one that it relays from.
    pub(super) fn relays_from(&self, address: SocketAddr) -> bool {
        self.client.borrow().relayed().contains(&address)
    }

    /// The address of ours that the server is reached from.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.conduit.local_addr().ok()
    }

    /// The server.
    pub(super) const fn server(&self) -> SocketAddr {
        self.server
    }

    pub(super) fn set_mark(&self, fwmark: u32) {
        if let Err(error) = self.conduit.set_mark(fwmark) {
            debug!("cannot mark the packets to {}: {error}", self.server);
        }
    }

    /// Has the client do something, and sees that it is done.
    pub(super) fn with_client(&self, action: impl FnOnce(&mut Client, Instant)) {
        action(&mut self.client.borrow_mut(), Instant::now());
        self.wake.notify_one();
    }

    /// Gives the allocation back.
    pub(super) fn release(&self) {
        self.client.borrow_mut().release();
        // Nobody waits for it any more; the server forgets an allocation by itself, too.
        let _ = self.flush();
    }

    /// Carries packets of and to this peer by a route.
    pub(super) fn carry(&self, peer: SocketAddr, route: &Rc<Carried>) {
        self.routes.borrow_mut().insert(peer, Rc::clone(route));
        let mut bound = None;
        for (index, channel) in self.channels.borrow_mut().iter_mut().enumerate() {
            if let Some(channel) = channel.as_mut().filter(|channel| channel.peer == peer) {
                channel.route = Some(Rc::clone(route));
                bound = u16::try_from(index).ok().map(|index| FIRST_CHANNEL + index);
            }
        }
        route.set_channel(bound);
        self.with_client(|client, now| client.bind(peer, now));
        let mut train = Train::default();
        self.early.borrow_mut().retain(|(source, packet)| {
            if *source == peer {
                train.push(&[packet]);
            }
            *source != peer
        });
        if !train.is_empty() {
            route.deliver(&train);
        }
    }

    /// Forgets a route.
    pub(super) fn leave(&self, peer: SocketAddr, route: &Rc<Carried>) {
        let same = |other: &Rc<Carried>| Rc::ptr_eq(other, route);
        if !self.routes.borrow().get(&peer).is_some_and(same) {
            return;
        }
        self.routes.borrow_mut().remove(&peer);
        for channel in self.channels.borrow_mut().iter_mut().flatten() {
            if channel.route.as_ref().is_some_and(same) {
                channel.route = None;
            }
        }
        self.with_client(|client, _| client.unbind(peer));
    }

    /// Room for packets on their way to the server.
    pub(super) fn train(&self) -> RefMut<'_, Train> {
        self.outgoing.borrow_mut()
    }

    /// Puts a packet into its channel (RFC 8656 §12.4).
    pub(super) fn frame(&self, train: &mut Train, channel: u16, packet: &[u8]) {
        let Ok(length) = u16::try_from(packet.len()) else {
            return;
        };
        let [a, b] = channel.to_be_bytes();
        let [c, d] = length.to_be_bytes();
        let padding = if self.conduit.is_stream() {
            packet.len().next_multiple_of(4) - packet.len()
        } else {
            0
        };
        train.push(&[&[a, b, c, d], packet, &[0; 3][..padding]]);
        count(&self.room.traffic.sent, packet);
    }

    /// Sends what is in the train, and empties it.
    pub(super) fn send(&self, train: &mut Train) {
        if !train.is_empty() {
            self.transmit(train);
            self.doubt();
        }
        train.clear();
    }

    /// Sends a packet without a channel.
    pub(super) fn indicate(&self, peer: SocketAddr, packet: &[u8]) {
        self.client.borrow_mut().send(peer, packet);
        count(&self.room.traffic.sent, packet);
        self.unanswered.set(true);
        self.wake.notify_one();
    }

    /// Waits for whatever happens next and does it, until the client has something to say or the link is lost; cancel-safe.
    pub(super) async fn next(&self) -> Result<Event, Problem> {
        let mut look = None;
        loop {
            self.flush()?;
            if let Some(problem) = self.broken.take() {
                return Err(problem);
            }
            while let Some(event) = self.take_event() {
                match event {
                    Event::Failed(failure) => return Err(failure.into()),
                    Event::Data { peer, payload } => self.stray(peer, payload),
                    Event::Bound { peer, number } => self.bound(peer, number),
                    Event::Unbound { peer, number } => self.unbound(peer, number),
                    event => return Ok(event),
                }
            }
            if self.unanswered.get() {
                look = look.or_else(|| Some(Instant::now() + DOUBT));
            } else {
                look = None;
            }
            let due = self.client.borrow().poll_timeout();
            let due = due.into_iter().chain(look).min();
            tokio::select! {
                ready = self.conduit.ready() => {
                    ready.map_err(|source| Problem::Unreachable { server: self.server, source })?;
                    for _ in 0..TURN {
                        if self.receive()? == 0 {
                            break;
                        }
                    }
                    tokio::task::yield_now().await;
                }
                () = self.wake.notified() => {}
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            let mut client = self.client.borrow_mut();
            if look.is_some_and(|look| look <= now) {
                look = None;
                client.probe(now);
            }
            if client.poll_timeout().is_some_and(|due| due <= now) {
                if self.heard.replace(false) {
                    client.heard(now);
                }
                client.handle_timeout(now);
            }
        }
    }

    /// Something was sent on the fast way: sees that a server that does not answer is asked whether it is there.
    fn doubt(&self) {
        if !self.unanswered.replace(true) {
            self.wake.notify_one();
        }
    }

    fn take_event(&self) -> Option<Event> {
        self.client.borrow_mut().poll_event()
    }

    /// Sends what the client wants sent.
    fn flush(&self) -> Result<(), Problem> {
        let mut train = Train::default();
        let mut client = self.client.borrow_mut();
        while let Some(message) = client.poll_transmit() {
            train.push(&[&message]);
        }
        if train.is_empty() {
            Ok(())
        } else {
            self.conduit.send(&train)
        }
    }

    fn transmit(&self, train: &Train) {
        if let Err(problem) = self.conduit.send(train) {
            self.broken.replace(Some(problem));
            self.wake.notify_one();
        }
    }

    fn receive(&self) -> Result<usize, Problem> {
        let channels = self.channels.borrow();
        let mut train = self.incoming.borrow_mut();
        let mut current: Option<&Rc<Carried>> = None;
        let now = Instant::now();
        let outcome = self.conduit.receive(&self.room, |message| {
            let Some((channel, payload)) = parse(message) else {
                self.client.borrow_mut().handle(message, now);
                return;
            };
            let index = usize::from(channel - FIRST_CHANNEL);
            let Some(Some(channel)) = channels.get(index) else {
                self.client.borrow_mut().handle(message, now);
                return;
            };
            if is_stun(payload) {
                self.stun(channel.peer, payload);
                return;
            }
            let Some(route) = &channel.route else {
                return;
            };
            if let Some(before) = current.filter(|before| !Rc::ptr_eq(before, route)) {
                before.deliver(&train);
                train.clear();
            }
            current = Some(route);
            train.push(&[payload]);
            count(&self.room.traffic.received, payload);
        });
        if let Some(route) = current {
            route.deliver(&train);
            train.clear();
        }
        if matches!(outcome, Ok(count) if count > 0) {
            self.heard.set(true);
            self.unanswered.set(false);
        }
        outcome
    }

    /// Takes what came outside of a channel.
    fn stray(&self, peer: SocketAddr, payload: Vec<u8>) {
        if is_stun(&payload) {
            return self.stun(peer, &payload);
        }
        if let Some(route) = self.routes.borrow().get(&peer) {
            let mut train = Train::default();
            train.push(&[&payload]);
            count(&self.room.traffic.received, &payload);
            return route.deliver(&train);
        }
        let mut early = self.early.borrow_mut();
        if early.len() == EARLY {
            early.pop_front();
        }
        early.push_back((peer, payload));
    }

    fn stun(&self, peer: SocketAddr, payload: &[u8]) {
        let client = self.client.borrow();
        let relayed = client.relayed().iter();
        let Some(destination) = relayed
            .copied()
            .find(|relayed| relayed.is_ipv4() == peer.is_ipv4())
        else {
            return;
        };
        // A flood of it is lost like any other.
        let _ = self.packets.try_send(Packet {
            source: peer,
            destination,
            payload: payload.to_vec(),
        });
    }

    fn bound(&self, peer: SocketAddr, number: u16) {
        let route = self.routes.borrow().get(&peer).cloned();
        if let Some(route) = &route {
            route.set_channel(Some(number));
        }
        let index = usize::from(number.saturating_sub(FIRST_CHANNEL));
        let mut channels = self.channels.borrow_mut();
        if channels.len() <= index {
            channels.resize_with(index + 1, || None);
        }
        channels[index] = Some(Channel { peer, route });
    }

    fn unbound(&self, peer: SocketAddr, number: u16) {
        if let Some(route) = self.routes.borrow().get(&peer) {
            route.set_channel(None);
        }
        let index = usize::from(number.saturating_sub(FIRST_CHANNEL));
        if let Some(channel) = self.channels.borrow_mut().get_mut(index) {
            *channel = None;
        }
    }
}

fn count(counter: &AtomicU64, packet: &[u8]) {
    counter.fetch_add(packet.len() as u64, Ordering::Relaxed);
}

/// Takes a ChannelData message apart (RFC 8656 §12.4).
fn parse(message: &[u8]) -> Option<(u16, &[u8])> {
    let header = message.get(..CHANNEL_HEADER)?;
    let number = u16::from_be_bytes([header[0], header[1]]);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let payload = message.get(CHANNEL_HEADER..CHANNEL_HEADER + length)?;
    (FIRST_CHANNEL..=LAST_CHANNEL)
        .contains(&number)
        .then_some((number, payload))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
