//! Whether a TURN server relays: an allocation on a socket of its own, given back at once.
//!
//! Carries nothing, and knows nothing of the allocations that do.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use wice_core::server::{IceServer, Transport};
use wice_core::turn::{Client, Event, Failure};

use super::conduit::{Conduit, Room, Way};
use super::establish::HOPS;
use super::problem::Problem;
use crate::net::batch::Train;
use crate::net::binding::{self, Change, Reply};

/// What became of it.
#[derive(Debug, Default)]
pub(in crate::net) struct Probed {
    /// Whether the server said anything at all.
    pub(in crate::net) answered: bool,
    /// Whether it gave a relayed address.
    pub(in crate::net) relays: bool,
    /// Where it sees the connection come from; not asked over UDP.
    pub(in crate::net) mapped: Option<SocketAddr>,
    /// How long it took to say so.
    pub(in crate::net) time: Option<Duration>,
    /// Why it does not relay.
    pub(in crate::net) error: Option<String>,
}

/// A server that relays and answers no binding request is not waited for longer than this.
const BINDING: Duration = Duration::from_millis(500);

/// Asks for an allocation and gives it back; not longer than `until`.
pub(in crate::net) async fn probe(
    server: &IceServer,
    transport: Transport,
    mut address: SocketAddr,
    fwmark: u32,
    until: Instant,
) -> Probed {
    let mut probed = Probed::default();
    for _ in 0..HOPS {
        let way = Way {
            server: address,
            transport,
            host: &server.url.host,
            fwmark,
            // Into which tunnel its packets go is not what is asked here.
            interface: 0,
        };
        let attempt = timeout_at(until, attempt(server, way, &mut probed)).await;
        match attempt {
            Ok(Ok(())) => probed.relays = true,
            Ok(Err(Problem::Turn(Failure::Alternate(alternate)))) => {
                address = alternate;
                continue;
            }
            Ok(Err(problem)) => probed.error = Some(problem.to_string()),
            Err(_) => probed.error = Some(Failure::Silent.to_string()),
        }
        return probed;
    }
    probed.error = Some(Failure::Alternate(address).to_string());
    probed
}

async fn attempt(server: &IceServer, way: Way<'_>, probed: &mut Probed) -> Result<(), Problem> {
    let conduit = Conduit::open(way).await?;
    let room = Room::default();
    let mut client = Client::new(
        &server.username,
        server.credential.as_ref(),
        conduit.is_stream(),
        rand::random(),
        Instant::now().into(),
    );
    // Over UDP the binding is asked for from the socket whose mapping is measured. Here the first answer's time has a
    // handshake of TLS in it, the second's has not.
    let mut questions = if conduit.is_stream() { 2 } else { 0 };
    let mut asked = None;
    let mut allocated = None;
    loop {
        if asked.is_none() && questions > 0 {
            questions -= 1;
            asked = Some(ask(&conduit)?);
        }
        flush(&mut client, &conduit)?;
        while let Some(event) = client.poll_event() {
            match event {
                Event::Allocated(_) => {
                    allocated = Some(Instant::now());
                    client.release();
                }
                Event::Failed(failure) => return Err(failure.into()),
                _ => {}
            }
        }
        flush(&mut client, &conduit)?;
        if allocated.is_some_and(|at| asked.is_none() || at.elapsed() >= BINDING) {
            return Ok(());
        }
        let due = client.poll_timeout().map(Instant::from);
        let due = due
            .into_iter()
            .chain(allocated.map(|at| at + BINDING))
            .min();
        tokio::select! {
            ready = conduit.ready() => {
                ready.map_err(|source| Problem::Unreachable { server: way.server, source })?;
            }
            () = sleep_until(due) => client.handle_timeout(Instant::now().into()),
        }
        conduit.receive(&room, |message| {
            probed.answered = true;
            match (binding::parse(message), asked) {
                (Some((id, reply)), Some((waiting, sent))) if id == waiting => {
                    if let Reply::Bound(bound) = reply {
                        probed.mapped = Some(bound.mapped);
                        probed.time = Some(Instant::now() - sent);
                    }
                    asked = None;
                }
                _ => client.handle(message, Instant::now().into()),
            }
        })?;
    }
}

/// Sends what the client wants to send.
fn flush(client: &mut Client, conduit: &Conduit) -> Result<(), Problem> {
    let mut train = Train::default();
    while let Some(message) = client.poll_transmit() {
        train.push(&[&message]);
    }
    if train.is_empty() {
        return Ok(());
    }
    conduit.send(&train)
}

/// Sends a binding request; answers its transaction, and when it was sent.
fn ask(conduit: &Conduit) -> Result<(u128, Instant), Problem> {
    let transaction = rand::random::<u128>() >> 32;
    let mut train = Train::default();
    train.push(&[&binding::request(transaction, Change::Nothing)]);
    conduit.send(&train)?;
    Ok((transaction, Instant::now()))
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
