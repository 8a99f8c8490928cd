//! STUN beside an ordinary socket that owns the port, on the real kernel, in network namespaces that end with the test.

mod filtering;
mod kernel_wireguard;
mod nudging;
mod opening;
mod receiving;
mod sending;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::panic;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use tokio::net::UdpSocket;
use wice_core::io::{Packet, Transmit};

use super::StunPort;

const DEADLINE: Duration = Duration::from_secs(10);
const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Runs a test in a namespace of its own thread; the kernel removes it with the thread. Without root, says so and skips.
pub(super) fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    if !Uid::effective().is_root() {
        eprintln!("skipped: needs root for a network namespace and raw sockets");
        return;
    }
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root makes namespaces");
        ip("link set lo up");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test());
    });
    if let Err(failure) = thread.join() {
        panic::resume_unwind(failure);
    }
}

/// Runs `ip` in the namespace of this thread.
pub(super) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Adds an IPv6 address to a link and waits until the kernel has made it usable, which it does in the background.
pub(super) fn add_ipv6(address: &str, prefix: u8, link: &str) {
    ip(&format!(
        "-6 address add {address}/{prefix} dev {link} nodad"
    ));
    let until = Instant::now() + DEADLINE;
    while let Err(error) = send_to_itself(address) {
        assert!(Instant::now() < until, "{address} on {link}: {error}");
    }
}

fn send_to_itself(address: &str) -> io::Result<()> {
    let socket = StdSocket::bind((address, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    socket.send_to(&[0], socket.local_addr()?)?;
    socket.recv(&mut [0]).map(drop)
}

/// A STUN binding request of `length` bytes, told apart by `mark`.
pub(super) fn stun(mark: u8, length: usize) -> Vec<u8> {
    let mut message = vec![mark; length];
    let attributes = u16::try_from(length - 20).expect("a short message");
    message[..2].copy_from_slice(&[0, 1]);
    message[2..4].copy_from_slice(&attributes.to_be_bytes());
    message[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    message
}

/// Opens the port and listens.
fn listening(ports: impl IntoIterator<Item = u16>) -> StunPort {
    let port = StunPort::open().expect("root opens raw sockets");
    listen(&port, ports);
    port
}

fn listen(port: &StunPort, ports: impl IntoIterator<Item = u16>) {
    port.listen(&BTreeSet::from_iter(ports))
        .expect("the filter fits");
}

/// An ordinary socket that owns its port, as WireGuard does.
async fn owner(address: IpAddr) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((address, 0)).await.expect("a free port");
    let address = socket.local_addr().expect("a bound socket");
    (socket, address)
}

async fn receive(port: &StunPort) -> Packet {
    tokio::time::timeout(DEADLINE, port.receive())
        .await
        .expect("a STUN packet arrives")
}

/// What an ordinary socket receives next: who sent it, and the payload.
async fn next_datagram(socket: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut buffer = [0; 2048];
    let (length, source) = tokio::time::timeout(DEADLINE, socket.recv_from(&mut buffer))
        .await
        .expect("a datagram arrives")
        .expect("the socket works");
    (source, buffer[..length].to_vec())
}

fn transmit(source: SocketAddr, destination: SocketAddr, payload: Vec<u8>) -> Transmit {
    Transmit {
        source,
        destination,
        fwmark: 0,
        payload,
    }
}

/// An IPv4 packet whose header has `words` words of 32 bits; the options are no-operations.
pub(super) fn ipv4_packet(words: u8, datagram: &[u8]) -> Vec<u8> {
    let mut packet = vec![1; usize::from(words) * 4];
    let total = u16::try_from(packet.len() + datagram.len()).expect("a short packet");
    packet[..20].fill(0);
    packet[0] = 0x40 | words;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&[127, 0, 0, 1]);
    packet[16..20].copy_from_slice(&[127, 0, 0, 1]);
    packet.extend(datagram);
    packet
}
