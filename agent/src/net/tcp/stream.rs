//! One stream: STUN goes to the core, packets of the tunnel between the stream and WireGuard's loopback address.
//!
//! One task for each. Whatever a stream does, it delays no other, and holds no more than a bounded number of bytes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::debug;
use wice_core::tcp::Stream;

use super::frame::{Incoming, Outgoing};
use super::room::Event;
use crate::net::batch::{Batch, Train};
use crate::net::datagram::is_stun;
use crate::net::loopback::End;

/// The way to the task of a stream; ends the stream when it is dropped.
#[derive(Debug)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
    task: AbortHandle,
}

/// What a stream shall do.
pub(super) enum Command {
    /// It is a peer's.
    Keep,
    /// Send STUN.
    Stun(Vec<u8>),
    /// Carry a peer's packets.
    Carry(Box<End>),
    /// Deliver what still comes in another endpoint's name: endpoint and base.
    HandOver(SocketAddr, SocketAddr),
}

/// Commands that wait; the core sends a few per check.
const COMMANDS: usize = 64;
/// Within this, the first check on an accepted stream must verify.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// A stream that carries nothing and brings no STUN for this long is forgotten by both sides.
const IDLE: Duration = Duration::from_secs(60);
/// Longest frame of a stranger: STUN, and nothing else.
const LONGEST_STUN: usize = 2048;
/// The most that a frame can announce; a tunnel's packet may be as long as its MTU allows.
const LONGEST: usize = u16::MAX as usize;
/// STUN messages of a stranger that are looked at: more than a check is repeated within [`INTRODUCTION`].
const STRANGER_MESSAGES: usize = 32;
/// STUN messages of a peer that are looked at in each second; checks of one pair are fewer.
const MESSAGES_A_SECOND: usize = 50;
/// Packets that are kept until the stream carries: the other side selects it a moment earlier.
const EARLY: usize = 16;
/// Reads before others get their turn.
const READS: usize = 8;

thread_local! {
    /// All streams of a thread receive from WireGuard through the same memory.
    static BATCH: Batch = Batch::default();
}

impl Handle {
    /// Starts a stream that is `known` to be a peer's, or has yet to show it. `number` tells it from others with the same ends.
    pub(super) fn start(
        socket: TcpStream,
        name: Stream,
        number: u64,
        known: bool,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (commands, received) = mpsc::channel(COMMANDS);
        let mut task = Task {
            socket,
            name,
            number,
            events,
            incoming: Incoming::new(LONGEST_STUN),
            outgoing: Outgoing::default(),
            end: None,
            train: Train::default(),
            early: Vec::new(),
            stranger: Some(0),
            window: Window {
                began: Instant::now(),
                count: 0,
            },
            deadline: Instant::now() + INTRODUCTION,
            dropped: 0,
        };
        if known {
            task.keep();
        }
        let task = tokio::task::spawn_local(task.run(received)).abort_handle();
        Self { commands, task }
    }

    /// Asks for something; what finds no room is lost, as a packet may be.
    pub(super) fn ask(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            debug!("a stream is too slow, or gone: something that it should do is lost");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    socket: TcpStream,
    name: Stream,
    number: u64,
    events: mpsc::Sender<Event>,
    incoming: Incoming,
    outgoing: Outgoing,
    end: Option<Box<End>>,
    train: Train,
    /// The peer's packets that came before WireGuard can be reached: a handshake that is lost costs five seconds.
    early: Vec<Vec<u8>>,
    /// STUN messages so far, while it is not known whose the stream is.
    stranger: Option<usize>,
    window: Window,
    deadline: Instant,
    /// Packets of the tunnel that found no room.
    dropped: u64,
}

/// The second that goes by, and the STUN messages in it: no stream takes all of the core's time.
struct Window {
    began: Instant,
    count: usize,
}

impl Window {
    fn takes_another(&mut self) -> bool {
        if self.began.elapsed() >= Duration::from_secs(1) {
            self.began = Instant::now();
            self.count = 0;
        }
        self.count += 1;
        self.count <= MESSAGES_A_SECOND
    }
}

impl Task {
    async fn run(mut self, commands: mpsc::Receiver<Command>) {
        let reason = match self.serve(commands).await {
            Ok(reason) => reason.to_owned(),
            Err(error) => error.to_string(),
        };
        debug!(local = %self.name.local, remote = %self.name.remote, dropped = self.dropped,
            "a TCP stream ends: {reason}");
        let ended = Event::Ended {
            stream: self.name,
            number: self.number,
        };
        drop(self.socket);
        // Nobody counts streams any more when the agent leaves.
        let _ = self.events.send(ended).await;
    }

    async fn serve(&mut self, mut commands: mpsc::Receiver<Command>) -> io::Result<&'static str> {
        loop {
            let mut interest = Interest::READABLE;
            if !self.outgoing.waiting().is_empty() {
                interest |= Interest::WRITABLE;
            }
            let carries = self.end.is_some();
            tokio::select! {
                ready = self.socket.ready(interest) => {
                    if let Some(reason) = self.ready(ready?)? {
                        return Ok(reason);
                    }
                    // A stream that always has more would keep its turn until it has used up the runtime's whole budget.
                    tokio::task::yield_now().await;
                }
                sent = sent(self.end.as_deref()) => {
                    sent?;
                    self.collect()?;
                }
                command = commands.recv() => match command {
                    Some(command) => self.obey(command)?,
                    None => return Ok("nobody wants it"),
                },
                () = tokio::time::sleep_until(self.deadline), if !carries => {
                    return Ok(if self.stranger.is_some() {
                        "no check that verifies came"
                    } else {
                        "it was idle"
                    });
                }
            }
        }
    }

    fn obey(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Keep => self.keep(),
            Command::Stun(message) => {
                if self.outgoing.push_stun(&message) {
                    self.flush()?;
                }
            }
            Command::Carry(end) => {
                self.train.clear();
                for packet in self.early.drain(..) {
                    self.train.push(&[&packet]);
                }
                self.end = Some(end);
                self.to_wireguard();
            }
            Command::HandOver(endpoint, base) => {
                if let Some(end) = &self.end
                    && let Err(error) = end.hand_over(Some((endpoint, base)))
                {
                    debug!(%error, %endpoint, "late packets of a TCP stream are lost");
                    self.end = None;
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self) {
        self.stranger = None;
        self.incoming.set_longest(LONGEST);
        self.deadline = Instant::now() + IDLE;
    }

    /// Reads and writes what can be; a reason when the stream is over.
    fn ready(&mut self, ready: Ready) -> io::Result<Option<&'static str>> {
        if ready.is_writable() {
            self.flush()?;
        }
        if ready.is_readable() {
            for _ in 0..READS {
                match self.socket.try_read(self.incoming.room()) {
                    Ok(0) => return Ok(Some("the other side closed it")),
                    Ok(count) => self.incoming.filled(count),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
                if let Some(reason) = self.deliver()? {
                    return Ok(Some(reason));
                }
            }
        }
        Ok(None)
    }

    /// Hands on every whole packet.
    fn deliver(&mut self) -> io::Result<Option<&'static str>> {
        self.train.clear();
        while let Some(packet) = self.incoming.next().map_err(io::Error::other)? {
            if is_stun(packet) {
                if let Some(count) = &mut self.stranger {
                    *count += 1;
                    if *count > STRANGER_MESSAGES {
                        return Ok(Some("too many checks that do not verify"));
                    }
                } else if self.window.takes_another() {
                    self.deadline = Instant::now() + IDLE;
                } else {
                    continue;
                }
                // Lost when the core has more to do than it can; checks are repeated.
                let _ = self.events.try_send(Event::Packet {
                    stream: self.name,
                    payload: packet.to_vec(),
                });
            } else if self.stranger.is_some() {
                return Ok(Some("its first packet is no check"));
            } else if self.end.is_some() {
                self.train.push(&[packet]);
            } else if self.early.len() < EARLY && packet.len() <= LONGEST_STUN {
                self.early.push(packet.to_vec());
            }
        }
        self.to_wireguard();
        Ok(None)
    }

    fn to_wireguard(&self) {
        if let Some(end) = &self.end
            && !self.train.is_empty()
            && let Err(error) = end.deliver(&self.train)
        {
            debug!(%error, "cannot deliver to WireGuard");
        }
    }

    /// Takes what WireGuard sent. What the stream has no room for is lost: WireGuard's packets would rather be lost than late.
    fn collect(&mut self) -> io::Result<()> {
        let Some(end) = &self.end else {
            return Ok(());
        };
        let (socket, outgoing, dropped) = (&self.socket, &mut self.outgoing, &mut self.dropped);
        let mut outcome = Ok(());
        let received = BATCH.with(|batch| {
            end.receive(batch, |packet| {
                if outgoing.is_full() && outcome.is_ok() {
                    outcome = write(socket, outgoing);
                }
                if !outgoing.push(packet) {
                    *dropped += 1;
                }
            })
        });
        outcome?;
        match received {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                debug!(%error, "cannot receive from WireGuard");
            }
            _ => {}
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        write(&self.socket, &mut self.outgoing)
    }
}

/// Writes what waits, as far as the stream takes it now.
fn write(socket: &TcpStream, outgoing: &mut Outgoing) -> io::Result<()> {
    while !outgoing.waiting().is_empty() {
        match socket.try_write(outgoing.waiting()) {
            Ok(count) => outgoing.taken(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn sent(end: Option<&End>) -> io::Result<()> {
    match end {
        Some(end) => end.readable().await,
        None => std::future::pending().await,
    }
}
