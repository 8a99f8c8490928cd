//! Hundreds of agents in one thread: the project's own core with one interface for each, over real sockets and the real
//! server. It has no WireGuard behind it, so it answers checks and no handshakes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use wice_core::device::{Device, Peer};
use wice_core::io::{Input, LocalAddress, Now, Output, Packet};
use wice_core::key::{PrivateKey, PublicKey};
use wice_core::mailbox::{Mailbox, Sealed};
use wice_core::mesh::Mesh;
use wice_core::settings::Settings;
use wice_tests::topology::Host;

use crate::moments::present;

/// What a swarm is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The server's URL, by WebSocket.
    pub(crate) server: String,
    /// The server's STUN.
    pub(crate) stun: SocketAddr,
    /// The only peer of every member.
    pub(crate) peer: PublicKey,
    /// The members' keys.
    pub(crate) members: Vec<PrivateKey>,
    /// Mailboxes of peers that never answer: messages in them are counted.
    pub(crate) silent: Vec<Mailbox>,
}

/// What a swarm has seen so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Messages from the peer, to members and to silent peers.
    pub(crate) messages: AtomicU64,
    /// Checks and answers that arrived.
    pub(crate) received: AtomicU64,
    /// Checks and answers that left.
    pub(crate) sent: AtomicU64,
    /// Members that a packet of WireGuard's has reached.
    pub(crate) reached: AtomicU64,
}

/// A swarm at work, until dropped.
#[derive(Debug)]
pub(crate) struct Swarm {
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// The first member's port; the others follow.
const FIRST_PORT: u16 = 20_000;
/// How often the swarm looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// The magic cookie of STUN, at byte 4 of each message (RFC 8489 §5).
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

impl Swarm {
    /// Starts the members on `host`.
    pub(crate) fn start(host: &Host, plan: Plan) -> Self {
        let counters = Arc::new(Counters::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (host, told, counted) = (host.clone(), Arc::clone(&stop), Arc::clone(&counters));
        let thread = thread::spawn(move || {
            host.machine.enter(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?
                    .block_on(Members::join(&plan, host.address, counted)?.run(&plan, &told))
            })
        });
        Self {
            counters,
            stop,
            thread: Some(thread),
        }
    }

    /// Returns what it has seen.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Fails with the reason when the swarm has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.thread.take() {
            Some(thread) if thread.is_finished() => thread
                .join()
                .map_err(|_| anyhow!("the swarm panicked"))?
                .and(Err(anyhow!("the swarm ended"))),
            running => {
                self.thread = running;
                Ok(())
            }
        }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its failure was told by `check`, or the benchmark has failed already.
            let _ = thread.join();
        }
    }
}

type Up = SplitSink<WebSocketStream<MaybeTlsStream<TcpStream>>, Frame>;
type Down = SplitStream<WebSocketStream<MaybeTlsStream<TcpStream>>>;

/// The members' state.
struct Members {
    mesh: Mesh,
    devices: BTreeMap<String, Device>,
    address: IpAddr,
    reached: BTreeSet<u16>,
    counters: Arc<Counters>,
}

impl Members {
    /// Prepares the members' interfaces, which all have one address and ports of their own.
    fn join(plan: &Plan, address: IpAddr, counters: Arc<Counters>) -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let devices = (FIRST_PORT..)
            .zip(1..)
            .zip(&plan.members)
            .map(|((port, index), key)| {
                let name = format!("s{index}");
                let device = Device {
                    name: name.clone(),
                    index,
                    private_key: Some(key.clone()),
                    listen_port: port,
                    fwmark: 0,
                    peers: BTreeMap::from([(plan.peer, Peer::default())]),
                };
                (name, device)
            })
            .collect();
        Ok(Self {
            mesh: Mesh::new(Settings::default(), seed),
            devices,
            address,
            reached: BTreeSet::new(),
            counters,
        })
    }

    /// Serves until told to stop.
    async fn run(mut self, plan: &Plan, stop: &AtomicBool) -> Result<()> {
        let (packets, mut arrived) = mpsc::channel(4096);
        let mut sockets = BTreeMap::new();
        for device in self.devices.values() {
            let local = SocketAddr::new(self.address, device.listen_port);
            let socket = Arc::new(UdpSocket::bind(local).await?);
            sockets.insert(device.listen_port, Arc::clone(&socket));
            tokio::spawn(listen(socket, local, packets.clone()));
        }
        let (mut up, mut down) = connect(&plan.server).await?;
        let silent: Vec<String> = plan.silent.iter().map(Mailbox::to_string).collect();
        let listen = json!({"op": "subscribe", "mailboxes": silent});
        up.send(Frame::text(listen.to_string())).await?;

        let address = LocalAddress {
            link: "eth0".to_owned(),
            address: self.address,
            deprecated: false,
        };
        self.mesh.handle(Input::Addresses(vec![address]), now());
        self.mesh.handle(Input::StunServers(vec![plan.stun]), now());
        self.mesh.handle(Input::BackendUp, now());
        for device in self.devices.values() {
            self.mesh.handle(Input::Device(device.clone()), now());
        }
        while !stop.load(Ordering::Relaxed) {
            self.perform(&sockets, &mut up).await?;
            let look = Instant::now() + LOOK;
            let next = self.mesh.poll_timeout().map_or(look, |at| at.min(look));
            tokio::select! {
                Some(packet) = arrived.recv() => self.packet(packet),
                frame = down.next() => self.frame(frame.context("the server has closed")??),
                () = tokio::time::sleep_until(next.into()) => {}
            }
            if self
                .mesh
                .poll_timeout()
                .is_some_and(|at| at <= Instant::now())
            {
                self.mesh.handle(Input::Timeout, now());
            }
        }
        Ok(())
    }

    fn packet(&mut self, packet: Packet) {
        if packet.payload.get(4..8) == Some(COOKIE.as_slice()) {
            self.counters.received.fetch_add(1, Ordering::Relaxed);
            self.mesh.handle(Input::Packet(packet), now());
        } else if self.reached.insert(packet.destination.port()) {
            // The rest is WireGuard's: a handshake, which nobody here answers.
            self.counters.reached.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn frame(&mut self, frame: Frame) {
        let Ok(Ok(reply)) = frame.to_text().map(serde_json::from_str::<Value>) else {
            return;
        };
        let text = |name: &str| reply.get(name).and_then(Value::as_str);
        let mailbox = text("mailbox").and_then(|name| name.parse().ok());
        if let (Some(mailbox), Some(sealed)) = (mailbox, text("message").and_then(Sealed::new)) {
            self.counters.messages.fetch_add(1, Ordering::Relaxed);
            // What is for a silent peer has no reader here.
            self.mesh.handle(Input::Message { mailbox, sealed }, now());
        }
    }

    /// Does what the core wants, as an agent would.
    async fn perform(
        &mut self,
        sockets: &BTreeMap<u16, Arc<UdpSocket>>,
        up: &mut Up,
    ) -> Result<()> {
        let mut wrote = false;
        while let Some(output) = self.mesh.poll() {
            let operation = match output {
                Output::Publish {
                    mailbox, sealed, ..
                } => {
                    json!({"op": "publish", "mailbox": mailbox.to_string(), "message": sealed.as_str()})
                }
                Output::Subscribe { mailbox, .. } => {
                    json!({"op": "subscribe", "mailboxes": [mailbox.to_string()]})
                }
                Output::Transmit(transmit) => {
                    if let Some(socket) = sockets.get(&transmit.source.port()) {
                        self.counters.sent.fetch_add(1, Ordering::Relaxed);
                        // What is not sent counts as lost, and checks are repeated.
                        let _ = socket.try_send_to(&transmit.payload, transmit.destination);
                    }
                    continue;
                }
                Output::SetEndpoint {
                    interface,
                    peer,
                    endpoint,
                } => {
                    let device = self.devices.get_mut(&interface);
                    if let Some(peer) = device.and_then(|it| it.peers.get_mut(&peer)) {
                        // As if WireGuard's handshake had followed at once.
                        peer.endpoint = Some(endpoint);
                        peer.latest_handshake = present();
                    }
                    continue;
                }
                Output::Dump { interface } => {
                    if let Some(device) = self.devices.get(&interface) {
                        self.mesh.handle(Input::Device(device.clone()), now());
                    }
                    continue;
                }
                Output::Withdraw(_)
                | Output::Unsubscribe(_)
                | Output::Relay(_)
                | Output::Tcp(_)
                | Output::Nudge { .. }
                | Output::Changed(_) => continue,
            };
            up.feed(Frame::text(operation.to_string())).await?;
            wrote = true;
        }
        if wrote {
            up.flush().await?;
        }
        Ok(())
    }
}

async fn connect(server: &str) -> Result<(Up, Down)> {
    let mut request = format!("{server}/v1/websocket").into_client_request()?;
    let protocol = HeaderValue::from_static("wice.1");
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol);
    let (socket, _) = connect_async(request).await?;
    Ok(socket.split())
}

/// Hands in what arrives on one member's port.
async fn listen(socket: Arc<UdpSocket>, local: SocketAddr, packets: mpsc::Sender<Packet>) {
    let mut buffer = [0; 2048];
    loop {
        // An ICMP error about an earlier packet is no end.
        let Ok((length, source)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let packet = Packet {
            source,
            destination: local,
            payload: buffer[..length].to_vec(),
        };
        if packets.send(packet).await.is_err() {
            return;
        }
    }
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        unix: present(),
    }
}
