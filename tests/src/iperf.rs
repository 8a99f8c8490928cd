//! A TCP transfer by `iperf3` between two hosts: how fast it was, and what TCP had to send again when.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::until;

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    client: Process,
    time: Duration,
    _server: Process,
}

/// What a transfer came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What the receiver got, in bits per second.
    pub bits_per_second: f64,
    /// Segments that were sent again.
    pub retransmits: u64,
    /// When segments were sent again, and how many: by intervals of a tenth of a second, from the start of the transfer.
    pub resent: Vec<(Duration, u64)>,
    /// The longest time in which the sender could hand over nothing to TCP, by intervals of a tenth of a second.
    pub longest_stall: Duration,
}

/// How a transfer is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For how long.
    pub time: Duration,
    /// Bits per second at most; without it as much as TCP can.
    pub rate: Option<u64>,
}

/// The port of the lab's iperf3 servers.
const PORT: u16 = 5201;

/// Tells the logs of several transfers in one machine apart.
static TRANSFERS: AtomicU32 = AtomicU32::new(1);

impl Transfer {
    /// Starts to send from one machine to an address of the other.
    pub fn start(from: &Namespace, to: &Namespace, address: IpAddr, plan: Plan) -> Result<Self> {
        let number = TRANSFERS.fetch_add(1, Ordering::Relaxed);
        let port = PORT.to_string();
        let address = address.to_string();
        let mut command = to.command("iperf3");
        command.args(["-s", "-1", "-B", &address, "-p", &port, "--forceflush"]);
        let server = Process::start(to, &format!("iperf3-server-{number}"), &mut command)?;
        until("iperf3 to listen", Duration::from_secs(10), || {
            Ok(server.output().contains("Server listening").then_some(()))
        })?;
        let mut command = from.command("iperf3");
        command
            // Not what this machine prefers: BBR hardly minds what it loses.
            .args([
                "-c", &address, "-p", &port, "-J", "-i", "0.1", "-C", "cubic",
            ])
            .args(["-t", &plan.time.as_secs().to_string()]);
        if let Some(rate) = plan.rate {
            command.args(["-b", &rate.to_string()]);
        }
        let client = Process::start(from, &format!("iperf3-client-{number}"), &mut command)?;
        Ok(Self {
            client,
            time: plan.time,
            _server: server,
        })
    }

    /// Tells whether it still sends.
    pub fn is_running(&mut self) -> bool {
        self.client.is_running()
    }

    /// Waits for its end, and reads what it came to.
    pub fn end(mut self) -> Result<Report> {
        self.client.wait(self.time + Duration::from_secs(20))?;
        Report::parse(&self.client.output())
    }
}

impl Report {
    /// The most segments that were sent again within one interval of a tenth of a second, from a moment of the transfer on.
    pub fn burst_since(&self, moment: Duration) -> u64 {
        let since = self.resent.iter().filter(|one| one.0 >= moment);
        since.map(|one| one.1).max().unwrap_or(0)
    }

    fn parse(json: &str) -> Result<Self> {
        let output: Output = serde_json::from_str(json)
            .with_context(|| format!("not what iperf3 prints: {json}"))?;
        if let Some(error) = output.error {
            anyhow::bail!("iperf3: {error}");
        }
        let totals = output.end.sum_sent.zip(output.end.sum_received);
        let (sent, received) = totals.context("iperf3 printed no totals")?;
        ensure!(!output.intervals.is_empty(), "iperf3 printed no intervals");
        let (mut stall, mut longest) = (0.0_f64, 0.0_f64);
        for interval in output.intervals.iter().map(|one| &one.sum) {
            stall = if interval.bytes == 0 {
                stall + interval.seconds
            } else {
                0.0
            };
            longest = longest.max(stall);
        }
        let resent: Vec<(Duration, u64)> = output
            .intervals
            .iter()
            .filter_map(|one| Some((one.sum.start, one.sum.retransmits.filter(|it| *it > 0)?)))
            .map(|(start, segments)| (Duration::from_secs_f64(start), segments))
            .collect();
        Ok(Self {
            bits_per_second: received.bits_per_second,
            retransmits: sent.retransmits.unwrap_or(0),
            resent,
            longest_stall: Duration::from_secs_f64(longest),
        })
    }
}

/// What `iperf3 -J` prints, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Output {
    error: Option<String>,
    #[serde(default)]
    intervals: Vec<Interval>,
    #[serde(default)]
    end: End,
}

#[derive(Debug, Deserialize)]
struct Interval {
    sum: Sum,
}

#[derive(Debug, Default, Deserialize)]
struct End {
    sum_sent: Option<Sum>,
    sum_received: Option<Sum>,
}

#[derive(Debug, Deserialize)]
struct Sum {
    #[serde(default)]
    start: f64,
    seconds: f64,
    bytes: u64,
    bits_per_second: f64,
    retransmits: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(start: &str, bytes: u64, retransmits: u64) -> String {
        format!(
            r#"{{"sum":{{"start":{start},"seconds":0.1,"bytes":{bytes},"bits_per_second":1.0,"retransmits":{retransmits}}}}}"#
        )
    }

    #[test]
    fn a_burst_and_a_stall_are_found_among_the_intervals() {
        let intervals = [(5, 0), (0, 7), (0, 1), (5, 0), (0, 0)]
            .iter()
            .zip(["0", "0.1", "0.2", "0.3", "0.4"])
            .map(|((bytes, resent), start)| interval(start, *bytes, *resent))
            .collect::<Vec<_>>();
        let json = format!(
            r#"{{"intervals":[{}],"end":{{
                "sum_sent":{{"seconds":0.5,"bytes":10,"bits_per_second":1.0,"retransmits":8}},
                "sum_received":{{"seconds":0.5,"bytes":10,"bits_per_second":160.0}}}}}}"#,
            intervals.join(",")
        );
        let report = Report::parse(&json).expect("a report");
        assert_eq!(
            (report.retransmits, report.burst_since(Duration::ZERO)),
            (8, 7)
        );
        assert_eq!(report.burst_since(Duration::from_millis(150)), 1);
        assert_eq!(report.longest_stall, Duration::from_millis(200));
        assert!((report.bits_per_second - 160.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_transfer_that_failed_is_an_error_in_its_own_words() {
        let json = r#"{"start":{},"intervals":[],"end":{},"error":"unable to connect to server"}"#;
        let error = Report::parse(json).expect_err("an error");
        assert!(error.to_string().contains("unable to connect"));
    }
}
