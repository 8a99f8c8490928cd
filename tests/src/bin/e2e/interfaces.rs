//! Interfaces and peers that come, go and change while the agent runs.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use wice_tests::agent::{Agent, Settings};
use wice_tests::scene::{PATIENCE, Scene};
use wice_tests::wait::until;
use wice_tests::wireguard::{Engine, Tunnel};

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "interfaces-a-peer-added-while-running-is-connected",
            peer_added,
        ),
        case(
            "interfaces-an-interface-added-while-running-is-connected",
            interface_added,
        ),
        case(
            "interfaces-a-deleted-interface-leaves-the-status",
            interface_deleted,
        ),
        case(
            "interfaces-a-renamed-interface-keeps-its-path",
            interface_renamed,
        ),
        case(
            "interfaces-an-overwritten-endpoint-is-put-back",
            endpoint_overwritten,
        ),
        case("interfaces-one-without-a-key-harms-no-other", without_key),
    ]
}

fn peer_added(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    scene
        .a
        .tunnel
        .set(&format!("peer {} remove", scene.b.tunnel.key))?;
    let (a, b) = scene.start()?;
    a.backends_up(PATIENCE)?;
    scene.a.tunnel.add_peer(&scene.b.tunnel)?;
    scene.converge(&a, &b)
}

/// Adds `wg1` to both sides, on another port, and waits until its path works.
fn second_interface(scene: &Scene, a: &Agent, b: &Agent) -> Result<(Tunnel, Tunnel)> {
    let up = |host, last| {
        Tunnel::up_on_port(
            scene.engine,
            host,
            "wg1",
            Ipv4Addr::new(10, 98, 0, last),
            51821,
        )
    };
    let (one, two) = (up(&scene.a.host, 1)?, up(&scene.b.host, 2)?);
    one.add_peer(&two)?;
    two.add_peer(&one)?;
    a.connected(&one, &two, PATIENCE)?;
    b.connected(&two, &one, PATIENCE)?;
    wice_tests::ping::Pinger::new(&scene.a.host, two.address)?
        .first_reply(Duration::from_millis(20), PATIENCE)?;
    Ok((one, two))
}

fn interface_added(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let (a, b) = scene.connect()?;
    let _tunnels = second_interface(&scene, &a, &b)?;
    scene.a.reaches(&scene.b)
}

fn interface_deleted(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let (a, b) = scene.connect()?;
    let (one, _two) = second_interface(&scene, &a, &b)?;
    one.delete()?;
    until("wg1 to leave the status", PATIENCE, || {
        Ok(a.status()?
            .interfaces
            .iter()
            .all(|one| one.name != "wg1")
            .then_some(()))
    })?;
    scene.a.reaches(&scene.b)
}

/// The userspace WireGuard names its control socket once, so only the kernel's can be renamed.
fn interface_renamed(engine: Engine) -> Result<()> {
    if engine == Engine::Userspace {
        println!(
            "the userspace WireGuard cannot follow a new name; the machine with kernel WireGuard runs this case"
        );
        return Ok(());
    }
    let mut scene = Scene::at_home(engine)?;
    let (a, b) = scene.connect()?;
    scene.a.tunnel.rename("wg-home")?;
    scene.converge(&a, &b)?;
    ensure!(
        a.status()?.interfaces.iter().all(|one| one.name != "wg0"),
        "the old name is still shown"
    );
    Ok(())
}

fn endpoint_overwritten(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let _agents = scene.connect()?;
    let good = scene.a.tunnel.peer(&scene.b.tunnel)?.endpoint;
    scene.a.tunnel.set(&format!(
        "peer {} endpoint 10.0.0.200:9",
        scene.b.tunnel.key
    ))?;
    until("the endpoint to be put back", PATIENCE, || {
        Ok((scene.a.tunnel.peer(&scene.b.tunnel)?.endpoint == good).then_some(()))
    })?;
    scene.a.reaches(&scene.b)
}

fn without_key(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let bare = Tunnel::up_on_port(
        engine,
        &scene.a.host,
        "wg9",
        Ipv4Addr::new(10, 97, 0, 1),
        51829,
    )?;
    bare.set("private-key /dev/null")?;
    let a = Agent::start(&scene.a.host, &Settings::websocket(&scene.server))?;
    let b = Agent::start(&scene.b.host, &Settings::websocket(&scene.server))?;
    scene.converge(&a, &b)
}
