//! The socket between us and a server, whatever its transport: whole messages in, whole messages out.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpSocket;
use wice_core::server::Transport;

use super::Traffic;
use super::problem::Problem;
use super::stream::Stream;
use super::tls;
use crate::net::batch::{Batch, Datagrams, Train};

/// How to reach a server, and in whose name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    /// The server.
    pub(super) server: SocketAddr,
    /// How.
    pub(super) transport: Transport,
    /// What its certificate must say.
    pub(super) host: &'a str,
    /// SO_MARK; 0 for none.
    pub(super) fwmark: u32,
    /// The WireGuard interface that is carried, through which nothing of this may go.
    pub(super) interface: u32,
}

/// A socket that is connected to a server.
#[derive(Debug)]
pub(super) enum Conduit {
    Datagrams {
        socket: Box<Datagrams>,
        server: SocketAddr,
    },
    Stream(Box<Stream>),
}

/// Room to receive into, one for all sockets of a thread.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) batch: Batch,
    chunk: RefCell<Vec<u8>>,
    pub(super) traffic: Arc<Traffic>,
}

impl Room {
    /// Empty room, where what is carried is counted.
    pub(super) fn new(traffic: Arc<Traffic>) -> Self {
        Self {
            traffic,
            ..Self::default()
        }
    }
}

/// A connection that takes longer is none.
const CONNECT: Duration = Duration::from_secs(4);
/// What is sent on a connection and not acknowledged for so long ends it (tcp(7), TCP_USER_TIMEOUT).
const UNACKNOWLEDGED: Duration = Duration::from_secs(4);

impl Conduit {
    /// Connects.
    pub(super) async fn open(way: Way<'_>) -> Result<Self, Problem> {
        let server = way.server;
        let failed = |source| Problem::Unreachable { server, source };
        let conduit = match way.transport {
            Transport::Udp => {
                let socket = datagram_socket(server, way.fwmark).map_err(failed)?;
                let socket = Box::new(Datagrams::new(socket).map_err(failed)?);
                Self::Datagrams { socket, server }
            }
            Transport::Tcp | Transport::Tls => {
                let secured = match way.transport {
                    Transport::Tls => Some(tls::begin(way.host, tls::config()?)?),
                    _ => None,
                };
                let socket = if server.is_ipv4() {
                    TcpSocket::new_v4()
                } else {
                    TcpSocket::new_v6()
                };
                let socket = socket.map_err(failed)?;
                mark(SockRef::from(&socket), way.fwmark).map_err(failed)?;
                let connected = tokio::time::timeout(CONNECT, socket.connect(server)).await;
                let tcp = connected.map_err(|_| Problem::Timeout {
                    server,
                    patience: CONNECT,
                })?;
                let tcp = tcp.map_err(failed)?;
                tcp.set_nodelay(true).map_err(failed)?;
                SockRef::from(&tcp)
                    .set_tcp_user_timeout(Some(UNACKNOWLEDGED))
                    .map_err(failed)?;
                Self::Stream(Box::new(Stream::new(tcp, server, secured)))
            }
        };
        let local = conduit.local_addr().map_err(failed)?;
        if is_of(local, way.interface) {
            return Err(Problem::OwnTunnel { server });
        }
        Ok(conduit)
    }

    /// Whether messages arrive for sure, and ChannelData is padded.
    pub(super) const fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Datagrams { socket, .. } => socket.local_addr(),
            Self::Stream(stream) => stream.local_addr(),
        }
    }

    /// Sets SO_MARK for whatever follows.
    pub(super) fn set_mark(&self, fwmark: u32) -> io::Result<()> {
        match self {
            Self::Datagrams { socket, .. } => mark(socket.socket(), fwmark),
            Self::Stream(stream) => mark(stream.socket(), fwmark),
        }
    }

    /// Waits until something arrived, or what was queued can be written; cancel-safe.
    pub(super) async fn ready(&self) -> io::Result<()> {
        match self {
            Self::Datagrams { socket, .. } => socket.readable().await,
            Self::Stream(stream) => {
                tokio::select! {
                    ready = stream.readable() => ready,
                    ready = stream.writable() => ready,
                }
            }
        }
    }

    /// Hands out messages that have arrived; answers how many.
    pub(super) fn receive(
        &self,
        room: &Room,
        mut each: impl FnMut(&[u8]),
    ) -> Result<usize, Problem> {
        match self {
            Self::Datagrams { socket, server } => {
                let received = socket.receive(&room.batch, |_, datagram| each(datagram));
                self.outcome(received, *server)
                    .map(Option::unwrap_or_default)
            }
            Self::Stream(stream) => {
                stream.flush()?;
                stream.receive(&mut room.chunk.borrow_mut(), each)
            }
        }
    }

    /// Sends messages, ChannelData padded where this is a stream.
    pub(super) fn send(&self, train: &Train) -> Result<(), Problem> {
        match self {
            Self::Datagrams { socket, server } => {
                let sent = socket.send(train, *server);
                self.outcome(sent, *server).map(drop)
            }
            Self::Stream(stream) => stream.send(train),
        }
    }

    /// Sorts out what says nothing of the server.
    fn outcome<T>(&self, outcome: io::Result<T>, server: SocketAddr) -> Result<Option<T>, Problem> {
        use nix::libc::{EMSGSIZE, ENOBUFS, ENOMEM};
        match outcome {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if matches!(error.raw_os_error(), Some(EMSGSIZE | ENOBUFS | ENOMEM)) => {
                Ok(None)
            }
            Err(source) => Err(Problem::Unreachable { server, source }),
        }
    }
}

/// Opens a UDP socket that is connected to a server: it receives from there only, and hears that nobody is there.
pub(in crate::net) fn datagram_socket(server: SocketAddr, fwmark: u32) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(server),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    mark(SockRef::from(&socket), fwmark)?;
    socket.connect(&server.into())?;
    Ok(socket)
}

fn mark(socket: SockRef<'_>, fwmark: u32) -> io::Result<()> {
    // Without a mark nothing is asked for that needs a capability.
    if fwmark == 0 && socket.mark().unwrap_or_default() == 0 {
        return Ok(());
    }
    socket.set_mark(fwmark)
}

/// Says whether an address belongs to an interface.
fn is_of(address: SocketAddr, interface: u32) -> bool {
    let Ok(mut known) = getifaddrs() else {
        return false;
    };
    known.any(|known| {
        let own = known.address.and_then(|own| {
            let v4 = own.as_sockaddr_in().map(|own| own.ip().into());
            v4.or_else(|| own.as_sockaddr_in6().map(|own| own.ip().into()))
        });
        own == Some(address.ip())
            && if_nametoindex(known.interface_name.as_str()).is_ok_and(|index| index == interface)
    })
}
