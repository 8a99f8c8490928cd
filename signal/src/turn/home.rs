//! Where relayed addresses come from: which address of this machine, which port, and what clients are told.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;

use turn_types::AddressFamily;

use super::socket::bind;

/// Ports tried for one allocation; in a range that is nearly full, the next request tries others.
const TRIES: u32 = 64;

/// The addresses of one family each, and the ports.
#[derive(Debug)]
pub(super) struct Homes {
    v4: Home,
    v6: Home,
    ports: RangeInclusive<u16>,
}

/// Where the sockets of one family are bound, and how others see them.
#[derive(Debug, Clone, Copy, Default)]
struct Home {
    bind: Option<IpAddr>,
    told: Option<IpAddr>,
}

impl Homes {
    /// Relays on the addresses that clients are served on, which others see as `external`.
    pub(super) fn new(
        listen: &[SocketAddr],
        external: &[IpAddr],
        ports: RangeInclusive<u16>,
    ) -> Self {
        let home = |is_v4: bool| {
            let mut own = listen.iter().map(|address| address.ip());
            let own = own.find(|own| own.is_ipv4() == is_v4 && !own.is_unspecified());
            let external = external.iter().find(|it| it.is_ipv4() == is_v4).copied();
            let told = external.or(own).or_else(|| outgoing(is_v4));
            // The external address may be one of this machine's, or of a NAT's before it.
            let here = |address: &IpAddr| UdpSocket::bind((*address, 0)).is_ok();
            let any = match is_v4 {
                true => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                false => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            };
            Home {
                bind: told.filter(here).or(own).or(told.map(|_| any)),
                told,
            }
        };
        Self {
            v4: home(true),
            v6: home(false),
            ports,
        }
    }

    /// The addresses that clients are told.
    pub(super) fn told(&self) -> impl Iterator<Item = IpAddr> {
        [self.v4.told, self.v6.told].into_iter().flatten()
    }

    /// A socket on a free port, an even one if asked for, and what clients are told of it; `None` where there is no address of the family.
    pub(super) fn open(
        &self,
        family: AddressFamily,
        even: bool,
    ) -> Option<io::Result<(UdpSocket, SocketAddr)>> {
        let home = match family {
            AddressFamily::IPV4 => self.v4,
            AddressFamily::IPV6 => self.v6,
        };
        let (own, told) = home.bind.zip(home.told)?;
        Some(
            self.free_port(own, even)
                .map(|(socket, port)| (socket, SocketAddr::new(told, port))),
        )
    }

    /// Ports in no order, so that the next one cannot be guessed (RFC 8656 §7.2).
    fn free_port(&self, own: IpAddr, even: bool) -> io::Result<(UdpSocket, u16)> {
        let (low, high) = (u32::from(*self.ports.start()), u32::from(*self.ports.end()));
        let count = high - low + 1;
        let first = getrandom::u32().map_err(io::Error::other)? % count;
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for step in 0..count.min(TRIES) {
            let port = (low + (first + step) % count) as u16;
            if even && port % 2 == 1 {
                continue;
            }
            match bind(SocketAddr::new(own, port), false) {
                Ok(socket) => return Ok((socket, port)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

/// The address that this machine speaks from to the Internet; asks the routes and sends nothing.
fn outgoing(is_v4: bool) -> Option<IpAddr> {
    // Addresses for documentation, which no network has but the default route leads to.
    let (own, far): (IpAddr, IpAddr) = match is_v4 {
        true => (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        ),
        false => (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
    };
    let socket = UdpSocket::bind((own, 0)).ok()?;
    socket.connect((far, 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}
