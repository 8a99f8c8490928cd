//! `wice-signal`, the rendezvous server of WICE: flags, logs, signals and systemd around the library.

mod cli;
mod inherited;
mod log;

use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info, warn};
use wice_signal::{Server, ServerError, Tls};

use crate::cli::Cli;

/// What the end takes beyond the time that clients have, at most.
const STOP_ROOM: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.generate_man {
        return manual();
    }
    if let Err(error) = log::start(cli.log_level) {
        eprintln!("wice-signal: cannot log: {error}");
        return ExitCode::FAILURE;
    }
    raise_open_files();
    match serve(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Every client is an open file, and the usual 1,024 are few: takes as many as the system allows this process.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!(
            "cannot raise the number of open files (RLIMIT_NOFILE): {error}; many clients need more"
        );
    }
}

/// Prints the manual page, for those who install the server.
fn manual() -> ExitCode {
    let page = clap_mangen::Man::new(Cli::command()).section("8");
    match page.render(&mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wice-signal: cannot print the manual page: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(cli: Cli) -> anyhow::Result<()> {
    let handler = |kind| signal(kind).context("cannot handle signals");
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    let mut hangup = handler(SignalKind::hangup())?;

    let inherited = inherited::listeners()?;
    let default_address = cli.listen.is_empty();
    let mut options = cli.options()?;
    if default_address && !inherited.is_empty() {
        options.listen.clear();
    }
    let drain = options.limits.drain;
    let has_token = options.tokens.is_some();
    let server = match Server::bind_beside(inherited, options.clone()).await {
        // A machine without IPv6 has no [::].
        Err(ServerError::Listen { source, .. }) if default_address && no_ipv6(&source) => {
            options.listen = vec![cli::DEFAULT_IPV4];
            Server::bind(options).await?
        }
        bound => bound?,
    };

    let tls = server.tls();
    let scheme = if tls.is_some() { "https" } else { "http" };
    for address in server.local_addrs() {
        info!("listening on {scheme}://{address}");
    }
    for address in server.stun_addrs() {
        info!("listening on stun:{address}");
    }
    for address in server.turn_addrs() {
        info!("listening on turn:{address} (UDP and TCP)");
    }
    for address in server.turn_tls_addrs() {
        info!("listening on turns:{address}");
    }
    if let Some(address) = server.metrics_addr() {
        info!("metrics are served at http://{address}/metrics");
    }
    relays(
        &server.relay_addrs(),
        server.turn_addrs().is_empty() && server.turn_tls_addrs().is_empty(),
    );
    if !has_token && !server.relay_addrs().is_empty() {
        warn!("whoever reaches this server may have packets relayed: set --token-file");
    }
    let public = |address: &SocketAddr| !address.ip().is_loopback();
    if has_token && tls.is_none() && server.local_addrs().iter().any(public) {
        warn!(
            "the token crosses the network in the clear: set --tls-cert and --tls-key, or listen on loopback behind a TLS proxy"
        );
    }
    notify(&[NotifyState::Ready]);

    let (tell, told) = oneshot::channel();
    let signals = async {
        told_to_end(&mut terminate, &mut interrupt).await;
        let wait = u32::try_from((drain + STOP_ROOM).as_micros()).unwrap_or(u32::MAX);
        notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(wait)]);
        // Fails when the server has ended by itself.
        let _ = tell.send(());
        told_to_end(&mut terminate, &mut interrupt).await;
    };
    let stopped = async {
        let _ = told.await;
    };
    tokio::select! {
        result = server.run(stopped) => result?,
        () = signals => info!("told to end a second time: cutting all connections off"),
        () = reload(&mut hangup, tls) => {}
    }
    info!("stopped");
    Ok(())
}

/// Says where relayed packets come from, and what may be wrong with that.
fn relays(addresses: &[IpAddr], off: bool) {
    if off {
        return;
    }
    if addresses.is_empty() {
        warn!("no address to relay from: set --turn-external to the address that others see");
        return;
    }
    let list: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    info!("relaying from {}", list.join(" and "));
    for address in addresses {
        if let IpAddr::V4(v4) = address
            && v4.is_private()
        {
            warn!(
                "{v4} is a private address, which only its own network reaches: set --turn-external to the address that others see"
            );
        }
    }
}

async fn told_to_end(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Reads certificate and key again at each SIGHUP. Never ends.
async fn reload(hangup: &mut Signal, tls: Option<Tls>) {
    loop {
        if hangup.recv().await.is_none() {
            return pending().await;
        }
        match tls.as_ref().map(Tls::reload) {
            None => info!("nothing to reload: there is no certificate"),
            Some(Ok(())) => info!("certificate and key were read again"),
            Some(Err(error)) => warn!("{error}; the old certificate stays in use"),
        }
    }
}

fn no_ipv6(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT)
    )
}

/// Tells systemd; a server that was started otherwise has nobody to tell.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("cannot tell systemd: {error}");
    }
}
