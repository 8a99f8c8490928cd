//! Everything bad that can happen to an agent from its own machine's side: missing rights, broken configurations,
//! servers that lie, interfaces that hang. Each costs what it must and no more.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use wice_tests::agent::{Agent, Settings, wicectl};
use wice_tests::namespace::Namespace;
use wice_tests::ping::Pinger;
use wice_tests::process::Process;
use wice_tests::scene::{PATIENCE, Scene};
use wice_tests::server::program;
use wice_tests::topology::Host;
use wice_tests::wait::{patience, until};
use wice_tests::wireguard::{Engine, Tunnel};

use crate::{Case, case, mailbox};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "trouble-each-missing-capability-is-named-and-two-are-enough",
            capabilities,
        ),
        case("trouble-a-reload-costs-no-path", reload),
        case(
            "trouble-servers-that-lie-or-hang-do-not-delay-one-that-works",
            bad_servers,
        ),
        case(
            "trouble-a-userspace-wireguard-that-hangs-harms-no-other-interface",
            hanging_interface,
        ),
        case(
            "trouble-an-agent-leaves-within-three-seconds-of-a-dead-network",
            leaves_quickly,
        ),
        case(
            "trouble-an-agent-that-leaves-empties-its-mailboxes",
            leaves_nothing,
        ),
        case(
            "trouble-a-key-and-a-port-that-are-set-later-are-followed",
            late_key,
        ),
        case(
            "trouble-a-peer-with-a-new-key-is-connected-again",
            new_peer_key,
        ),
        case(
            "trouble-an-interface-made-anew-is-connected-again",
            made_anew,
        ),
        case(
            "trouble-an-agent-without-any-configuration-says-what-it-lacks",
            no_configuration,
        ),
    ]
}

/// Where the configuration of every agent of the lab is.
const CONFIGURATION: &str = "/run/lab/wice.toml";

fn configure(host: &Host, text: &str) -> Result<()> {
    host.machine.write(CONFIGURATION, text)
}

/// A configuration by the scene's server, with more backends and lines.
fn configuration(scene: &Scene, more: &str) -> String {
    format!(
        "[signaling]\nbackends = [{:?}]\n[ice]\nservers = [{:?}]\n{more}",
        scene.server.websocket(),
        scene.server.stun()
    )
}

/// The agent of a host, with nothing but these capabilities (as setpriv(1) names them).
fn with_capabilities(host: &Host, capabilities: &[&str]) -> Result<Process> {
    let mut set = "-all".to_owned();
    for capability in capabilities {
        set.push_str(",+");
        set.push_str(capability);
    }
    let mut command = host.machine.command("setpriv");
    command
        .arg(format!("--bounding-set={set}"))
        .arg(format!("--inh-caps={set}"))
        .arg(program("wice-agent")?)
        .args(["--config", CONFIGURATION])
        .env("DBUS_SYSTEM_BUS_ADDRESS", wice_tests::bus::ADDRESS);
    Process::start(&host.machine, "confined-agent", &mut command)
}

fn capabilities(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    configure(&scene.a.host, &configuration(&scene, ""))?;
    for (granted, missing) in [("net_admin", "CAP_NET_RAW"), ("net_raw", "CAP_NET_ADMIN")] {
        let mut agent = with_capabilities(&scene.a.host, &[granted])?;
        let status = agent.wait(PATIENCE)?;
        println!("{}", agent.tail(1).trim_end());
        ensure!(status.code() == Some(1), "ended with {status}");
        ensure!(
            agent.tail(1).contains(missing),
            "the message does not name {missing}"
        );
    }
    let _b = Agent::start(&scene.b.host, &Settings::websocket(&scene.server))?;
    let mut agent = with_capabilities(&scene.a.host, &["net_admin", "net_raw"])?;
    scene.a.reaches(&scene.b)?;
    ensure!(agent.is_running(), "{}", agent.tail(5));
    Ok(())
}

fn reload(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let (mut a, b) = scene.connect()?;
    let pings = Pinger::new(&scene.a.host, scene.b.tunnel.address)?.run(Duration::from_millis(20));
    let restarts = |agent: &Agent| -> Result<Option<u32>> {
        let peer = agent.peer(&scene.a.tunnel, &scene.b.tunnel)?;
        Ok(peer.map(|peer| peer.restarts))
    };
    let before = restarts(&a)?;

    configure(&scene.a.host, "[signaling]\nbackend = []\n")?;
    a.process.signal(Signal::SIGHUP)?;
    until("A to refuse the configuration", PATIENCE, || {
        Ok(a.process.output().contains("stays as it was").then_some(()))
    })?;
    let refusal = wicectl(&scene.a.host, "reload").err().context("taken")?;
    println!("{refusal:#}");
    ensure!(
        format!("{refusal:#}").contains("did you mean `backends`"),
        "wicectl does not say what is wrong"
    );

    let more = format!(
        "[signaling]\nbackends = [{:?}, {:?}]\n[ice]\nservers = [{:?}, \"stun:nobody.invalid\"]\n",
        scene.server.websocket(),
        scene.server.http(),
        scene.server.stun()
    );
    configure(&scene.a.host, &more)?;
    wicectl(&scene.a.host, "reload")?;
    until("both backends of A to be up", PATIENCE, || {
        let backends = a.status()?.agent.backends;
        Ok((backends.len() == 2 && backends.iter().all(|one| one.state == "up")).then_some(()))
    })?;
    ensure!(restarts(&a)? == before, "the session was restarted");

    let unmanaged = format!("{more}[peer.{:?}]\nmanage = false\n", scene.b.tunnel.key);
    configure(&scene.a.host, &unmanaged)?;
    a.process.signal(Signal::SIGHUP)?;
    until("B to be unmanaged", PATIENCE, || {
        let peer = a.peer(&scene.a.tunnel, &scene.b.tunnel)?;
        Ok(peer.filter(|peer| peer.state == "unmanaged").map(drop))
    })?;
    configure(&scene.a.host, &more)?;
    a.process.signal(Signal::SIGHUP)?;
    scene.converge(&a, &b)?;

    let tally = pings.stop()?;
    println!("{} pings, {} lost", tally.sent, tally.lost.len());
    ensure!(tally.lost.is_empty(), "pings lost at {:?}", tally.lost);
    ensure!(a.process.is_running(), "{}", a.process.tail(10));
    Ok(())
}

/// Accepts connections and answers each with `answer`, or with nothing at all; as long as the case runs.
fn listen(machine: &Namespace, address: SocketAddr, answer: Option<&'static str>) -> Result<()> {
    let listener = machine.enter(|| Ok(TcpListener::bind(address)?))?;
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            if let Some(answer) = answer {
                // Whoever is lied to may hang up.
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            } else {
                open.push(stream);
            }
        }
    });
    Ok(())
}

/// Answers every datagram with nonsense that looks like STUN.
fn answer_nonsense(machine: &Namespace, address: SocketAddr) -> Result<()> {
    let socket = machine.enter(|| Ok(UdpSocket::bind(address)?))?;
    thread::spawn(move || {
        let mut request = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut request) {
            // A success response to this very request, with an attribute that is longer than the message.
            request[..2].copy_from_slice(&[1, 1]);
            request[2..4].copy_from_slice(&[0, 4]);
            request[20..24].copy_from_slice(&[0, 0x20, 0xff, 0xff]);
            let _ = socket.send_to(&request[..length.max(24)], from);
        }
    });
    Ok(())
}

fn bad_servers(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let wan = scene.lab.wan();
    let at = |port| SocketAddr::new(scene.lab.server_address(), port);
    listen(wan, at(9001), None)?;
    listen(
        wan,
        at(9002),
        Some("HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<html>hi</html>"),
    )?;
    listen(wan, at(9003), Some("SSH-2.0-nonsense\r\n"))?;
    answer_nonsense(wan, at(9004))?;
    let mut settings = Settings::websocket(&scene.server);
    let bad = [
        "ws://10.0.0.1:9",
        "http://10.0.0.1:9001",
        "ws://10.0.0.1:9001",
        "http://10.0.0.1:9002",
        "ws://10.0.0.1:9002",
        "http://10.0.0.1:9003",
        "ws://nobody.invalid",
        "http://10.0.0.222:80",
    ];
    settings.backends.splice(0..0, bad.map(str::to_owned));
    let bad = [
        "stun:nobody.invalid",
        "stun:10.0.0.1:9",
        "stun:10.0.0.222",
        "stun:10.0.0.1:9004",
    ];
    settings.servers.splice(0..0, bad.map(str::to_owned));
    let start = Instant::now();
    let mut a = Agent::start(&scene.a.host, &settings)?;
    let b = Agent::start(&scene.b.host, &settings)?;
    scene.converge(&a, &b)?;
    println!("connected after {:?}", start.elapsed());
    ensure!(a.process.is_running(), "{}", a.process.tail(10));
    let up = a.status()?.agent.backends;
    ensure!(
        up.iter().filter(|one| one.state == "up").count() == 1,
        "a server that lies counts as one that works: {up:?}"
    );
    Ok(())
}

fn hanging_interface(engine: Engine) -> Result<()> {
    if engine == Engine::Kernel {
        println!("the kernel does not hang; a machine with userspace WireGuard runs this case");
        return Ok(());
    }
    let scene = Scene::at_home(engine)?;
    let machine = &scene.a.host.machine;
    let mut command = machine.command("wireguard-go");
    command.arg("wg9").env("WG_PROCESS_FOREGROUND", "1");
    let hanging = Process::start(machine, "hanging", &mut command)?;
    until("the control socket of wg9", PATIENCE, || {
        Ok(machine.has("/run/wireguard/wg9.sock").then_some(()))
    })?;
    let private = machine.run("wg genkey")?;
    machine.run_with_input(
        "wg set wg9 private-key /dev/stdin listen-port 51829",
        &private,
    )?;
    machine.ip("link set wg9 up")?;
    let settings = Settings::websocket(&scene.server);
    let a = Agent::start(&scene.a.host, &settings)?;
    until("wg9 in the status", PATIENCE, || {
        Ok(a.status()?
            .interfaces
            .iter()
            .any(|one| one.name == "wg9")
            .then_some(()))
    })?;

    hanging.signal(Signal::SIGSTOP)?;
    let warning = "does not answer";
    until("A to notice", PATIENCE, || {
        Ok(a.process.output().contains(warning).then_some(()))
    })?;
    let start = Instant::now();
    let b = Agent::start(&scene.b.host, &settings)?;
    scene.converge(&a, &b)?;
    println!("B connected {:?} after its start", start.elapsed());
    ensure!(
        start.elapsed() < Duration::from_secs(2) * patience(),
        "the interface that hangs delayed the other one"
    );
    ensure!(
        a.process.output().matches(warning).count() == 1,
        "said more than once"
    );

    hanging.signal(Signal::SIGCONT)?;
    until("A to read wg9 again", PATIENCE, || {
        Ok(a.process
            .output()
            .contains("wg9 answers again")
            .then_some(()))
    })
}

fn leaves_quickly(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    // By plain requests: each waits for its answer.
    let settings = Settings::http(&scene.server);
    let mut a = Agent::start(&scene.a.host, &settings)?;
    let b = Agent::start(&scene.b.host, &settings)?;
    scene.converge(&a, &b)?;
    let endpoint = scene.a.tunnel.peer(&scene.b.tunnel)?.endpoint;
    // The connection to the server stays open, and nothing arrives any more.
    scene.lab.wan().ip("link set wan down")?;
    let start = Instant::now();
    let status = a.process.stop()?;
    let took = start.elapsed();
    println!("left after {took:?}");
    ensure!(status.success(), "ended with {status}");
    ensure!(took < Duration::from_secs(3) * patience(), "took {took:?}");
    ensure!(
        scene.a.tunnel.peer(&scene.b.tunnel)?.endpoint == endpoint,
        "the endpoint did not stay"
    );
    Ok(())
}

fn leaves_nothing(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let by_http = Settings::http(&scene.server);
    let mut a = Agent::start(&scene.a.host, &by_http)?;
    let mut b = Agent::start(&scene.b.host, &Settings::websocket(&scene.server))?;
    scene.converge(&a, &b)?;
    let pair = mailbox::secrets(&scene.a, &scene.b)?;
    for (agent, mailbox) in [(&mut a, pair.outgoing()), (&mut b, pair.incoming())] {
        ensure!(
            mailbox::read(&scene, mailbox)?.is_some(),
            "empty before anybody left"
        );
        agent.process.stop()?;
        ensure!(
            mailbox::read(&scene, mailbox)?.is_none(),
            "the offer stayed behind"
        );
    }
    scene.a.reaches(&scene.b)
}

fn late_key(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let machine = &scene.a.host.machine;
    let private = machine.run("wg show wg0 private-key")?;
    scene.a.tunnel.set("private-key /dev/null")?;
    let (a, b) = scene.start()?;
    a.backends_up(PATIENCE)?;
    machine.run_with_input("wg set wg0 private-key /dev/stdin", &private)?;
    scene.converge(&a, &b)?;
    scene.a.tunnel.set("listen-port 51999")?;
    until("A's new port to be the endpoint at B", PATIENCE, || {
        let endpoint = scene.b.tunnel.peer(&scene.a.tunnel)?.endpoint;
        Ok(endpoint.filter(|one| one.port() != 51820).map(drop))
    })?;
    scene.converge(&a, &b)
}

fn new_peer_key(engine: Engine) -> Result<()> {
    let mut scene = Scene::at_home(engine)?;
    let (a, b) = scene.connect()?;
    let machine = &scene.b.host.machine;
    let private = machine.run("wg genkey")?;
    let key = machine
        .run_with_input("wg pubkey", &private)?
        .trim()
        .to_owned();
    machine.run_with_input("wg set wg0 private-key /dev/stdin", &private)?;
    scene
        .a
        .tunnel
        .set(&format!("peer {} remove", scene.b.tunnel.key))?;
    scene.b.tunnel.key = key;
    scene.a.tunnel.add_peer(&scene.b.tunnel)?;
    scene.converge(&a, &b)
}

fn made_anew(engine: Engine) -> Result<()> {
    let mut scene = Scene::at_home(engine)?;
    let (a, b) = scene.connect()?;
    let address = scene.a.tunnel.address;
    let private = scene.a.host.machine.run("wg show wg0 private-key")?;
    let old_key = scene.a.tunnel.key.clone();
    let fresh = Tunnel::up_on_port(
        engine,
        &scene.a.host,
        "spare",
        Ipv4Addr::new(10, 90, 0, 1),
        51899,
    )?;
    std::mem::replace(&mut scene.a.tunnel, fresh).delete()?;
    until("wg0 to leave the status", PATIENCE, || {
        Ok(a.status()?
            .interfaces
            .iter()
            .all(|one| one.name != "wg0")
            .then_some(()))
    })?;
    let mut again = Tunnel::up(engine, &scene.a.host, "wg0", address)?;
    scene
        .a
        .host
        .machine
        .run_with_input("wg set wg0 private-key /dev/stdin", &private)?;
    again.key = old_key;
    scene.a.tunnel = again;
    scene.a.tunnel.add_peer(&scene.b.tunnel)?;
    scene.converge(&a, &b)
}

fn no_configuration(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let machine = &scene.a.host.machine;
    if machine.has("/etc/wice/wice.toml") {
        println!("this machine has a configuration of its own; not tried");
        return Ok(());
    }
    let mut command = machine.command(program("wice-agent")?);
    command.env("DBUS_SYSTEM_BUS_ADDRESS", wice_tests::bus::ADDRESS);
    let mut agent = Process::start(machine, "wice-agent", &mut command)?;
    let shown = until("the status of A", PATIENCE, || {
        Ok(Some(wicectl(&scene.a.host, "status")?).filter(|text| text.contains("wg0")))
    })?;
    println!("{shown}");
    ensure!(
        shown.contains("no backend") || shown.contains("none"),
        "the status does not say that there is no backend"
    );
    ensure!(
        agent.output().contains("[signaling] backends"),
        "the log does not say what to do"
    );
    ensure!(agent.is_running(), "{}", agent.tail(5));
    Ok(())
}
