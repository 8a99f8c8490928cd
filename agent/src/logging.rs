//! Logs to standard error: for the journal where it reads that, else for a terminal or a file.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::Level;

/// Crates that never log: on a damaged datagram netlink-proto prints its bytes, which may hold private keys, and the
/// checks print passwords when traced; stun-types warns of every malformed packet that anybody sends;
/// kube_client prints answers that it cannot read, and a Secret is one.
const SILENT: [&str; 11] = [
    "netlink_proto",
    "netlink_packet_core",
    "netlink_packet_generic",
    "netlink_packet_route",
    "netlink_packet_wireguard",
    "genetlink",
    "rtnetlink",
    "is",
    "kube_client",
    "stun_types",
    "turn_types",
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
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let plain = Format::default().with_target(false);
    if is_journal(std::io::stderr()) {
        let lines = JournalLines(plain.without_time().with_level(false));
        registry
            .with(layer.with_ansi(false).event_format(lines))
            .init();
    } else {
        let colours = std::io::stderr().is_terminal();
        registry
            .with(layer.with_ansi(colours).event_format(plain))
            .init();
    }
}

/// An error with everything that caused it, each said once.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// Whether the journal reads this stream; the variable alone is inherited by many who write elsewhere (systemd.exec(5)).
fn is_journal(stream: impl AsFd) -> bool {
    let Some(journal) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    fstat(stream).is_ok_and(|stream| {
        journal.to_str() == Some(&format!("{}:{}", stream.st_dev, stream.st_ino))
    })
}

/// One line with its level in front, as the journal understands it (sd-daemon(3)). Unlike the journal's own protocol it
/// keeps interface and peer in the text that people read.
struct JournalLines(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for JournalLines
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            tracing::Level::ERROR => 3,
            tracing::Level::WARN => 4,
            tracing::Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
