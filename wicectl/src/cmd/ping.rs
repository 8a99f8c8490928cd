//! `wicectl ping`.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use wice_bus::{Interface, Peer, Snapshot};

use super::deadline;
use crate::failure::Failure;
use crate::icmp::Echo;
use crate::print::style::Style;
use crate::print::{escape, out, units, words};
use crate::{agent, allowed, select};

/// Whom to ping, and when to stop.
#[derive(Args)]
pub(crate) struct Options {
    /// Its name, its key, or the beginning of its key.
    peer: String,
    /// Only peers of this interface.
    #[arg(long, short, value_name = "NAME")]
    interface: Option<String>,
    /// Pings this address behind the peer; else the first host of its narrowest allowed IPs.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Stops after this many; else when interrupted.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    count: Option<u16>,
    /// Stops as soon as a reply came by a direct path; exit status 3 when none did.
    #[arg(long)]
    until_direct: bool,
    /// From one request to the next, and how long to wait for a reply.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    interval: f64,
}

/// Round-trip times in microseconds, and how many had none.
#[derive(Default)]
struct Tally {
    sent: u64,
    times: Vec<u64>,
}

/// Pings through the tunnel, and says of each reply by which path it came.
pub(crate) async fn run(options: &Options, style: Style) -> Result<(), Failure> {
    let interval = deadline::duration("--interval", options.interval)?;
    let connection = agent::connect().await?;
    let snapshot = agent::read(&connection).await?;
    let target = options.target(&snapshot)?;
    let echo = Echo::open(&target.interface, target.address)?;
    out(&format!(
        "ping {} ({}) through {}\n",
        style.bold(&target.label),
        target.address,
        escape(&target.interface)
    ))?;
    let mut tally = Tally::default();
    let mut sequence: u16 = 0;
    let mut direct = false;
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        sequence = sequence.wrapping_add(1);
        let next = Instant::now() + interval;
        let step = async {
            let line = ping(&echo, sequence, next, &mut tally).await;
            let peer = agent::peer(&connection, &target.path).await?;
            direct |= line.is_ok() && peer.packet_path == "direct";
            out(&format!("{}\n", describe(&line, sequence, &peer, style)))
        };
        tokio::select! {
            step = step => step?,
            _ = &mut interrupted => break,
        }
        if (options.until_direct && direct) || options.count.is_some_and(|count| sequence >= count)
        {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            _ = &mut interrupted => break,
        }
    }
    out(&format!("{}\n", tally.text()))?;
    if tally.times.is_empty() {
        return Err(Failure::Timeout(format!("no reply from {}", target.label)));
    }
    if options.until_direct && !direct {
        return Err(Failure::Timeout(format!(
            "no reply from {} came by a direct path (wicectl explain says why)",
            target.label
        )));
    }
    Ok(())
}

struct Target {
    path: String,
    label: String,
    interface: String,
    address: IpAddr,
}

impl Options {
    fn target(&self, snapshot: &Snapshot) -> Result<Target, Failure> {
        let found = select::peer(snapshot, self.interface.as_deref(), &self.peer)?;
        let (interface, peer) = (found.interface, found.peer);
        let label = found.label();
        let address = match self.address {
            Some(address) => reachable(interface, peer, address, &label)?,
            None => allowed::first_host(peer).ok_or_else(|| {
                Failure::Usage(format!(
                    "{label} has no address of its own among its allowed IPs: give one with --address"
                ))
            })?,
        };
        Ok(Target {
            path: peer.path.clone(),
            label,
            interface: interface.name.clone(),
            address,
        })
    }
}

/// An address that the person gave, if WireGuard sends it to this peer.
fn reachable(
    interface: &Interface,
    peer: &Peer,
    address: IpAddr,
    label: &str,
) -> Result<IpAddr, Failure> {
    match allowed::route(interface, address) {
        Some(routed) if routed.public_key == peer.public_key => Ok(address),
        Some(other) => Err(Failure::Usage(format!(
            "{address} is not behind {label}: by its allowed IPs it belongs to peer {}",
            escape(select::name(other))
        ))),
        None => Err(Failure::Usage(format!(
            "{address} is not behind {label}: no peer of {} has it among its allowed IPs",
            escape(&interface.name)
        ))),
    }
}

/// One request and its reply, or why there is none.
async fn ping(
    echo: &Echo,
    sequence: u16,
    until: Instant,
    tally: &mut Tally,
) -> Result<u64, String> {
    let sent = Instant::now();
    tally.sent += 1;
    echo.send(sequence).await.map_err(|error| unsent(&error))?;
    loop {
        match tokio::time::timeout_at(until, echo.receive()).await {
            Ok(Ok(got)) if got == sequence => {
                let time = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                tally.times.push(time);
                return Ok(time);
            }
            // A reply that comes later than its turn counts as lost.
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {
                let waited = Duration::as_secs_f64(&sent.elapsed());
                return Err(format!("none within {waited:.1} s"));
            }
        }
    }
}

/// What WireGuard's own error codes mean (drivers/net/wireguard/device.c, `wg_xmit`).
fn unsent(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EDESTADDRREQ) => "not sent: WireGuard has no endpoint for the peer".to_owned(),
        Some(libc::ENOKEY) => "not sent: no peer of the interface has this address".to_owned(),
        _ => format!("not sent: {error}"),
    }
}

fn describe(outcome: &Result<u64, String>, sequence: u16, peer: &Peer, style: Style) -> String {
    match outcome {
        Ok(time) => {
            let way = match peer.packet_path.as_str() {
                "direct" => "direct".to_owned(),
                "relay" => style.warn("by a relay"),
                _ => style.warn("by WireGuard's own endpoint"),
            };
            let endpoint = escape(&peer.endpoint);
            format!(
                "reply {sequence}: {}, {way}, {endpoint}",
                units::milliseconds(*time)
            )
        }
        Err(cause) => {
            let mut text = style.warn(&format!("no reply {sequence}"));
            text.push_str(&format!(
                ": {}; the peer is {}",
                escape(cause),
                style.state(peer.state)
            ));
            let reason = words::reason(peer.reason);
            if !reason.is_empty() {
                text.push_str(&format!(" ({reason})"));
            }
            text
        }
    }
}

impl Tally {
    fn text(&self) -> String {
        let received = self.times.len() as u64;
        let lost = (self.sent - received) * 100 / self.sent.max(1);
        let mut text = format!("{} sent, {received} received, {lost} % lost", self.sent);
        if let (Some(least), Some(most)) = (self.times.iter().min(), self.times.iter().max()) {
            let mean = self.times.iter().sum::<u64>() / received;
            let [least, mean, most] = [*least, mean, *most].map(units::milliseconds);
            text.push_str(&format!(
                "; round trip {least} at least, {mean} on average, {most} at most"
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use wice_bus::{Reason, State};

    use super::*;
    use crate::failure::Exit;

    fn snapshot() -> Snapshot {
        let peer = |name: &str, allowed_ips: &[&str]| Peer {
            public_key: format!("{name}-key"),
            name: name.to_owned(),
            allowed_ips: allowed_ips.iter().map(|&it| it.to_owned()).collect(),
            ..Peer::default()
        };
        Snapshot {
            interfaces: vec![Interface {
                name: "wg0".to_owned(),
                peers: vec![
                    peer("laptop", &["10.0.0.2/32"]),
                    peer("exit", &["0.0.0.0/0"]),
                ],
                ..Interface::default()
            }],
            ..Snapshot::default()
        }
    }

    fn target(peer: &str, address: Option<&str>) -> Result<String, (Exit, String)> {
        let options = Options {
            peer: peer.to_owned(),
            interface: None,
            address: address.map(|it| it.parse().expect("an address")),
            count: None,
            until_direct: false,
            interval: 1.0,
        };
        options
            .target(&snapshot())
            .map(|target| target.address.to_string())
            .map_err(|failure| (failure.exit(), failure.to_string()))
    }

    #[test]
    fn an_address_of_another_peer_is_refused() {
        assert_eq!(target("laptop", None), Ok("10.0.0.2".to_owned()));
        assert_eq!(
            target("exit", Some("192.0.2.1")),
            Ok("192.0.2.1".to_owned())
        );
        let Err((exit, message)) = target("laptop", Some("192.0.2.1")) else {
            panic!("it belongs to the other peer");
        };
        assert_eq!(exit, Exit::Usage);
        assert_eq!(
            message,
            "192.0.2.1 is not behind wg0 laptop: by its allowed IPs it belongs to peer exit"
        );
        let Err((exit, message)) = target("exit", None) else {
            panic!("a default route is nobody's address");
        };
        assert_eq!(exit, Exit::Usage);
        assert!(message.contains("--address"), "{message}");
    }

    #[test]
    fn a_reply_says_its_path_and_a_lost_one_why() {
        let peer = Peer {
            state: State::Connected,
            packet_path: "relay".to_owned(),
            endpoint: "192.0.2.1:2".to_owned(),
            ..Peer::default()
        };
        assert_eq!(
            describe(&Ok(1500), 3, &peer, Style::plain()),
            "reply 3: 1.50 ms, by a relay, 192.0.2.1:2"
        );
        let peer = Peer {
            state: State::Failed,
            reason: Reason::NoPairWorks,
            ..peer
        };
        assert_eq!(
            describe(
                &Err("none within 1.0 s".to_owned()),
                4,
                &peer,
                Style::plain()
            ),
            "no reply 4: none within 1.0 s; the peer is failed (no pair of addresses works: it keeps trying)"
        );
    }

    #[test]
    fn the_last_line_counts() {
        let tally = Tally {
            sent: 3,
            times: vec![1000, 2000],
        };
        assert_eq!(
            tally.text(),
            "3 sent, 2 received, 33 % lost; round trip 1.00 ms at least, 1.50 ms on average, 2.00 ms at most"
        );
        assert_eq!(Tally::default().text(), "0 sent, 0 received, 0 % lost");
    }
}
