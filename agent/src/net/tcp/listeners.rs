//! The addresses at which connections are taken: reserved while they are offered, open only while somebody may need them.
//!
//! Knows addresses and sockets; what comes of a connection is not its business.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tracing::{debug, info};
use wice_core::tcp::{Stream, TcpInput};

use super::socket;

/// The listeners of every interface, by its index.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    interfaces: BTreeMap<u32, Interface>,
    /// When something that was refused is tried again.
    retry: Option<Instant>,
    /// Until when nothing is accepted.
    pause: Option<Instant>,
}

#[derive(Debug)]
struct Interface {
    addresses: BTreeSet<SocketAddr>,
    open: bool,
    fwmark: u32,
    doors: BTreeMap<SocketAddr, Door>,
    /// What could not be bound, as it was told.
    refused: BTreeSet<SocketAddr>,
}

/// An address that is ours.
#[derive(Debug)]
enum Door {
    /// Bound, and nothing else.
    Closed(Socket),
    /// Takes connections.
    Open(TcpListener),
}

/// A connection that was taken.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) socket: TcpStream,
    pub(super) name: Stream,
    pub(super) fwmark: u32,
}

/// An address that is taken, or not usable yet (an IPv6 address that is still being checked), is tried again after this.
const RETRY: Duration = Duration::from_secs(10);
/// Pause after an error that is not about one connection: no descriptors, no memory.
const AFTER_ERROR: Duration = Duration::from_millis(500);

impl Listeners {
    /// Makes the addresses of an interface exactly these; answers which of them could be had.
    pub(super) fn set(
        &mut self,
        index: u32,
        addresses: BTreeSet<SocketAddr>,
        open: bool,
        fwmark: u32,
    ) -> TcpInput {
        if addresses.is_empty() {
            self.interfaces.remove(&index);
            return TcpInput::Reserved {
                interface: index,
                addresses,
            };
        }
        let interface = self.interfaces.entry(index).or_insert_with(|| Interface {
            addresses: BTreeSet::new(),
            open,
            fwmark,
            doors: BTreeMap::new(),
            refused: BTreeSet::new(),
        });
        let same_mark = interface.fwmark == fwmark;
        (interface.doors).retain(|address, _| same_mark && addresses.contains(address));
        (interface.refused).retain(|address| addresses.contains(address));
        interface.addresses = addresses;
        interface.open = open;
        interface.fwmark = fwmark;
        interface.converge();
        let reserved = interface.reserved(index);
        self.schedule();
        reserved
    }

    /// When [`Listeners::retry`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry.into_iter().chain(self.pause).min()
    }

    /// Tries again what was refused, and accepts again; tells of interfaces that have other addresses now.
    pub(super) fn retry(&mut self) -> Vec<TcpInput> {
        let now = Instant::now();
        self.pause = self.pause.filter(|at| *at > now);
        if self.retry.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut news = Vec::new();
        for (index, interface) in &mut self.interfaces {
            let before = interface.doors.len();
            interface.converge();
            if interface.doors.len() != before {
                news.push(interface.reserved(*index));
            }
        }
        self.schedule();
        news
    }

    /// Waits for a connection; `None` when there is a pause from now on. None is lost when the future is dropped.
    pub(super) async fn accept(&mut self) -> Option<Accepted> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Accepted>> {
        if self.pause.is_some() {
            return Poll::Pending;
        }
        for interface in self.interfaces.values() {
            for (address, door) in &interface.doors {
                let Door::Open(listener) = door else {
                    continue;
                };
                match listener.poll_accept(cx) {
                    Poll::Ready(Ok((socket, remote))) => {
                        return Poll::Ready(Some(Accepted {
                            socket,
                            name: Stream {
                                local: *address,
                                remote,
                            },
                            fwmark: interface.fwmark,
                        }));
                    }
                    Poll::Ready(Err(error)) => {
                        debug!(%error, %address, "cannot take a connection");
                        self.pause = Some(Instant::now() + AFTER_ERROR);
                        return Poll::Ready(None);
                    }
                    Poll::Pending => {}
                }
            }
        }
        Poll::Pending
    }

    fn schedule(&mut self) {
        let refused = (self.interfaces.values()).any(|it| !it.refused.is_empty());
        self.retry = refused.then(|| Instant::now() + RETRY);
    }
}

impl Interface {
    /// Opens, closes and reserves until everything is as it shall be, as far as the kernel allows.
    fn converge(&mut self) {
        for address in &self.addresses {
            let present = self.doors.remove(address);
            let door = match (present, self.open) {
                (Some(door @ Door::Closed(_)), false) | (Some(door @ Door::Open(_)), true) => {
                    Ok(door)
                }
                (Some(Door::Closed(socket)), true) => open(socket),
                // The kernel has no way back from listening: the address is given up for a moment.
                (Some(door @ Door::Open(_)), false) => {
                    drop(door);
                    reserve(*address, self.fwmark)
                }
                (None, false) => reserve(*address, self.fwmark),
                (None, true) => socket::reserve(*address, self.fwmark).and_then(open),
            };
            match door {
                Ok(door) => {
                    self.doors.insert(*address, door);
                    self.refused.remove(address);
                }
                // Told once: another program may have this port for as long as it likes.
                Err(error) => {
                    if self.refused.insert(*address) {
                        info!("no TCP candidate at {address}: cannot listen there ({error})");
                    }
                }
            }
        }
    }

    fn reserved(&self, interface: u32) -> TcpInput {
        TcpInput::Reserved {
            interface,
            addresses: self.doors.keys().copied().collect(),
        }
    }
}

fn reserve(address: SocketAddr, fwmark: u32) -> io::Result<Door> {
    socket::reserve(address, fwmark).map(Door::Closed)
}

fn open(socket: Socket) -> io::Result<Door> {
    socket::listen(socket).map(Door::Open)
}
