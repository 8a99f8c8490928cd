//! The tests of RFC 5780 over one address family, from sockets that nothing else uses.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use tokio::time::Instant;

use super::socket::{Ask, Silence, Socket};
use crate::net::binding::{Bound, Change};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IpFamily {
    V4,
    V6,
}

/// What was seen over one family.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The address and port that the first socket's packets leave from, if there is a way anywhere.
    pub(super) local: Option<SocketAddr>,
    /// What each server said.
    pub(super) answers: BTreeMap<SocketAddr, Answer>,
    /// What those servers' second addresses said that have one.
    pub(super) alternates: Vec<Alternate>,
    /// Whether the mapped address is reached from inside; not tried where there is no NAT.
    pub(super) hairpins: Option<bool>,
}

/// An answer, or why there is none.
pub(super) type Answer = Result<(Bound, Duration), Silence>;

/// What the tests with one server's second address came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alternate {
    /// Where the server's first address sees us.
    pub(super) mapped: SocketAddr,
    /// Where its second address does, at the first port (§4.3, test II).
    pub(super) other_address: Option<SocketAddr>,
    /// Where its second address does, at the second port (§4.3, test III).
    pub(super) other_both: Option<SocketAddr>,
    /// Whether an answer from the second address arrived at a socket that never sent there (§4.4, test II).
    pub(super) admits_addresses: bool,
    /// Whether an answer from the second port arrived at a socket that never sent there (§4.4, test III).
    pub(super) admits_ports: bool,
}

/// A server that has not answered a first question for this long is silent.
const FIRST: Duration = Duration::from_millis(2200);
/// An answer that a NAT or firewall does not let in never comes: this is what knowing it costs.
const SECOND: Duration = Duration::from_millis(1500);

impl IpFamily {
    /// Its word in the contract.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// Whether an address is one of it.
    pub(super) const fn has(self, address: SocketAddr) -> bool {
        matches!(self, Self::V4) == address.is_ipv4()
    }

    pub(super) const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// An address of the Internet at which there is nobody (RFC 5737, RFC 3849): routing says where packets to it would leave.
    const fn elsewhere(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        }
    }
}

/// Asks all servers at once, and those that have a second address for more.
pub(super) async fn examine(
    family: IpFamily,
    servers: Vec<SocketAddr>,
    fwmark: u32,
    until: Instant,
) -> Seen {
    match sockets(family, fwmark) {
        Ok([socket, other]) => {
            let work = question(family, &socket, &other, &servers, fwmark, until);
            socket.during(other.during(work)).await
        }
        // A kernel without the family, or no right to a mark.
        Err(error) => {
            tracing::debug!(?family, "cannot check: {error}");
            Seen::default()
        }
    }
}

fn sockets(family: IpFamily, fwmark: u32) -> io::Result<[Socket; 2]> {
    Ok([Socket::open(family, fwmark)?, Socket::open(family, fwmark)?])
}

async fn question(
    family: IpFamily,
    socket: &Socket,
    other: &Socket,
    servers: &[SocketAddr],
    fwmark: u32,
    until: Instant,
) -> Seen {
    let target = servers.first().map_or(family.elsewhere(), SocketAddr::ip);
    let local = source(family, target, fwmark)
        .ok()
        .zip(socket.port().ok())
        .map(|(address, port)| SocketAddr::new(address, port));
    if local.is_none() {
        return Seen::default();
    }
    let each = servers.iter().map(|server| async move {
        let answer = first(socket, *server, until).await;
        let alternate = match &answer {
            Ok((bound, _)) => alternate(family, socket, *server, *bound, fwmark, until).await,
            Err(_) => None,
        };
        ((*server, answer), alternate)
    });
    let (answered, hairpins) = tokio::join!(
        join_all(each),
        hairpin(socket, other, servers, local, until)
    );
    let (answers, alternates): (Vec<_>, Vec<_>) = answered.into_iter().unzip();
    Seen {
        local,
        answers: answers.into_iter().collect(),
        alternates: alternates.into_iter().flatten().collect(),
        hairpins,
    }
}

async fn first(socket: &Socket, server: SocketAddr, until: Instant) -> Answer {
    let ask = Ask {
        to: server,
        from: server,
        change: Change::Nothing,
        until: until.min(Instant::now() + FIRST),
    };
    socket.ask(ask).await
}

/// RFC 5780 §4.3 from the socket that the server was asked from before, §4.4 from a new one that nobody else was asked from.
async fn alternate(
    family: IpFamily,
    socket: &Socket,
    server: SocketAddr,
    bound: Bound,
    fwmark: u32,
    until: Instant,
) -> Option<Alternate> {
    let other = bound.other.filter(|other| is_second(server, *other))?;
    let fresh = Socket::open(family, fwmark).ok()?;
    let until = until.min(Instant::now() + SECOND);
    let to = |address: IpAddr, port: u16| {
        let to = SocketAddr::new(address, port);
        let ask = Ask {
            to,
            from: to,
            change: Change::Nothing,
            until,
        };
        async move { Some(socket.ask(ask).await.ok()?.0.mapped) }
    };
    let changed = |from: SocketAddr, change: Change| {
        let ask = Ask {
            to: server,
            from,
            change,
            until,
        };
        let fresh = &fresh;
        async move { fresh.ask(ask).await.is_ok() }
    };
    let filtering = async {
        tokio::join!(
            changed(other, Change::AddressAndPort),
            changed(SocketAddr::new(server.ip(), other.port()), Change::Port),
        )
    };
    let (other_address, other_both, (admits_addresses, admits_ports)) = tokio::join!(
        to(other.ip(), server.port()),
        to(other.ip(), other.port()),
        fresh.during(filtering),
    );
    Some(Alternate {
        mapped: bound.mapped,
        other_address,
        other_both,
        admits_addresses,
        admits_ports,
    })
}

/// Whether what a server calls its second address can be one: what it says decides where packets of ours go.
pub(super) fn is_second(server: SocketAddr, other: SocketAddr) -> bool {
    let (first, second) = (server.ip(), other.ip());
    server.is_ipv4() == other.is_ipv4()
        && first != second
        && other.port() != 0
        && other.port() != server.port()
        && !second.is_unspecified()
        && !second.is_multicast()
        && (!second.is_loopback() || first.is_loopback())
        && !matches!(second, IpAddr::V4(second) if second.is_broadcast())
}

/// Sends from one socket to the mapped address of the other, both ways, so that each has sent to where it is to be reached from.
async fn hairpin(
    socket: &Socket,
    other: &Socket,
    servers: &[SocketAddr],
    local: Option<SocketAddr>,
    until: Instant,
) -> Option<bool> {
    if servers.is_empty() {
        return None;
    }
    let mapped = select_ok(servers.iter().map(|server| {
        Box::pin(async move {
            let (one, two) =
                tokio::join!(first(socket, *server, until), first(other, *server, until));
            Ok::<_, Silence>((one?.0.mapped, two?.0.mapped))
        })
    }));
    let ((one, two), _) = mapped.await.ok()?;
    if Some(one) == local {
        return None;
    }
    let until = until.min(Instant::now() + SECOND);
    let (to_one, to_two) = tokio::join!(
        socket.hears(other, one, until),
        other.hears(socket, two, until)
    );
    Some(to_one || to_two)
}

/// The address that packets to `target` leave from; nothing is sent.
fn source(family: IpFamily, target: IpAddr, fwmark: u32) -> io::Result<IpAddr> {
    let socket = crate::net::relay::datagram_socket(SocketAddr::new(target, 9), fwmark)?;
    let local = socket.local_addr()?.as_socket().map(|local| local.ip());
    local
        .filter(|local| *local != family.unspecified())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}
