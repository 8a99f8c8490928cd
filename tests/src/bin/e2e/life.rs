//! What happens to a path when something around it ends, crashes, restarts or moves.

use std::env;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wice_tests::agent::{Agent, Settings, wicectl};
use wice_tests::nat::Nat;
use wice_tests::ping::{Pinger, Running};
use wice_tests::process::Process;
use wice_tests::scene::{PATIENCE, Scene};
use wice_tests::topology::Host;
use wice_tests::wait::{steadily, until};
use wice_tests::wireguard::{Engine, Tunnel};

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let long = |name, run| Case {
        name,
        deadline: Duration::from_secs(180),
        run,
    };
    vec![
        case(
            "life-a-restart-of-the-session-loses-no-packet",
            session_restart,
        ),
        case(
            "life-a-tunnel-outlives-a-killed-agent-which-converges-again",
            killed_agent,
        ),
        long(
            "life-a-stopped-rendezvous-server-is-not-noticed-by-a-path",
            stopped_server,
        ),
        long(
            "life-a-path-recovers-when-a-host-gets-another-address",
            new_address,
        ),
        long(
            "life-a-path-recovers-when-a-host-moves-behind-another-nat",
            other_nat,
        ),
        case(
            "life-an-agent-starts-before-the-rendezvous-server",
            early_agent,
        ),
        case("life-a-plain-wireguard-peer-is-never-touched", plain_peer),
        case("life-a-second-agent-refuses-with-exit-code-5", second_agent),
        case("life-an-agent-without-a-system-bus-runs-on", no_bus),
    ]
}

const RATE: Duration = Duration::from_millis(20);

/// The field's figure is 2 s; a moved host is back within a fifth of one on a quiet machine.
const ROAMING: Duration = Duration::from_secs(10);

/// Starts to ping B from A through the tunnel, fifty times a second.
fn ping(scene: &Scene) -> Result<Running> {
    Ok(Pinger::new(&scene.a.host, scene.b.tunnel.address)?.run(RATE))
}

fn session_restart(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let (a, b) = scene.connect()?;
    let before = a
        .peer(&scene.a.tunnel, &scene.b.tunnel)?
        .context("A does not know B")?
        .restarts;
    let pings = ping(&scene)?;
    wicectl(&scene.a.host, &format!("restart {}", scene.b.tunnel.key))?;
    until(
        "A to have restarted and to be connected again",
        PATIENCE,
        || {
            let peer = a.peer(&scene.a.tunnel, &scene.b.tunnel)?;
            Ok(peer.filter(|one| one.restarts > before && one.state == "connected"))
        },
    )?;
    b.connected(&scene.b.tunnel, &scene.a.tunnel, PATIENCE)?;
    // A path that flaps does so within the next checks.
    steadily(
        "A's state",
        Duration::from_secs(2),
        &"connected".to_owned(),
        || {
            Ok(a.peer(&scene.a.tunnel, &scene.b.tunnel)?
                .context("A forgot B")?
                .state)
        },
    )?;
    let tally = pings.stop()?;
    println!("{tally}");
    tally.none_lost()
}

fn killed_agent(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let (mut a, b) = scene.connect()?;
    let pings = ping(&scene)?;
    a.process.crash()?;
    let endpoint = scene.a.tunnel.peer(&scene.b.tunnel)?.endpoint;
    steadily(
        "the endpoint of A without its agent",
        Duration::from_secs(3),
        &endpoint,
        || Ok(scene.a.tunnel.peer(&scene.b.tunnel)?.endpoint),
    )?;
    a.again()?;
    a.connected(&scene.a.tunnel, &scene.b.tunnel, PATIENCE)?;
    b.connected(&scene.b.tunnel, &scene.a.tunnel, PATIENCE)?;
    let tally = pings.stop()?;
    println!("{tally}");
    tally.none_lost()
}

/// `WICE_OUTAGE` seconds, else 15: agents reconnect with a growing backoff, so longer outages take longer to end.
fn stopped_server(engine: Engine) -> Result<()> {
    let outage = env::var("WICE_OUTAGE")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(15);
    let mut scene = Scene::at_home(engine)?;
    let (a, b) = scene.connect()?;
    a.backends_up(PATIENCE)?;
    let pings = ping(&scene)?;
    scene.server.stop()?;
    until("A to notice", PATIENCE, || {
        Ok(a.status()?
            .agent
            .backends
            .iter()
            .any(|one| one.state != "up")
            .then_some(()))
    })?;
    steadily(
        "A's state",
        Duration::from_secs(outage),
        &"connected".to_owned(),
        || {
            Ok(a.peer(&scene.a.tunnel, &scene.b.tunnel)?
                .context("A forgot B")?
                .state)
        },
    )?;
    scene.server.restart()?;
    // The backoff grows to at most a minute.
    a.backends_up(Duration::from_secs(75))?;
    b.backends_up(Duration::from_secs(75))?;
    let tally = pings.stop()?;
    println!("{tally}");
    tally.none_lost()
}

fn new_address(engine: Engine) -> Result<()> {
    let mut scene = Scene::at_home(engine)?;
    let (a, b) = scene.connect()?;
    let pings = ping(&scene)?;
    scene.a.host.readdress(&scene.routers[0], 77)?;
    recovers(&scene, &a, &b, pings)
}

fn other_nat(engine: Engine) -> Result<()> {
    let mut scene = Scene::at_home(engine)?;
    let (a, b) = scene.connect()?;
    let pings = ping(&scene)?;
    let mut elsewhere = scene.lab.router(Nat::PortRestricted)?;
    scene.a.host.move_to(&mut elsewhere)?;
    recovers(&scene, &a, &b, pings)?;
    until("B to send to the other NAT", PATIENCE, || {
        let endpoint = scene.b.tunnel.peer(&scene.a.tunnel)?.endpoint;
        Ok((endpoint.map(|one| one.ip()) == Some(elsewhere.address)).then_some(()))
    })
}

fn recovers(scene: &Scene, a: &Agent, b: &Agent, pings: Running) -> Result<()> {
    let moved = Instant::now();
    let reply = Pinger::new(&scene.a.host, scene.b.tunnel.address)?.first_reply(RATE, ROAMING)?;
    println!(
        "the first reply came {:?} after the move",
        reply.duration_since(moved)
    );
    let tally = pings.stop()?;
    println!(
        "{} pings, {} lost, longest silence {:?}",
        tally.sent,
        tally.lost.len(),
        tally.longest_silence
    );
    a.connected(&scene.a.tunnel, &scene.b.tunnel, PATIENCE)?;
    b.connected(&scene.b.tunnel, &scene.a.tunnel, PATIENCE)
        .map(drop)
}

fn early_agent(engine: Engine) -> Result<()> {
    let mut scene = Scene::at_home(engine)?;
    scene.server.stop()?;
    let (a, b) = scene.start()?;
    until("A to say that the server is away", PATIENCE, || {
        let backends = a.status()?.agent.backends;
        Ok(backends.iter().any(|one| one.state != "up").then_some(()))
    })?;
    scene.server.restart()?;
    scene.converge(&a, &b)
}

fn plain_peer(engine: Engine) -> Result<()> {
    let mut scene = Scene::at_home(engine)?;
    let other: Host = scene.lab.host_on_wan("plain")?;
    let plain = Tunnel::up(scene.engine, &other, "wg0", Ipv4Addr::new(10, 99, 0, 9))?;
    plain.add_peer(&scene.a.tunnel)?;
    let endpoint = (other.address, plain.port).into();
    scene.a.tunnel.add_peer_at(&plain, endpoint)?;
    let (a, _b) = scene.connect()?;
    let mut pinger = Pinger::new(&scene.a.host, plain.address)?;
    pinger.first_reply(RATE, PATIENCE)?;
    let pings = pinger.run(RATE);
    steadily(
        "the endpoint of the plain peer",
        Duration::from_secs(5),
        &Some(endpoint),
        || Ok(scene.a.tunnel.peer(&plain)?.endpoint),
    )?;
    let status = a
        .peer(&scene.a.tunnel, &plain)?
        .context("A does not know the plain peer")?;
    println!("the plain peer is {}, path {}", status.state, status.path);
    let tally = pings.stop()?;
    println!("{tally}");
    tally.none_lost()
}

fn second_agent(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let (a, _b) = scene.connect()?;
    let machine = &scene.a.host.machine;
    let mut second = Process::start(machine, "second-agent", &mut Agent::command(&scene.a.host)?)?;
    let status = second.wait(PATIENCE)?;
    println!("{}", second.tail(5).trim_end());
    ensure!(
        status.code() == Some(5),
        "the second agent ended with {status}"
    );
    ensure!(
        !second.output().trim().is_empty(),
        "the second agent did not say why"
    );
    a.connected(&scene.a.tunnel, &scene.b.tunnel, PATIENCE)?;
    scene.a.reaches(&scene.b)
}

fn no_bus(engine: Engine) -> Result<()> {
    let mut scene = Scene::at_home(engine)?;
    scene.a.stop_bus()?;
    let settings = Settings::websocket(&scene.server);
    let mut a = Agent::start(&scene.a.host, &settings)?;
    let b = Agent::start(&scene.b.host, &settings)?;
    b.connected(&scene.b.tunnel, &scene.a.tunnel, PATIENCE)?;
    scene.a.reaches(&scene.b)?;
    ensure!(
        a.process.is_running(),
        "the agent ended: {}",
        a.process.tail(10)
    );
    scene.a.start_bus()?;
    a.connected(&scene.a.tunnel, &scene.b.tunnel, Duration::from_secs(40))
        .map(drop)
}
