//! `wice-bench`: where the time of a connection goes, what a thousand peers cost, and what an offer costs. Prints figures
//! beside their aims and asserts no duration: a machine may be slow.

mod connection;
mod crowd;
mod figures;
mod forwarder;
mod moments;
mod offer;
mod relay;
mod relayed_crowd;
mod rendezvous;
mod size;
mod swarm;
mod throughput;
mod usage;

use std::net::SocketAddr;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use nix::unistd::Uid;
use wice_tests::process::tails;
use wice_tests::wait::patience;
use wice_tests::wireguard::Engine;

/// Measures connections, crowds and offers in namespaces of this machine.
#[derive(Parser)]
#[command(name = "wice-bench")]
struct Arguments {
    /// How many connections are timed.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=50))]
    runs: u32,
    /// How many connections by each kind of relay are timed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    relay_runs: u32,
    /// How many peers the crowded interface has.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(2..=2000))]
    peers: u16,
    /// How many peers are reached by one allocation.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(2..=2000))]
    relayed_peers: u16,
    /// Gives the crowded host no D-Bus.
    #[arg(long)]
    no_bus: bool,
    /// Serves a bare WebSocket echo instead: what the rendezvous server is compared with.
    #[arg(long, hide = true, value_name = "ADDR:PORT")]
    echo: Option<SocketAddr>,
    /// What to measure; without a word, everything.
    parts: Vec<Part>,
}

/// One of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The time from an agent's start to the first reply through the tunnel.
    Connection,
    /// The same through a relay, for each kind of relay.
    Relay,
    /// How fast a tunnel is by a relay, and what that costs.
    Throughput,
    /// Many peers on one interface, half of them answering.
    Crowd,
    /// Many peers that are all reached by one allocation.
    RelayedCrowd,
    /// The cost of signing, sealing, opening and verifying.
    Offer,
    /// What the rendezvous server holds, and how fast it is.
    Rendezvous,
    /// Programs and packages on disk, and memory at rest.
    Size,
}

/// Whatever happens, the benchmarks end: children die with this process, and namespaces with the last of them.
const LONGEST: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    thread::spawn(|| {
        thread::sleep(LONGEST * patience());
        eprintln!("wice-bench: not finished after {LONGEST:?}; gives up");
        process::exit(1);
    });
    let outcome = match arguments.echo {
        Some(address) => rendezvous::serve_echo(address),
        None => bench(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe last lines of every log:\n{}", tails(15));
            eprintln!("wice-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("the benchmarks make network namespaces: run them as root (`sudo make bench`)");
    }
    let engine = Engine::detect()?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!("WICE, measured on {cores} cores with {engine}");
    let wanted = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let mut outcome = Ok(());
    if wanted(Part::Connection) {
        outcome = connection::measure(engine, arguments.runs);
    }
    if wanted(Part::Relay) {
        outcome = outcome.and(relay::measure(engine, arguments.relay_runs));
    }
    if wanted(Part::Throughput) {
        outcome = outcome.and(throughput::measure(engine));
    }
    if wanted(Part::Offer) {
        offer::measure();
    }
    if wanted(Part::Rendezvous) {
        outcome = outcome.and(rendezvous::measure());
    }
    if wanted(Part::Size) {
        outcome = outcome.and(size::measure(engine));
    }
    if wanted(Part::Crowd) {
        // A connection that failed is told at the end, and keeps nothing from being measured.
        outcome = outcome.and(crowd::measure(engine, arguments.peers, !arguments.no_bus));
    }
    if wanted(Part::RelayedCrowd) {
        outcome = outcome.and(relayed_crowd::measure(engine, arguments.relayed_peers));
    }
    outcome
}
