//! A UDP socket that asks several servers at once, and sorts their answers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::family::IpFamily;
use crate::net::binding::{self, Bound, Change, Reply};

/// A socket with a port of its own.
#[derive(Debug)]
pub(super) struct Socket {
    udp: UdpSocket,
    /// Who waits for the answer to which transaction, from which address.
    waiting: RefCell<BTreeMap<u128, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    from: Option<SocketAddr>,
    sent: Instant,
    sender: mpsc::UnboundedSender<(Reply, Duration)>,
}

/// What is asked of whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    /// Who is asked.
    pub(super) to: SocketAddr,
    /// Who is to answer.
    pub(super) from: SocketAddr,
    /// How it is asked to.
    pub(super) change: Change,
    /// How long an answer may take.
    pub(super) until: Instant,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// Nothing came in time.
    Unanswered,
    /// The request could not be sent.
    Unsent(io::Error),
    /// The server answered with this error code.
    Refused(u16),
}

/// A request is repeated after these: a lost packet must not look like a filter.
const REPEATS: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];
const LONGEST: usize = 1500;

impl Socket {
    /// Opens one of the family, at any port.
    pub(super) fn open(family: IpFamily, fwmark: u32) -> io::Result<Self> {
        let domain = match family {
            IpFamily::V4 => Domain::IPV4,
            IpFamily::V6 => Domain::IPV6,
        };
        let socket = socket2::Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if family == IpFamily::V6 {
            socket.set_only_v6(true)?;
        }
        if fwmark != 0 {
            socket.set_mark(fwmark)?;
        }
        socket.bind(&SocketAddr::new(family.unspecified(), 0).into())?;
        Ok(Self {
            udp: UdpSocket::from_std(socket.into())?,
            waiting: RefCell::default(),
        })
    }

    /// The port that it has.
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.udp.local_addr()?.port())
    }

    /// Sorts what arrives for as long as `work` takes.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            outcome = work => outcome,
            never = self.receive() => match never {},
        }
    }

    /// Asks, and asks again, until there is an answer or no more time. Answers how long the answer took.
    pub(super) async fn ask(&self, ask: Ask) -> Result<(Bound, Duration), Silence> {
        let (sender, mut answers) = mpsc::unbounded_channel();
        for repeat in REPEATS.into_iter().map(Some).chain([None]) {
            // Another transaction each time, so that it is known which request was answered, and how fast.
            let sender = sender.clone();
            let transaction = self.expect(Some(ask.from), sender);
            let request = binding::request(transaction, ask.change);
            self.udp
                .send_to(&request, ask.to)
                .await
                .map_err(Silence::Unsent)?;
            let next = repeat.map_or(ask.until, |repeat| ask.until.min(Instant::now() + repeat));
            match timeout_at(next, answers.recv()).await {
                Ok(Some((Reply::Bound(bound), time))) => return Ok((bound, time)),
                Ok(Some((Reply::Refused(code), _))) => return Err(Silence::Refused(code)),
                // Only what is an answer is waited for, and the sender lives in this very function.
                Ok(Some((Reply::Request, _)) | None) | Err(_) => {}
            }
            if Instant::now() >= ask.until {
                break;
            }
        }
        Err(Silence::Unanswered)
    }

    /// Sends a request from `other` to this socket by way of its mapped address, and says whether it arrives.
    pub(super) async fn hears(&self, other: &Self, mapped: SocketAddr, until: Instant) -> bool {
        let (sender, mut arrived) = mpsc::unbounded_channel();
        for repeat in REPEATS {
            let transaction = self.expect(None, sender.clone());
            let request = binding::request(transaction, Change::Nothing);
            if other.udp.send_to(&request, mapped).await.is_err() {
                return false;
            }
            let next = until.min(Instant::now() + repeat);
            if let Ok(Some((Reply::Request, _))) = timeout_at(next, arrived.recv()).await {
                return true;
            }
        }
        false
    }

    fn expect(
        &self,
        from: Option<SocketAddr>,
        sender: mpsc::UnboundedSender<(Reply, Duration)>,
    ) -> u128 {
        let transaction = rand::random::<u128>() >> 32;
        let waiting = Waiting {
            from,
            sent: Instant::now(),
            sender,
        };
        self.waiting.borrow_mut().insert(transaction, waiting);
        transaction
    }

    async fn receive(&self) -> Infallible {
        let mut buffer = [0; LONGEST];
        loop {
            let Ok((length, from)) = self.udp.recv_from(&mut buffer).await else {
                // An unconnected socket has no errors of others: it has none for long.
                sleep(REPEATS[0]).await;
                continue;
            };
            let Some((transaction, reply)) = binding::parse(&buffer[..length]) else {
                continue;
            };
            let mut waiting = self.waiting.borrow_mut();
            let expected = waiting.get(&transaction).is_some_and(|waiting| {
                (reply == Reply::Request) == waiting.from.is_none()
                    && waiting.from.is_none_or(|expected| expected == from)
            });
            if expected && let Some(waiting) = waiting.remove(&transaction) {
                // Whoever waited may have an answer already.
                let _ = waiting.sender.send((reply, waiting.sent.elapsed()));
            }
        }
    }
}
