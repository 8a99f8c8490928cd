//! Follows what an agent says of its peer, as `wicectl monitor --json` prints it, with the moment of each change.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::agent::{Status, wicectl};
use crate::bus;
use crate::server::program;
use crate::topology::Host;

/// What an agent said of its peer, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The name of the host.
    pub host: String,
    /// The moment at which it was read.
    pub at: Instant,
    /// What it said.
    pub news: News,
}

/// What can change of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The state, in a word.
    State(String),
    /// The path, in a word: `none`, `direct` or `relay`.
    Path(String),
}

/// Follows one agent until dropped.
#[derive(Debug)]
pub struct Watch {
    host: Host,
    changes: Sender<Change>,
    stop: Arc<AtomicBool>,
}

/// How long to wait for a monitor that ended because there was no agent yet.
const AGAIN: Duration = Duration::from_millis(25);

impl Watch {
    /// Starts to follow the agent of a host that has one peer; the agent may start later.
    pub fn start(host: &Host, changes: Sender<Change>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Self {
            host: host.clone(),
            changes: changes.clone(),
            stop: Arc::clone(&stop),
        };
        let host = host.clone();
        thread::spawn(move || follow(&host, &changes, &stop));
        watch
    }

    /// Reports what the status says now: a monitor does not tell what happened while it started.
    pub fn look(&self) {
        // Who no longer listens wants no news.
        let _ = look(&self.host, &self.changes);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn follow(host: &Host, changes: &Sender<Change>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // A monitor that cannot run yet is tried again: the agent may not have started.
        if let Ok(mut child) = monitor(host) {
            read(&mut child, host, changes, stop);
            // Already ended, or of no more use.
            let _ = child.kill();
            let _ = child.wait();
        }
        thread::sleep(AGAIN);
    }
}

fn look(host: &Host, changes: &Sender<Change>) -> Option<()> {
    let status: Status = serde_json::from_str(&wicectl(host, "status --json").ok()?).ok()?;
    let peer = status
        .interfaces
        .into_iter()
        .flat_map(|one| one.peers)
        .next()?;
    tell(host, changes, News::State(peer.state))?;
    tell(host, changes, News::Path(peer.path))
}

fn tell(host: &Host, changes: &Sender<Change>, news: News) -> Option<()> {
    changes
        .send(Change {
            host: host.machine.name().to_owned(),
            at: Instant::now(),
            news,
        })
        .ok()
}

fn monitor(host: &Host) -> Result<Child> {
    let mut command = host.machine.command(program("wicectl")?);
    command
        .args(["monitor", "--json"])
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus::ADDRESS);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command.spawn().context("cannot start wicectl monitor")
}

fn read(child: &mut Child, host: &Host, changes: &Sender<Change>, stop: &AtomicBool) {
    let Some(output) = child.stdout.take() else {
        return;
    };
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let Some(news) = parse(&line) else { continue };
        if tell(host, changes, news).is_none() || stop.load(Ordering::Relaxed) {
            break;
        }
    }
}

/// Reads one line of the monitor; lines of other events are passed over.
fn parse(line: &str) -> Option<News> {
    let event: Value = serde_json::from_str(line).ok()?;
    let word = |key: &str| event.get(key).and_then(Value::as_str).map(str::to_owned);
    match word("event")?.as_str() {
        "state" => word("new").map(News::State),
        "path" => word("new").map(News::Path),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{News, parse};

    #[test]
    fn a_change_of_state_is_news_and_one_of_a_backend_is_not() {
        let state = r#"{"version":1,"time_ms":1,"event":"state","peer":"k","new":"connected","old":"checking"}"#;
        let backend =
            r#"{"version":1,"time_ms":1,"event":"backend","url":"ws://x","state":"up","error":""}"#;
        assert_eq!(parse(state), Some(News::State("connected".to_owned())));
        assert_eq!(parse(backend), None);
    }
}
