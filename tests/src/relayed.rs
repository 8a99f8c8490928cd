//! The scenes of relays: two hosts that find no direct path, or may not use it, and a TURN server for both.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use crate::agent::{Agent, Settings};
use crate::certificate::Certificate;
use crate::coturn::{Coturn, Login, Transport};
use crate::nat::Nat;
use crate::server::Server;
use crate::topology::{Family, Lab, Seat};
use crate::wireguard::Engine;

use crate::scene::{PATIENCE, Scene, Side};

/// Whose TURN server relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// coturn's, which the agents are configured with.
    Coturn,
    /// The rendezvous server's own, which it hands out.
    Own,
}

/// What is between the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Two NATs of these kinds.
    Behind(Nat, Nat),
    /// One LAN.
    OneLan,
    /// A LAN that has IPv6 only, and one that has IPv4 only.
    TwoFamilies,
}

/// Two sides, a TURN server, and what each agent is configured with.
#[derive(Debug)]
pub struct RelayScene {
    /// The two sides.
    pub scene: Scene,
    /// The TURN server, where it is coturn's.
    pub coturn: Option<Coturn>,
    /// What A's agent is configured with, and B's.
    pub settings: [Settings; 2],
}

/// Two NATs that no direct path leads through.
pub const SYMMETRIC: Place = Place::Behind(Nat::Symmetric, Nat::Symmetric);
/// A network that blocks UDP, and a home.
pub const ONE_BLOCKED: Place = Place::Behind(Nat::UdpBlocked, Nat::PortRestricted);
/// Two networks that block UDP.
pub const BOTH_BLOCKED: Place = Place::Behind(Nat::UdpBlocked, Nat::UdpBlocked);
/// Two networks that pass nothing but TCP to port 443.
pub const HOTELS: Place = Place::Behind(Nat::OnlyHttps, Nat::OnlyHttps);
/// Two NATs that a direct path leads through.
pub const AT_HOME: Place = Place::Behind(Nat::PortRestricted, Nat::PortRestricted);

impl RelayScene {
    /// Makes the scene; each agent will know the server by this one transport.
    pub fn new(engine: Engine, whose: Whose, transport: Transport, place: Place) -> Result<Self> {
        Self::with(engine, whose, transport, place, "")
    }

    /// As [`RelayScene::new`], with more lines of coturn's configuration.
    pub fn with(
        engine: Engine,
        whose: Whose,
        transport: Transport,
        place: Place,
        more: &str,
    ) -> Result<Self> {
        let mut lab = match place {
            Place::TwoFamilies => Lab::dual()?,
            _ => Lab::new(Family::V4)?,
        };
        let mut routers = match place {
            Place::Behind(left, right) => vec![lab.router(left)?, lab.router(right)?],
            Place::OneLan => vec![lab.router(Nat::PortRestricted)?],
            Place::TwoFamilies => vec![
                lab.router_in(Family::V6, Nat::Firewall)?,
                lab.router_in(Family::V4, Nat::PortRestricted)?,
            ],
        };
        let a = lab.host("a", &mut routers[0])?;
        let b = lab.host("b", routers.last_mut().context("no router")?)?;
        let certificate = (transport == Transport::Tls)
            .then(|| Certificate::create(&lab))
            .transpose()?;
        let own = whose == Whose::Own;
        let server = Server::start_with(&lab, certificate.as_ref(), own)?;
        let coturn = (!own)
            .then(|| Coturn::start(&lab, Login::User, certificate.as_ref(), more))
            .transpose()?;
        let settings = |host: IpAddr| -> Result<Settings> {
            let mut settings = Settings::handed_out(&server, host)?;
            settings.authority = certificate.as_ref().map(|it| it.authority.clone());
            if let Some(coturn) = &coturn {
                if host.is_ipv4() {
                    settings.servers.push(server.stun());
                }
                settings.relays.push(coturn.relay_for(host, transport)?);
            }
            Ok(settings)
        };
        let settings = [settings(a.address)?, settings(b.address)?];
        Ok(Self {
            scene: Scene::with(engine, lab, server, routers, [a, b])?,
            coturn,
            settings,
        })
    }

    /// Sets both agents' policy.
    pub fn policy(mut self, policy: &'static str) -> Self {
        for settings in &mut self.settings {
            settings.policy = Some(policy);
        }
        self
    }

    /// Starts both agents, which log enough to see from a failure what each decided.
    pub fn start(&self) -> Result<[Agent; 2]> {
        let [a, b] = &self.settings;
        Ok([
            Agent::start_with(&self.scene.a.host, a, &["--log-level", "debug"])?,
            Agent::start_with(&self.scene.b.host, b, &["--log-level", "debug"])?,
        ])
    }

    /// Starts both agents and waits until both call the path relayed, and packets flow by it.
    pub fn connect(&self) -> Result<[Agent; 2]> {
        let agents = self.start()?;
        self.relayed(&agents)?;
        Ok(agents)
    }

    /// Waits until both agents call the path relayed, and packets flow by it.
    pub fn relayed(&self, [a, b]: &[Agent; 2]) -> Result<()> {
        let scene = &self.scene;
        let seen = scene.by("relay", a, b, PATIENCE)?;
        scene.a.reaches(&scene.b)?;
        for (side, other, seen) in [
            (&scene.a, &scene.b, &seen[0]),
            (&scene.b, &scene.a, &seen[1]),
        ] {
            let endpoint = endpoint(side, other)?;
            println!(
                "{}: {:?} to {:?}, endpoint {endpoint}",
                side.host.machine.name(),
                seen.local_candidate.as_ref().map(|one| one.r#type.as_str()),
                seen.remote_candidate
                    .as_ref()
                    .map(|one| one.r#type.as_str()),
            );
            ensure!(
                self.goes_by_relay(endpoint),
                "an endpoint that is neither a relay's nor this host's own: {endpoint}"
            );
        }
        Ok(())
    }

    /// Tells whether an endpoint is the TURN server's, or an address of this host's own, which leads to its own relay.
    pub fn goes_by_relay(&self, endpoint: IpAddr) -> bool {
        let servers = self.scene.lab.server_addresses(Seat::Second);
        endpoint.is_loopback() || servers.contains(&endpoint)
    }

    /// Returns the TURN server, where it is coturn's.
    pub fn coturn(&mut self) -> Result<&mut Coturn> {
        self.coturn.as_mut().context("this scene has no coturn")
    }
}

/// Returns the address that WireGuard of one side sends to for the other.
pub fn endpoint(side: &Side, other: &Side) -> Result<IpAddr> {
    let peer = side.tunnel.peer(&other.tunnel)?;
    Ok(peer.endpoint.context("no endpoint")?.ip())
}
