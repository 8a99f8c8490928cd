//! All streams and listeners of a network namespace, as one thread keeps them.
//!
//! Must not know which streams are good for what: the core keeps some, lets some carry a peer, and closes them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;
use wice_core::key::PublicKey;
use wice_core::tcp::{Stream, TcpInput, TcpOrder};

use super::limits::Strangers;
use super::listeners::{Accepted, Listeners};
use super::socket;
use super::stream::{Command, Handle};
use crate::net::loopback::End;

/// All streams of this network namespace.
#[derive(Debug)]
pub(super) struct Room {
    listeners: Listeners,
    streams: BTreeMap<Stream, Member>,
    strangers: Strangers,
    /// Connections on their way; they end with the agent.
    connecting: JoinSet<()>,
    started: u64,
    inputs: VecDeque<TcpInput>,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
}

#[derive(Debug)]
struct Member {
    handle: Handle,
    number: u64,
    /// Accepted, and nobody knows yet from whom.
    stranger: bool,
}

/// What the tasks of this room tell.
#[derive(Debug)]
pub(super) enum Event {
    Connected {
        attempt: Attempt,
        outcome: io::Result<TcpStream>,
    },
    Packet {
        stream: Stream,
        payload: Vec<u8>,
    },
    Ended {
        stream: Stream,
        number: u64,
    },
}

/// A connection that the core ordered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    interface: u32,
    peer: PublicKey,
    base: IpAddr,
    remote: SocketAddr,
    fwmark: u32,
}

/// Events that wait until the agent has time for them.
const EVENTS: usize = 256;
/// Streams in all: a peer has one or two, and the core closes what it does not use.
const MOST: usize = 2048;
/// Connections on their way at the same time.
const MOST_CONNECTING: usize = 128;

impl Default for Room {
    fn default() -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        Self {
            listeners: Listeners::default(),
            streams: BTreeMap::new(),
            strangers: Strangers::default(),
            connecting: JoinSet::new(),
            started: 0,
            inputs: VecDeque::new(),
            sender,
            events,
        }
    }
}

impl Room {
    /// Does what the core wants; needs a local set of tokio's around it.
    pub(super) fn order(&mut self, order: TcpOrder) {
        match order {
            TcpOrder::Listen {
                interface,
                addresses,
                open,
                fwmark,
            } => {
                let reserved = self.listeners.set(interface, addresses, open, fwmark);
                self.inputs.push_back(reserved);
            }
            TcpOrder::Connect {
                interface,
                peer,
                base,
                remote,
                fwmark,
            } => self.connect(Attempt {
                interface,
                peer,
                base,
                remote,
                fwmark,
            }),
            TcpOrder::Keep(stream) => {
                if let Some(member) = self.streams.get_mut(&stream) {
                    if std::mem::take(&mut member.stranger) {
                        self.strangers.leave(stream.remote.ip());
                    }
                    member.handle.ask(Command::Keep);
                }
            }
            TcpOrder::Transmit { stream, payload } => {
                self.ask(stream, Command::Stun(payload));
            }
            TcpOrder::Carry { stream, port } => self.carry(stream, port),
            TcpOrder::HandOver {
                stream,
                endpoint,
                base,
            } => self.ask(stream, Command::HandOver(endpoint, base)),
            TcpOrder::Close(stream) => {
                self.forget(stream);
            }
        }
    }

    /// Waits for news; nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> TcpInput {
        loop {
            if let Some(input) = self.inputs.pop_front() {
                return input;
            }
            let due = self.listeners.due();
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.event(event),
                    // A sender is a field of this very struct.
                    None => std::future::pending().await,
                },
                accepted = self.listeners.accept() => {
                    if let Some(accepted) = accepted {
                        self.accepted(accepted);
                    }
                }
                () = sleep_until(due) => {
                    let news = self.listeners.retry();
                    self.inputs.extend(news);
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected { attempt, outcome } => {
                while self.connecting.try_join_next().is_some() {}
                let input = self.connected(attempt, outcome);
                self.inputs.push_back(input);
            }
            Event::Packet { stream, payload } => {
                self.inputs.push_back(TcpInput::Packet { stream, payload });
            }
            Event::Ended { stream, number } => {
                let present = (self.streams.get(&stream)).is_some_and(|it| it.number == number);
                // The core has never heard of one that did not introduce itself, which does no harm.
                if present && self.forget(stream) {
                    self.inputs.push_back(TcpInput::Closed(stream));
                }
            }
        }
    }

    fn accepted(&mut self, accepted: Accepted) {
        let Accepted {
            socket,
            name,
            fwmark,
        } = accepted;
        if self.streams.len() >= MOST || !self.strangers.enter(name.remote.ip()) {
            debug!(remote = %name.remote, "too many connections: refused one");
            return;
        }
        if let Err(error) = self.start(socket, name, fwmark, true) {
            debug!(%error, remote = %name.remote, "cannot use a connection");
            self.strangers.leave(name.remote.ip());
        }
    }

    fn connect(&mut self, attempt: Attempt) {
        let room = self.connecting.len() < MOST_CONNECTING && self.streams.len() < MOST;
        if !room {
            self.inputs.push_back(attempt.failed());
            return;
        }
        let events = self.sender.clone();
        self.connecting.spawn_local(async move {
            let outcome = socket::connect(attempt.base, attempt.remote, attempt.fwmark).await;
            // Nobody waits for it any more when the agent leaves.
            let _ = events.send(Event::Connected { attempt, outcome }).await;
        });
    }

    fn connected(&mut self, attempt: Attempt, outcome: io::Result<TcpStream>) -> TcpInput {
        let started = outcome.and_then(|socket| {
            let stream = Stream {
                local: socket.local_addr()?,
                remote: attempt.remote,
            };
            self.start(socket, stream, attempt.fwmark, false)?;
            Ok(stream)
        });
        match started {
            Ok(stream) => TcpInput::Connected {
                interface: attempt.interface,
                peer: attempt.peer,
                stream,
            },
            Err(error) => {
                debug!(%error, base = %attempt.base, remote = %attempt.remote, "cannot connect");
                attempt.failed()
            }
        }
    }

    fn start(
        &mut self,
        socket: TcpStream,
        name: Stream,
        fwmark: u32,
        stranger: bool,
    ) -> io::Result<()> {
        socket::prepare(&socket, fwmark)?;
        self.started += 1;
        let number = self.started;
        // The kernel has given the same ends again: the stream that had them is over, though its end was not heard of yet.
        if self.forget(name) {
            self.inputs.push_back(TcpInput::Closed(name));
        }
        let handle = Handle::start(socket, name, number, !stranger, self.sender.clone());
        self.streams.insert(
            name,
            Member {
                handle,
                number,
                stranger,
            },
        );
        Ok(())
    }

    fn carry(&mut self, stream: Stream, port: u16) {
        let endpoint = match End::open(port) {
            Ok(end) if self.streams.contains_key(&stream) => {
                let address = end.address();
                self.ask(stream, Command::Carry(Box::new(end)));
                Some(address)
            }
            Ok(_) => None,
            Err(error) => {
                debug!(%error, "cannot bind a loopback address for a peer");
                None
            }
        };
        self.inputs
            .push_back(TcpInput::Carries { stream, endpoint });
    }

    fn ask(&self, stream: Stream, command: Command) {
        if let Some(member) = self.streams.get(&stream) {
            member.handle.ask(command);
        }
    }

    /// Ends a stream; tells whether there was one.
    fn forget(&mut self, stream: Stream) -> bool {
        let Some(member) = self.streams.remove(&stream) else {
            return false;
        };
        if member.stranger {
            self.strangers.leave(stream.remote.ip());
        }
        true
    }
}

impl Attempt {
    const fn failed(self) -> TcpInput {
        TcpInput::Unreachable {
            interface: self.interface,
            peer: self.peer,
            base: self.base,
            remote: self.remote,
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
