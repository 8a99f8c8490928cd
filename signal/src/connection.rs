//! TCP connections: accepted within limits, with TLS where it is on, and given to HTTP.
//!
//! Every wait for a client has an end here, so that silent connections cannot pile up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::{trace, warn};

use crate::limit::{Slot, Slots, Source};
use crate::metrics::Metrics;
use crate::proxy::Proxies;
use crate::stop::Stop;
use crate::tls::Tls;
use crate::token::TokenId;

/// From the connection to its first request, and for a TLS handshake within.
const FIRST_REQUEST: Duration = Duration::from_secs(20);

/// From one request to the next, and for the headers of one. Longer than the 90 s for which common clients keep an
/// idle connection, so that it is them who close it and no request crosses a close.
const NEXT_REQUEST: Duration = Duration::from_secs(120);

/// HTTP/2 pings: a client that vanished is noticed within two of these.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// Requests of one HTTP/2 connection at the same time: an agent's polls and its publications.
const HTTP2_STREAMS: u32 = 256;

/// Bytes of headers: names, a token, and room for proxies.
const HEADERS: usize = 16 * 1024;

/// What an accepted connection leads to.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) router: Router,
    pub(crate) tls: Option<Tls>,
    pub(crate) slots: Slots,
    pub(crate) proxies: Proxies,
    pub(crate) metrics: Metrics,
}

/// Whose request it is; an extension of every request.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Whom it counts for.
    pub(crate) source: Source,
    /// Which token it has shown.
    pub(crate) token: Option<TokenId>,
    /// When to end.
    pub(crate) stop: Stop,
    /// The connection's place among all, which a WebSocket keeps when HTTP is done.
    _slot: Arc<Slot>,
    /// The place of a request among those of its client, where a proxy handed it on.
    _behind: Option<Arc<Slot>>,
    /// The place of a request among those with its token.
    _shown: Option<Arc<Slot<TokenId>>>,
    /// The connection is a proxy's: the request's headers say whose it is.
    pub(crate) by_proxy: bool,
    spoke: Arc<AtomicBool>,
}

impl Client {
    /// The same connection with a request of somebody else's, who has a place too.
    pub(crate) fn behind_proxy(self, source: Source, slot: Slot) -> Self {
        Self {
            source,
            _behind: Some(Arc::new(slot)),
            ..self
        }
    }

    /// The same request, with the token that it has shown and its place among those with it.
    pub(crate) fn with_token(self, token: TokenId, slot: Slot<TokenId>) -> Self {
        Self {
            token: Some(token),
            _shown: Some(Arc::new(slot)),
            ..self
        }
    }

    /// Notes that a whole request head has arrived.
    pub(crate) fn spoke(&self) {
        self.spoke.store(true, Ordering::Relaxed);
    }
}

/// Accepts connections until the server stops.
pub(crate) async fn accept(listener: TcpListener, door: Door, stop: Stop) {
    loop {
        let accepted = tokio::select! {
            () = stop.draining() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !gone_already(&error) {
                    warn!("cannot accept a connection: {error}; trying again");
                    sleep(Duration::from_millis(200)).await;
                }
                continue;
            }
        };
        let source = Source::from(peer.ip());
        let by_proxy = door.proxies.contains(peer.ip());
        let slot = if by_proxy {
            door.slots.take_of_all(source)
        } else {
            door.slots.take(source)
        };
        let slot = match slot {
            Ok(slot) => slot,
            Err(exceeded) => {
                trace!(%peer, ?exceeded, "connection refused: too many");
                door.metrics.refused("connections");
                continue;
            }
        };
        let client = Client {
            source,
            stop: stop.clone(),
            _slot: Arc::new(slot),
            token: None,
            _behind: None,
            _shown: None,
            by_proxy,
            spoke: Arc::default(),
        };
        let door = door.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.over() => {}
                () = connection(stream, door, client) => {}
            }
        });
    }
}

/// Errors of `accept` that are about one client that has left.
fn gone_already(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

async fn connection(stream: TcpStream, door: Door, client: Client) {
    // Fails on a socket that is closed already, which is noticed below.
    let _ = stream.set_nodelay(true);
    match door.tls {
        None => serve(stream, door.router, client).await,
        Some(tls) => match timeout(FIRST_REQUEST, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => serve(stream, door.router, client).await,
            Ok(Err(error)) => trace!("TLS handshake failed: {error}"),
            Err(_) => trace!("TLS handshake took too long"),
        },
    }
}

async fn serve<S>(stream: S, router: Router, client: Client)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_REQUEST)
        .max_buf_size(4 * HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING)
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(HEADERS as u32);
    let stop = client.stop.clone();
    let spoke = Arc::clone(&client.spoke);
    let service = TowerToHyperService::new(router.layer(Extension(client)));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);

    let silent = async {
        sleep(FIRST_REQUEST).await;
        if spoke.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = silent => {
            trace!("closing a connection that asked for nothing");
            return;
        }
        () = stop.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        trace!("connection ended: {error}");
    }
}
