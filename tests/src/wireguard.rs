//! WireGuard as an administrator sees it: an interface, `wg set`, `wg show`. Kernel WireGuard where the kernel has it,
//! else the userspace one, which owns its UDP port in the same way.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::Host;
use crate::wait::until;

/// Which WireGuard moves the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The kernel's.
    Kernel,
    /// `wireguard-go`.
    Userspace,
}

impl Engine {
    /// Finds out what this machine has: the kernel's own, else the userspace one.
    pub fn detect() -> Result<Self> {
        let scratch = Namespace::create("scratch")?;
        Ok(if scratch.ip("link add wg0 type wireguard").is_ok() {
            Self::Kernel
        } else {
            Self::Userspace
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kernel => "kernel WireGuard",
            Self::Userspace => "userspace WireGuard (wireguard-go; this kernel has none)",
        })
    }
}

/// A WireGuard interface of a host.
#[derive(Debug)]
pub struct Tunnel {
    /// The interface's name.
    pub interface: String,
    /// The public key in base64.
    pub key: String,
    /// The address inside the tunnel.
    pub address: Ipv4Addr,
    /// The UDP port.
    pub port: u16,
    machine: Namespace,
    userspace: Option<Process>,
}

/// One peer as `wg show INTERFACE dump` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The peer's public key in base64.
    pub key: String,
    /// Where packets to it go.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake ended, in Unix seconds; 0 for never.
    pub handshake: u64,
    /// Bytes received.
    pub received: u64,
}

impl Tunnel {
    /// Makes an interface with a fresh key, that is up and has no peer.
    pub fn up(engine: Engine, host: &Host, interface: &str, address: Ipv4Addr) -> Result<Self> {
        Self::up_on_port(engine, host, interface, address, 51820)
    }

    /// As [`Tunnel::up`], on another UDP port.
    pub fn up_on_port(
        engine: Engine,
        host: &Host,
        interface: &str,
        address: Ipv4Addr,
        port: u16,
    ) -> Result<Self> {
        let machine = host.machine.clone();
        let userspace = match engine {
            Engine::Kernel => {
                machine.ip(&format!("link add {interface} type wireguard"))?;
                None
            }
            Engine::Userspace => Some(start_userspace(&machine, interface)?),
        };
        let private = machine.run("wg genkey")?;
        let key = machine
            .run_with_input("wg pubkey", &private)?
            .trim()
            .to_owned();
        machine.run_with_input(
            &format!("wg set {interface} private-key /dev/stdin listen-port {port}"),
            &private,
        )?;
        machine.ip(&format!(
            "addr add {address}/24 dev {interface}\nlink set {interface} up"
        ))?;
        Ok(Self {
            interface: interface.to_owned(),
            key,
            address,
            port,
            machine,
            userspace,
        })
    }

    /// Adds another tunnel's end as a peer, without an endpoint.
    pub fn add_peer(&self, other: &Self) -> Result<()> {
        self.set(&format!(
            "peer {} allowed-ips {}/32",
            other.key, other.address
        ))
    }

    /// Adds another tunnel's end as a peer, with the endpoint that an administrator knows.
    pub fn add_peer_at(&self, other: &Self, endpoint: SocketAddr) -> Result<()> {
        self.set(&format!(
            "peer {} allowed-ips {}/32 endpoint {endpoint}",
            other.key, other.address
        ))
    }

    /// Runs `wg set` on this interface.
    pub fn set(&self, arguments: &str) -> Result<()> {
        self.machine
            .run(&format!("wg set {} {arguments}", self.interface))
            .map(drop)
    }

    /// Returns all peers.
    pub fn peers(&self) -> Result<Vec<Peer>> {
        let dump = self
            .machine
            .run(&format!("wg show {} dump", self.interface))?;
        dump.lines()
            .skip(1)
            .map(|line| parse(line).with_context(|| format!("not a line of wg's dump: {line}")))
            .collect()
    }

    /// Returns one peer.
    pub fn peer(&self, other: &Self) -> Result<Peer> {
        let found = self.peers()?.into_iter().find(|peer| peer.key == other.key);
        found.with_context(|| {
            format!(
                "{}: {} has no such peer",
                self.machine.name(),
                self.interface
            )
        })
    }

    /// Waits until a handshake with the peer has ended, and returns the peer.
    pub fn handshake(&self, other: &Self, deadline: Duration) -> Result<Peer> {
        let what = format!("a WireGuard handshake of {}", self.machine.name());
        until(&what, deadline, || {
            Ok(Some(self.peer(other)?).filter(|peer| peer.handshake > 0))
        })
    }

    /// Removes the interface, as `ip link del` does.
    pub fn delete(mut self) -> Result<()> {
        self.machine.ip(&format!("link del {}", self.interface))?;
        if let Some(process) = &mut self.userspace {
            process.wait(Duration::from_secs(5))?;
        }
        Ok(())
    }

    /// Renames the interface.
    pub fn rename(&mut self, name: &str) -> Result<()> {
        self.machine.ip(&format!(
            "link set {old} down\nlink set {old} name {name}\nlink set {name} up",
            old = self.interface
        ))?;
        name.clone_into(&mut self.interface);
        Ok(())
    }
}

fn start_userspace(machine: &Namespace, interface: &str) -> Result<Process> {
    let mut command = machine.command("wireguard-go");
    command
        .arg(interface)
        .env("WG_PROCESS_FOREGROUND", "1")
        .env("LOG_LEVEL", "error");
    let process = Process::start(machine, &format!("wireguard-go-{interface}"), &mut command)?;
    let socket = format!("/run/wireguard/{interface}.sock");
    until(
        &format!("{}: wireguard-go's control socket", machine.name()),
        Duration::from_secs(10),
        || Ok(machine.has(&socket).then_some(())),
    )?;
    Ok(process)
}

fn parse(line: &str) -> Option<Peer> {
    let fields: Vec<&str> = line.split('\t').collect();
    Some(Peer {
        key: (*fields.first()?).to_owned(),
        endpoint: fields.get(2)?.parse().ok(),
        handshake: fields.get(4)?.parse().ok()?,
        received: fields.get(5)?.parse().ok()?,
    })
}
