//! Tunnels whose agents meet although each is connected to another rendezvous server: the servers share a NATS.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;
use wice_tests::agent::{Agent, Settings};
use wice_tests::process::Process;
use wice_tests::scene::{PATIENCE, Scene};
use wice_tests::server::program;
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![Case {
        name: "two-servers-over-one-nats-bring-two-agents-together",
        deadline: Duration::from_secs(180),
        run: two_servers,
    }]
}

/// The scene's own server is asked for STUN only.
fn two_servers(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let wan = scene.lab.wan();
    let mut nats = wan.command("nats-server");
    nats.args(["-a", "127.0.0.1", "-p", "4222", "-js", "-sd", "/run/nats"]);
    let _nats = Process::start(wan, "nats-server", &mut nats)?;
    let mut left = serve(&scene, 8081)?;
    let right = serve(&scene, 8082)?;
    let a = Agent::start(&scene.a.host, &settings(&scene, 8081))?;
    let mut b = Agent::start(&scene.b.host, &settings(&scene, 8082))?;
    scene.converge(&a, &b)?;

    // The server of one of them dies, and the path does not; with its successor a new session finds the other.
    left.crash()?;
    scene.a.reaches(&scene.b)?;
    let left = serve(&scene, 8081)?;
    b.again()?;
    scene.converge(&a, &b)?;
    drop((left, right));
    Ok(())
}

/// Starts a server that shares its mailboxes, and waits until it listens; that NATS is there is its own affair.
fn serve(scene: &Scene, port: u16) -> Result<Process> {
    let wan = scene.lab.wan();
    let listen = SocketAddr::from((scene.lab.server_address(), port));
    let mut command = wan.command(program("wice-signal")?);
    command.args(["--store", "nats://127.0.0.1:4222", "--listen"]);
    command.arg(listen.to_string());
    let process = Process::start(wan, &format!("wice-signal-{port}"), &mut command)?;
    until("a server of the fleet to listen", PATIENCE, || {
        wan.enter(|| Ok(TcpStream::connect(listen).ok().map(drop)))
    })?;
    Ok(process)
}

fn settings(scene: &Scene, port: u16) -> Settings {
    let address = SocketAddr::from((scene.lab.server_address(), port));
    Settings {
        backends: vec![format!("ws://{address}")],
        ..Settings::websocket(&scene.server)
    }
}
