//! Many peers on one interface, half of them answering: how long until all that answer are connected, and what the agent
//! costs before, meanwhile and when nothing happens any more.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wice_core::key::{PrivateKey, PublicKey};
use wice_core::mailbox::Mailbox;
use wice_core::seal::PairSecrets;
use wice_tests::agent::{Agent, Settings};
use wice_tests::bus;
use wice_tests::nat::Nat;
use wice_tests::server::Server;
use wice_tests::topology::{Family, Lab};
use wice_tests::wait::{patience, until};
use wice_tests::wireguard::{Engine, Tunnel};

use crate::swarm::{Plan, Swarm};
use crate::usage::Usage;

/// When the connections count as failed.
const CONNECTED: Duration = Duration::from_secs(90);
/// WireGuard repeats an unanswered handshake for 90 s (REKEY_ATTEMPT_TIME, drivers/net/wireguard/messages.h), and the
/// swarm answers none: only then is the interface at rest.
const SETTLING: Duration = Duration::from_secs(100);
/// How long a settled agent is watched.
const IDLE: Duration = Duration::from_secs(30);
/// Between two looks at the interface.
const LOOK: Duration = Duration::from_millis(100);

/// Connects half of `peers` and prints what that cost.
pub(crate) fn measure(engine: Engine, peers: u16, with_bus: bool) -> Result<()> {
    let mut lab = Lab::new(Family::V4)?;
    let mut left = lab.router(Nat::PortRestricted)?;
    let mut right = lab.router(Nat::PortRestricted)?;
    let (a, b) = (lab.host("a", &mut left)?, lab.host("b", &mut right)?);
    let bus = with_bus.then(|| bus::start(&a.machine)).transpose()?;
    let tunnel = Tunnel::up(engine, &a, "wg0", Ipv4Addr::new(10, 98, 0, 1))?;
    let server = Server::start(&lab)?;
    let agent = Agent::start(&a, &Settings::websocket(&server))?;
    let id = agent.process.id();
    if with_bus {
        agent.backends_up(Duration::from_secs(10))?;
    } else {
        until(
            "the agent to reach the server",
            Duration::from_secs(10),
            || {
                Ok(agent
                    .process
                    .output()
                    .contains("backend connected")
                    .then_some(()))
            },
        )?;
    }

    let keys: Vec<PrivateKey> = (0..peers).map(|_| fresh_key()).collect::<Result<_>>()?;
    let peer: PublicKey = tunnel.key.parse()?;
    let (answering, silent) = keys.split_at(keys.len() / 2);
    let silent: Vec<Mailbox> = silent
        .iter()
        .filter_map(|key| Some(PairSecrets::derive(key, &peer)?.incoming()))
        .collect();
    let mut swarm = Swarm::start(
        &b,
        Plan {
            server: server.websocket(),
            stun: (lab.server_address(), 3478).into(),
            peer,
            members: answering.to_vec(),
            silent,
        },
    );
    // One look of the agent at its interface: its memory then is that of an agent without peers.
    thread::sleep(Duration::from_secs(3));
    swarm.check()?;
    let before = Usage::of(id)?;

    let added = Instant::now();
    a.machine
        .run_with_input("wg addconf wg0 /dev/stdin", &configuration(&keys))?;
    let mut progress = Progress::default();
    while progress.all.is_none() {
        ensure!(
            added.elapsed() < CONNECTED * patience(),
            "only {} of {} peers have an endpoint after {CONNECTED:?}",
            progress.endpoints,
            answering.len()
        );
        swarm.check()?;
        progress.look(&tunnel, &swarm, added, answering.len())?;
        thread::sleep(LOOK);
    }
    let connected = Usage::of(id)?;
    thread::sleep(SETTLING.saturating_sub(added.elapsed()));

    let (settled, counted) = (Usage::of(id)?, Counted::of(&swarm));
    thread::sleep(IDLE);
    swarm.check()?;
    let (idle, counted) = (Usage::of(id)?, Counted::of(&swarm).since(&counted));

    if with_bus {
        let shown = agent.status()?.interfaces;
        let count = shown
            .iter()
            .flat_map(|interface| &interface.peers)
            .filter(|peer| peer.state == "connected")
            .count();
        ensure!(
            count == answering.len(),
            "{count} of {} peers are connected at the end",
            answering.len()
        );
    }
    drop(bus);
    let per_peer = idle.resident.saturating_sub(before.resident) / u64::from(peers);
    let each = |count: u64| count as f64 / IDLE.as_secs_f64();
    println!(
        "\n{peers} peers on one interface, {} of them answering, {}\n",
        answering.len(),
        if with_bus {
            "with D-Bus"
        } else {
            "without D-Bus"
        }
    );
    row(
        "peers added to agent's first offer",
        seconds(progress.first),
        "",
    );
    row(
        "first offer to last endpoint set",
        seconds(
            progress
                .all
                .zip(progress.first)
                .map(|(all, first)| all.saturating_sub(first)),
        ),
        "",
    );
    row(
        "processor time until then",
        format!(
            "{:.2} s",
            (connected.processor() - before.processor()).as_secs_f64()
        ),
        "",
    );
    row("memory without peers", megabytes(before.resident), "");
    row(
        "memory when all are connected",
        megabytes(connected.resident),
        "",
    );
    row("memory when settled", megabytes(idle.resident), "");
    row(
        "memory for each peer",
        format!("{:.1} KB", per_peer as f64 / 1000.0),
        "aim 20 KB",
    );
    row(
        "processor when settled",
        format!("{:.2} % of a core", idle.load_since(&settled)),
        "aim 3 %",
    );
    row(
        "wake-ups when settled",
        format!("{:.0} /s", idle.sleeps_since(&settled)),
        "",
    );
    row(
        "checks and answers sent when settled",
        format!("{:.0} /s", each(counted.received)),
        "",
    );
    row(
        "checks and answers received when settled",
        format!("{:.0} /s", each(counted.sent)),
        "",
    );
    row(
        "messages to the server when settled",
        format!("{:.1} /s", each(counted.messages)),
        "",
    );
    row("threads", idle.threads.to_string(), "");
    println!(
        "\n  settled: {} s after the peers were added, watched for {} s",
        SETTLING.as_secs(),
        IDLE.as_secs()
    );
    Ok(())
}

/// How far the connections are, since the peers were added.
#[derive(Debug, Default)]
struct Progress {
    first: Option<Duration>,
    all: Option<Duration>,
    endpoints: usize,
}

impl Progress {
    fn look(
        &mut self,
        tunnel: &Tunnel,
        swarm: &Swarm,
        added: Instant,
        wanted: usize,
    ) -> Result<()> {
        if self.first.is_none() {
            let seen = swarm.counters().messages.load(Ordering::Relaxed) > 0;
            self.first = seen.then(|| added.elapsed());
            return Ok(());
        }
        let peers = tunnel.peers()?;
        self.endpoints = peers.iter().filter(|peer| peer.endpoint.is_some()).count();
        self.all = (self.endpoints >= wanted).then(|| added.elapsed());
        Ok(())
    }
}

/// What the swarm had seen at one moment.
#[derive(Clone, Copy, Debug)]
struct Counted {
    messages: u64,
    received: u64,
    sent: u64,
}

impl Counted {
    fn of(swarm: &Swarm) -> Self {
        let counters = swarm.counters();
        let [messages, received, sent] = [&counters.messages, &counters.received, &counters.sent]
            .map(|counter: &AtomicU64| counter.load(Ordering::Relaxed));
        Self {
            messages,
            received,
            sent,
        }
    }

    const fn since(&self, earlier: &Self) -> Self {
        Self {
            messages: self.messages - earlier.messages,
            received: self.received - earlier.received,
            sent: self.sent - earlier.sent,
        }
    }
}

pub(crate) fn fresh_key() -> Result<PrivateKey> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    PrivateKey::from_bytes(bytes).context("a random key is not zero")
}

/// The peers in the form of `wg addconf`, each with an address of its own.
pub(crate) fn configuration(keys: &[PrivateKey]) -> String {
    let mut text = String::new();
    for (number, key) in (0_u16..).zip(keys) {
        let [high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(10, 99, high, low);
        writeln!(
            text,
            "[Peer]\nPublicKey = {}\nAllowedIPs = {address}/32",
            key.public()
        )
        .expect("a string takes everything");
    }
    text
}

pub(crate) fn row(what: &str, value: String, aim: &str) {
    println!("  {what:<42}{value:>16}  {aim}");
}

pub(crate) fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(String::new, |time| format!("{:.2} s", time.as_secs_f64()))
}

pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
