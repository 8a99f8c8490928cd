//! TCP between two agents, where the network of one of them passes no UDP.

use anyhow::{Result, ensure};
use wice_tests::agent::{Agent, PeerStatus, wicectl};
use wice_tests::nat::Nat;
use wice_tests::scene::{PATIENCE, Scene};
use wice_tests::server::Server;
use wice_tests::topology::{Family, Lab};
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("tcp-joins-a-network-without-udp-and-a-public-host", public),
        case("tcp-gives-way-to-udp-and-closes-the-port", gives_way),
    ]
}

/// A behind a NAT that passes no UDP, B where everybody reaches it.
fn half_blocked(engine: Engine) -> Result<Scene> {
    let mut lab = Lab::new(Family::V4)?;
    let mut router = lab.router(Nat::UdpBlocked)?;
    let a = lab.host("a", &mut router)?;
    let b = lab.host_on_wan("b")?;
    let server = Server::start(&lab)?;
    Scene::with(engine, lab, server, vec![router], [a, b])
}

/// The network of the selected pair, of a peer that is connected.
fn network(peer: &PeerStatus) -> Option<&str> {
    let candidate = peer.local_candidate.as_ref()?;
    (peer.state == "connected").then_some(candidate.network.as_str())
}

fn over(agent: &Agent, scene: &Scene, wanted: &str) -> Result<Option<PeerStatus>> {
    let (a, b) = (&scene.a.tunnel, &scene.b.tunnel);
    let peer = agent.peer(a, b)?.or(agent.peer(b, a)?);
    Ok(peer.filter(|peer| network(peer) == Some(wanted)))
}

fn public(engine: Engine) -> Result<()> {
    let scene = half_blocked(engine)?;
    let (a, b) = scene.connect()?;
    for agent in [&a, &b] {
        let peer = until("a pair over TCP", PATIENCE, || over(agent, &scene, "tcp4"))?;
        ensure!(peer.path == "direct", "the path is {}", peer.path);
        println!("{:?} to {:?}", peer.local_candidate, peer.remote_candidate);
    }
    println!("{}", scene.a.host.machine.run("wg show wg0")?);
    scene.b.reaches(&scene.a)?;
    Ok(())
}

fn gives_way(engine: Engine) -> Result<()> {
    let scene = half_blocked(engine)?;
    let (a, b) = scene.connect()?;
    until("a pair over TCP", PATIENCE, || over(&a, &scene, "tcp4"))?;
    let router = &scene.routers[0].machine;
    router.run("nft delete chain ip lab block")?;
    wicectl(&scene.a.host, &format!("restart {}", scene.b.tunnel.key))?;
    for agent in [&a, &b] {
        until("a pair over UDP", PATIENCE, || over(agent, &scene, "udp4"))?;
    }
    scene.b.reaches(&scene.a)?;
    let listening = || scene.b.host.machine.run("ss -Hltn");
    until("B's port to be closed", PATIENCE, || {
        Ok((!listening()?.contains(":51820")).then_some(()))
    })
}
