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
    /// The state in a word.
    pub state: String,
    /// The path in a word, where it is known.
    pub path: Option<String>,
}

/// Follows one agent until dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
}

/// How long to wait for a monitor that ended because there was no agent yet.
const AGAIN: Duration = Duration::from_millis(25);

impl Watch {
    /// Starts to follow the agent of a host that has one peer; the agent may start later.
    pub fn start(host: &Host, changes: Sender<Change>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let host = host.clone();
        thread::spawn(move || follow(&host, &changes, &told));
        Self { stop }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn follow(host: &Host, changes: &Sender<Change>, stop: &AtomicBool) {
    let name = host.machine.name().to_owned();
    while !stop.load(Ordering::Relaxed) {
        // A monitor that cannot run yet is tried again: the agent may not have started.
        if let Ok(mut child) = monitor(host) {
            // What changed before the monitor listened is in the status.
            if let Some((state, path)) = status(host) {
                let change = Change {
                    host: name.clone(),
                    at: Instant::now(),
                    state,
                    path: Some(path),
                };
                if changes.send(change).is_err() {
                    break;
                }
            }
            read(&mut child, &name, changes, stop);
            // Already ended, or of no more use.
            let _ = child.kill();
            let _ = child.wait();
        }
        thread::sleep(AGAIN);
    }
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

fn status(host: &Host) -> Option<(String, String)> {
    let status: Status = serde_json::from_str(&wicectl(host, "status --json").ok()?).ok()?;
    let peer = status
        .interfaces
        .into_iter()
        .flat_map(|one| one.peers)
        .next()?;
    Some((peer.state, peer.path))
}

fn read(child: &mut Child, name: &str, changes: &Sender<Change>, stop: &AtomicBool) {
    let Some(output) = child.stdout.take() else {
        return;
    };
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let at = Instant::now();
        let Some((state, path)) = parse(&line) else {
            continue;
        };
        let change = Change {
            host: name.to_owned(),
            at,
            state,
            path,
        };
        if changes.send(change).is_err() || stop.load(Ordering::Relaxed) {
            break;
        }
    }
}

/// Reads one line of the monitor; lines of other events are passed over.
fn parse(line: &str) -> Option<(String, Option<String>)> {
    let event: Value = serde_json::from_str(line).ok()?;
    let word = |key: &str| event.get(key).and_then(Value::as_str).map(str::to_owned);
    Some((word("state")?, word("path")))
}
