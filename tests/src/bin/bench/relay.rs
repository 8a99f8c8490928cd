//! The time from the second agent's start to the first reply through a relay, for every kind of server, transport and NAT.

use std::time::Duration;

use anyhow::Result;
use wice_tests::coturn::Transport;
use wice_tests::relayed::{BOTH_BLOCKED, HOTELS, ONE_BLOCKED, Place, RelayScene, SYMMETRIC, Whose};
use wice_tests::wireguard::Engine;

use crate::connection::first_reply;
use crate::figures::Figures;

/// The rows of the table; the last column is the aim in milliseconds.
const ROWS: [(&str, Transport, Place, u32); 5] = [
    ("two symmetric NATs, UDP", Transport::Udp, SYMMETRIC, 400),
    (
        "UDP blocked on one side, TCP",
        Transport::Tcp,
        ONE_BLOCKED,
        400,
    ),
    (
        "UDP blocked on both sides, TCP",
        Transport::Tcp,
        BOTH_BLOCKED,
        400,
    ),
    ("only TCP 443 passes, TLS", Transport::Tls, HOTELS, 800),
    (
        "IPv6 only and IPv4 only, UDP",
        Transport::Udp,
        Place::TwoFamilies,
        400,
    ),
];

/// Connects `runs` times by each, every time in a lab of its own, and prints the table.
pub(crate) fn measure(engine: Engine, runs: u32) -> Result<()> {
    println!(
        "\nFirst reply through a relay, from the second agent's start, in milliseconds; {runs} runs each\n"
    );
    println!(
        "  {:<34}{:<12}{:>9}{:>9}{:>9}{:>9}",
        "", "", "median", "min", "max", "aim"
    );
    let mut outcome = Ok(());
    for (name, transport, place, aim) in ROWS {
        for (server, whose) in [("coturn", Whose::Coturn), ("wice-signal", Whose::Own)] {
            let mut times: Vec<Duration> = Vec::new();
            for run in 1..=runs {
                let time = RelayScene::new(engine, whose, transport, place)
                    .and_then(|relayed| first_reply(&relayed.scene, &relayed.settings));
                match time {
                    Ok(time) => times.push(time),
                    Err(error) => {
                        outcome =
                            Err(error.context(format!("{name} by {server}, run {run} of {runs}")));
                    }
                }
            }
            let failed = runs as usize - times.len();
            let figures =
                Figures::of(times).map_or_else(String::new, |figures| figures.to_string());
            let failed = if failed > 0 {
                format!("  {failed} failed")
            } else {
                String::new()
            };
            println!("  {name:<34}{server:<12}{figures:>27}{aim:>9}{failed}");
        }
    }
    outcome
}
