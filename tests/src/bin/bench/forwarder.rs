//! The least that can stand between WireGuard and a peer: one thread that receives a datagram and sends it on. What a relay
//! costs is told beside it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::ClockId;
use socket2::SockRef;
use wice_tests::topology::Host;

/// A forwarder at work, until dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    /// Where WireGuard of this host sends what is for the peer.
    pub(crate) endpoint: SocketAddr,
    used: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// As generous as those of a proxy should be: with the usual 208 KiB, TCP would measure the queue.
const QUEUE: usize = 4 << 20;
/// How often the threads look whether they are to stop.
const LOOK: Duration = Duration::from_millis(100);

impl Forwarder {
    /// Starts to forward between WireGuard's port of `host` and `peer`.
    pub(crate) fn start(host: &Host, port: u16, peer: SocketAddr) -> Result<Self> {
        let (near, far) = host.machine.enter(|| {
            let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            near.connect((Ipv4Addr::LOCALHOST, port))?;
            let far = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            far.connect(peer)?;
            for socket in [&near, &far] {
                SockRef::from(socket).set_recv_buffer_size(QUEUE)?;
                socket.set_read_timeout(Some(LOOK))?;
            }
            Ok((near, far))
        })?;
        let endpoint = near.local_addr()?;
        let (used, stop) = (Arc::default(), Arc::default());
        let way = |from: &UdpSocket, to: &UdpSocket| -> Result<JoinHandle<()>> {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let (used, stop) = (Arc::clone(&used), Arc::clone(&stop));
            Ok(thread::spawn(move || forward(&from, &to, &used, &stop)))
        };
        let threads = vec![way(&near, &far)?, way(&far, &near)?];
        Ok(Self {
            endpoint,
            used,
            stop,
            threads,
        })
    }

    /// Stops, and returns the time on a processor that both ways took.
    pub(crate) fn stop(mut self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok().context("the forwarder panicked")?;
        }
        Ok(Duration::from_nanos(self.used.load(Ordering::Relaxed)))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn forward(from: &UdpSocket, to: &UdpSocket, used: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match from.recv(&mut buffer) {
            // What cannot be sent is lost, as on any wire.
            Ok(length) => drop(to.send(&buffer[..length])),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // An ICMP error about an earlier packet.
            Err(_) => {}
        }
    }
    let time = ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from);
    let nanoseconds = time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    used.fetch_add(nanoseconds, Ordering::Relaxed);
}
