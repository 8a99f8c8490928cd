//! Who finds no direct path goes by a relay: coturn's, and the rendezvous server's own.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use wice_tests::agent::{Agent, wicectl};
use wice_tests::coturn::Transport;
use wice_tests::relayed::{
    BOTH_BLOCKED, HOTELS, ONE_BLOCKED, Place, RelayScene, SYMMETRIC, Whose, endpoint,
};
use wice_tests::scene::PATIENCE;
use wice_tests::wait::{steadily, until};
use wice_tests::wireguard::Engine;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("relay-by-coturn-joins-two-symmetric-nats", |engine| {
            joins(engine, Whose::Coturn, Transport::Udp, SYMMETRIC)
        }),
        case(
            "relay-by-our-own-server-joins-two-symmetric-nats",
            |engine| joins(engine, Whose::Own, Transport::Udp, SYMMETRIC),
        ),
        case(
            "relay-by-coturn-over-tcp-where-one-side-blocks-udp",
            |engine| joins(engine, Whose::Coturn, Transport::Tcp, ONE_BLOCKED),
        ),
        case(
            "relay-by-our-own-server-over-tcp-where-both-sides-block-udp",
            |engine| joins(engine, Whose::Own, Transport::Tcp, BOTH_BLOCKED),
        ),
        case(
            "relay-by-coturn-over-tls-where-only-tcp-443-passes",
            |engine| joins(engine, Whose::Coturn, Transport::Tls, HOTELS),
        ),
        case(
            "relay-by-our-own-server-over-tls-where-only-tcp-443-passes",
            |engine| joins(engine, Whose::Own, Transport::Tls, HOTELS),
        ),
        case("relay-by-coturn-joins-ipv6-only-and-ipv4-only", |engine| {
            joins(engine, Whose::Coturn, Transport::Udp, Place::TwoFamilies)
        }),
        case(
            "relay-by-our-own-server-joins-ipv6-only-and-ipv4-only",
            |engine| joins(engine, Whose::Own, Transport::Udp, Place::TwoFamilies),
        ),
        case(
            "relay-by-coturn-that-denies-private-peers-joins-two-symmetric-nats",
            denied,
        ),
        case("relay-policy-direct-never-relays-and-says-so", only_direct),
        case("relay-policy-relay-only-relays-even-on-one-lan", only_relay),
    ]
}

fn joins(engine: Engine, whose: Whose, transport: Transport, place: Place) -> Result<()> {
    let relayed = RelayScene::new(engine, whose, transport, place)?;
    let start = Instant::now();
    let agents = relayed.connect()?;
    println!(
        "a reply {:?} after both agents were started",
        start.elapsed()
    );
    for agent in &agents {
        let relays = agent.status()?.agent.relays;
        ensure!(!relays.is_empty(), "the status tells of no relay");
    }
    relayed.scene.b.reaches(&relayed.scene.a)?;
    if let Some(coturn) = &relayed.coturn {
        let allocations = coturn.allocations()?;
        println!("{allocations} relayed addresses");
        // One for each address family of each side, however many peers there are.
        ensure!(
            (1..=4).contains(&allocations),
            "{allocations} relayed addresses"
        );
    }
    Ok(())
}

/// As the README has it configured: one address that is denied must not cost the permission of the others.
fn denied(engine: Engine) -> Result<()> {
    let more = "denied-peer-ip=192.168.0.0-192.168.255.255";
    let relayed = RelayScene::with(engine, Whose::Coturn, Transport::Udp, SYMMETRIC, more)?;
    let _agents = relayed.connect()?;
    relayed.scene.b.reaches(&relayed.scene.a)
}

fn only_direct(engine: Engine) -> Result<()> {
    let relayed =
        RelayScene::new(engine, Whose::Coturn, Transport::Udp, SYMMETRIC)?.policy("direct");
    let scene = &relayed.scene;
    let [a, _b] = relayed.start()?;
    until("A to give up", PATIENCE * 2, || {
        let peer = a.peer(&scene.a.tunnel, &scene.b.tunnel)?;
        Ok(peer.filter(|one| one.state == "failed"))
    })?;
    let told = wicectl(&scene.a.host, &format!("explain {}", scene.b.tunnel.key))?;
    println!("{told}");
    ensure!(told.contains("no pair"), "no reason is told");
    let coturn = relayed.coturn.as_ref().map(|coturn| coturn.allocations());
    ensure!(coturn.transpose()? == Some(0), "there is an allocation");
    Ok(())
}

fn only_relay(engine: Engine) -> Result<()> {
    let relayed =
        RelayScene::new(engine, Whose::Coturn, Transport::Udp, Place::OneLan)?.policy("relay");
    let scene = &relayed.scene;
    let agents = relayed.connect()?;
    // A direct path is a matter of milliseconds here: what is not tried by now is not tried.
    let look = |agent: &Agent| -> Result<(bool, bool)> {
        let peer = agent.peer(&scene.a.tunnel, &scene.b.tunnel)?;
        Ok((
            peer.is_some_and(|one| one.path == "relay"),
            relayed.goes_by_relay(endpoint(&scene.a, &scene.b)?),
        ))
    };
    steadily(
        "A's path and endpoint",
        Duration::from_secs(3),
        &(true, true),
        || look(&agents[0]),
    )
}
