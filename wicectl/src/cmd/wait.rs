//! `wicectl wait`.

use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use tokio::time::Instant;
use wice_bus::{Peer, State};

use super::deadline;
use crate::failure::Failure;
use crate::print::{escape, words};
use crate::{agent, select};

/// How often to look while nothing is signalled.
const TICK: Duration = Duration::from_secs(1);

/// For whom to wait, for what, and how long.
#[derive(Args)]
pub(crate) struct Options {
    /// Its name, its key, or the beginning of its key.
    peer: String,
    /// Only peers of this interface.
    #[arg(long, short, value_name = "NAME")]
    interface: Option<String>,
    /// Waits for a direct path: a relay is not enough.
    #[arg(long)]
    direct: bool,
    /// Gives up after this time with exit status 3; without it, never.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
}

/// Returns as soon as the peer is connected as wanted, at once if it is.
pub(crate) async fn run(options: &Options) -> Result<(), Failure> {
    let limit = options
        .timeout
        .map(|seconds| deadline::after("--timeout", seconds))
        .transpose()?;
    let connection = agent::connect().await?;
    let mut signals = agent::signals(&connection).await?;
    let snapshot = agent::read(&connection).await?;
    let found = select::peer(&snapshot, options.interface.as_deref(), &options.peer)?;
    let label = found.label();
    let mut peer = found.peer.clone();
    loop {
        if options.is_satisfied(&peer) {
            return Ok(());
        }
        let now = Instant::now();
        if limit.is_some_and(|limit| now >= limit) {
            return Err(Failure::Timeout(options.timed_out(&label, &peer)));
        }
        let tick = now + TICK;
        let next = limit.map_or(tick, |limit| limit.min(tick));
        if let Ok(None) = tokio::time::timeout_at(next, signals.next()).await {
            return Err(Failure::NotRunning);
        }
        peer = agent::peer(&connection, &peer.path).await?;
    }
}

impl Options {
    fn is_satisfied(&self, peer: &Peer) -> bool {
        peer.state == State::Connected && (!self.direct || peer.packet_path == "direct")
    }

    fn timed_out(&self, label: &str, peer: &Peer) -> String {
        if peer.state == State::Connected {
            let path = escape(&peer.packet_path);
            return format!("{label} has no direct path in time, its path is: {path}");
        }
        let mut message = format!(
            "{label} is not connected in time, it is: {}",
            peer.state.word()
        );
        let reason = words::reason(peer.reason);
        if !reason.is_empty() {
            message.push_str(&format!(" ({reason})"));
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_connects_but_is_not_direct() {
        let options = |direct| Options {
            peer: String::new(),
            interface: None,
            direct,
            timeout: None,
        };
        let peer = Peer {
            state: State::Connected,
            packet_path: "relay".to_owned(),
            ..Peer::default()
        };
        assert!(options(false).is_satisfied(&peer));
        assert!(!options(true).is_satisfied(&peer));
        assert_eq!(
            options(true).timed_out("wg0 laptop", &peer),
            "wg0 laptop has no direct path in time, its path is: relay"
        );
    }
}
