//! How fast a tunnel is by a relay, beside the same tunnel without one and through the simplest forwarder there could be,
//! and what each of them takes of a processor. All on one machine, so the programs compete: only the ratios tell something.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wice_tests::agent::{Agent, Settings};
use wice_tests::coturn::Transport;
use wice_tests::iperf::{Plan, Report, Transfer};
use wice_tests::nat::Nat;
use wice_tests::relayed::{RelayScene, SYMMETRIC, Whose};
use wice_tests::scene::{PATIENCE, Scene};
use wice_tests::topology::Family;
use wice_tests::wireguard::Engine;

use crate::forwarder::Forwarder;
use crate::usage::Usage;

/// For how long each transfer goes on.
const TIME: Duration = Duration::from_secs(6);

/// One row of the table.
struct Row {
    name: String,
    report: Report,
    /// What moved the packets beside WireGuard, and the processor time that it took.
    movers: Vec<(&'static str, Duration)>,
}

/// Measures each way and prints the table.
pub(crate) fn measure(engine: Engine) -> Result<()> {
    let mut rows = vec![direct(engine)?, forwarded(engine)?];
    let mut outcome = Ok(());
    for (name, whose, transport) in [
        ("relayed by coturn, UDP", Whose::Coturn, Transport::Udp),
        ("relayed by coturn, TLS", Whose::Coturn, Transport::Tls),
        ("relayed by wice-signal, UDP", Whose::Own, Transport::Udp),
    ] {
        match relayed(engine, name, whose, transport) {
            Ok(row) => rows.push(row),
            Err(error) => outcome = Err(error.context(name)),
        }
    }
    println!(
        "\nOne TCP transfer through the tunnel for {} s\n",
        TIME.as_secs()
    );
    println!(
        "  {:<30}{:>9}{:>10}{:>14}{:>9}   processor seconds for each gigabit",
        "", "Mbit/s", "of direct", "of forwarded", "resent"
    );
    for row in &rows {
        let rate = |row: &Row| row.report.bits_per_second;
        let of = |other: &Row| format!("{:.0} %", 100.0 * rate(row) / rate(other));
        let gigabits = rate(row) * TIME.as_secs_f64() / 1e9;
        let costs = row
            .movers
            .iter()
            .map(|(name, used)| format!("{name} {:.2}", used.as_secs_f64() / gigabits));
        println!(
            "  {:<30}{:>9.0}{:>10}{:>14}{:>9}   {}",
            row.name,
            rate(row) / 1e6,
            of(&rows[0]),
            of(&rows[1]),
            row.report.retransmits,
            costs.collect::<Vec<_>>().join(", ")
        );
    }
    outcome
}

fn direct(engine: Engine) -> Result<Row> {
    let scene = Scene::behind(engine, Family::V4, Nat::PortRestricted, Nat::PortRestricted)?;
    let settings = Settings::websocket(&scene.server);
    let a = Agent::start(&scene.a.host, &settings)?;
    let b = Agent::start(&scene.b.host, &settings)?;
    scene.converge(&a, &b)?;
    let agents = [("agents", vec![a.process.id(), b.process.id()])];
    transfer(&scene, "direct", &agents)
}

/// The forwarder stands where a relay's proxy does: on A's host, between WireGuard and the far side.
fn forwarded(engine: Engine) -> Result<Row> {
    let scene = Scene::on_one_lan(engine)?;
    let (a, b) = (&scene.a, &scene.b);
    let peer = SocketAddr::new(b.host.address, b.tunnel.port);
    let forwarder = Forwarder::start(&a.host, a.tunnel.port, peer)?;
    a.tunnel.add_peer_at(&b.tunnel, forwarder.endpoint)?;
    a.reaches(b)?;
    let mut row = transfer(&scene, "through a bare forwarder", &[])?;
    let endpoint = a.tunnel.peer(&b.tunnel)?.endpoint;
    ensure!(
        endpoint == Some(forwarder.endpoint),
        "WireGuard went round the forwarder, to {endpoint:?}"
    );
    row.movers.push(("forwarder", forwarder.stop()?));
    Ok(row)
}

fn relayed(engine: Engine, name: &str, whose: Whose, transport: Transport) -> Result<Row> {
    let relayed = RelayScene::new(engine, whose, transport, SYMMETRIC)?;
    let [a, b] = relayed.start()?;
    relayed.scene.by("relay", &a, &b, PATIENCE)?;
    relayed.scene.a.reaches(&relayed.scene.b)?;
    let agents = ("agents", vec![a.process.id(), b.process.id()]);
    let server = match &relayed.coturn {
        Some(coturn) => ("coturn", vec![coturn.id()]),
        None => ("wice-signal", vec![relayed.scene.server.id()]),
    };
    let row = transfer(&relayed.scene, name, &[agents, server])?;
    let still = a
        .peer(&relayed.scene.a.tunnel, &relayed.scene.b.tunnel)?
        .context("A forgot B")?;
    ensure!(
        still.path == "relay",
        "the path became {} meanwhile",
        still.path
    );
    Ok(row)
}

fn transfer(scene: &Scene, name: &str, movers: &[(&'static str, Vec<u32>)]) -> Result<Row> {
    let used = || -> Result<Vec<Duration>> {
        let each = |(_, processes): &(_, Vec<u32>)| -> Result<Duration> {
            processes
                .iter()
                .map(|id| Ok(Usage::of(*id)?.processor()))
                .sum()
        };
        movers.iter().map(each).collect()
    };
    let before = used()?;
    let plan = Plan {
        time: TIME,
        rate: None,
    };
    let to = IpAddr::V4(scene.b.tunnel.address);
    let report = Transfer::start(&scene.a.host.machine, &scene.b.host.machine, to, plan)?.end()?;
    let spent = used()?.into_iter().zip(before);
    let names = movers.iter().map(|(name, _)| *name);
    Ok(Row {
        name: name.to_owned(),
        report,
        movers: names
            .zip(spent.map(|(after, before)| after.saturating_sub(before)))
            .collect(),
    })
}
