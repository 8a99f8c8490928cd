//! The figures in Prometheus' text format. docs/metrics.md says what each means, and a test holds the two together.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;

use prometheus_client::encoding::{EncodeLabelSet, prometheus_text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Figures;

/// How long connections took, in seconds.
pub(super) type ConnectTimes = Histogram;

/// From one that is there at once to one that had to wait for the last pair.
const BUCKETS: [f64; 11] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// An empty histogram.
pub(super) fn connect_times() -> ConnectTimes {
    Histogram::new(BUCKETS)
}

/// Writes everything.
pub(super) fn render(figures: &Figures, connect_times: ConnectTimes) -> String {
    let mut registry = Registry::with_prefix("wice");
    let out = &mut registry;
    let version = [("version", env!("WICE_VERSION"))];
    gauge(
        out,
        "build_info",
        "Version of the agent; always 1",
        [(version, 1)],
    );
    let interfaces = [false, true].map(|managed| {
        let count = figures.interfaces.get(&managed).copied();
        (
            [("managed", managed.to_string())],
            count.unwrap_or_default(),
        )
    });
    let help = "WireGuard interfaces, by whether the agent manages them";
    gauge(out, "interfaces", help, interfaces);
    let help = "Peers by what their session is doing";
    gauge(out, "peers", help, one("state", &figures.peers));
    let paths = figures.paths.iter().map(|((path, network), count)| {
        let labels = [("path", *path), ("network", *network)];
        (labels, *count)
    });
    let help = "Peers by how packets travel: direct, by a relay, or not by a path of the agent's";
    gauge(out, "paths", help, paths);
    let help = "Time from the beginning of a session's checks until a pair carries packets";
    out.register("connect_duration_seconds", help, connect_times);
    let help = "Sessions that were started anew, by reason";
    counter(
        out,
        "session_restarts",
        help,
        one("reason", &figures.restarts),
    );
    let help = "Input that was dropped and changed nothing, by reason";
    counter(out, "input_dropped", help, one("reason", &figures.dropped));
    backends(out, figures);
    let help = "TURN servers by how they fare";
    gauge(out, "relays", help, one("state", &figures.relays));
    let bytes = [
        ("sent", figures.relay_sent),
        ("received", figures.relay_received),
    ];
    let help = "Bytes of WireGuard's packets that went by relays, without what TURN adds";
    let bytes = bytes.map(|(direction, bytes)| ([("direction", direction)], bytes));
    counter(out, "relay_bytes", help, bytes);
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).expect("a String takes everything");
    text
}

fn backends(out: &mut Registry, figures: &Figures) {
    let backends = &figures.backends;
    let label = |url: &str| ("backend", url.to_owned());
    let up = backends
        .iter()
        .map(|backend| ([label(&backend.url)], u64::from(backend.up)));
    let help = "Whether the signalling backend answers";
    gauge(out, "signaling_up", help, up);
    let failures = backends
        .iter()
        .map(|backend| ([label(&backend.url)], backend.failures));
    let help = "Attempts to reach the backend, and connections to it, that ended with an error";
    counter(out, "signaling_failures", help, failures);
    let messages = backends.iter().flat_map(|backend| {
        let messages = backend.messages.iter();
        messages.map(|(result, count)| {
            let labels = [label(&backend.url), ("result", (*result).to_owned())];
            (labels, *count)
        })
    });
    let help = "Signalling messages by what became of them";
    counter(out, "signaling_messages", help, messages);
}

fn one<'a>(
    label: &'static str,
    counts: &'a BTreeMap<&'static str, u64>,
) -> impl Iterator<Item = ([(&'static str, &'static str); 1], u64)> + 'a {
    counts
        .iter()
        .map(move |(value, count)| ([(label, *value)], *count))
}

fn gauge<L>(out: &mut Registry, name: &str, help: &str, rows: impl IntoIterator<Item = (L, u64)>)
where
    L: EncodeLabelSet + Clone + Hash + Eq + Debug + Send + Sync + 'static,
{
    let family = Family::<L, Gauge>::default();
    for (labels, value) in rows {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        family.get_or_create(&labels).inc_by(value);
    }
    out.register(name, help, family);
}

/// The encoder adds `_total` to the name.
fn counter<L>(out: &mut Registry, name: &str, help: &str, rows: impl IntoIterator<Item = (L, u64)>)
where
    L: EncodeLabelSet + Clone + Hash + Eq + Debug + Send + Sync + 'static,
{
    let family = Family::<L, Counter>::default();
    for (labels, value) in rows {
        family.get_or_create(&labels).inc_by(value);
    }
    out.register(name, help, family);
}
