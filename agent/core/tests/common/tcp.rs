//! TCP in virtual time: listeners, connections through NATs, and streams that carry WireGuard's data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use wice_core::io::Input;
use wice_core::tcp::{Stream, TcpInput, TcpOrder};

use super::{DELAY, World};

/// What the shell keeps of one host's TCP, and what its network lets through.
#[derive(Default)]
pub struct Tcp {
    /// The firewall or NAT lets connections in.
    pub reachable: bool,
    /// Ports that another program has.
    pub taken: BTreeSet<u16>,
    pub listening: BTreeSet<SocketAddr>,
    pub streams: BTreeMap<Stream, End>,
    /// Connections that were tried.
    pub tried: Vec<(SocketAddr, bool)>,
    /// Streams that carried packets so far.
    pub carried: usize,
    port: u16,
}

/// One end of a stream, as the shell keeps it.
pub struct End {
    /// How the other host calls it.
    pub other: Stream,
    pub kept: bool,
    pub endpoint: Option<SocketAddr>,
    /// What late packets seem to come from.
    pub left: Option<SocketAddr>,
}

impl End {
    fn new(other: Stream, kept: bool) -> Self {
        Self {
            other,
            kept,
            endpoint: None,
            left: None,
        }
    }
}

impl World {
    pub(super) fn tcp(&mut self, host: usize, order: TcpOrder) {
        match order {
            TcpOrder::Listen {
                interface,
                mut addresses,
                open,
                ..
            } => {
                let tcp = &mut self.hosts[host].tcp;
                addresses.retain(|it| !tcp.taken.contains(&it.port()));
                tcp.listening = if open {
                    addresses.clone()
                } else {
                    BTreeSet::new()
                };
                self.tell(
                    Duration::from_millis(1),
                    host,
                    TcpInput::Reserved {
                        interface,
                        addresses,
                    },
                );
            }
            TcpOrder::Connect {
                interface,
                peer,
                base,
                remote,
                ..
            } => {
                let stream = self.connect(host, base, remote);
                (self.hosts[host].tcp.tried).push((remote, stream.is_some()));
                let (delay, input) = match stream {
                    Some(stream) => (
                        2 * DELAY,
                        TcpInput::Connected {
                            interface,
                            peer,
                            stream,
                        },
                    ),
                    None => (
                        Duration::from_secs(5),
                        TcpInput::Unreachable {
                            interface,
                            peer,
                            base,
                            remote,
                        },
                    ),
                };
                self.tell(delay, host, input);
            }
            TcpOrder::Keep(stream) => {
                if let Some(end) = self.hosts[host].tcp.streams.get_mut(&stream) {
                    end.kept = true;
                }
            }
            TcpOrder::Transmit { stream, payload } => {
                if let Some(other) = self.other_end(host, stream) {
                    let packet = TcpInput::Packet {
                        stream: other,
                        payload,
                    };
                    self.tell(DELAY, 1 - host, packet);
                }
            }
            TcpOrder::Carry { stream, .. } => {
                let tcp = &mut self.hosts[host].tcp;
                let endpoint = tcp.streams.get_mut(&stream).map(|end| {
                    tcp.carried += 1;
                    let port = 5000 + u16::try_from(tcp.carried).expect("few");
                    *end.endpoint
                        .insert(SocketAddr::from(([127, 129, 0, 1], port)))
                });
                let carries = TcpInput::Carries { stream, endpoint };
                self.tell(Duration::from_millis(1), host, carries);
            }
            TcpOrder::HandOver {
                stream, endpoint, ..
            } => {
                if let Some(end) = self.hosts[host].tcp.streams.get_mut(&stream) {
                    end.left = Some(endpoint);
                }
            }
            TcpOrder::Close(stream) => self.end_stream(host, stream),
        }
    }

    /// The stream breaks; the other side notices.
    pub fn end_stream(&mut self, host: usize, stream: Stream) {
        if let Some(end) = self.hosts[host].tcp.streams.remove(&stream) {
            self.hosts[1 - host].tcp.streams.remove(&end.other);
            self.tell(DELAY, 1 - host, TcpInput::Closed(end.other));
        }
    }

    /// The stream that carries a host's packets, as that host calls it.
    pub fn boarded(&self, host: usize) -> Option<Stream> {
        self.boards(host)
    }

    /// The host's own kernel says that a stream has ended.
    pub fn tell_closed(&mut self, host: usize, stream: Stream) {
        self.tell(Duration::ZERO, host, TcpInput::Closed(stream));
    }

    fn connect(
        &mut self,
        host: usize,
        base: std::net::IpAddr,
        remote: SocketAddr,
    ) -> Option<Stream> {
        let other = 1 - host;
        let inside = match &self.hosts[other].nat {
            Some(nat) if nat.address == remote.ip() => {
                SocketAddr::new(self.hosts[other].address, remote.port())
            }
            Some(_) => return None,
            None => remote,
        };
        let there = &self.hosts[other].tcp;
        if self.cut
            || !self.hosts[host].has(base)
            || !there.reachable
            || !there.listening.contains(&inside)
        {
            return None;
        }
        let here = &mut self.hosts[host];
        here.tcp.port += 1;
        let local = SocketAddr::new(base, 33_000 + here.tcp.port);
        let seen = here.nat.as_ref().map_or(local, |nat| {
            SocketAddr::new(nat.address, 61_000 + here.tcp.port)
        });
        let ours = Stream { local, remote };
        let theirs = Stream {
            local: inside,
            remote: seen,
        };
        (here.tcp.streams).insert(ours, End::new(theirs, true));
        (self.hosts[other].tcp.streams).insert(theirs, End::new(ours, false));
        Some(ours)
    }

    fn other_end(&self, host: usize, stream: Stream) -> Option<Stream> {
        let end = self.hosts[host].tcp.streams.get(&stream)?;
        (!self.cut).then_some(end.other)
    }

    /// The stream that WireGuard's packets leave by, where the endpoint is one.
    pub(super) fn boards(&self, host: usize) -> Option<Stream> {
        let endpoint = self.endpoint(host)?;
        let streams = &self.hosts[host].tcp.streams;
        let carries = |(_, end): &(&Stream, &End)| end.endpoint == Some(endpoint);
        streams.iter().find(carries).map(|(stream, _)| *stream)
    }

    /// Who gets a packet of a stream, from whom and to which of its addresses.
    pub(super) fn conveys(
        &self,
        host: usize,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<(usize, SocketAddr, SocketAddr)> {
        let stream = Stream {
            local: source,
            remote: destination,
        };
        let other = self.other_end(host, stream)?;
        Some((1 - host, other.remote, other.local))
    }

    /// Whom WireGuard sees a packet of a stream from; `None` for a packet of no stream.
    pub(super) fn alights(
        &self,
        host: usize,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<Option<SocketAddr>> {
        let stream = Stream {
            local: destination,
            remote: source,
        };
        let end = self.hosts[host].tcp.streams.get(&stream)?;
        Some(end.left.or(end.endpoint).filter(|_| end.endpoint.is_some()))
    }

    fn tell(&mut self, delay: Duration, host: usize, input: TcpInput) {
        self.at(delay, host, Input::Tcp(input));
    }
}
