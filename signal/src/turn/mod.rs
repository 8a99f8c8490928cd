//! A TURN server (RFC 8656): relays UDP for clients that are reached over UDP, TCP or TLS.
//!
//! Runs on a thread of its own, so that packets never wait for HTTP, nor HTTP for packets. Who may use it is decided by
//! [`credentials`], what may be reached by [`peers`], and how much by the limits of the options.

mod allocation;
mod bucket;
mod credentials;
mod home;
mod nonce;
mod outbox;
mod peers;
mod relay;
mod requests;
mod socket;
mod stream;
mod udp;

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};

pub use credentials::{InvalidSecret, Secret, SecretError};
pub(crate) use credentials::{Issued, Issuer, User};

use crate::limit::{Rate, Slots};
use crate::metrics::Metrics;
use crate::options::TurnOptions;
use crate::tls::Tls;
use home::Homes;
use relay::Relay;
use socket::Socket;
use stream::Hall;

/// How often expired allocations are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Clients whose TCP connection is not accepted yet.
const BACKLOG: i32 = 1_024;

/// The sockets of a TURN server that does not answer yet.
#[derive(Debug)]
pub(crate) struct Turn {
    udp: Vec<(UdpSocket, SocketAddr)>,
    tcp: Vec<TcpListener>,
    tls: Vec<(TcpListener, SocketAddr)>,
    issuer: Issuer,
    nonces: Secret,
    options: TurnOptions,
}

/// Which socket cannot be bound.
#[derive(Debug)]
pub(crate) struct Unbound {
    pub(crate) address: SocketAddr,
    pub(crate) transport: &'static str,
    pub(crate) source: io::Error,
}

impl Turn {
    /// Binds all sockets.
    pub(crate) fn bind(options: TurnOptions) -> Result<Self, Unbound> {
        let mut udp = Vec::new();
        let mut tcp = Vec::new();
        let mut tls = Vec::new();
        for &address in &options.listen {
            let (socket, listener) = both(address)?;
            let failed = |source| Unbound {
                address,
                transport: "UDP",
                source,
            };
            let bound = socket.local_addr().map_err(failed)?;
            tcp.push(listener);
            udp.push((socket, bound));
        }
        for &address in &options.tls {
            let failed = |source| Unbound {
                address,
                transport: "TLS over TCP",
                source,
            };
            let listener = listen(address).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            tls.push((listener, bound));
        }
        let random = || {
            Secret::random().map_err(|source| Unbound {
                address: SocketAddr::new(IpAddr::from([0; 4]), 0),
                transport: "no random bytes",
                source,
            })
        };
        let secret = match &options.secret {
            Some(secret) => secret.clone(),
            None => random()?,
        };
        Ok(Self {
            udp,
            tcp,
            tls,
            issuer: Issuer::new(secret, options.ttl),
            nonces: random()?,
            options,
        })
    }

    /// Where UDP and TCP are served, with the real ports.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().map(|(_, address)| *address).collect()
    }

    /// Where TLS is served, with the real ports.
    pub(crate) fn tls_addresses(&self) -> Vec<SocketAddr> {
        self.tls.iter().map(|(_, address)| *address).collect()
    }

    /// Who hands out the credentials that this server takes.
    pub(crate) fn issuer(&self) -> Issuer {
        self.issuer.clone()
    }

    /// The addresses that relayed packets come from, as others see them.
    pub(crate) fn relay_addresses(&self) -> Vec<IpAddr> {
        self.homes().told().collect()
    }

    fn homes(&self) -> Homes {
        let listen = self.udp.iter().map(|(_, address)| *address);
        let tls = self.tls.iter().map(|(_, address)| *address);
        let listen: Vec<_> = listen.chain(tls).collect();
        Homes::new(&listen, &self.options.external, self.options.ports.clone())
    }

    /// Serves until the returned handle is stopped or dropped.
    pub(crate) fn start(
        self,
        tls: Option<Tls>,
        rate: Arc<Rate>,
        slots: Slots,
        metrics: Metrics,
    ) -> io::Result<Running> {
        let (stop, stopped) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        thread::Builder::new().name("turn".into()).spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            let served = runtime.and_then(|runtime| {
                let local = LocalSet::new();
                let served = runtime
                    .block_on(local.run_until(self.serve(tls, rate, slots, metrics, stopped)));
                // All sockets are closed before the end is told.
                drop(local);
                served
            });
            if let Err(error) = served {
                error!("the TURN server ended: {error}");
            }
            let _ = ended.send(());
        })?;
        Ok(Running {
            _stop: stop,
            ended: end,
        })
    }

    async fn serve(
        self,
        tls: Option<Tls>,
        rate: Arc<Rate>,
        slots: Slots,
        metrics: Metrics,
        stopped: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        let homes = self.homes();
        let relay = Relay::new(
            &self.options,
            self.issuer,
            self.nonces,
            homes,
            rate,
            metrics,
        );
        for (listener, (socket, _)) in self.udp.into_iter().enumerate() {
            let socket = Rc::new(Socket::new(socket)?);
            tokio::task::spawn_local(udp::serve(Rc::clone(&relay), listener, socket));
        }
        let last = Rc::new(Cell::new(0));
        let plain = self.tcp.into_iter().map(|listener| (listener, None));
        let secure = self
            .tls
            .into_iter()
            .map(|(listener, _)| (listener, tls.clone()));
        for (listener, tls) in plain.chain(secure) {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let hall = Hall {
                relay: Rc::clone(&relay),
                slots: slots.clone(),
                tls,
                patience: self.options.limits.patience,
                last: Rc::clone(&last),
            };
            tokio::task::spawn_local(stream::accept(listener, hall));
        }
        let sweeps = async {
            let mut ticks = interval(SWEEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                relay.borrow_mut().sweep();
            }
        };
        tokio::select! {
            // An error means that nobody holds the handle any more.
            _ = stopped => {}
            () = sweeps => {}
        }
        Ok(())
    }
}

/// A TURN server on its thread; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    _stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Running {
    /// Stops it, and waits until all its sockets are closed.
    pub(crate) async fn stop(self) {
        drop(self._stop);
        if self.ended.await.is_err() {
            warn!("the TURN server ended by a fault of its own");
        }
    }
}

/// UDP and TCP on one port, also where the kernel chooses it.
fn both(address: SocketAddr) -> Result<(UdpSocket, TcpListener), Unbound> {
    let mut tries = if address.port() == 0 { 16 } else { 1 };
    loop {
        tries -= 1;
        let failed = |transport| {
            move |source| Unbound {
                address,
                transport,
                source,
            }
        };
        let socket = socket::bind(address, true).map_err(failed("UDP"))?;
        let bound = socket.local_addr().map_err(failed("UDP"))?;
        match listen(bound) {
            Ok(listener) => return Ok((socket, listener)),
            // The port that the kernel chose for UDP is taken for TCP: it chooses another one.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(failed("TCP")(error)),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    // After a restart the port may still be in use by connections that are ending.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
