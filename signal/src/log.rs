//! Logs: to the journal under systemd, else to standard error.

use std::env;
use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// What ends the server.
    Error,
    /// What an operator should look at.
    Warn,
    /// Start, stop and reload.
    Info,
    /// More about the server's own work.
    Debug,
    /// Every connection and STUN request.
    Trace,
}

/// Starts logging.
pub(crate) fn start(level: LogLevel) -> io::Result<()> {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // Other crates trace whole requests, with mailboxes and tokens in them: never let them through.
    let filter = EnvFilter::new(format!("error,wice_signal={level}"));
    let registry = tracing_subscriber::registry().with(filter);
    if env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry
            .with(journal)
            .try_init()
            .map_err(io::Error::other)?;
        return Ok(());
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    registry.with(lines).try_init().map_err(io::Error::other)
}
