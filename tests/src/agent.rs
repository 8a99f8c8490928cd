//! The project's agent in a host, and what `wicectl` says of it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::bus;
use crate::cluster;
use crate::process::Process;
use crate::server::{Server, program};
use crate::topology::Host;
use crate::wait::until;
use crate::wireguard::Tunnel;

/// What an agent is configured with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// URLs of the signalling backends.
    pub backends: Vec<String>,
    /// URLs of the STUN servers.
    pub servers: Vec<String>,
}

impl Settings {
    /// Uses a server by WebSocket, and its STUN.
    pub fn websocket(server: &Server) -> Self {
        Self {
            backends: vec![server.websocket()],
            servers: vec![server.stun()],
        }
    }

    /// Uses a server by plain requests, and its STUN.
    pub fn http(server: &Server) -> Self {
        Self {
            backends: vec![server.http()],
            servers: vec![server.stun()],
        }
    }

    fn toml(&self) -> String {
        // A list of strings is written the same in Rust, JSON and TOML.
        format!(
            "[signaling]\nbackends = {:?}\n\n[ice]\nservers = {:?}\n",
            self.backends, self.servers
        )
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    host: Host,
}

/// `wicectl status --json`, as far as the suites look at it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The agent itself.
    pub agent: About,
    /// The interfaces that it manages.
    pub interfaces: Vec<Interface>,
}

/// The agent as it tells of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct About {
    /// The backends.
    pub backends: Vec<Backend>,
}

/// One backend of an agent.
#[derive(Clone, Debug, Deserialize)]
pub struct Backend {
    /// The state in a word.
    pub state: String,
}

/// One WireGuard interface.
#[derive(Clone, Debug, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
}

/// One peer.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct PeerStatus {
    /// The public key in base64.
    pub public_key: String,
    /// The state in a word, `connected` for one.
    pub state: String,
    /// `none`, `direct` or `relay`.
    pub path: String,
    /// The candidate of this side.
    pub local_candidate: Option<CandidateStatus>,
    /// The candidate of the other side.
    pub remote_candidate: Option<CandidateStatus>,
    /// How often the session was restarted.
    pub restarts: u32,
}

/// One candidate.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct CandidateStatus {
    /// `host`, `srflx`, `prflx` or `relay`.
    pub r#type: String,
}

impl Agent {
    /// Starts an agent, without waiting for anything.
    pub fn start(host: &Host, settings: &Settings) -> Result<Self> {
        Self::start_with(host, settings, &[])
    }

    /// As [`Agent::start`], with more arguments on its command line.
    pub fn start_with(host: &Host, settings: &Settings, arguments: &[&str]) -> Result<Self> {
        host.machine.write("/run/lab/wice.toml", &settings.toml())?;
        let mut command = Self::command(host)?;
        command.args(arguments);
        Ok(Self {
            process: Process::start(&host.machine, "wice-agent", &mut command)?,
            host: host.clone(),
        })
    }

    /// Returns the command that starts an agent with the configuration that was written last.
    pub fn command(host: &Host) -> Result<std::process::Command> {
        let mut command = host.machine.command(program("wice-agent")?);
        command
            .args(["--config", "/run/lab/wice.toml"])
            .env("DBUS_SYSTEM_BUS_ADDRESS", bus::ADDRESS)
            .env("KUBECONFIG", cluster::KUBECONFIG);
        Ok(command)
    }

    /// Starts the agent again, after it has ended, with the same configuration.
    pub fn again(&mut self) -> Result<()> {
        self.process = Process::start(
            &self.host.machine,
            "wice-agent",
            &mut Self::command(&self.host)?,
        )?;
        Ok(())
    }

    /// Asks the agent for its status.
    pub fn status(&self) -> Result<Status> {
        let json = wicectl(&self.host, "status --json")?;
        serde_json::from_str(&json).with_context(|| format!("not the documented status: {json}"))
    }

    /// Returns what the agent says of one peer, if it knows it.
    pub fn peer(&self, tunnel: &Tunnel, peer: &Tunnel) -> Result<Option<PeerStatus>> {
        let interfaces = self.status()?.interfaces;
        let mut peers = interfaces
            .into_iter()
            .filter(|one| one.name == tunnel.interface)
            .flat_map(|one| one.peers);
        Ok(peers.find(|one| one.public_key == peer.key))
    }

    /// Waits until the agent calls a peer connected, and returns what it says of it.
    pub fn connected(
        &self,
        tunnel: &Tunnel,
        peer: &Tunnel,
        deadline: Duration,
    ) -> Result<PeerStatus> {
        let what = format!("{} to be connected", self.host.machine.name());
        until(&what, deadline, || {
            Ok(self
                .peer(tunnel, peer)?
                .filter(|one| one.state == "connected"))
        })
    }

    /// Waits until the state of every backend is `up`.
    pub fn backends_up(&self, deadline: Duration) -> Result<()> {
        let what = format!("{} to reach its backends", self.host.machine.name());
        until(&what, deadline, || {
            let backends = self.status()?.agent.backends;
            Ok(
                (!backends.is_empty() && backends.iter().all(|one| one.state == "up"))
                    .then_some(()),
            )
        })
    }
}

/// Runs `wicectl` in a host and returns what it printed.
pub fn wicectl(host: &Host, arguments: &str) -> Result<String> {
    let path = program("wicectl")?;
    host.machine.run(&format!(
        "env DBUS_SYSTEM_BUS_ADDRESS={} {} {arguments}",
        bus::ADDRESS,
        path.display()
    ))
}
