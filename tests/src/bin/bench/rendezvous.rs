//! What a rendezvous server holds and how fast it is: idle clients with their mailboxes, messages from publisher to subscriber,
//! and REST beside it; each beside what the same machine does with a bare echo over the same library, and nginx with a file.
//!
//! The server does all its work on one thread, so that messages a second are those of one core.

mod clients;
mod echo;
mod program;
mod rest;

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Builder;

use crate::usage::Usage;
use clients::{Crowd, Flow};
pub(crate) use echo::serve as serve_echo;
use program::Server;

/// Open WebSockets and mailboxes of an operator's large server.
const SOCKETS: usize = 20_000;
const MAILBOXES_EACH: usize = 5;
/// What an offer with a handful of candidates comes to.
const MESSAGE_BYTES: usize = 1_000;
/// What the machine keeps of its open files for other things than the clients.
const OTHER_FILES: usize = 64;

/// Measures all of it.
pub(crate) fn measure() -> Result<()> {
    let files = raise_open_files()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let sockets = SOCKETS.min(files.saturating_sub(OTHER_FILES));
    println!("\nThe rendezvous server, one process, all on loopback\n");
    runtime.block_on(idle(sockets))?;
    runtime.block_on(messages())?;
    runtime.block_on(rest::measure())
}

/// How many files a process may have open, after asking for as many as there may be.
fn raise_open_files() -> Result<usize> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise RLIMIT_NOFILE")?;
    Ok(usize::try_from(most)?)
}

async fn idle(sockets: usize) -> Result<()> {
    let server = Server::start(&[])?;
    let empty = Usage::of(server.id())?.resident;
    let mut clients =
        Crowd::connect(server.address(), sockets, MAILBOXES_EACH, MESSAGE_BYTES).await?;
    let connected = Usage::of(server.id())?.resident;
    clients.fill().await?;
    let filled = Usage::of(server.id())?.resident;
    let mailboxes = sockets * MAILBOXES_EACH;
    let kilobytes = |bytes: u64, count: usize| bytes as f64 / count as f64 / 1e3;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "  {sockets} open WebSockets, and {mailboxes} mailboxes that they wait for, each with {MESSAGE_BYTES} bytes"
    );
    if sockets < SOCKETS {
        println!("  (this machine lets no process open more files; the aim is for {SOCKETS})");
    }
    println!("    {:<44}{:>10.1} MB", "resident before", megabytes(empty));
    println!(
        "    {:<44}{:>10.1} MB (aim 500)",
        "resident with all",
        megabytes(filled)
    );
    println!(
        "    {:<44}{:>10.1} kB",
        "a WebSocket",
        kilobytes(connected.saturating_sub(empty), sockets)
    );
    println!(
        "    {:<44}{:>10.1} kB (aim 20)",
        "a WebSocket with its mailboxes, less messages",
        kilobytes(
            filled
                .saturating_sub(empty)
                .saturating_sub((mailboxes * MESSAGE_BYTES) as u64),
            sockets
        )
    );
    println!(
        "    {:<44}{:>10.2} kB (aim 2)",
        "a mailbox waited for, less its message",
        kilobytes(filled.saturating_sub(connected), mailboxes) - MESSAGE_BYTES as f64 / 1e3
    );
    let before = Usage::of(server.id())?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let load = Usage::of(server.id())?.load_since(&before);
    println!(
        "    {:<44}{load:>10.1} % of a core",
        "while nothing happens, with its pings"
    );
    Ok(())
}

async fn messages() -> Result<()> {
    let echo = program::Echo::start()?;
    let floor = clients::echoes(echo.address(), || Usage::of(echo.id())).await?;
    let server = Server::start(&[])?;
    let ours = clients::flow([server.address(); 2], || Usage::of(server.id())).await?;
    println!("\n  Messages of 100 bytes, from one client's WebSocket to another's\n");
    println!(
        "    {:<34}{:>10}{:>14}{:>10}{:>10}",
        "", "a second", "a core·second", "p50 ms", "p99 ms"
    );
    row("bare echo, same library", &floor);
    row("wice-signal, memory", &ours);
    println!(
        "    wice-signal carries {:.2} of what the echo does with a core (aim: 50,000 a core·second)",
        ours.per_core() / floor.per_core()
    );
    match program::Nats::start()? {
        None => println!("    through NATS: not measured, there is no nats-server here"),
        Some(nats) => {
            let store = ["--store", &nats.url()].map(str::to_owned);
            let [left, right] = [Server::start(&store)?, Server::start(&store)?];
            left.ready()?;
            right.ready()?;
            let shared =
                clients::flow([left.address(), right.address()], || Usage::of(left.id())).await?;
            row("two servers through NATS", &shared);
        }
    }
    Ok(())
}

fn row(what: &str, flow: &Flow) {
    println!(
        "    {what:<34}{:>10.0}{:>14.0}{:>10.2}{:>10.2}",
        flow.per_second(),
        flow.per_core(),
        flow.percentile(50).as_secs_f64() * 1e3,
        flow.percentile(99).as_secs_f64() * 1e3
    );
}
