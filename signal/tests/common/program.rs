//! The program itself, as an operator starts it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

/// A running program; killed when dropped.
pub struct Program {
    pub url: String,
    child: Child,
}

impl Program {
    /// Starts it on a free port of loopback, and waits until it listens.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wice-signal"));
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        command.env_remove("JOURNAL_STREAM").stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let lines = child.stderr.take().expect("it was asked for");
        let mut lines = BufReader::new(lines).lines();
        let url = loop {
            let line = lines.next().expect("it listens").expect("text");
            if let Some((_, url)) = line.split_once("listening on ") {
                break url.to_owned();
            }
        };
        // Read on, so that the program never waits for a reader.
        thread::spawn(move || lines.for_each(drop));
        Self { url, child }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let (_, address) = self.url.split_once("://").expect("a URL");
        address.parse().expect("an address")
    }

    /// What it has in memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.expect("Linux says").trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().expect("a number") * 1_024
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; the exit status, if it was not killed.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("it is a child").code()
    }

    /// Kills it without a word.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
