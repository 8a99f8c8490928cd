//! The time from the second agent's start to the first reply to a ping through the tunnel, in parts, on the demo's
//! topology: two hosts behind two port-restricted NATs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use wice_tests::agent::{Agent, Settings};
use wice_tests::bus;
use wice_tests::nat::Nat;
use wice_tests::ping::Pinger;
use wice_tests::process::Process;
use wice_tests::server::Server;
use wice_tests::topology::{Family, Host, Lab, Router};
use wice_tests::wait::patience;
use wice_tests::wireguard::{Engine, Tunnel};

use crate::figures::Figures;
use crate::moments::{Log, present};

/// A part of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Backend,
    Published,
    Received,
    Connected,
    Endpoint,
    FarConnected,
    FarEndpoint,
    Reply,
}

/// The steps in the order of the table: what it says of each, and the words of the log that mark it.
const STEPS: [(Step, &str, Option<&str>); 8] = [
    (
        Step::Backend,
        "backend connected",
        Some("backend connected"),
    ),
    (
        Step::Published,
        "first offer published",
        Some("publishes an offer"),
    ),
    (
        Step::Received,
        "peer's offer received",
        Some("received an offer"),
    ),
    (Step::Connected, "first pair selected", Some("connected: ")),
    (Step::Endpoint, "endpoint set", Some("set the endpoint")),
    (
        Step::FarConnected,
        "the peer: first pair selected",
        Some("connected: "),
    ),
    (
        Step::FarEndpoint,
        "the peer: endpoint set",
        Some("set the endpoint"),
    ),
    (Step::Reply, "first reply to a ping", None),
];

/// When each step was reached, since the Unix epoch.
type Moments = BTreeMap<Step, Duration>;

/// When a connection counts as failed.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a ping is tried: the resolution of its time.
const PROBE: Duration = Duration::from_millis(1);

/// Connects `runs` times, each in a lab of its own, and prints the table.
pub(crate) fn measure(engine: Engine, runs: u32) -> Result<()> {
    let mut starts = Vec::new();
    let mut all = Vec::new();
    for run in 1..=runs {
        let (start, moments) = connect(engine).with_context(|| format!("connection {run}"))?;
        starts.push(start);
        all.push(moments);
    }
    println!("\nA connection through two port-restricted NATs, {runs} times, in milliseconds\n");
    println!(
        "  {:<30}{:^27}{:^27}",
        "", "from the agent's start", "from its first offer"
    );
    let columns = format!("{:>9}{:>9}{:>9}", "median", "min", "max");
    println!("  {:<30}{columns}{columns}", "the second agent");
    for (step, name, _) in STEPS {
        let times = |origin: &dyn Fn(usize) -> Option<Duration>| {
            let since =
                |(run, moments): (usize, &Moments)| moments.get(&step)?.checked_sub(origin(run)?);
            Figures::of(all.iter().enumerate().filter_map(since).collect())
                .map_or_else(String::new, |figures| figures.to_string())
        };
        let from_start = times(&|run| starts.get(run).copied());
        let from_offer = times(&|run| all[run].get(&Step::Published).copied());
        println!("  {name:<30}{from_start}{from_offer}");
    }
    println!("  {:<30}{:>9}{:>27}", "aim", 400, 150);
    Ok(())
}

/// Starts one agent after the other in a new lab; returns the second one's start and what followed.
fn connect(engine: Engine) -> Result<(Duration, Moments)> {
    let stage = Stage::build(engine)?;
    let settings = Settings::websocket(&stage.server);
    let arguments = ["--log-level", "debug"];
    let first = Agent::start_with(&stage.a, &settings, &arguments)?;
    first.backends_up(DEADLINE)?;
    let second = Agent::start_with(&stage.b, &settings, &arguments)?;
    // The clock of the log, at the moment that the clock of this process has for the start.
    let start = present() - second.process.started().elapsed();
    let moments = stage.follow(second.process.started())?;
    Ok((start, moments))
}

/// Everything that stands before an agent starts.
struct Stage {
    a: Host,
    b: Host,
    near: Tunnel,
    far: Tunnel,
    server: Server,
    _buses: [Process; 2],
    _routers: [Router; 2],
    _lab: Lab,
}

impl Stage {
    fn build(engine: Engine) -> Result<Self> {
        let mut lab = Lab::new(Family::V4)?;
        let mut left = lab.router(Nat::PortRestricted)?;
        let mut right = lab.router(Nat::PortRestricted)?;
        let (a, b) = (lab.host("a", &mut left)?, lab.host("b", &mut right)?);
        let buses = [bus::start(&a.machine)?, bus::start(&b.machine)?];
        let near = Tunnel::up(engine, &a, "wg0", Ipv4Addr::new(10, 99, 0, 1))?;
        let far = Tunnel::up(engine, &b, "wg0", Ipv4Addr::new(10, 99, 0, 2))?;
        near.add_peer(&far)?;
        far.add_peer(&near)?;
        let server = Server::start(&lab)?;
        Ok(Self {
            a,
            b,
            near,
            far,
            server,
            _buses: buses,
            _routers: [left, right],
            _lab: lab,
        })
    }

    /// Reads both logs until every step is reached, and pings from either side as soon as its endpoint is set: a ping
    /// before that would make WireGuard wait for its retry interval of 5 s.
    fn follow(&self, started: Instant) -> Result<Moments> {
        let (mut near, mut far) = (Log::open(&self.a)?, Log::open(&self.b)?);
        let (replies, replied) = mpsc::channel();
        let mut moments = Moments::new();
        let mut pinged = [false; 2];
        while moments.len() < STEPS.len() {
            anyhow::ensure!(
                started.elapsed() < DEADLINE * patience(),
                "not connected after {DEADLINE:?}; reached: {:?}",
                moments.keys()
            );
            for (step, _, words) in STEPS {
                let Some(words) = words.filter(|_| !moments.contains_key(&step)) else {
                    continue;
                };
                let log = match step {
                    Step::FarConnected | Step::FarEndpoint => &mut near,
                    _ => &mut far,
                };
                if let Some(at) = log.first(words)? {
                    moments.insert(step, at);
                }
            }
            let sides = [
                (Step::FarEndpoint, &self.a, self.far.address),
                (Step::Endpoint, &self.b, self.near.address),
            ];
            for (pinged, (step, host, to)) in pinged.iter_mut().zip(sides) {
                if moments.contains_key(&step) && !std::mem::replace(pinged, true) {
                    let mut pinger = Pinger::new(host, to)?;
                    let replies = replies.clone();
                    thread::spawn(move || {
                        if pinger.first_reply(PROBE, DEADLINE).is_ok() {
                            // Only the first reply is waited for.
                            let _ = replies.send(present());
                        }
                    });
                }
            }
            if let Ok(at) = replied.try_recv() {
                moments.entry(Step::Reply).or_insert(at);
            }
            // A look at the log that costs little, often enough for the ping that follows the endpoint.
            thread::sleep(Duration::from_micros(500));
        }
        Ok(moments)
    }
}
