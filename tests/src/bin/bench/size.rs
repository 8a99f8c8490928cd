//! What the programs and their packages weigh, and what an agent holds in memory when nothing happens. Measures files and
//! processes, and knows nothing of what is in them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use wice_core::key::PrivateKey;
use wice_tests::agent::{Agent, Settings};
use wice_tests::bus;
use wice_tests::server::{Server, program};
use wice_tests::topology::{Family, Lab};
use wice_tests::wait::until;
use wice_tests::wireguard::{Engine, Tunnel};

use crate::usage::Usage;

/// How many peers are compared with none.
const PEERS: usize = 100;
/// When the agent must have seen what it is given.
const SEEN: Duration = Duration::from_secs(20);
/// An agent that has seen its peers has first work with each of them.
const REST: Duration = Duration::from_secs(10);

/// Prints sizes and resident memory.
pub(crate) fn measure(engine: Engine) -> Result<()> {
    println!("\nSizes on disk, and memory at rest\n");
    for name in ["wice-agent", "wicectl", "wice-signal"] {
        row(&format!("{name}, stripped"), stripped(name)?, "");
    }
    let packages = Path::new("target/package");
    let mut found = Vec::new();
    for entry in fs::read_dir(packages).into_iter().flatten() {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|one| one == "deb" || one == "rpm")
        {
            found.push(path);
        }
    }
    found.sort();
    for path in &found {
        let name = path.file_name().context("no name")?.to_string_lossy();
        row(&name, fs::metadata(path)?.len(), "");
    }
    if found.is_empty() {
        println!("  (no packages: `make deb` and `make rpm` make them)");
    }
    let (none, some, server) = resident(engine)?;
    row("wice-agent, no peer", none, "aim 12 MB");
    row(&format!("wice-agent, {PEERS} peers"), some, "");
    row("wice-signal, one agent", server, "");
    Ok(())
}

fn row(what: &str, bytes: u64, aim: &str) {
    println!("  {what:<44}{:>7.2} MB  {aim}", bytes as f64 / 1e6);
}

/// Returns the size that a program has in a package: symbols stay at home.
fn stripped(name: &str) -> Result<u64> {
    let copy = std::env::temp_dir().join(format!("wice-bench-{}-{name}", std::process::id()));
    let status = Command::new("strip")
        .arg("-o")
        .arg(&copy)
        .arg(program(name)?)
        .status()
        .context("cannot run strip")?;
    let size = fs::metadata(&copy).map(|file| file.len());
    let _ = fs::remove_file(&copy);
    anyhow::ensure!(status.success(), "strip failed: {status}");
    Ok(size?)
}

/// Returns the resident memory of an agent without and with peers, and of the server.
fn resident(engine: Engine) -> Result<(u64, u64, u64)> {
    let mut lab = Lab::new(Family::V4)?;
    let host = lab.host_on_wan("a")?;
    let _bus = bus::start(&host.machine)?;
    let tunnel = Tunnel::up(engine, &host, "wg0", Ipv4Addr::new(10, 98, 0, 1))?;
    let server = Server::start(&lab)?;
    let agent = Agent::start(&host, &Settings::websocket(&server))?;
    agent.backends_up(SEEN)?;
    thread::sleep(REST);
    let none = Usage::of(agent.process.id())?;
    let mut peers = String::new();
    for number in 1..=PEERS {
        let key = PrivateKey::from_bytes([u8::try_from(number)?; 32]).context("a key of zeros")?;
        peers += &format!(
            "[Peer]\nPublicKey = {}\nAllowedIPs = 10.98.1.{number}/32\n",
            key.public()
        );
    }
    host.machine.run_with_input(
        &format!("wg addconf {} /dev/stdin", tunnel.interface),
        &peers,
    )?;
    until("the agent to show all peers", SEEN, || {
        let shown = agent.status()?.interfaces;
        let count = shown.iter().map(|one| one.peers.len()).sum::<usize>();
        Ok((count == PEERS).then_some(()))
    })?;
    thread::sleep(REST);
    let some = Usage::of(agent.process.id())?;
    let server = Usage::of(server.process())?;
    Ok((none.resident, some.resident, server.resident))
}
