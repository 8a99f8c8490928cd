//! The scene of most cases: two hosts with a tunnel that knows no endpoint, and a rendezvous server between them.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::agent::{Agent, PeerStatus, Settings};
use crate::bus;
use crate::nat::Nat;
use crate::ping::Pinger;
use crate::process::Process;
use crate::server::Server;
use crate::topology::{Family, Host, Lab, Router};
use crate::wait::until;
use crate::wireguard::{Engine, Tunnel};

/// How long two agents may take to find a path. Emulated machines are slow, and a slow pass says more than a flaky fail.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One of the two sides.
#[derive(Debug)]
pub struct Side {
    /// The host.
    pub host: Host,
    /// Its end of the tunnel.
    pub tunnel: Tunnel,
    bus: Option<Process>,
}

/// Two sides and what is between them.
#[derive(Debug)]
pub struct Scene {
    /// Which WireGuard both have.
    pub engine: Engine,
    /// What they are plugged into.
    pub lab: Lab,
    /// The routers that they are behind, A's first.
    pub routers: Vec<Router>,
    /// The rendezvous server.
    pub server: Server,
    /// The first side, which pings.
    pub a: Side,
    /// The second side.
    pub b: Side,
}

impl Side {
    /// Gives a host a system bus and a tunnel's end with the address 10.99.0.`address`.
    pub fn new(engine: Engine, host: Host, address: u8) -> Result<Self> {
        let bus = Some(bus::start(&host.machine)?);
        let tunnel = Tunnel::up(engine, &host, "wg0", Ipv4Addr::new(10, 99, 0, address))?;
        Ok(Self { host, tunnel, bus })
    }

    /// Stops the system bus of this side.
    pub fn stop_bus(&mut self) -> Result<()> {
        self.bus
            .take()
            .map_or(Ok(()), |mut bus| bus.stop().map(drop))
    }

    /// Starts it again.
    pub fn start_bus(&mut self) -> Result<()> {
        self.bus = Some(bus::start(&self.host.machine)?);
        Ok(())
    }

    /// Waits for the first reply of the other side through the tunnel.
    pub fn reaches(&self, other: &Self) -> Result<()> {
        let reply = Pinger::new(&self.host, other.tunnel.address)?
            .first_reply(Duration::from_millis(20), PATIENCE);
        reply.map(drop).with_context(|| {
            let shown =
                [self, other].map(|side| side.host.machine.run("wg show").unwrap_or_default());
            format!(
                "{} pings through the tunnel\n{}",
                self.host.machine.name(),
                shown.join("\n")
            )
        })
    }
}

impl Scene {
    /// Two LANs, each behind a NAT of the given kind.
    pub fn behind(engine: Engine, family: Family, left: Nat, right: Nat) -> Result<Self> {
        let mut lab = Lab::new(family)?;
        let mut routers = vec![lab.router(left)?, lab.router(right)?];
        let a = lab.host("a", &mut routers[0])?;
        let b = lab.host("b", &mut routers[1])?;
        Self::of(engine, lab, routers, a, b)
    }

    /// Two hosts on one LAN.
    pub fn on_one_lan(engine: Engine) -> Result<Self> {
        let mut lab = Lab::new(Family::V4)?;
        let mut router = lab.router(Nat::PortRestricted)?;
        let a = lab.host("a", &mut router)?;
        let b = lab.host("b", &mut router)?;
        Self::of(engine, lab, vec![router], a, b)
    }

    /// The scene that people mean: two port-restricted NATs.
    pub fn at_home(engine: Engine) -> Result<Self> {
        Self::behind(engine, Family::V4, Nat::PortRestricted, Nat::PortRestricted)
    }

    fn of(engine: Engine, lab: Lab, routers: Vec<Router>, a: Host, b: Host) -> Result<Self> {
        let server = Server::start(&lab)?;
        Self::with(engine, lab, server, routers, [a, b])
    }

    /// Two hosts that are in the lab already, and a server that runs.
    pub fn with(
        engine: Engine,
        lab: Lab,
        server: Server,
        routers: Vec<Router>,
        [a, b]: [Host; 2],
    ) -> Result<Self> {
        let (a, b) = (Side::new(engine, a, 1)?, Side::new(engine, b, 2)?);
        a.tunnel.add_peer(&b.tunnel)?;
        b.tunnel.add_peer(&a.tunnel)?;
        Ok(Self {
            engine,
            lab,
            routers,
            server,
            a,
            b,
        })
    }

    /// Starts both agents, by WebSocket.
    pub fn start(&self) -> Result<(Agent, Agent)> {
        let settings = Settings::websocket(&self.server);
        Ok((
            Agent::start(&self.a.host, &settings)?,
            Agent::start(&self.b.host, &settings)?,
        ))
    }

    /// Starts both agents and waits until both are connected and packets flow.
    pub fn connect(&self) -> Result<(Agent, Agent)> {
        let (a, b) = self.start()?;
        self.converge(&a, &b)?;
        Ok((a, b))
    }

    /// Waits until both agents call the path direct and packets flow.
    pub fn converge(&self, a: &Agent, b: &Agent) -> Result<()> {
        let seen = a.connected(&self.a.tunnel, &self.b.tunnel, PATIENCE)?;
        ensure!(
            seen.path == "direct",
            "connected, but the path is {}",
            seen.path
        );
        b.connected(&self.b.tunnel, &self.a.tunnel, PATIENCE)?;
        self.a.reaches(&self.b)
    }

    /// Waits until both agents are connected by such a path, and returns what each says of the other.
    pub fn by(
        &self,
        path: &str,
        a: &Agent,
        b: &Agent,
        deadline: Duration,
    ) -> Result<[PeerStatus; 2]> {
        let such = |agent: &Agent, side: &Side, other: &Side| {
            let what = format!("{} to be connected: {path}", side.host.machine.name());
            until(&what, deadline, || {
                let peer = agent.peer(&side.tunnel, &other.tunnel)?;
                let found = peer
                    .clone()
                    .filter(|one| one.state == "connected" && one.path == path);
                found
                    .map(Some)
                    .with_context(|| format!("now it is {peer:?}"))
            })
        };
        Ok([such(a, &self.a, &self.b)?, such(b, &self.b, &self.a)?])
    }
}
