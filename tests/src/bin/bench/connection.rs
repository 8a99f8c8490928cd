//! The time from the second agent's start to the first reply to a ping through the tunnel, in parts, on the demo's
//! topology: two hosts behind two port-restricted NATs.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wice_tests::agent::{Agent, Settings};
use wice_tests::ping::Pinger;
use wice_tests::scene::Scene;
use wice_tests::wait::patience;
use wice_tests::wireguard::Engine;

use crate::figures::Figures;
use crate::moments::{Log, present};

/// A part of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Backend,
    Published,
    Received,
    Connected,
    FarConnected,
    Endpoint,
    FarEndpoint,
    Reply,
}

/// The steps that a log tells of, and the words that mark them; the far ones are in the log of the first agent.
const MARKS: [(Step, &str); 7] = [
    (Step::Backend, "backend connected"),
    (Step::Published, "publishes an offer"),
    (Step::Received, "received an offer"),
    (Step::Connected, "connected: "),
    (Step::FarConnected, "connected: "),
    (Step::Endpoint, "set the endpoint"),
    (Step::FarEndpoint, "set the endpoint"),
];

/// The rows of the table: what they say, and the first or last of which steps they are about. A side that yields to the
/// other's handshake may set no endpoint at all, so the second one is not waited for.
const ROWS: [(&str, &[Step], bool); 7] = [
    ("the second agent's backend is up", &[Step::Backend], true),
    ("its first offer published", &[Step::Published], true),
    ("the peer's offer received", &[Step::Received], true),
    (
        "a pair selected, by either side",
        &[Step::Connected, Step::FarConnected],
        true,
    ),
    (
        "a pair selected, by both",
        &[Step::Connected, Step::FarConnected],
        false,
    ),
    (
        "the endpoint set, by either side",
        &[Step::Endpoint, Step::FarEndpoint],
        true,
    ),
    ("first reply to a ping", &[Step::Reply], true),
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
    let mut outcome = Ok(());
    for run in 1..=runs {
        match connect(engine) {
            Ok((start, moments)) => {
                starts.push(start);
                all.push(moments);
            }
            Err(error) => outcome = Err(error.context(format!("connection {run} of {runs}"))),
        }
    }
    println!(
        "\nA connection through two port-restricted NATs, in milliseconds; {} of {runs} came up\n",
        all.len()
    );
    println!(
        "  {:<34}{:^27}{:^27}",
        "", "from the agent's start", "from its first offer"
    );
    let columns = format!("{:>9}{:>9}{:>9}", "median", "min", "max");
    println!("  {:<34}{columns}{columns}", "");
    for (name, steps, first) in ROWS {
        let reached = |moments: &Moments| {
            let times = steps.iter().filter_map(|step| moments.get(step)).copied();
            if first { times.min() } else { times.max() }
        };
        // A step may come before the first offer: then the offer is no origin for it.
        let since_offer =
            |moments: &Moments| reached(moments)?.checked_sub(*moments.get(&Step::Published)?);
        let from_start = all.iter().zip(&starts);
        let from_start = from_start
            .filter_map(|(moments, start)| reached(moments)?.checked_sub(*start))
            .collect();
        let from_offer: Vec<Duration> = all.iter().filter_map(since_offer).collect();
        let from_offer = Some(from_offer).filter(|times| times.len() == all.len());
        let columns = [Some(from_start), from_offer].map(|times| {
            times
                .and_then(Figures::of)
                .map_or_else(String::new, |figures| figures.to_string())
        });
        println!("  {name:<34}{}", columns.concat());
    }
    println!("  {:<34}{:>9}{:>27}", "aim", 400, 150);
    outcome
}

/// Starts one agent after the other in a new lab; returns the second one's start and what followed.
fn connect(engine: Engine) -> Result<(Duration, Moments)> {
    let scene = Scene::at_home(engine)?;
    let settings = Settings::websocket(&scene.server);
    timed(&scene, &[settings.clone(), settings])
}

/// Starts A's agent, and B's when A's is ready; returns B's start and what followed.
fn timed(scene: &Scene, settings: &[Settings; 2]) -> Result<(Duration, Moments)> {
    let arguments = ["--log-level", "debug"];
    let first = Agent::start_with(&scene.a.host, &settings[0], &arguments)?;
    first.backends_up(DEADLINE)?;
    let second = Agent::start_with(&scene.b.host, &settings[1], &arguments)?;
    // The clock of the log, at the moment that the clock of this process has for the start.
    let start = present() - second.process.started().elapsed();
    let moments = follow(scene, second.process.started())?;
    Ok((start, moments))
}

/// Returns the time from B's start to the first reply, where A's agent was ready before.
pub(crate) fn first_reply(scene: &Scene, settings: &[Settings; 2]) -> Result<Duration> {
    let (start, moments) = timed(scene, settings)?;
    let reply = moments.get(&Step::Reply).context("no reply")?;
    Ok(reply.saturating_sub(start))
}

/// Reads both logs until the first reply, and pings from either side as soon as its endpoint is set: a ping before that
/// would make WireGuard wait for its retry interval of 5 s.
fn follow(scene: &Scene, started: Instant) -> Result<Moments> {
    let (mut near, mut far) = (Log::open(&scene.a.host)?, Log::open(&scene.b.host)?);
    let (replies, replied) = mpsc::channel();
    let mut moments = Moments::new();
    let mut pinged = [false; 2];
    // The reply, and whatever came before it on both sides.
    let wanted = [Step::Connected, Step::FarConnected, Step::Reply];
    while !wanted.iter().all(|step| moments.contains_key(step)) {
        ensure!(
            started.elapsed() < DEADLINE * patience(),
            "not connected after {DEADLINE:?}; reached: {:?}",
            moments.keys()
        );
        for (step, words) in MARKS {
            if moments.contains_key(&step) {
                continue;
            }
            let log = match step {
                Step::FarConnected | Step::FarEndpoint => &mut near,
                _ => &mut far,
            };
            if let Some(at) = log.first(words)? {
                moments.insert(step, at);
            }
        }
        let sides = [
            (Step::FarEndpoint, &scene.a.host, scene.b.tunnel.address),
            (Step::Endpoint, &scene.b.host, scene.a.tunnel.address),
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
