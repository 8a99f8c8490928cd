//! One peer's way through a relay: its loopback end, and the channel behind it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{AbortHandle, spawn_local, yield_now};
use tracing::debug;
use wice_core::relay::Route as Way;

use super::conduit::Room;
use super::link::Link;
use crate::net::batch::Train;
use crate::net::loopback::End;

/// A way that is open. Packets of WireGuard are carried by a task of its own until it is dropped.
#[derive(Debug)]
pub(super) struct Route {
    way: Rc<Carried>,
    task: AbortHandle,
}

/// What the task and the link share.
#[derive(Debug)]
pub(super) struct Carried {
    end: End,
    link: RefCell<Option<Rc<Link>>>,
    remote: Cell<SocketAddr>,
    /// The channel to the peer, once it is bound.
    channel: Cell<Option<u16>>,
    /// Whether a failure to deliver was logged.
    failing: Cell<bool>,
}

/// Pause after an error, so that it cannot spin.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// Batches taken before others get their turn.
const TURN: usize = 4;

impl Route {
    /// Binds the loopback end and begins to carry; nowhere yet.
    pub(super) fn open(port: u16, remote: SocketAddr, room: Rc<Room>) -> io::Result<Self> {
        let way = Rc::new(Carried {
            end: End::open(port)?,
            link: RefCell::new(None),
            remote: Cell::new(remote),
            channel: Cell::new(None),
            failing: Cell::new(false),
        });
        let task = spawn_local(carry(Rc::clone(&way), room)).abort_handle();
        Ok(Self { way, task })
    }

    /// Where WireGuard reaches the peer.
    pub(super) fn address(&self) -> SocketAddr {
        self.way.end.address()
    }

    /// Says whether it leads through this link.
    pub(super) fn uses(&self, link: &Rc<Link>) -> bool {
        let used = self.way.link.borrow();
        used.as_ref().is_some_and(|used| Rc::ptr_eq(used, link))
    }

    /// Takes this way from now on, as the kernel's endpoint.
    pub(super) fn lead(&self, link: &Rc<Link>, way: Way, port: u16) {
        self.leave();
        self.way.end.set_port(port);
        self.way.remote.set(way.remote);
        // No raw socket is opened for the way back to where it was.
        let _ = self.way.end.hand_over(None);
        *self.way.link.borrow_mut() = Some(Rc::clone(link));
        link.carry(way.remote, &self.way);
    }

    /// Delivers late packets in the name of the direct path.
    pub(super) fn hand_over(&self, endpoint: SocketAddr, base: SocketAddr) -> io::Result<()> {
        self.way.end.hand_over(Some((endpoint, base)))
    }

    /// Leads nowhere until it is led again; the loopback end stays.
    pub(super) fn leave(&self) {
        self.way.channel.set(None);
        if let Some(link) = self.way.link.borrow_mut().take() {
            link.leave(self.way.remote.get(), &self.way);
        }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.task.abort();
        self.leave();
    }
}

impl Carried {
    /// Sends in this channel from now on, or in indications.
    pub(super) fn set_channel(&self, number: Option<u16>) {
        self.channel.set(number);
    }

    /// Delivers the peer's packets to WireGuard.
    pub(super) fn deliver(&self, train: &Train) {
        match self.end.deliver(train) {
            Ok(()) => self.failing.set(false),
            // WireGuard's port is closed, or a firewall is in the way: said once.
            Err(error) => {
                if !self.failing.replace(true) {
                    debug!("cannot deliver what a relay brought to WireGuard: {error}");
                }
            }
        }
    }

    /// Takes one batch of what WireGuard sent; answers whether there was any.
    fn forward(&self, room: &Room) -> io::Result<bool> {
        let link = self.link.borrow();
        let Some(link) = link.as_deref() else {
            return self.end.receive(&room.batch, |_| {}).map(|count| count > 0);
        };
        let Some(channel) = self.channel.get() else {
            let remote = self.remote.get();
            let count = (self.end).receive(&room.batch, |packet| link.indicate(remote, packet))?;
            return Ok(count > 0);
        };
        let mut train = link.train();
        let count = (self.end).receive(&room.batch, |packet| {
            link.frame(&mut train, channel, packet)
        })?;
        link.send(&mut train);
        Ok(count > 0)
    }
}

async fn carry(way: Rc<Carried>, room: Rc<Room>) {
    loop {
        if let Err(error) = way.end.readable().await {
            debug!("a loopback socket failed: {error}");
            tokio::time::sleep(AFTER_ERROR).await;
        }
        for _ in 0..TURN {
            match way.forward(&room) {
                Ok(true) => {}
                Ok(false) | Err(_) => break,
            }
        }
        yield_now().await;
    }
}
