//! Which path two agents find, through what is between them.

use anyhow::{Context as _, Result, ensure};
use wice_tests::agent::{Agent, Settings};
use wice_tests::nat::Nat;
use wice_tests::scene::{PATIENCE, Scene};
use wice_tests::topology::Family;
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "a-path-through-two-port-restricted-nats-is-direct",
            two_nats,
        ),
        case("a-path-by-plain-http-is-found-too", by_http),
        case(
            "a-path-through-full-cone-and-port-restricted-nats-is-direct",
            full_cone,
        ),
        case(
            "a-path-through-symmetric-and-full-cone-nats-is-direct",
            symmetric,
        ),
        case("a-path-on-one-lan-uses-host-candidates", one_lan),
        case("a-path-over-ipv6-passes-stateful-firewalls", ipv6),
    ]
}

fn two_nats(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let (a, b) = scene.connect()?;
    let peer = scene.a.tunnel.handshake(&scene.b.tunnel, PATIENCE)?;
    println!("{}", scene.a.host.machine.run("wg show wg0")?);
    ensure!(
        peer.endpoint.map(|one| one.ip()) == Some(scene.routers[1].address),
        "the endpoint is not B's NAT"
    );
    let peer = scene.b.tunnel.handshake(&scene.a.tunnel, PATIENCE)?;
    ensure!(
        peer.endpoint.map(|one| one.ip()) == Some(scene.routers[0].address),
        "the endpoint is not A's NAT"
    );
    let status = a
        .peer(&scene.a.tunnel, &scene.b.tunnel)?
        .context("A does not know B")?;
    ensure!(status.path == "direct", "the path is {}", status.path);
    drop((a, b));
    Ok(())
}

fn by_http(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let settings = Settings::http(&scene.server);
    let (a, b) = (
        Agent::start(&scene.a.host, &settings)?,
        Agent::start(&scene.b.host, &settings)?,
    );
    scene.converge(&a, &b)
}

fn full_cone(engine: Engine) -> Result<()> {
    Scene::behind(engine, Family::V4, Nat::FullCone, Nat::PortRestricted)?
        .connect()
        .map(drop)
}

fn symmetric(engine: Engine) -> Result<()> {
    Scene::behind(engine, Family::V4, Nat::Symmetric, Nat::FullCone)?
        .connect()
        .map(drop)
}

fn one_lan(engine: Engine) -> Result<()> {
    let scene = Scene::on_one_lan(engine)?;
    let (a, _b) = scene.connect()?;
    until("A to use B's own address", PATIENCE, || {
        let endpoint = scene.a.tunnel.peer(&scene.b.tunnel)?.endpoint;
        Ok((endpoint.map(|one| one.ip()) == Some(scene.b.host.address)).then_some(()))
    })?;
    let status = a
        .peer(&scene.a.tunnel, &scene.b.tunnel)?
        .context("A does not know B")?;
    println!(
        "{:?} to {:?}",
        status.local_candidate, status.remote_candidate
    );
    ensure!(
        status
            .local_candidate
            .is_some_and(|one| one.r#type == "host"),
        "the local candidate is not a host address"
    );
    Ok(())
}

fn ipv6(engine: Engine) -> Result<()> {
    let scene = Scene::behind(engine, Family::V6, Nat::Firewall, Nat::Firewall)?;
    let _agents = scene.connect()?;
    let endpoint = scene.a.tunnel.peer(&scene.b.tunnel)?.endpoint;
    println!("{endpoint:?}");
    ensure!(
        endpoint.map(|one| one.ip()) == Some(scene.b.host.address),
        "not B's own address"
    );
    Ok(())
}
