//! `wicectl restart`.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use tokio::time::Instant;
use wice_bus::{PeerProxy, Snapshot, State};
use zbus::Connection;
use zbus::proxy::CacheProperties;

use super::deadline;
use crate::failure::Failure;
use crate::{agent, select};

/// How often to look while nothing is signalled.
const TICK: Duration = Duration::from_secs(1);

/// Whom to restart, and whether to wait.
#[derive(Args)]
pub(crate) struct Options {
    /// Names, keys, or beginnings of keys.
    #[arg(
        required_unless_present = "all",
        conflicts_with = "all",
        value_name = "PEER"
    )]
    peers: Vec<String>,
    /// Every peer that the agent manages.
    #[arg(long)]
    all: bool,
    /// Only peers of this interface.
    #[arg(long, short, value_name = "NAME")]
    interface: Option<String>,
    /// Waits until they are connected again, with --all those that are connected now; exit status 3 when that takes longer.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<f64>,
}

/// A peer whose session was started anew.
struct Target {
    path: String,
    label: String,
    /// The count before: a state that was read earlier than the restart says nothing.
    restarts: u32,
    /// Whether it can be expected to connect.
    awaited: bool,
}

/// Restarts the peers, and waits for them if asked to.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let wait = options
        .wait
        .map(|seconds| deadline::after("--wait", seconds))
        .transpose()?;
    let connection = agent::connect_patiently().await?;
    let mut signals = agent::signals(&connection).await?;
    let targets = options.targets(&agent::read(&connection).await?)?;
    for target in &targets {
        let peer = PeerProxy::builder(&connection)
            .path(target.path.as_str())
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        match peer.restart(HashMap::new()).await.map_err(Failure::from) {
            // It went away by itself since the list was made.
            Err(Failure::Unknown(_)) if options.all => {}
            other => other?,
        }
    }
    let Some(deadline) = wait else {
        return Ok(());
    };
    let mut waiting = targets;
    waiting.retain(|target| target.awaited);
    loop {
        let checked = tokio::time::timeout_at(deadline, pending(&connection, &mut waiting)).await;
        if let Ok(outcome) = checked {
            outcome?;
        }
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::Timeout(timed_out(&waiting)));
        }
        let next = deadline.min(Instant::now() + TICK);
        if let Ok(None) = tokio::time::timeout_at(next, signals.next()).await {
            return Err(Failure::NotRunning);
        }
    }
}

impl Options {
    fn targets(&self, snapshot: &Snapshot) -> Result<Vec<Target>, Failure> {
        let target = |found: select::Found<'_>| Target {
            path: found.peer.path.clone(),
            label: found.label(),
            restarts: found.peer.restarts,
            awaited: !self.all || found.peer.state == State::Connected,
        };
        let within = self.interface.as_deref();
        if !self.all {
            let found = |text: &String| select::peer(snapshot, within, text).map(target);
            return self.peers.iter().map(found).collect();
        }
        if let Some(name) = within {
            select::interface(snapshot, name)?;
        }
        let targets: Vec<Target> = select::peers(snapshot, within)
            .filter(|found| found.peer.state != State::Unmanaged)
            .map(target)
            .collect();
        if targets.is_empty() {
            return Err(Failure::Unknown("the agent manages no peer".to_owned()));
        }
        Ok(targets)
    }
}

/// Removes those that are connected since their restart.
async fn pending(connection: &Connection, waiting: &mut Vec<Target>) -> Result<(), Failure> {
    let snapshot = agent::read(connection).await?;
    let done = |target: &Target| {
        let mut peers = snapshot.interfaces.iter().flat_map(|i| &i.peers);
        peers.find(|peer| peer.path == target.path).map_or_else(
            || Err(Failure::Unknown(format!("{} is gone", target.label))),
            |peer| Ok(peer.state == State::Connected && peer.restarts > target.restarts),
        )
    };
    let mut left = Vec::new();
    for target in waiting.drain(..) {
        if !done(&target)? {
            left.push(target);
        }
    }
    *waiting = left;
    Ok(())
}

fn timed_out(waiting: &[Target]) -> String {
    let labels: Vec<&str> = waiting.iter().map(|target| target.label.as_str()).collect();
    format!(
        "restarted, but not connected again in time: {}",
        labels.join(", ")
    )
}
