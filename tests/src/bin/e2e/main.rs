//! `wice-e2e`: the end-to-end suites. Each case is a process of its own with a lab of its own and a deadline, so that no
//! case can spoil or outlast another.

mod dbus;
mod explain;
mod fleet;
mod handover;
mod input;
mod interfaces;
mod kubernetes;
mod lab;
mod lab_relay;
mod life;
mod mailbox;
mod metrics;
mod netcheck;
mod path;
mod relay;
mod relay_trouble;
mod secrets;
mod tcp;
mod trouble;

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use wice_tests::process;
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

/// Runs the end-to-end cases whose names contain one of the given words; without a word, all of them but those that need a
/// Kubernetes API server, which takes minutes to build.
#[derive(Parser)]
#[command(name = "wice-e2e")]
struct Arguments {
    /// Lists those cases and runs none.
    #[arg(long)]
    list: bool,
    /// Runs exactly one case in this very process.
    #[arg(long, hide = true)]
    case: Option<String>,
    /// Leaves out the cases whose names contain this word; may be repeated.
    #[arg(long, value_name = "WORD")]
    skip: Vec<String>,
    /// Words of the names of the cases to run.
    words: Vec<String>,
}

/// One behaviour of the whole system.
struct Case {
    /// A sentence with dashes.
    name: &'static str,
    /// When the case counts as failed.
    deadline: Duration,
    run: fn(Engine) -> Result<()>,
}

/// Makes a case with the usual deadline.
const fn case(name: &'static str, run: fn(Engine) -> Result<()>) -> Case {
    Case {
        name,
        deadline: Duration::from_secs(60),
        run,
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let cases: Vec<Case> = [
        lab::cases(),
        lab_relay::cases(),
        path::cases(),
        life::cases(),
        metrics::cases(),
        interfaces::cases(),
        input::cases(),
        trouble::cases(),
        relay::cases(),
        handover::cases(),
        fleet::cases(),
        relay_trouble::cases(),
        secrets::cases(),
        kubernetes::cases(),
        tcp::cases(),
        netcheck::cases(),
        dbus::cases(),
        explain::cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    match run(&arguments, &cases) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wice-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, cases: &[Case]) -> Result<()> {
    if !arguments.list && !Uid::effective().is_root() {
        bail!("the end-to-end suites make network namespaces: run them as root");
    }
    if let Some(name) = &arguments.case {
        let case = cases
            .iter()
            .find(|case| case.name == name)
            .context("no such case")?;
        return (case.run)(Engine::detect()?).inspect_err(|_| print!("{}", process::tails(60)));
    }
    let named = |case: &Case, words: &[String]| words.iter().any(|word| case.name.contains(word));
    let chosen = |case: &&Case| {
        let wanted = named(case, &arguments.words)
            || (arguments.words.is_empty() && !case.name.starts_with(kubernetes::PREFIX));
        wanted && !named(case, &arguments.skip)
    };
    let chosen: Vec<&Case> = cases.iter().filter(chosen).collect();
    if chosen.is_empty() {
        bail!("no case matches; --list shows all");
    }
    if arguments.list {
        chosen.iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    }
    println!("{} cases, {}", chosen.len(), Engine::detect()?);
    let mut failed = Vec::new();
    for case in &chosen {
        println!("\n=== {}", case.name);
        let start = Instant::now();
        let outcome = alone(case);
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => println!("--- ok, {seconds:.1} s"),
            Err(error) => {
                println!("--- FAILED after {seconds:.1} s: {error:#}");
                failed.push(case.name);
            }
        }
    }
    println!(
        "\n{} passed, {} failed",
        chosen.len() - failed.len(),
        failed.len()
    );
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs one case in a process of its own; it and everything that it started are gone when this returns.
fn alone(case: &Case) -> Result<()> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--case", case.name]);
    // SAFETY: between fork and exec only a system call is made.
    unsafe {
        command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
    }
    let mut child = command.spawn()?;
    match until("the case to end", case.deadline, || Ok(child.try_wait()?)) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("{status}"),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}
