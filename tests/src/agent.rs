//! The project's agent in a host, and what `wicectl` says of it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::bus;
use crate::certificate::trust;
use crate::cluster;
use crate::coturn::Relay;
use crate::namespace::Namespace;
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
    /// The TURN servers.
    pub relays: Vec<Relay>,
    /// Which paths are allowed: `all` where nothing is said, `direct` or `relay`.
    pub policy: Option<&'static str>,
    /// The certification authority that the agent trusts, in PEM; what the system trusts where nothing is said.
    pub authority: Option<String>,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<&'static str>,
}

impl Settings {
    /// Uses a server by WebSocket, and its STUN.
    pub fn websocket(server: &Server) -> Self {
        Self::by(server.websocket(), server)
    }

    /// Uses a server by plain requests, and its STUN.
    pub fn http(server: &Server) -> Self {
        Self::by(server.http(), server)
    }

    fn by(backend: String, server: &Server) -> Self {
        Self {
            backends: vec![backend],
            servers: vec![server.stun()],
            relays: Vec::new(),
            policy: None,
            authority: None,
            metrics: None,
        }
    }

    /// Uses a server by WebSocket at an address of the host's family, and the STUN and TURN servers that it hands out.
    pub fn handed_out(server: &Server, host: IpAddr) -> Result<Self> {
        Ok(Self {
            servers: Vec::new(),
            ..Self::by(server.websocket_for(host)?, server)
        })
    }

    /// Adds a TURN server.
    pub fn with_relay(mut self, relay: Relay) -> Self {
        self.relays.push(relay);
        self
    }

    fn toml(&self) -> String {
        // A string is written the same in Rust, JSON and TOML.
        let mut servers: Vec<String> = self.servers.iter().map(|url| format!("{url:?}")).collect();
        servers.extend(self.relays.iter().enumerate().map(|(number, relay)| {
            let (url, username, file) = (&relay.url, &relay.username, credential_file(number));
            format!("{{ url = {url:?}, username = {username:?}, credential-file = {file:?} }}")
        }));
        let policy = self.policy.map(|policy| format!("policy = {policy:?}\n"));
        let metrics = self
            .metrics
            .map(|listen| format!("\n[metrics]\nlisten = {listen:?}\n"));
        format!(
            "[signaling]\nbackends = {:?}\n\n[ice]\nservers = [{}]\n{}{}",
            self.backends,
            servers.join(", "),
            policy.unwrap_or_default(),
            metrics.unwrap_or_default()
        )
    }

    /// Writes the configuration and what it refers to into a host.
    pub fn write(&self, machine: &Namespace) -> Result<()> {
        for (number, relay) in self.relays.iter().enumerate() {
            machine.write(&credential_file(number), &relay.credential)?;
        }
        machine.write("/run/lab/wice.toml", &self.toml())
    }
}

fn credential_file(number: usize) -> String {
    format!("/run/lab/credential-{number}")
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    host: Host,
    trusted: Option<&'static str>,
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
    /// The TURN servers.
    #[serde(default)]
    pub relays: Vec<RelayStatus>,
}

/// One TURN server of an agent.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct RelayStatus {
    /// Its URL.
    pub url: String,
    /// The state in a word.
    pub state: String,
    /// Why it is of no use; empty when it is.
    #[serde(default)]
    pub error: Option<String>,
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
    /// `udp4`, `udp6`, `tcp4` or `tcp6`.
    pub network: String,
}

impl Agent {
    /// Starts an agent, without waiting for anything.
    pub fn start(host: &Host, settings: &Settings) -> Result<Self> {
        Self::start_with(host, settings, &[])
    }

    /// As [`Agent::start`], with more arguments on its command line.
    pub fn start_with(host: &Host, settings: &Settings, arguments: &[&str]) -> Result<Self> {
        settings.write(&host.machine)?;
        let trusted = settings
            .authority
            .as_ref()
            .map(|authority| trust(&host.machine, authority))
            .transpose()?;
        let mut command = Self::command(host)?;
        command
            .args(arguments)
            .envs(trusted.map(|path| ("SSL_CERT_FILE", path)));
        Ok(Self {
            process: Process::start(&host.machine, "wice-agent", &mut command)?,
            host: host.clone(),
            trusted,
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
        let mut command = Self::command(&self.host)?;
        command.envs(self.trusted.map(|path| ("SSL_CERT_FILE", path)));
        self.process = Process::start(&self.host.machine, "wice-agent", &mut command)?;
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
