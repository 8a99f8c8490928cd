//! What strangers send: none of it may cost a path or an agent.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use wice_tests::agent::Agent;
use wice_tests::nat::Nat;
use wice_tests::ping::Pinger;
use wice_tests::scene::{PATIENCE, Scene};
use wice_tests::stun;
use wice_tests::topology::Family;
use wice_tests::wireguard::Engine;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("input-a-flood-of-stun-garbage-changes-nothing", garbage),
        case(
            "input-a-malformed-configuration-is-refused-with-the-key-named",
            bad_configuration,
        ),
    ]
}

/// A full-cone NAT lets the garbage through to WireGuard's port.
fn garbage(engine: Engine) -> Result<()> {
    let mut scene = Scene::behind(engine, Family::V4, Nat::FullCone, Nat::PortRestricted)?;
    let (mut a, b) = scene.connect()?;
    let outsider = scene.lab.host_on_wan("outsider")?;
    let socket = stun::bind(&outsider.machine, (Ipv4Addr::UNSPECIFIED, 0).into())?;
    let port = scene
        .b
        .tunnel
        .peer(&scene.a.tunnel)?
        .endpoint
        .map_or(scene.a.tunnel.port, |endpoint| endpoint.port());
    let target = SocketAddr::new(scene.routers[0].address, port);
    let endpoint = scene.a.tunnel.peer(&scene.b.tunnel)?.endpoint;
    let pings = Pinger::new(&scene.a.host, scene.b.tunnel.address)?.run(Duration::from_millis(20));
    let (start, mut sent, mut seed) = (Instant::now(), 0_u32, 0x9e37_79b9_u32);
    while start.elapsed() < Duration::from_secs(3) {
        for _ in 0..10 {
            let message = stun_like(&mut seed);
            // A full queue drops some of the flood: the rest is enough.
            let _ = socket.send_to(&message, target);
            sent += 1;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let tally = pings.stop()?;
    println!(
        "{sent} datagrams of garbage; {} pings, {} lost",
        tally.sent,
        tally.lost.len()
    );
    ensure!(
        a.process.is_running(),
        "the agent ended: {}",
        a.process.tail(20)
    );
    ensure!(tally.lost.is_empty(), "pings lost at {:?}", tally.lost);
    ensure!(
        scene.a.tunnel.peer(&scene.b.tunnel)?.endpoint == endpoint,
        "the endpoint has changed"
    );
    let lines = a.process.output().lines().count();
    ensure!(lines < 200, "the flood filled the log: {lines} lines");
    b.connected(&scene.b.tunnel, &scene.a.tunnel, PATIENCE)
        .map(drop)
}

/// The cookie where STUN has it, and pseudo-random bytes elsewhere: some with a plausible header, some cut short.
fn stun_like(seed: &mut u32) -> Vec<u8> {
    let mut next = || {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 17;
        *seed ^= *seed << 5;
        *seed
    };
    let length = 8 + (next() % 120) as usize;
    let mut message: Vec<u8> = (0..length).map(|_| next() as u8).collect();
    message[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    if next() % 2 == 0 && length >= 20 {
        let attributes = (length - 20) & !3;
        message.truncate(20 + attributes);
        message[..2].copy_from_slice(&[0, 1]);
        message[2..4].copy_from_slice(&(attributes as u16).to_be_bytes());
    }
    message
}

fn bad_configuration(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let machine = &scene.a.host.machine;
    machine.write(
        "/run/lab/wice.toml",
        "[signaling]\nbackend = [\"ws://10.0.0.1:8080\"]\n",
    )?;
    let mut refused = wice_tests::process::Process::start(
        machine,
        "refused",
        &mut Agent::command(&scene.a.host)?,
    )?;
    let status = refused.wait(PATIENCE)?;
    println!("{}", refused.tail(5).trim_end());
    ensure!(
        !status.success(),
        "the agent took a configuration with an unknown key"
    );
    for word in ["backend", "/run/lab/wice.toml", "backends"] {
        ensure!(
            refused.output().contains(word),
            "the message does not name {word}"
        );
    }
    Ok(())
}
