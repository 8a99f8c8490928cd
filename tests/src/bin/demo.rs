//! `wice-demo`: two hosts behind two NATs, a tunnel without an endpoint, and what the agents make of it, to watch.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use nix::unistd::Uid;
use wice_tests::agent::{Agent, Settings, wicectl};
use wice_tests::bus;
use wice_tests::nat::Nat;
use wice_tests::ping::Pinger;
use wice_tests::process::{self, Process};
use wice_tests::server::Server;
use wice_tests::topology::{Family, Host, Lab};
use wice_tests::wait::patience;
use wice_tests::watch::{Change, News, Watch};
use wice_tests::wireguard::{Engine, Tunnel};

/// Shows a tunnel come up through two port-restricted NATs, in namespaces of this machine.
#[derive(Parser)]
#[command(name = "wice-demo")]
struct Arguments {
    /// Fails when the first reply takes longer than this, in milliseconds from the second agent's start.
    #[arg(long)]
    within: Option<u64>,
}

/// How long the demo watches before it says where things stopped.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long no news may come before the status is asked: a monitor tells nothing of the time before it listened.
const QUIET: Duration = Duration::from_millis(250);

/// How often a ping is tried: the resolution of the time that the demo tells.
const PROBE: Duration = Duration::from_millis(2);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match demo(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{} {error:#}", paint("31;1", "wice-demo:"));
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &Arguments) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("the demo makes network namespaces: run it as root (`sudo make demo`)");
    }
    let engine = Engine::detect()?;
    let stage = Stage::build(engine).context("building the scene")?;
    stage.introduce(engine);
    let settings = Settings::websocket(&stage.server);
    let (agents, reply) = stage.play(&settings).inspect_err(|_| {
        eprintln!(
            "
the last lines of every log:
{}",
            process::tails(15)
        );
    })?;

    for (name, host) in [("a", &stage.a), ("b", &stage.b)] {
        println!(
            "\n{}\n{}",
            paint("1", &format!("{name}$ wicectl status")),
            wicectl(host, "status")?.trim_end()
        );
    }
    println!(
        "\n{}\n{}",
        paint("1", "a$ wg show"),
        stage.a.machine.run("wg show")?.trim_end()
    );
    let took = reply
        .duration_since(agents[1].process.started())
        .as_secs_f64()
        * 1000.0;
    println!(
        "\n{}",
        paint(
            "32;1",
            &format!("{took:.0} ms from the second agent's start to the first reply.")
        )
    );
    match arguments.within {
        Some(limit) if took > limit as f64 => bail!("that is more than {limit} ms"),
        _ => Ok(()),
    }
}

/// Everything that stands before an agent starts.
struct Stage {
    a: Host,
    b: Host,
    near: Tunnel,
    far: Tunnel,
    server: Server,
    nats: [String; 2],
    _buses: [Process; 2],
    _lab: Lab,
}

impl Stage {
    fn build(engine: Engine) -> Result<Self> {
        let mut lab = Lab::new(Family::V4)?;
        let (mut left, mut right) = (
            lab.router(Nat::PortRestricted)?,
            lab.router(Nat::PortRestricted)?,
        );
        let (a, b) = (lab.host("a", &mut left)?, lab.host("b", &mut right)?);
        let buses = [bus::start(&a.machine)?, bus::start(&b.machine)?];
        let near = Tunnel::up(engine, &a, "wg0", Ipv4Addr::new(10, 99, 0, 1))?;
        let far = Tunnel::up(engine, &b, "wg0", Ipv4Addr::new(10, 99, 0, 2))?;
        near.add_peer(&far)?;
        far.add_peer(&near)?;
        let server = Server::start(&lab)?;
        let nats = [left.address.to_string(), right.address.to_string()];
        Ok(Self {
            a,
            b,
            near,
            far,
            server,
            nats,
            _buses: buses,
            _lab: lab,
        })
    }

    fn introduce(&self, engine: Engine) {
        println!(
            "{}: two hosts behind two port-restricted NATs\n",
            paint("1", "WICE")
        );
        for (name, host, nat, end) in [
            ("a", &self.a, &self.nats[0], "┐"),
            ("b", &self.b, &self.nats[1], "┘"),
        ] {
            let tunnel = if name == "a" { &self.near } else { &self.far };
            println!(
                "  {name}  {:<11} ── NAT {nat} ──{end}    wg0 {}",
                host.address, tunnel.address
            );
            if name == "a" {
                println!(
                    "                                    ├── wice-signal 10.0.0.1: rendezvous and STUN"
                );
            }
        }
        println!("\n  {engine}; `wg` gave both sides keys and allowed IPs, and no endpoint.\n");
    }

    /// Starts one agent after the other, and returns them and the moment of the first reply.
    fn play(&self, settings: &Settings) -> Result<([Agent; 2], Instant)> {
        let (changes, watched) = mpsc::channel();
        let watches = [
            Watch::start(&self.a, changes.clone()),
            Watch::start(&self.b, changes),
        ];

        say(None, "a", "wice-agent starts");
        let first = Agent::start(&self.a, settings)?;
        first
            .backends_up(DEADLINE)
            .context("the first agent did not reach wice-signal")?;
        say(None, "a", "is on wice-signal, and waits for b\n");

        let second = Agent::start(&self.b, settings)?;
        say(Some(Duration::ZERO), "b", "wice-agent starts");
        let reply = self.watch(second.process.started(), &watched, &watches)?;
        Ok(([first, second], reply))
    }

    /// Tells the story from the second agent's start to the first reply through the tunnel.
    fn watch(
        &self,
        start: Instant,
        changes: &Receiver<Change>,
        watches: &[Watch],
    ) -> Result<Instant> {
        let (replies, replied) = mpsc::channel::<(String, Instant)>();
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        let (mut reply, mut quiet) = (None, Instant::now());
        let end = start + DEADLINE * patience();
        while reply.is_none() || seen.values().filter(|one| one.connected()).count() < watches.len()
        {
            if Instant::now() > end {
                bail!(
                    "stopped after {} s: {}",
                    start.elapsed().as_secs(),
                    stopped(&seen)
                );
            }
            match changes.recv_timeout(Duration::from_millis(1)) {
                Ok(change) => {
                    quiet = Instant::now();
                    let one = seen.entry(change.host.clone()).or_default();
                    if !one.take(&change.news) {
                        continue;
                    }
                    tell(start, &change);
                    if one.connected() && !one.probed {
                        one.probed = true;
                        self.probe(&change.host, &replies)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) if quiet.elapsed() > QUIET => {
                    watches.iter().for_each(Watch::look);
                    quiet = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("nobody watches the agents any more"),
            }
            if reply.is_none()
                && let Ok((host, at)) = replied.try_recv()
            {
                say(
                    Some(at.duration_since(start)),
                    &host,
                    &paint("32;1", "first reply to a ping through WireGuard"),
                );
                reply = Some(at);
            }
        }
        reply.context("no reply")
    }

    /// Pings the other side from a host that says it is connected. Earlier attempts would make things slower: WireGuard
    /// counts a handshake that it cannot send against its retry interval of 5 s.
    fn probe(&self, from: &str, replies: &Sender<(String, Instant)>) -> Result<()> {
        let (host, to) = if from == "a" {
            (&self.a, self.far.address)
        } else {
            (&self.b, self.near.address)
        };
        let mut pinger = Pinger::new(host, to)?;
        let (replies, from) = (replies.clone(), from.to_owned());
        thread::spawn(move || {
            if let Ok(at) = pinger.first_reply(PROBE, DEADLINE) {
                // The story may have ended already.
                let _ = replies.send((from, at));
            }
        });
        Ok(())
    }
}

/// What one side has said so far.
#[derive(Default)]
struct Seen {
    state: String,
    path: String,
    probed: bool,
}

impl Seen {
    /// Takes news in, and tells whether it was any.
    fn take(&mut self, news: &News) -> bool {
        let (known, new) = match news {
            News::State(state) => (&mut self.state, state),
            News::Path(path) => (&mut self.path, path),
        };
        let changed = known != new;
        known.clone_from(new);
        changed
    }

    fn connected(&self) -> bool {
        self.state == "connected"
    }
}

/// Says where the story stopped.
fn stopped(seen: &BTreeMap<String, Seen>) -> String {
    let said = |host: &str| match seen.get(host) {
        Some(one) => format!("{host} says {}", one.state),
        None => format!("{host} says nothing"),
    };
    let tunnel = if seen.values().any(Seen::connected) {
        "; no ping came back through the tunnel"
    } else {
        ""
    };
    format!("{}, {}{tunnel}", said("a"), said("b"))
}

fn tell(start: Instant, change: &Change) {
    let line = match &change.news {
        News::Path(path) if path == "none" => return,
        News::Path(path) => paint("32;1", &format!("the path is {path}")),
        News::State(state) if state == "connected" => paint("32", state),
        News::State(state) => state.clone(),
    };
    say(change.at.checked_duration_since(start), &change.host, &line);
}

fn say(after: Option<Duration>, host: &str, line: &str) {
    let time = after.map_or_else(String::new, |after| {
        format!("{:.0} ms", after.as_secs_f64() * 1000.0)
    });
    println!(
        "  {time:>8}  {}  {line}",
        paint(if host == "a" { "36;1" } else { "35;1" }, host)
    );
}

/// Wraps a text in a colour where a person looks at it.
fn paint(code: &str, text: &str) -> String {
    let plain = !io::stdout().is_terminal()
        || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain {
        text.to_owned()
    } else {
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
