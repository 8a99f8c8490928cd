//! ICMP echo from inside a host, by a socket of our own: every few milliseconds, each reply with its time. `ping` cannot
//! start that fast, and does not say which packet was lost when.

use std::fmt;
use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::topology::Host;
use crate::wait::patience;

/// Sends echo requests to one address.
#[derive(Debug)]
pub struct Pinger {
    socket: Socket,
    to: Ipv4Addr,
    id: u16,
}

/// What a run of echo requests came to.
#[derive(Debug)]
pub struct Tally {
    /// Requests that were sent.
    pub sent: usize,
    /// When each request that got no reply was sent, counted from the start of the run.
    pub lost: Vec<Duration>,
    /// The longest time without a reply, the ends of the run included.
    pub longest_silence: Duration,
}

/// Echo requests that go on in the background until they are stopped.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Tally>>,
}

/// How long a reply may be under way when a run ends.
const STRAGGLERS: Duration = Duration::from_millis(1000);

impl Pinger {
    /// Opens a socket inside `host`.
    pub fn new(host: &Host, to: Ipv4Addr) -> Result<Self> {
        let socket = host.machine.enter(|| {
            Ok(Socket::new(
                Domain::IPV4,
                Type::RAW,
                Some(Protocol::ICMPV4),
            )?)
        })?;
        // The low bits of the time keep two pingers of one host apart.
        let id = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .subsec_micros() as u16;
        Ok(Self { socket, to, id })
    }

    /// Sends a request every `interval` until the first reply, and returns the moment it came.
    pub fn first_reply(&mut self, interval: Duration, deadline: Duration) -> Result<Instant> {
        let start = Instant::now();
        self.socket.set_read_timeout(Some(interval))?;
        for sequence in 0.. {
            self.send(sequence)?;
            let next = Instant::now() + interval;
            while Instant::now() < next {
                if self.receive()?.is_some() {
                    return Ok(Instant::now());
                }
            }
            if start.elapsed() > deadline {
                bail!(
                    "no reply from {} within {} s",
                    self.to,
                    deadline.as_secs_f32()
                );
            }
        }
        bail!("no reply from {}", self.to)
    }

    /// Starts to send a request every `interval`, on a thread.
    pub fn run(mut self, interval: Duration) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Running {
            stop,
            thread: thread::spawn(move || self.count(interval, &told)),
        }
    }

    fn count(&mut self, interval: Duration, stop: &AtomicBool) -> Result<Tally> {
        let start = Instant::now();
        let mut requests: Vec<(Duration, bool)> = Vec::new();
        let (mut last, mut longest) = (start, Duration::ZERO);
        self.socket
            .set_read_timeout(Some(Duration::from_millis(2)))?;
        let mut next = start;
        let mut end = None;
        while end.is_none_or(|end| Instant::now() < end) {
            if end.is_none() && stop.load(Ordering::Relaxed) {
                end = Some(Instant::now() + STRAGGLERS);
                longest = longest.max(last.elapsed());
            }
            if end.is_none() && Instant::now() >= next {
                let sequence = u16::try_from(requests.len())
                    .map_err(|_| anyhow!("a run of more than 65,535 pings"))?;
                requests.push((start.elapsed(), false));
                self.send(sequence)?;
                next += interval;
            }
            if let Some(sequence) = self.receive()?
                && let Some(request) = requests.get_mut(usize::from(sequence))
            {
                request.1 = true;
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            if end.is_some() && requests.iter().all(|request| request.1) {
                break;
            }
        }
        let lost = requests
            .iter()
            .filter(|request| !request.1)
            .map(|request| request.0)
            .collect();
        Ok(Tally {
            sent: requests.len(),
            lost,
            longest_silence: longest,
        })
    }

    fn send(&self, sequence: u16) -> Result<()> {
        let mut packet = [0_u8; 16];
        packet[0] = 8;
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[6..8].copy_from_slice(&sequence.to_be_bytes());
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        match self
            .socket
            .send_to(&packet, &SockAddr::from(SocketAddr::from((self.to, 0))))
        {
            // Without an endpoint WireGuard refuses with EDESTADDRREQ, and a link that is away with ENETUNREACH: a lost packet.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn receive(&mut self) -> Result<Option<u16>> {
        let mut buffer = [0_u8; 256];
        let length = match self.socket.read(&mut buffer) {
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let header = usize::from(buffer[0] & 15) * 4;
        let Some(icmp) = buffer[..length].get(header..header + 8) else {
            return Ok(None);
        };
        let ours = icmp[0] == 0 && icmp[4..6] == self.id.to_be_bytes();
        Ok(ours.then(|| u16::from_be_bytes([icmp[6], icmp[7]])))
    }
}

impl Running {
    /// Stops to send, waits for replies under way, and counts.
    pub fn stop(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the pinging thread panicked"))?
    }
}

impl Tally {
    /// Fails when a request got no reply, and when there were too few of them to prove anything.
    pub fn none_lost(&self) -> Result<()> {
        ensure!(self.sent > 50, "{self}: that proves nothing");
        ensure!(self.lost.is_empty(), "{self}; lost at {:?}", self.lost);
        Ok(())
    }

    /// Fails when no reply came for `longest`, times [`patience`].
    pub fn never_silent_for(&self, longest: Duration) -> Result<()> {
        ensure!(self.sent > 50, "{self}: that proves nothing");
        ensure!(
            self.longest_silence < longest * patience(),
            "{self}; lost at {:?}",
            self.lost
        );
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} pings, {} lost, longest silence {:?}",
            self.sent,
            self.lost.len(),
            self.longest_silence
        )
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) as u16 + (folded >> 16) as u16)
}
