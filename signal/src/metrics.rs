//! How the server fares, for Prometheus: figures without names of mailboxes, and without addresses of clients.
//!
//! Counts what is told to it; what can be looked up is looked up when somebody asks.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::limit::Slots;
use crate::store::Store;

type Labels<const N: usize> = [(&'static str, String); N];

/// What a server counts. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    requests: Family<Labels<3>, Counter>,
    latency: Family<Labels<1>, Histogram, fn() -> Histogram>,
    refused: Family<Labels<1>, Counter>,
    messages: Family<Labels<1>, Counter>,
    /// Of `messages`, which are counted one by one: looked up once.
    written: Counter,
    got: Counter,
    websockets: Gauge,
    allocations: Gauge,
    relayed: Family<Labels<1>, Counter>,
}

/// An open WebSocket, as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenWebSocket(Metrics);

/// Which way a message or a packet goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Direction {
    /// From a client; of relayed packets, to a peer.
    In,
    /// To a client.
    Out,
}

/// The code of the error that a response tells of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Code(pub(crate) &'static str);

/// From an answer out of memory to one that waited for another server.
const BUCKETS: [f64; 10] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0,
];

/// Codes of errors that are limits.
const LIMITS: [&str; 8] = [
    "rate-limited",
    "too-many-mailboxes",
    "too-many-subscriptions",
    "too-many-subscribers",
    "full",
    "too-large",
    "connections",
    "too-many-connections",
];

impl Metrics {
    /// Has counted nothing yet.
    pub(crate) fn new() -> Self {
        let messages = Family::<Labels<1>, Counter>::default();
        let metrics = Self(Arc::new(Counts {
            written: messages.get_or_create_owned(&Direction::In.label()),
            got: messages.get_or_create_owned(&Direction::Out.label()),
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            refused: Family::default(),
            messages,
            websockets: Gauge::default(),
            allocations: Gauge::default(),
            relayed: Family::default(),
        }));
        for limit in LIMITS {
            drop(metrics.0.refused.get_or_create(&[("limit", limit.into())]));
        }
        for direction in [Direction::In, Direction::Out] {
            drop(metrics.relaying(direction));
        }
        metrics
    }

    /// Counts what a limit refused; other errors are no limits.
    pub(crate) fn refused(&self, code: &'static str) {
        if LIMITS.contains(&code) {
            self.0
                .refused
                .get_or_create(&[("limit", code.into())])
                .inc();
        }
    }

    /// Counts messages that a client wrote, or got.
    pub(crate) fn messages(&self, direction: Direction, count: usize) {
        let counter = match direction {
            Direction::In => &self.0.written,
            Direction::Out => &self.0.got,
        };
        counter.inc_by(count as u64);
    }

    /// Counts a WebSocket until the answer is dropped.
    pub(crate) fn websocket(&self) -> OpenWebSocket {
        self.0.websockets.inc();
        OpenWebSocket(self.clone())
    }

    /// Notes how many TURN allocations there are.
    pub(crate) fn allocations(&self, count: usize) {
        self.0.allocations.set(count as i64);
    }

    /// What counts the bytes that the TURN server relays: looked up once, not for each packet.
    pub(crate) fn relaying(&self, direction: Direction) -> Counter {
        self.0.relayed.get_or_create_owned(&direction.label())
    }

    /// The text for Prometheus.
    fn render(&self, store: &Store, slots: &Slots) -> String {
        let mut registry = Registry::with_prefix("wice_signal");
        let out = &mut registry;
        let version = Family::<[(&str, &str); 1], Gauge>::default();
        version
            .get_or_create(&[("version", env!("WICE_VERSION"))])
            .set(1);
        out.register("build_info", "Version of the server; always 1", version);
        let held = store.figures();
        let mut gauge = |name, help, value| {
            let gauge = Gauge::<i64>::default();
            gauge.set(value);
            out.register(name, help, gauge);
        };
        gauge(
            "connections",
            "Open TCP connections of clients, TURN among them",
            slots.held() as i64,
        );
        gauge(
            "mailboxes",
            "Mailboxes that hold a message",
            held.mailboxes as i64,
        );
        gauge(
            "subscriptions",
            "Mailboxes waited for, by all clients",
            held.subscriptions as i64,
        );
        gauge(
            "stored_bytes",
            "Bytes of the messages that are kept",
            held.bytes as i64,
        );
        let help = "Whether mailboxes can be read and written";
        gauge("store_ready", help, i64::from(store.unready().is_none()));
        let counts = &self.0;
        out.register("websockets", "Open WebSockets", counts.websockets.clone());
        out.register(
            "requests",
            "HTTP requests by route, method and status",
            counts.requests.clone(),
        );
        out.register(
            "request_duration_seconds",
            "Time to the answer, long polls with their wait",
            counts.latency.clone(),
        );
        let help = "Messages that clients wrote (in) and got (out)";
        out.register("messages", help, counts.messages.clone());
        let help = "Connections, requests and operations that a limit refused";
        out.register("refused", help, counts.refused.clone());
        out.register(
            "turn_allocations",
            "TURN allocations; up to a second old",
            counts.allocations.clone(),
        );
        let help = "Bytes relayed to peers (in) and to clients (out), without what TURN adds";
        out.register("turn_bytes", help, counts.relayed.clone());
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("a String takes everything");
        text
    }
}

impl Direction {
    fn label(self) -> Labels<1> {
        let word = match self {
            Self::In => "in",
            Self::Out => "out",
        };
        [("direction", word.to_owned())]
    }
}

impl Drop for OpenWebSocket {
    fn drop(&mut self) {
        self.0.0.websockets.dec();
    }
}

/// Counts a request and what became of it.
pub(crate) async fn observe(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let path = request.extensions().get::<MatchedPath>();
    // Names of mailboxes are in paths: only the pattern is a label.
    let route = path.map_or("other", MatchedPath::as_str).to_owned();
    let method = method(request.method());
    let response = next.run(request).await;
    let counts = &metrics.0;
    let status = response.status().as_u16().to_string();
    let labels = [
        ("route", route.clone()),
        ("method", method.to_owned()),
        ("status", status),
    ];
    counts.requests.get_or_create(&labels).inc();
    let latency = counts.latency.get_or_create(&[("route", route)]);
    latency.observe(begun.elapsed().as_secs_f64());
    if let Some(Code(code)) = response.extensions().get() {
        metrics.refused(code);
    }
    response
}

/// Methods are the client's words: few of them are labels.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// What the separate listener serves.
pub(crate) fn router(metrics: Metrics, store: Arc<Store>, slots: Slots) -> Router {
    let text = move || {
        let text = metrics.render(&store, &slots);
        async move { ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text) }
    };
    let unknown = || async { (StatusCode::NOT_FOUND, "metrics are at /metrics\n").into_response() };
    Router::new().route("/metrics", get(text)).fallback(unknown)
}

/// Connections that read metrics, at the same time.
pub(crate) const READERS: usize = 16;
