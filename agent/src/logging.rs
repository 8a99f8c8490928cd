//! Logs to the journal where the service manager reads it, else to standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::Level;

/// Crates that never log: on a damaged datagram netlink-proto prints its bytes, which may hold private keys, and the
/// checks print passwords when traced; stun-types warns of every malformed packet that anybody sends.
const SILENT: [&str; 9] = [
    "netlink_proto",
    "netlink_packet_core",
    "netlink_packet_generic",
    "netlink_packet_route",
    "netlink_packet_wireguard",
    "genetlink",
    "rtnetlink",
    "is",
    "stun_types",
];
/// Crates that are of interest only when they warn.
const QUIET: [&str; 8] = [
    "hyper",
    "hyper_util",
    "reqwest",
    "rustls",
    "tungstenite",
    "tokio_tungstenite",
    "zbus",
    "h2",
];

/// Starts to log; call once.
pub(crate) fn start(level: Level) {
    let level = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let targets = Targets::new()
        .with_default(level)
        .with_targets(SILENT.map(|name| (name, LevelFilter::OFF)))
        .with_targets(QUIET.map(|name| (name, level.min(LevelFilter::WARN))));
    let registry = tracing_subscriber::registry().with(targets);
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal).init();
        return;
    }
    let stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    registry.with(stderr).init();
}
