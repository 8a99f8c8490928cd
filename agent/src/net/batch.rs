//! UDP datagrams many at a time: recvmmsg and GRO in, GSO out.
//!
//! Must not know what the datagrams carry. Nothing here allocates per packet.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{SockRef, Socket};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tracing::debug;

sockopt_impl!(
    /// Whether packets may be fragmented (ip(7)).
    Ipv4MtuDiscover,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);
sockopt_impl!(
    /// The same for IPv6 (ipv6(7)).
    Ipv6MtuDiscover,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int
);
sockopt_impl!(
    /// Whether too large a packet is refused rather than fragmented (RFC 3542 §11.2).
    Ipv6DontFragment,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_DONTFRAG,
    bool
);

/// A UDP socket that is read and written in batches, registered with the current tokio runtime.
#[derive(Debug)]
pub(super) struct Datagrams {
    io: UdpSocket,
    state: UdpSocketState,
}

/// Room for what a burst brings while the agent does something else; the default of 208 KiB is a few milliseconds.
const QUEUE: usize = 4 << 20;
/// The largest datagram, and the most that GRO puts together.
const BUFFER: usize = 65_535;
/// The most that one GSO send takes: what the length field of an IPv4 packet leaves for its UDP payload.
const LONGEST_TRAIN: usize = 65_507;

impl Datagrams {
    /// Wraps a bound socket, with large queues.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        for (forced, asked) in [
            (
                setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).map_err(io::Error::from),
                Socket::set_recv_buffer_size as fn(&Socket, usize) -> io::Result<()>,
            ),
            (
                setsockopt(&socket, sockopt::SndBufForce, &QUEUE).map_err(io::Error::from),
                Socket::set_send_buffer_size,
            ),
        ] {
            // Without CAP_NET_ADMIN the kernel gives what net.core.rmem_max allows.
            if forced.is_err()
                && let Err(error) = asked(&socket, QUEUE)
            {
                debug!(%error, "a relay socket keeps its default queue");
            }
        }
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new((&socket).into())?;
        // The crate forbids fragments; a tunnel's packet that is one header too large must get through all the same.
        let may_fragment = libc::IP_PMTUDISC_DONT;
        if socket.local_addr()?.is_ipv4() {
            setsockopt(&socket, Ipv4MtuDiscover, &may_fragment)?;
        } else {
            setsockopt(&socket, Ipv6MtuDiscover, &may_fragment)?;
            setsockopt(&socket, Ipv6DontFragment, &false)?;
        }
        let io = UdpSocket::from_std(socket.into())?;
        Ok(Self { io, state })
    }

    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.io)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Waits until there is something to receive, or an error to learn of; cancel-safe.
    pub(super) async fn readable(&self) -> io::Result<()> {
        let either = Interest::READABLE | Interest::ERROR;
        if !self.io.ready(either).await?.is_error() {
            return Ok(());
        }
        // Asked in this way, so that an error that somebody else has taken already is not waited for again and again.
        let outcome = self
            .io
            .try_io(Interest::ERROR, || match self.io.take_error()? {
                Some(error) => Err(error),
                None => Err(io::ErrorKind::WouldBlock.into()),
            });
        outcome.or_else(passing)
    }

    /// Hands out what has arrived, up to one batch: who sent it, and each datagram. Answers how many there were.
    pub(super) fn receive(
        &self,
        batch: &Batch,
        mut each: impl FnMut(SocketAddr, &[u8]),
    ) -> io::Result<usize> {
        let mut buffers = batch.0.borrow_mut();
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let count = {
            let mut rest = buffers.chunks_exact_mut(BUFFER);
            let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
            self.io.try_io(Interest::READABLE, || {
                self.state.recv((&self.io).into(), &mut slices, &mut metas)
            })?
        };
        let mut datagrams = 0;
        for (meta, buffer) in metas[..count].iter().zip(buffers.chunks_exact(BUFFER)) {
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                datagrams += 1;
                each(meta.addr, datagram);
            }
        }
        Ok(datagrams)
    }

    /// Sends everything in the train, in its order. What the kernel has no room for is lost, as any datagram may be.
    pub(super) fn send(&self, train: &Train, destination: SocketAddr) -> io::Result<()> {
        let mut outcome = Ok(());
        for run in train.runs(self.state.max_gso_segments()) {
            match self.send_run(run, destination) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Too long for segmentation offload on this path, or none here: one by one.
                Err(error)
                    if run.segments > 1
                        && matches!(
                            error.raw_os_error(),
                            Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE)
                        ) =>
                {
                    for datagram in run.bytes.chunks(run.segment) {
                        let single = Run {
                            bytes: datagram,
                            segment: datagram.len(),
                            segments: 1,
                        };
                        let sent = self.send_run(single, destination);
                        outcome = outcome.and(sent.or_else(passing));
                    }
                }
                sent => outcome = outcome.and(sent),
            }
        }
        outcome
    }

    fn send_run(&self, run: Run<'_>, destination: SocketAddr) -> io::Result<()> {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: run.bytes,
            segment_size: (run.segments > 1).then_some(run.segment),
            src_ip: None,
        };
        // Nobody waits for room, and a socket that has just been opened is not known to have any.
        self.state.try_send((&self.io).into(), &transmit)
    }
}

fn passing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::WouldBlock {
        Ok(())
    } else {
        Err(error)
    }
}

/// Room for one batch of received datagrams; one for all sockets of a thread.
#[derive(Debug)]
pub(super) struct Batch(RefCell<Vec<u8>>);

impl Default for Batch {
    fn default() -> Self {
        Self(RefCell::new(vec![0; BUFFER * BATCH_SIZE]))
    }
}

/// Datagrams in one piece of memory, to be sent to one place; its room is used again and again.
#[derive(Debug, Default)]
pub(super) struct Train {
    bytes: Vec<u8>,
    /// Where each datagram ends.
    ends: Vec<usize>,
}

/// Datagrams of one length behind each other, of which the last may be shorter: what one GSO send takes.
#[derive(Debug, Clone, Copy)]
struct Run<'a> {
    bytes: &'a [u8],
    segment: usize,
    segments: usize,
}

impl Train {
    /// Adds a datagram that consists of these parts.
    pub(super) fn push(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.ends.push(self.bytes.len());
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Every datagram.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.runs(1).map(|run| run.bytes)
    }

    fn runs(&self, most: usize) -> impl Iterator<Item = Run<'_>> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let start = if first == 0 { 0 } else { self.ends[first - 1] };
            let segment = self.ends.get(first)? - start;
            let mut last = first;
            // A shorter one ends the run; a longer one begins the next.
            while last + 1 < self.ends.len()
                && last + 1 - first < most
                && self.ends[last] - start == segment * (last + 1 - first)
                && self.ends[last + 1] - self.ends[last] <= segment
                && self.ends[last + 1] - start <= LONGEST_TRAIN
                && self.ends[last + 1] > self.ends[last]
            {
                last += 1;
            }
            let run = Run {
                bytes: &self.bytes[start..self.ends[last]],
                segment,
                segments: last + 1 - first,
            };
            first = last + 1;
            Some(run)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Train;

    #[test]
    fn equal_datagrams_leave_together_and_a_shorter_one_ends_them() {
        let mut train = Train::default();
        for length in [4, 4, 2, 4, 8, 8, 8] {
            train.push(&[&[0; 1], &vec![0; length - 1]]);
        }
        let runs: Vec<_> = (train.runs(2).chain(train.runs(64)))
            .map(|run| (run.segment, run.segments, run.bytes.len()))
            .collect();
        let pairs = [(4, 2, 8), (2, 1, 2), (4, 1, 4), (8, 2, 16), (8, 1, 8)];
        let all = [(4, 3, 10), (4, 1, 4), (8, 3, 24)];
        assert_eq!(runs, [&pairs[..], &all[..]].concat());
        assert_eq!(train.iter().count(), 7);
    }

    #[test]
    fn no_run_is_longer_than_a_packet() {
        let mut train = Train::default();
        for _ in 0..64 {
            train.push(&[&[0; 1400]]);
        }
        let runs: Vec<_> = train.runs(64).map(|run| run.segments).collect();
        assert_eq!(runs, [46, 18]);
    }
}
