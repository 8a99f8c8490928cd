//! `wicectl status`.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use wice_bus::{Interface, Snapshot};

use crate::failure::{Exit, Failure};
use crate::print::style::Style;
use crate::print::{clock, json, out, status};
use crate::{agent, select};

/// How often counters and ages are renewed under `--watch`; everything else is renewed when the agent says so.
const TICK: Duration = Duration::from_secs(1);
/// Signals come in bursts: one redraw for each.
const SETTLE: Duration = Duration::from_millis(50);

/// What to show, and how.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Only this interface, or only this peer on whatever interface.
    interface: Option<String>,
    /// Only this peer of the interface.
    peer: Option<String>,
    /// JSON for programs; with --watch one line for each change.
    #[arg(long)]
    json: bool,
    /// Shows it again whenever something changes, until interrupted.
    #[arg(long, short)]
    watch: bool,
}

/// Shows the status once, or for as long as somebody watches.
pub(crate) async fn run(options: Options, style: Style) -> Result<(), Failure> {
    let connection = agent::connect().await?;
    if !options.watch {
        let snapshot = options.narrow(agent::read(&connection).await?)?;
        return out(&options.render(&snapshot, style));
    }
    let mut signals = agent::signals(&connection).await?;
    let mut shown = String::new();
    loop {
        let text = options.look(&connection, style).await?;
        if text != shown {
            out(&text)?;
            shown = text;
        }
        match tokio::time::timeout(TICK, signals.next()).await {
            Ok(None) => return Err(Failure::NotRunning),
            Ok(Some(_)) => {
                let settled = tokio::time::sleep(SETTLE);
                tokio::pin!(settled);
                // Swallow the rest of the burst; what it announces is in the next snapshot.
                loop {
                    tokio::select! {
                        () = &mut settled => break,
                        more = signals.next() => if more.is_none() { break },
                    }
                }
            }
            Err(_) => {}
        }
    }
}

impl Options {
    /// One frame of `--watch`; an agent that is away is part of the picture.
    async fn look(&self, connection: &zbus::Connection, style: Style) -> Result<String, Failure> {
        let read = agent::read(connection).await;
        let clear = if self.json || !std::io::stdout().is_terminal() {
            ""
        } else {
            "\u{1b}[H\u{1b}[2J\u{1b}[3J"
        };
        match read.and_then(|snapshot| self.narrow(snapshot)) {
            Ok(snapshot) if self.json => Ok(format!("{}\n", json::status(&snapshot))),
            Ok(snapshot) => Ok(format!("{clear}{}", self.render(&snapshot, style))),
            Err(failure)
                if failure.exit() == Exit::Unknown || failure.exit() == Exit::AgentNotRunning =>
            {
                if self.json {
                    Ok(String::new())
                } else {
                    Ok(format!("{clear}{failure}\n"))
                }
            }
            Err(failure) => Err(failure),
        }
    }

    /// Leaves only what was asked for.
    fn narrow(&self, mut snapshot: Snapshot) -> Result<Snapshot, Failure> {
        let Some(first) = &self.interface else {
            return Ok(snapshot);
        };
        let is_interface = snapshot.interfaces.iter().any(|i| &i.name == first);
        let only = match &self.peer {
            Some(peer) => one_peer(select::peer(&snapshot, Some(first), peer)?),
            None if is_interface => select::interface(&snapshot, first)?.clone(),
            None => one_peer(select::peer(&snapshot, None, first).map_err(
                |failure| match failure {
                    Failure::Unknown(message) => {
                        Failure::Unknown(message.replacen("no peer", "no interface or peer", 1))
                    }
                    other => other,
                },
            )?),
        };
        snapshot.interfaces = vec![only];
        Ok(snapshot)
    }

    fn render(&self, snapshot: &Snapshot, style: Style) -> String {
        if self.json {
            format!("{}\n", json::status_pretty(snapshot))
        } else {
            status::render(snapshot, style, clock::unix_now())
        }
    }
}

fn one_peer(select::Found { interface, peer }: select::Found<'_>) -> Interface {
    Interface {
        peers: vec![peer.clone()],
        ..interface.clone()
    }
}
