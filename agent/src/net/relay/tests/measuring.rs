//! What a relayed packet costs, beside a bare UDP forwarder in the same run: `--ignored --nocapture`, in release.
//!
//! The server is a stand-in that answers what a TURN server must, and swallows or floods data at the speed of a socket.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use turn_server_proto::api::{TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer;
use turn_server_proto::stun::types::TransportType;
use wice_core::io::Input;
use wice_core::relay::{RelayOrder, Route};

use super::coturn::{PASSWORD, USER, server};
use super::{INTERFACE, LOCALHOST, RelayEvent, Scene, in_namespace, key};
use crate::net::batch::{Batch, Datagrams};

/// A packet as a tunnel of 1,420 bytes sends it.
const PACKET: usize = 1452;
const TURN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;
const PEERS: u16 = 500;

/// Counts what arrives at a socket.
struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    bytes: AtomicU64,
    channel: AtomicU16,
    channels: AtomicU64,
    flood: AtomicBool,
}

impl Sink {
    /// A TURN server that swallows data, and floods when it is told to; or with `turn` unset, a mere sink.
    fn start(turn: bool) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).expect("a port");
        let address = socket
            .local_addr()
            .expect("bound")
            .as_socket()
            .expect("an address");
        let shared = Arc::new(Shared::default());
        let (theirs, twin) = (Arc::clone(&shared), socket.try_clone().expect("a twin"));
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(serve(socket, twin.into(), address, &theirs, turn));
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(socket: Socket, twin: UdpSocket, address: SocketAddr, shared: &Shared, turn: bool) {
    let datagrams = Datagrams::new(socket).expect("a socket");
    let batch = Batch::default();
    let mut server = TurnServer::new(TransportType::Udp, address, "example.org".into());
    server.add_user(USER.into(), PASSWORD.into());
    let begin = Instant::now();
    let mut client = address;
    let mut bound = BTreeSet::new();
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.flood.load(Ordering::Relaxed) {
            let mut packet = [4; PACKET + 4];
            packet[..2].copy_from_slice(&shared.channel.load(Ordering::Relaxed).to_be_bytes());
            packet[2..4].copy_from_slice(&(PACKET as u16).to_be_bytes());
            for _ in 0..256 {
                let _ = twin.send_to(&packet, client);
            }
        } else {
            let _ = tokio::time::timeout(Duration::from_millis(20), datagrams.readable()).await;
        }
        let nanos = i64::try_from(begin.elapsed().as_nanos()).expect("a short run");
        let now = turn_server_proto::types::Instant::from_nanos(nanos);
        let mut messages = Vec::new();
        let _ = datagrams.receive(&batch, |source, packet| {
            if turn && packet[0] & 0xc0 == 0 {
                messages.push((source, packet.to_vec()));
            } else {
                if turn && bound.insert([packet[0], packet[1]]) {
                    shared.channels.store(bound.len() as u64, Ordering::Relaxed);
                    let channel = u16::from_be_bytes([packet[0], packet[1]]);
                    shared.channel.store(channel, Ordering::Relaxed);
                }
                shared
                    .bytes
                    .fetch_add(packet.len() as u64, Ordering::Relaxed);
            }
        });
        for (source, message) in messages {
            client = source;
            let packet =
                turn_server_proto::api::Transmit::new(message, TransportType::Udp, source, address);
            if let Some(answer) = server.recv(packet, now).map(|it| it.build()) {
                let _ = twin.send_to(&answer.data, answer.to);
            }
            while let TurnServerPollRet::AllocateSocket {
                transport,
                listen_addr,
                client_addr,
                allocation_transport,
                family,
            } = server.poll(now)
            {
                let relayed = if family == turn_server_proto::types::AddressFamily::IPV4 {
                    "127.0.0.1:40000"
                } else {
                    "[::1]:40000"
                };
                let relayed = relayed.parse().expect("an address");
                server.allocated_socket(
                    transport,
                    listen_addr,
                    client_addr,
                    allocation_transport,
                    family,
                    Ok(relayed),
                    now,
                );
            }
            while let Some(answer) = server.poll_transmit(now) {
                let _ = twin.send_to(&answer.data, answer.to);
            }
        }
    }
}

/// CPU time that the thread of this name has used.
fn cpu(name: &str) -> Duration {
    for task in std::fs::read_dir("/proc/self/task")
        .expect("a list")
        .flatten()
    {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            let spent = read("schedstat");
            let nanos = spent
                .split_whitespace()
                .next()
                .and_then(|it| it.parse().ok());
            return Duration::from_nanos(nanos.expect("a number"));
        }
    }
    panic!("no thread {name}");
}

/// What passed while a thread worked: megabits per second, and per second of its processor.
fn rate(thread: &str, bytes: impl Fn() -> u64, work: impl Fn()) -> (f64, f64) {
    let (begin, spent, before) = (Instant::now(), cpu(thread), bytes());
    while begin.elapsed() < TURN {
        work();
    }
    let megabits = (bytes() - before) as f64 * 8e-6;
    let spent = cpu(thread) - spent;
    (
        megabits / begin.elapsed().as_secs_f64(),
        megabits / spent.as_secs_f64(),
    )
}

/// Forwards each packet as it comes.
fn forwarder(to: SocketAddr) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let twin: Socket = socket.try_clone().expect("a twin").into();
    let _ = nix::sys::socket::setsockopt(&twin, nix::sys::socket::sockopt::RcvBufForce, &(4 << 20));
    let address = socket.local_addr().expect("bound");
    std::thread::Builder::new()
        .name("forwarder".into())
        .spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok(length) = socket.recv(&mut buffer) {
                if length == 1 {
                    return;
                }
                let _ = socket.send_to(&buffer[..length], to);
            }
        })
        .expect("a thread");
    address
}

#[test]
#[ignore = "measures for half a minute"]
fn a_relayed_packet_costs_about_as_much_as_a_forwarded_one() {
    in_namespace(async || {
        let turn = Sink::start(true);
        let plain = Sink::start(false);
        let mut scene =
            Scene::new(&[server(&format!("turn:{}", turn.address), USER, PASSWORD)]).await;
        let relayed = scene.relayed().await[0].address;
        let endpoint = scene.open(relayed).await;
        let wireguard = socket_of(&scene);
        let bare = forwarder(plain.address);
        let packet = [4; PACKET];
        let flood = |to| {
            for _ in 0..64 {
                let _ = wireguard.send_to(&packet, to);
            }
        };
        // Until the channel is bound.
        while turn.shared.channels.load(Ordering::Relaxed) == 0 {
            flood(endpoint);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let received = Arc::new(AtomicU64::new(0));
        drain(
            wireguard.try_clone().expect("a twin"),
            Arc::clone(&received),
        );
        let mut sums = [0.0; 3];
        for _ in 0..ROUNDS {
            let forwarded = rate("forwarder", || plain.bytes(), || flood(bare));
            let out = rate("relays", || turn.bytes(), || flood(endpoint));
            turn.shared.flood.store(true, Ordering::Relaxed);
            let back = rate(
                "relays",
                || received.load(Ordering::Relaxed),
                || std::thread::sleep(Duration::from_millis(10)),
            );
            turn.shared.flood.store(false, Ordering::Relaxed);
            for (name, (wall, core)) in [
                ("forwarder", forwarded),
                ("relay, out", out),
                ("relay, back", back),
            ] {
                eprintln!(
                    "{name:12} {wall:7.0} Mbit/s; {core:7.0} Mbit/s on a whole core; {:.2} CPU s per Gbit",
                    1000.0 / core
                );
            }
            for (sum, (_, core)) in sums.iter_mut().zip([forwarded, out, back]) {
                *sum += core;
            }
        }
        eprintln!(
            "on one core, of a bare forwarder: out {:.0} %, back {:.0} %",
            100.0 * sums[1] / sums[0],
            100.0 * sums[2] / sums[0]
        );
        let _ = wireguard.send_to(&[0], bare);
    });
}

#[test]
fn five_hundred_peers_share_one_allocation() {
    in_namespace(async || {
        let turn = Sink::start(true);
        let mut scene =
            Scene::new(&[server(&format!("turn:{}", turn.address), USER, PASSWORD)]).await;
        let relayed = scene.relayed().await[0].address;
        let begin = Instant::now();
        let peers: Vec<IpAddr> = (0..PEERS)
            .map(|n| IpAddr::from([127, 9, (n >> 8) as u8, n as u8]))
            .collect();
        scene.permit(peers.iter().copied());
        let port = super::address(&scene.wireguard).port();
        for (number, peer) in (0..PEERS).zip(&peers) {
            let mut peer_key = *key(1).as_bytes();
            peer_key[..2].copy_from_slice(&number.to_be_bytes());
            scene.relays.order(RelayOrder::Open {
                interface: INTERFACE,
                peer: wice_core::key::PublicKey::from_bytes(peer_key),
                route: Route {
                    relayed,
                    remote: SocketAddr::new(*peer, 51820),
                },
                port,
            });
        }
        let mut endpoints = BTreeSet::new();
        while endpoints.len() < usize::from(PEERS) {
            let endpoint = scene.await_event(|_, event| match event {
                RelayEvent::Input(Input::RelayRoute { endpoint, .. }) => endpoint,
                _ => None,
            });
            endpoints.insert(endpoint.await);
        }
        // Each has a channel of its own.
        while turn.shared.channels.load(Ordering::Relaxed) < u64::from(PEERS) {
            assert!(
                begin.elapsed() < super::DEADLINE,
                "{} channels",
                turn.shared.channels.load(Ordering::Relaxed)
            );
            for endpoint in &endpoints {
                let _ = scene.wireguard.send_to(b"\x04\0\0\0 hello", endpoint).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        eprintln!(
            "{PEERS} peers in their channels after {:?}",
            begin.elapsed()
        );
        assert!(endpoints.iter().all(|it| it.ip() != LOCALHOST));
    });
}

/// WireGuard's socket, for threads.
fn socket_of(scene: &Scene) -> UdpSocket {
    let socket = socket2::SockRef::from(&scene.wireguard)
        .try_clone()
        .expect("a twin");
    let _ =
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(4 << 20));
    socket.into()
}

fn drain(socket: UdpSocket, received: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        // The scene's socket does not block, nor does its twin.
        for _ in 0..u64::MAX {
            match socket.recv(&mut buffer) {
                Ok(length) => drop(received.fetch_add(length as u64 + 4, Ordering::Relaxed)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_micros(200))
                }
                Err(_) => return,
            }
        }
    });
}
