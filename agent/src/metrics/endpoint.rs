//! The HTTP endpoint that Prometheus reads: one resource, few connections, each for one request and a short time.
//!
//! Knows nothing of what it serves.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::prometheus_text;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

/// A listening endpoint; stops, with all its connections, when it is dropped.
#[derive(Debug)]
pub(super) struct Endpoint {
    address: SocketAddr,
    task: AbortHandle,
}

/// Connections at a time; more wait in the kernel's queue.
pub(super) const CONNECTIONS: usize = 8;
/// A request whose header takes longer is none.
const HEADER: Duration = Duration::from_secs(5);
/// All that a connection may take: Prometheus' own scrape timeout by default.
const CONNECTION: Duration = Duration::from_secs(10);
/// After an error of accept(2), which is one of too many files mostly.
const PAUSE: Duration = Duration::from_secs(1);

impl Endpoint {
    /// Binds the address and serves there; each request asks `scrapes` for the text.
    pub(super) fn open(
        address: SocketAddr,
        scrapes: mpsc::Sender<oneshot::Sender<String>>,
    ) -> io::Result<Self> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM.nonblocking(),
            None,
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(16)?;
        let listener = TcpListener::from_std(socket.into())?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, scrapes)).abort_handle();
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, scrapes: mpsc::Sender<oneshot::Sender<String>>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // Aborts them all when this future is dropped.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let scrapes = scrapes.clone();
                connections.spawn(async move {
                    if tokio::time::timeout(CONNECTION, serve(stream, scrapes))
                        .await
                        .is_err()
                    {
                        debug!("a reader of metrics was too slow");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                debug!("cannot accept a reader of metrics: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, scrapes: mpsc::Sender<oneshot::Sender<String>>) {
    let service = service_fn(|request| respond(request, &scrapes));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!("a reader of metrics failed: {error}");
    }
}

async fn respond(
    request: Request<Incoming>,
    scrapes: &mpsc::Sender<oneshot::Sender<String>>,
) -> Result<Response<String>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"));
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "metrics can only be read\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return Ok(response);
    }
    let (reply, answer) = oneshot::channel();
    if scrapes.send(reply).await.is_ok()
        && let Ok(text) = answer.await
    {
        let mut response = Response::new(text);
        let kind = HeaderValue::from_static(prometheus_text::CONTENT_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return Ok(response);
    }
    Ok(plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "the agent is leaving\n",
    ))
}

fn plain(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
