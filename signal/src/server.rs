//! The whole server: binds its sockets, runs until told to stop, and ends its tasks.

use std::future::Future;
use std::io;
use std::net::{self, IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::api::{App, TurnUrls, router};
use crate::connection::{Door, accept};
use crate::limit::{Rate, Slots};
use crate::metrics::{self, Metrics, READERS};
use crate::options::Options;
use crate::proxy::Proxies;
use crate::stop::Stopper;
use crate::store::{NatsError, Store};
use crate::stun::StunSocket;
use crate::tls::{Tls, TlsError};
use crate::turn::{Turn, Unbound};

/// How often what expired is dropped: much less than any expiry, and one sorted set to look at.
const SWEEP: Duration = Duration::from_secs(1);

/// Connections that may wait to be accepted: after a restart all clients come at once, and a connection that finds no room is
/// tried again only after a second. The system's own bound (net.core.somaxconn) may be lower.
const BACKLOG: i32 = 4_096;

/// A server that has its sockets and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<(TcpListener, SocketAddr)>,
    stun: Vec<StunSocket>,
    turn: Option<Turn>,
    tls: Option<Tls>,
    store: Arc<Store>,
    metrics: Option<(TcpListener, SocketAddr)>,
    options: Options,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no address to serve on.
    #[error("nothing to serve: name at least one address to listen on, or one for STUN or TURN")]
    Nothing,
    /// An HTTP address cannot be bound.
    #[error("cannot listen on {address} (TCP): {source}; is another server running there?")]
    Listen {
        /// What was tried.
        address: SocketAddr,
        /// What came back.
        source: io::Error,
    },
    /// A socket that was handed over cannot be served.
    #[error("cannot serve a socket that was handed over: {0}")]
    Inherited(#[source] io::Error),
    /// A STUN address cannot be bound.
    #[error("cannot answer STUN on {address} (UDP): {source}; is another server running there?")]
    Stun {
        /// What was tried.
        address: SocketAddr,
        /// What came back.
        source: io::Error,
    },
    /// A TURN address cannot be bound.
    #[error(
        "cannot serve TURN on {address} ({transport}): {source}; is another server running there?"
    )]
    Turn {
        /// What was tried.
        address: SocketAddr,
        /// Over what.
        transport: &'static str,
        /// What came back.
        source: io::Error,
    },
    /// TURN over TLS without a certificate.
    #[error("TURN over TLS needs a certificate and its key")]
    TurnWithoutCertificate,
    /// The thread of the TURN server cannot be started.
    #[error("cannot start the TURN server: {0}")]
    TurnThread(#[source] io::Error),
    /// The shared store cannot be set up.
    #[error(transparent)]
    Store(#[from] NatsError),
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<Unbound> for ServerError {
    fn from(unbound: Unbound) -> Self {
        let Unbound {
            address,
            transport,
            source,
        } = unbound;
        Self::Turn {
            address,
            transport,
            source,
        }
    }
}

impl Server {
    /// Binds all sockets and reads certificate and key.
    pub async fn bind(options: Options) -> Result<Self, ServerError> {
        Self::bind_beside(Vec::new(), options).await
    }

    /// The same, and serves HTTP on these sockets that somebody else has bound, before those of the options.
    pub async fn bind_beside(
        bound: Vec<net::TcpListener>,
        options: Options,
    ) -> Result<Self, ServerError> {
        let nothing = bound.is_empty() && options.listen.is_empty();
        if nothing && options.stun.is_empty() && options.turn.is_none() {
            return Err(ServerError::Nothing);
        }
        let needs_tls = options
            .turn
            .as_ref()
            .is_some_and(|turn| !turn.tls.is_empty());
        if needs_tls && options.tls.is_none() {
            return Err(ServerError::TurnWithoutCertificate);
        }
        let tls = options.tls.clone().map(Tls::load).transpose()?;
        let mut listeners = Vec::new();
        for listener in bound {
            let adopted = listener.set_nonblocking(true).and_then(|()| {
                let address = listener.local_addr()?;
                Ok((TcpListener::from_std(listener)?, address))
            });
            listeners.push(adopted.map_err(ServerError::Inherited)?);
        }
        for &address in &options.listen {
            let failed = |source| ServerError::Listen { address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            SockRef::from(&listener).listen(BACKLOG).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            listeners.push((listener, bound));
        }
        let metrics = match options.metrics {
            None => None,
            Some(address) => {
                let failed = |source| ServerError::Listen { address, source };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                Some((listener, bound))
            }
        };
        let mut stun = Vec::new();
        for &address in &options.stun {
            let failed = |source| ServerError::Stun { address, source };
            stun.push(StunSocket::bind(address).await.map_err(failed)?);
        }
        let turn = options.turn.clone().map(Turn::bind).transpose()?;
        let store = match &options.store {
            None => Store::memory(options.limits.clone()),
            Some(nats) => Store::shared(nats, options.limits.clone()).await?,
        };
        Ok(Self {
            listeners,
            stun,
            turn,
            tls,
            store: Arc::new(store),
            metrics,
            options,
        })
    }

    /// Where HTTP is served, with the real ports, in the order of the options.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, address)| *address).collect()
    }

    /// Where STUN is answered, with the real ports, in the order of the options.
    pub fn stun_addrs(&self) -> Vec<SocketAddr> {
        self.stun.iter().map(StunSocket::address).collect()
    }

    /// Where TURN is served over UDP and TCP, with the real ports, in the order of the options.
    pub fn turn_addrs(&self) -> Vec<SocketAddr> {
        self.turn.as_ref().map(Turn::addresses).unwrap_or_default()
    }

    /// Where TURN is served over TLS, with the real ports, in the order of the options.
    pub fn turn_tls_addrs(&self) -> Vec<SocketAddr> {
        self.turn
            .as_ref()
            .map(Turn::tls_addresses)
            .unwrap_or_default()
    }

    /// The addresses that relayed packets come from, as others see them.
    pub fn relay_addrs(&self) -> Vec<IpAddr> {
        self.turn
            .as_ref()
            .map(Turn::relay_addresses)
            .unwrap_or_default()
    }

    /// Where metrics are served, with the real port.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|(_, address)| *address)
    }

    /// A handle that replaces the certificate while the server runs; `None` without TLS.
    pub fn tls(&self) -> Option<Tls> {
        self.tls.clone()
    }

    /// Serves until `shutdown` completes, then ends within the time to drain: long polls are answered, WebSockets closed.
    /// When the returned future is dropped, all connections end at once.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self {
            listeners,
            stun,
            turn,
            tls,
            store,
            metrics: metrics_listener,
            options,
        } = self;
        let limits = options.limits.clone();
        // With a shared store there are other servers, which should not be stormed; the second half is for the slow.
        let goodbyes = match options.store {
            Some(_) => limits.drain / 2,
            None => Duration::ZERO,
        };
        let stopper = Stopper::new(limits.drain, goodbyes);
        let now = Instant::now();
        let rate = Arc::new(Rate::new(limits.requests_per_minute, now));
        let token_rate = Arc::new(Rate::new(limits.requests_per_minute_per_token, now));
        let stun_rate = Arc::new(Rate::new(limits.stun_per_minute, now));
        let slots = Slots::new(limits.connections, limits.connections_per_address);

        let proxies = Proxies::new(options.trusted_proxies);
        let metrics = Metrics::new();
        let router = router(Arc::new(App {
            proxies: proxies.clone(),
            behind_proxies: Slots::new(limits.connections, limits.connections_per_address),
            store: Arc::clone(&store),
            rate: Arc::clone(&rate),
            tokens: options.tokens,
            token_rate: Arc::clone(&token_rate),
            with_token: Slots::new(usize::MAX, limits.connections_per_token),
            stun: stun.iter().map(StunSocket::address).collect(),
            turn: turn.as_ref().map(|turn| TurnUrls {
                plain: turn.addresses(),
                tls: turn.tls_addresses(),
                issuer: turn.issuer(),
            }),
            metrics: metrics.clone(),
            limits,
        }));
        let relaying = turn
            .map(|turn| {
                turn.start(
                    tls.clone(),
                    Arc::clone(&stun_rate),
                    slots.clone(),
                    metrics.clone(),
                )
            })
            .transpose()
            .map_err(ServerError::TurnThread)?;
        // A set aborts its tasks when it is dropped.
        let mut tasks = JoinSet::new();
        for socket in stun {
            tasks.spawn(socket.answer(Arc::clone(&stun_rate)));
        }
        for (listener, _) in listeners {
            let door = Door {
                router: router.clone(),
                tls: tls.clone(),
                slots: slots.clone(),
                proxies: proxies.clone(),
                metrics: metrics.clone(),
            };
            tasks.spawn(accept(listener, door, stopper.stop()));
        }
        if let Some((listener, _)) = metrics_listener {
            let door = Door {
                router: metrics::router(metrics.clone(), Arc::clone(&store), slots.clone()),
                tls: None,
                slots: Slots::new(READERS, READERS),
                proxies: Proxies::default(),
                metrics: Metrics::new(),
            };
            tasks.spawn(accept(listener, door, stopper.stop()));
        }
        tasks.spawn(async move {
            let mut ticks = interval(SWEEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let now = ticks.tick().await.into_std();
                store.sweep(now);
                rate.sweep(now);
                token_rate.sweep(now);
                stun_rate.sweep(now);
            }
        });

        shutdown.await;
        info!("stopping: closing all connections");
        if !stopper.finish().await {
            warn!("some clients did not finish in time and were cut off");
        }
        if let Some(relaying) = relaying {
            relaying.stop().await;
        }
        tasks.shutdown().await;
        Ok(())
    }
}
