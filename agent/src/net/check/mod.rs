//! What this network does to UDP: mapping and filtering in the words of RFC 4787, found out by the tests of RFC 5780, and which
//! servers answer.
//!
//! From sockets of its own, so that WireGuard's port is never disturbed; all servers at once, and never longer than it was
//! given. Must not know peers, nor what the agent does with its servers.

mod family;
mod judge;
mod rows;
mod socket;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wice_bus::{Backend, NetCheck};
use wice_core::server::{IceServer, ServerKind, Transport};

use super::relay::{Probed, probe};
use family::IpFamily;

/// What is to be found out, and by whom.
#[derive(Debug)]
pub(crate) struct Question {
    /// The servers that may be asked.
    pub(crate) servers: Vec<IceServer>,
    /// SO_MARK of everything that is sent, so that it goes where WireGuard's packets go; 0 for none.
    pub(crate) fwmark: u32,
    /// How long it may take altogether.
    pub(crate) patience: Duration,
    /// How the signalling backends fare.
    pub(crate) backends: Vec<Backend>,
}

/// More servers, or more addresses of one name and family, are not asked: whoever configures them has a network to check, not
/// to measure the Internet.
const MOST_SERVERS: usize = 16;
const MOST_ADDRESSES: usize = 2;
/// A resolver that takes longer counts as none.
const RESOLVE: Duration = Duration::from_secs(2);

/// A server, and the address at which it is asked.
#[derive(Debug, Clone)]
struct Target<'a> {
    server: &'a IceServer,
    address: SocketAddr,
}

/// Finds out, on a thread of its own: what the agent does at the same time delays no answer, and is not delayed.
///
/// The receiver is closed when no thread could be started.
pub(crate) fn start(question: Question) -> oneshot::Receiver<NetCheck> {
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => {
                let outcome = runtime.block_on(run(&question));
                // A name that is being looked up cannot be cancelled.
                runtime.shutdown_background();
                // Whoever asked may have gone.
                let _ = sender.send(outcome);
            }
            Err(error) => tracing::warn!("cannot check the network: {error}"),
        }
    };
    if let Err(error) = thread::Builder::new()
        .name("netcheck".to_owned())
        .spawn(work)
    {
        tracing::warn!("cannot check the network: {error}");
    }
    receiver
}

async fn run(question: &Question) -> NetCheck {
    let until = Instant::now() + question.patience;
    let mut servers: Vec<&IceServer> = Vec::new();
    for server in &question.servers {
        if servers.len() < MOST_SERVERS && !servers.iter().any(|known| known.url == server.url) {
            servers.push(server);
        }
    }
    let found = join_all(servers.iter().map(|server| resolve(server, until))).await;
    let targets: Vec<Target<'_>> = (servers.iter().zip(&found))
        .flat_map(|(server, addresses)| {
            let addresses = addresses.as_deref().unwrap_or_default().iter();
            addresses.map(|address| Target {
                server,
                address: *address,
            })
        })
        .collect();
    let of = |family: IpFamily| {
        let mut addresses: Vec<SocketAddr> = (targets.iter())
            .filter(|target| is_udp(target.server) && family.has(target.address))
            .map(|target| target.address)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        family::examine(family, addresses, question.fwmark, until)
    };
    let (ipv4, ipv6, probed) = tokio::join!(
        of(IpFamily::V4),
        of(IpFamily::V6),
        join_all(
            targets
                .iter()
                .map(|target| probe_relay(target, question.fwmark, until))
        ),
    );
    let seen = [(IpFamily::V4, ipv4), (IpFamily::V6, ipv6)];
    let rows = rows::servers(&servers, &found, &targets, &seen, &probed);
    judge::judge(&seen, rows, question.backends.clone())
}

/// Looks a server's name up; what came of it in words where nothing did.
async fn resolve(server: &IceServer, until: Instant) -> Result<Vec<SocketAddr>, String> {
    let lookup = tokio::net::lookup_host((server.url.host.as_str(), server.url.port));
    let until = until.min(Instant::now() + RESOLVE);
    let found: Vec<SocketAddr> = match tokio::time::timeout_at(until, lookup).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            return Err(format!(
                "cannot resolve its name: {error}; is it spelled right, and is there a resolver?"
            ));
        }
        Err(_) => return Err("cannot resolve its name: no resolver answered".to_owned()),
    };
    let (v4, v6): (Vec<_>, Vec<_>) = found.into_iter().partition(SocketAddr::is_ipv4);
    let first = |addresses: Vec<SocketAddr>| addresses.into_iter().take(MOST_ADDRESSES);
    Ok(first(v4).chain(first(v6)).collect())
}

/// Asks a TURN server for a relayed address, and gives it back.
async fn probe_relay(target: &Target<'_>, fwmark: u32, until: Instant) -> Option<Probed> {
    match target.server.url.kind {
        ServerKind::Stun => None,
        ServerKind::Turn(transport) => {
            Some(probe(target.server, transport, target.address, fwmark, until).await)
        }
    }
}

/// Whether a server takes binding requests over UDP: TURN servers do, too.
const fn is_udp(server: &IceServer) -> bool {
    matches!(
        server.url.kind,
        ServerKind::Stun | ServerKind::Turn(Transport::Udp)
    )
}
