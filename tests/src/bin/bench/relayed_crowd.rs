//! Many peers that one interface reaches by a single allocation: how long until all have a path, whether packets go by each,
//! and what that costs the agent.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use wice_core::key::{PrivateKey, PublicKey};
use wice_tests::agent::{Agent, Settings};
use wice_tests::bus;
use wice_tests::coturn::{Coturn, Login, Transport};
use wice_tests::nat::Nat;
use wice_tests::server::Server;
use wice_tests::topology::{Family, Lab};
use wice_tests::wait::{patience, until};
use wice_tests::wireguard::{Engine, Tunnel};

use crate::crowd::{configuration, fresh_key, megabytes, row, seconds};
use crate::swarm::{Plan, Swarm};
use crate::usage::Usage;

/// When the connections count as failed.
const CONNECTED: Duration = Duration::from_secs(90);
/// How long the agent is watched afterwards. WireGuard goes on with handshakes that nobody answers.
const WATCHED: Duration = Duration::from_secs(15);
/// Between two looks at the interface.
const LOOK: Duration = Duration::from_millis(100);

/// Connects `peers` by one relay and prints what that cost.
pub(crate) fn measure(engine: Engine, peers: u16) -> Result<()> {
    let mut lab = Lab::new(Family::V4)?;
    let (mut left, mut right) = (lab.router(Nat::Symmetric)?, lab.router(Nat::Symmetric)?);
    let (a, b) = (lab.host("a", &mut left)?, lab.host("b", &mut right)?);
    let _bus = bus::start(&a.machine)?;
    let tunnel = Tunnel::up(engine, &a, "wg0", Ipv4Addr::new(10, 98, 0, 1))?;
    let server = Server::start(&lab)?;
    let coturn = Coturn::start(&lab, Login::User, None, "")?;
    let settings = Settings::websocket(&server).with_relay(coturn.relay(Transport::Udp)?);
    let agent = Agent::start(&a, &settings)?;
    let id = agent.process.id();
    agent.backends_up(Duration::from_secs(10))?;

    let keys: Vec<PrivateKey> = (0..peers).map(|_| fresh_key()).collect::<Result<_>>()?;
    let peer: PublicKey = tunnel.key.parse()?;
    let mut swarm = Swarm::start(
        &b,
        Plan {
            server: server.websocket(),
            stun: (lab.server_address(), 3478).into(),
            peer,
            members: keys.clone(),
            silent: Vec::new(),
        },
    );
    swarm.check()?;
    let before = Usage::of(id)?;

    let added = Instant::now();
    a.machine
        .run_with_input("wg addconf wg0 /dev/stdin", &configuration(&keys))?;
    let mut first = None;
    let wanted = usize::from(peers);
    let all = loop {
        swarm.check()?;
        let found = tunnel
            .peers()?
            .iter()
            .filter(|peer| peer.endpoint.is_some())
            .count();
        if found > 0 && first.is_none() {
            first = Some(added.elapsed());
        }
        if found >= wanted {
            break added.elapsed();
        }
        ensure!(
            added.elapsed() < CONNECTED * patience(),
            "only {found} of {peers} peers have an endpoint after {CONNECTED:?}"
        );
        thread::sleep(LOOK);
    };
    let connected = Usage::of(id)?;
    let reached = &swarm.counters().reached;
    until(
        "a packet of WireGuard's to have reached every peer",
        CONNECTED,
        || Ok((reached.load(Ordering::Relaxed) >= u64::from(peers)).then_some(())),
    )?;
    let passed = added.elapsed();
    let settled = Usage::of(id)?;
    thread::sleep(WATCHED);
    swarm.check()?;
    let idle = Usage::of(id)?;
    let status = agent.status()?;
    let shown = status
        .interfaces
        .iter()
        .flat_map(|interface| &interface.peers);
    let relayed = shown
        .filter(|peer| peer.state == "connected" && peer.path == "relay")
        .count();

    println!("\n{peers} peers that are all reached by one relay\n");
    row(
        "relayed addresses at the server",
        coturn.allocations()?.to_string(),
        "aim 1",
    );
    row("peers added to first endpoint set", seconds(first), "");
    row("peers added to last endpoint set", seconds(Some(all)), "");
    row(
        "peers added to a packet at every peer",
        seconds(Some(passed)),
        "",
    );
    row(
        "processor time until the last endpoint",
        seconds(Some(
            connected.processor().saturating_sub(before.processor()),
        )),
        "",
    );
    row("memory without peers", megabytes(before.resident), "");
    row("memory with all of them", megabytes(idle.resident), "");
    row(
        "processor when all are connected",
        format!("{:.2} % of a core", idle.load_since(&settled)),
        "",
    );
    row(
        "peers by a relay at the end",
        format!("{relayed} of {peers}"),
        "aim: all",
    );
    row("threads", idle.threads.to_string(), "");
    Ok(())
}
