//! `wice-package`: what a user of the Debian packages does, on booted systems with nothing but them: installs, edits two lines,
//! enables; looks, restarts, reloads, upgrades; removes and purges. A ping through the tunnel runs all the while.

mod site;
mod steps;

use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use nix::unistd::Uid;
use wice_tests::process::tails;
use wice_tests::wait::patience;
use wice_tests::wireguard::Engine;

use site::Lab;

/// Tries the packages on booted systems behind NATs.
#[derive(Parser)]
#[command(name = "wice-package")]
struct Arguments {
    /// A directory with the packages, and those of an older version in `old`.
    #[arg(long, default_value = "target/package")]
    packages: PathBuf,
    /// The root directory of a minimal system (tests/package/root prints one).
    #[arg(long)]
    root: PathBuf,
    /// Only installs, connects and looks at the sandbox: for emulated machines.
    #[arg(long)]
    short: bool,
}

/// One thing that a user does, and what must be seen afterwards.
type Step = (&'static str, fn(&mut Lab) -> Result<()>);

const CONNECT: [Step; 4] = [
    ("the packages install, and start nothing", steps::install),
    (
        "two edited lines and a credential connect two machines behind NATs",
        steps::connect,
    ),
    (
        "every user may look, and not everyone may change",
        steps::look,
    ),
    (
        "the sandbox is what the units say, and tight enough",
        steps::sandbox,
    ),
];

const LIVE: [Step; 7] = [
    ("a reload keeps the path", steps::reload),
    ("a restart loses nothing", steps::restart),
    (
        "an upgrade loses nothing, and keeps what was edited",
        steps::upgrade,
    ),
    ("the journals hold no warning", steps::journals),
    (
        "a bad configuration, a server that restarts and a crash lose nothing",
        steps::mishaps,
    ),
    (
        "a relay works inside the sandboxes, and is left again",
        steps::relay,
    ),
    (
        "remove leaves the tunnel and the configuration, purge only the tunnel",
        steps::remove,
    ),
];

/// Whatever happens, this ends; everything that it started ends with it.
const LONGEST: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    thread::spawn(|| {
        thread::sleep(LONGEST * patience());
        eprintln!("wice-package: not finished after {LONGEST:?}; gives up");
        process::exit(1);
    });
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wice-package: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("this boots systems in network namespaces: run it as root");
    }
    let engine = Engine::detect()?;
    println!("packages on booted systems, {engine}");
    let packages = arguments.packages.canonicalize().with_context(|| {
        format!(
            "{}: `make deb` makes packages",
            arguments.packages.display()
        )
    })?;
    let mut lab = Lab::boot(engine, &arguments.root, &packages, arguments.short)
        .inspect_err(|_| eprintln!("{}", tails(30)))?;
    let later: &[Step] = if arguments.short {
        &[("the journals hold no warning", steps::journals)]
    } else {
        &LIVE
    };
    for (name, step) in CONNECT.iter().chain(later) {
        let start = Instant::now();
        println!("\n=== {name}");
        step(&mut lab)
            .with_context(|| format!("FAILED: {name}"))
            .inspect_err(|_| lab.tell())?;
        println!("--- ok, {:.1} s", start.elapsed().as_secs_f32());
    }
    Ok(())
}
