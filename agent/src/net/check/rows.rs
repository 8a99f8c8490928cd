//! What each server said, one row for each of its addresses.

use std::net::SocketAddr;
use std::time::Duration;

use wice_bus::ServerCheck;
use wice_core::server::{IceServer, ServerKind};

use super::family::{Answer, IpFamily, Seen};
use super::socket::Silence;
use super::{Probed, Target, is_udp};

/// Puts together what was asked and what came.
pub(super) fn servers(
    servers: &[&IceServer],
    found: &[Result<Vec<SocketAddr>, String>],
    targets: &[Target<'_>],
    seen: &[(IpFamily, Seen)],
    probed: &[Option<Probed>],
) -> Vec<ServerCheck> {
    let mut rows = Vec::new();
    for (server, found) in servers.iter().zip(found) {
        if let Err(error) = found {
            rows.push(ServerCheck {
                url: server.url.to_string(),
                error: error.clone(),
                relays: is_turn(server).then_some(false),
                ..ServerCheck::default()
            });
        }
        for (target, probed) in targets.iter().zip(probed) {
            if target.server.url == server.url {
                rows.push(row(target, seen, probed.as_ref()));
            }
        }
    }
    rows
}

fn row(target: &Target<'_>, seen: &[(IpFamily, Seen)], probed: Option<&Probed>) -> ServerCheck {
    let mut row = ServerCheck {
        url: target.server.url.to_string(),
        address: target.address.to_string(),
        ..ServerCheck::default()
    };
    let family = seen.iter().find(|(family, _)| family.has(target.address));
    if let Some((_, seen)) = family.filter(|_| is_udp(target.server)) {
        match seen.answers.get(&target.address) {
            Some(answer) => bind(&mut row, answer),
            None => row.error =
                "this machine has no address of that family that leads anywhere; it was not asked"
                    .to_owned(),
        }
    }
    if let Some(probed) = probed {
        relay(&mut row, probed);
    }
    row
}

fn bind(row: &mut ServerCheck, answer: &Answer) {
    match answer {
        Ok((bound, time)) => {
            row.answered = true;
            row.rtt_us = micros(*time);
            row.mapped_address = bound.mapped.to_string();
            row.discovery = bound.other.is_some();
        }
        Err(Silence::Refused(code)) => {
            row.answered = true;
            row.error =
                format!("it answers a binding request with error {code}: is it a STUN server?");
        }
        Err(Silence::Unanswered) => {
            row.error =
                "no answer over UDP: is the server running, and does a firewall let UDP through?"
                    .to_owned();
        }
        Err(Silence::Unsent(error)) => row.error = format!("cannot send to it: {error}"),
    }
}

fn relay(row: &mut ServerCheck, probed: &Probed) {
    row.relays = Some(probed.relays);
    row.answered |= probed.answered;
    if let Some(mapped) = probed.mapped {
        row.mapped_address = mapped.to_string();
    }
    if let Some(time) = probed.time {
        row.rtt_us = micros(time);
    }
    match &probed.error {
        Some(error) => row.error.clone_from(error),
        // It relays; that it takes no request without a user name is its right.
        None => row.error.clear(),
    }
}

pub(super) const fn is_turn(server: &IceServer) -> bool {
    matches!(server.url.kind, ServerKind::Turn(_))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}
