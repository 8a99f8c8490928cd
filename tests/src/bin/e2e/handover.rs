//! From a relay to a direct path and back, while packets flow; and a relay that dies under them.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wice_tests::agent::Agent;
use wice_tests::coturn::Transport;
use wice_tests::cut::Cut;
use wice_tests::iperf::{Plan, Report, Transfer};
use wice_tests::ping::{Pinger, Running, Tally};
use wice_tests::relayed::{AT_HOME, RelayScene, SYMMETRIC, Whose};
use wice_tests::scene::{PATIENCE, Scene};
use wice_tests::wait::{patience, steadily};
use wice_tests::wireguard::Engine;

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    let long = |name, run| Case {
        name,
        deadline: Duration::from_secs(120),
        run,
    };
    vec![
        long("handover-from-relay-to-direct-loses-nothing", to_direct),
        long(
            "handover-from-a-cut-path-to-a-relay-and-back-by-itself",
            to_relay,
        ),
        long(
            "handover-survives-a-killed-coturn-within-five-seconds",
            |engine| killed(engine, Whose::Coturn),
        ),
        long(
            "handover-survives-our-own-server-killed-within-five-seconds",
            |engine| killed(engine, Whose::Own),
        ),
    ]
}

const RATE: Duration = Duration::from_millis(20);
/// What the transfer takes: much less than any of the paths carries, so that what is lost is the hand-over's fault.
const BITS_PER_SECOND: u64 = 20_000_000;
/// Segments within a tenth of a second; a path that is lost for as long would have TCP send 200 again.
const BURST: u64 = 20;
/// TCP's slow start, which may overrun a buffer of the relayed path: what it loses is not the hand-over's, which comes later.
const SLOW_START: Duration = Duration::from_secs(1);
/// A direct path is tried again 30 s after the last time.
const TRIED_AGAIN: Duration = Duration::from_secs(50);

/// From a direct path that is cut to the relay. The aim is 3 s; it takes up to 2.6 s on a quiet machine, and this one may be busy.
const SILENT_AT_MOST: Duration = Duration::from_secs(5);
/// From a relay that is killed and restarted to the same relay.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// What flows through a tunnel meanwhile.
struct Traffic {
    pings: Running,
    transfer: Transfer,
}

impl Traffic {
    fn start(scene: &Scene, time: Duration) -> Result<Self> {
        let to = scene.b.tunnel.address;
        let plan = Plan {
            time: time * patience(),
            // Emulated processors encrypt some 40 Mbit/s.
            rate: Some(BITS_PER_SECOND / u64::from(patience())),
        };
        let (from, there) = (&scene.a.host.machine, &scene.b.host.machine);
        Ok(Self {
            transfer: Transfer::start(from, there, IpAddr::V4(to), plan)?,
            pings: Pinger::new(&scene.a.host, to)?.run(RATE),
        })
    }

    fn stop(self) -> Result<(Tally, Report)> {
        let report = self.transfer.end()?;
        let tally = self.pings.stop()?;
        println!(
            "{tally}; {:.1} Mbit/s, {} segments sent again: {:?}, stalled for {:?}",
            report.bits_per_second / 1e6,
            report.retransmits,
            report.resent,
            report.longest_stall
        );
        Ok((tally, report))
    }
}

fn to_direct(engine: Engine) -> Result<()> {
    let relayed = RelayScene::new(engine, Whose::Coturn, Transport::Udp, AT_HOME)?;
    let scene = &relayed.scene;
    let cut = Cut::between(&scene.routers[0], &scene.routers[1])?;
    let [a, b] = relayed.connect()?;
    let traffic = Traffic::start(scene, Duration::from_secs(8))?;
    stays(scene, &a, "relay")?;
    cut.open()?;
    // A network that changes is when direct paths are tried again at once: here, one that leads nowhere appears.
    scene.a.host.machine.ip(
        "link add elsewhere type bridge\naddr add 172.20.0.1/24 dev elsewhere\nlink set elsewhere up",
    )?;
    scene.by("direct", &a, &b, PATIENCE)?;
    stays(scene, &a, "direct")?;
    let (tally, report) = traffic.stop()?;
    tally.none_lost()?;
    let burst = report.burst_since(SLOW_START);
    ensure!(burst <= BURST, "TCP sent {burst} segments again at once");
    Ok(())
}

fn to_relay(engine: Engine) -> Result<()> {
    let relayed = RelayScene::new(engine, Whose::Coturn, Transport::Udp, AT_HOME)?;
    let scene = &relayed.scene;
    let [a, b] = relayed.start()?;
    scene.by("direct", &a, &b, PATIENCE)?;
    scene.a.reaches(&scene.b)?;
    let pings = Pinger::new(&scene.a.host, scene.b.tunnel.address)?.run(RATE);
    stays(scene, &a, "direct")?;
    let said = a.process.output().len();
    let cut = Cut::between(&scene.routers[0], &scene.routers[1])?;
    scene.by("relay", &a, &b, PATIENCE)?;
    stays(scene, &a, "relay")?;
    let tally = pings.stop()?;
    println!("{tally}");
    tally.never_silent_for(SILENT_AT_MOST)?;
    let log = a.process.output();
    let reason = log[said..].lines().find(|line| line.contains("relay"));
    println!("{}", reason.context("the log has no word on it")?);

    let pings = Pinger::new(&scene.a.host, scene.b.tunnel.address)?.run(RATE);
    cut.open()?;
    scene.by("direct", &a, &b, TRIED_AGAIN)?;
    stays(scene, &a, "direct")?;
    let tally = pings.stop()?;
    println!("{tally}");
    tally.none_lost()
}

fn killed(engine: Engine, whose: Whose) -> Result<()> {
    let mut relayed = RelayScene::new(engine, whose, Transport::Udp, SYMMETRIC)?;
    let agents = relayed.connect()?;
    let traffic = Traffic::start(&relayed.scene, Duration::from_secs(12))?;
    stays(&relayed.scene, &agents[0], "relay")?;
    match whose {
        Whose::Coturn => {
            relayed.coturn()?.crash()?;
            relayed.coturn()?.restart()?;
        }
        Whose::Own => {
            relayed.scene.server.crash()?;
            relayed.scene.server.restart()?;
        }
    }
    let (tally, _) = traffic.stop()?;
    ensure!(!tally.lost.is_empty(), "nobody noticed: was it killed?");
    tally.never_silent_for(BACK_WITHIN)?;
    relayed.relayed(&agents)
}

/// A path that flaps does so within the next checks.
fn stays(scene: &Scene, agent: &Agent, path: &str) -> Result<()> {
    steadily("A's path", Duration::from_secs(2), &path.to_owned(), || {
        let peer = agent.peer(&scene.a.tunnel, &scene.b.tunnel)?;
        Ok(peer.context("A forgot B")?.path)
    })
}
