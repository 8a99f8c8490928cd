//! A long-lived program in a machine of the lab, its log, and its certain end.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespace::Namespace;
use crate::wait::until;

/// Where each program of this process wrote: a log outlives its program and its lab, so that a failure can be told.
static LOGS: Mutex<Vec<Log>> = Mutex::new(Vec::new());

/// The log of one program.
#[derive(Clone, Debug)]
struct Log {
    program: String,
    home: Namespace,
    path: String,
}

impl Log {
    fn read(&self) -> String {
        self.home.read(&self.path).unwrap_or_default()
    }

    /// Returns the last `count` lines, each with the machine's and the program's name before it.
    fn tail(&self, count: usize) -> String {
        let output = self.read();
        let lines: Vec<&str> = output.lines().collect();
        let shown = &lines[lines.len().saturating_sub(count)..];
        shown
            .iter()
            .map(|line| format!("{} {}: {line}\n", self.home.name(), self.program))
            .collect()
    }
}

/// Returns the last `count` lines of every log of this process, in the order in which the programs were first started.
pub fn tails(count: usize) -> String {
    let logs = LOGS.lock().expect("nobody panics while holding the list");
    logs.iter().map(|log| log.tail(count)).collect()
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    log: Log,
    child: Child,
    started: Instant,
}

impl Process {
    /// Starts `command`, made by [`Namespace::command`] of `home`, with its output appended to a log of that name.
    pub fn start(home: &Namespace, name: &str, command: &mut Command) -> Result<Self> {
        let log = Log {
            program: name.to_owned(),
            home: home.clone(),
            path: format!("/run/lab/{name}.log"),
        };
        let file = home.append(&log.path)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let started = Instant::now();
        let child = command.spawn().with_context(|| {
            format!(
                "{}: cannot start {}",
                home.name(),
                command.get_program().to_string_lossy()
            )
        })?;
        let mut logs = LOGS.lock().expect("nobody panics while holding the list");
        if !logs
            .iter()
            .any(|known| known.path == log.path && known.home.name() == home.name())
        {
            logs.push(log.clone());
        }
        Ok(Self {
            log,
            child,
            started,
        })
    }

    /// Returns the moment just before the program was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells whether the program still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Returns everything that this program, and those of its name before it, have written.
    pub fn output(&self) -> String {
        self.log.read()
    }

    /// Returns the last `count` lines of the log, each with the machine's and the program's name before it.
    pub fn tail(&self, count: usize) -> String {
        self.log.tail(count)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("process id")?;
        kill(Pid::from_raw(id), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.log.program))
    }

    /// Waits for the program to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} {} to end", self.log.home.name(), self.log.program);
        let child = &mut self.child;
        until(&what, deadline, || Ok(child.try_wait()?))
    }

    /// Kills the program with SIGKILL, as a crash would, and waits until it is gone.
    pub fn crash(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the program to end with SIGTERM and waits for it.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(Duration::from_secs(10))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the program has already ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
