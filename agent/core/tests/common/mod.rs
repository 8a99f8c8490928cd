//! Two meshes in virtual time: port-restricted NATs, a STUN server, relays, a lossy mailbox and a kernel that handshakes.
#![allow(unreachable_pub, reason = "a module of several test programs")]
#![allow(
    dead_code,
    reason = "each test file uses its own part of the simulator"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stun_types::attribute::XorMappedAddress;
use stun_types::message::{Message, MessageWrite, MessageWriteExt, MessageWriteVec};
use wice_core::device::{AllowedIp, Device, Peer};
use wice_core::io::{Change, Input, LocalAddress, Now, Output, Packet};
use wice_core::key::{PrivateKey, PublicKey};
use wice_core::mailbox::{Mailbox, Sealed};
use wice_core::mesh::Mesh;
use wice_core::settings::Settings;
use wice_core::status::{PathKind, PeerStatus, Reason, State};

mod relay;
mod tcp;

pub use relay::Relay;
pub use tcp::Tcp;

/// One-way delay between any two hosts, and of the signalling.
pub const DELAY: Duration = Duration::from_millis(10);

pub const STUN_SERVER: &str = "203.0.113.1:3478";

/// Whatever listens here is a STUN server.
const STUN_PORT: u16 = 3478;

/// One machine: a mesh, its kernel's WireGuard and the NAT in front of it.
pub struct Host {
    pub mesh: Mesh,
    pub device: Device,
    pub key: PrivateKey,
    pub address: IpAddr,
    /// A second address, behind no NAT.
    pub second: Option<IpAddr>,
    pub nat: Option<Nat>,
    pub states: Vec<(State, Reason)>,
    pub endpoints_set: Vec<SocketAddr>,
    pub nudges: usize,
    /// Every way that packets were shown to travel.
    pub paths: Vec<PathKind>,
    /// Every address that a packet left from.
    pub sources: BTreeSet<SocketAddr>,
    pub transmitted: usize,
    pub wake_ups: usize,
    pub running: bool,
    pub clock_offset: i64,
    pub settings: Settings,
    /// The firewall lets no UDP through; TURN over TCP works.
    pub udp_blocked: bool,
    /// What TURN does for this host.
    pub relay: Option<Relay>,
    /// What TCP does for this host.
    pub tcp: Tcp,
    /// Data that WireGuard has received, and that never arrived.
    pub received: usize,
    pub lost: usize,
    subscriptions: BTreeSet<Mailbox>,
}

impl Host {
    fn has(&self, address: IpAddr) -> bool {
        address == self.address || Some(address) == self.second
    }
}

/// Endpoint-independent mapping, address-and-port-dependent filtering (RFC 4787): a port-restricted cone.
pub struct Nat {
    pub address: IpAddr,
    pub flows: BTreeSet<(SocketAddr, SocketAddr)>,
    /// A port of its own for each destination, when symmetric.
    pub symmetric: bool,
    ports: BTreeMap<(SocketAddr, Option<SocketAddr>), u16>,
}

impl Nat {
    pub fn new(address: &str) -> Self {
        Self {
            address: address.parse().expect("an address"),
            flows: BTreeSet::new(),
            symmetric: false,
            ports: BTreeMap::new(),
        }
    }

    fn outbound(&mut self, source: SocketAddr, destination: SocketAddr) -> SocketAddr {
        let key = (source, self.symmetric.then_some(destination));
        let next = 40_000 + u16::try_from(self.ports.len()).expect("few flows");
        let port = *self.ports.entry(key).or_insert(next);
        let mapped = SocketAddr::new(self.address, port);
        self.flows.insert((mapped, destination));
        mapped
    }

    fn mapped(&self, source: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        let key = (source, self.symmetric.then_some(destination));
        let port = self.ports.get(&key)?;
        Some(SocketAddr::new(self.address, *port))
    }

    fn inbound(&self, source: SocketAddr, destination: SocketAddr) -> Option<SocketAddr> {
        if !self.flows.contains(&(destination, source)) {
            return None;
        }
        self.ports
            .iter()
            .find(|(_, port)| **port == destination.port())
            .map(|((inside, _), _)| *inside)
    }
}

/// How signalling misbehaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub loss: f64,
    pub duplication: f64,
    pub max_delay: Duration,
}

/// What is on its way to a host.
enum Event {
    Input(Input),
    /// WireGuard's packet: from where, and to which address.
    Data(SocketAddr, SocketAddr),
}

pub struct World {
    pub start: Instant,
    pub now: Instant,
    pub hosts: Vec<Host>,
    pub weather: Weather,
    pub published: usize,
    /// The network between the hosts is down.
    pub cut: bool,
    /// The same, but relays reach both.
    pub direct_cut: bool,
    /// Nothing leaves from or gets to these.
    pub unplugged: BTreeSet<IpAddr>,
    /// STUN servers that answer nobody.
    pub silent: BTreeSet<SocketAddr>,
    /// Every sealed message that was ever left, for replays.
    pub archive: Vec<(Mailbox, Sealed)>,
    mailboxes: BTreeMap<Mailbox, Sealed>,
    events: BTreeMap<(Instant, u64), (usize, Event)>,
    sequence: u64,
    random: StdRng,
}

impl World {
    /// Two hosts whose WireGuard interfaces know each other's key and no endpoint.
    pub fn new(seed: u64, natted: bool) -> Self {
        let start = Instant::now();
        let mut world = Self {
            start,
            now: start,
            hosts: Vec::new(),
            weather: Weather::default(),
            published: 0,
            cut: false,
            direct_cut: false,
            unplugged: BTreeSet::new(),
            silent: BTreeSet::new(),
            archive: Vec::new(),
            mailboxes: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            random: StdRng::seed_from_u64(seed),
        };
        let keys = [key(1), key(2)];
        let sites = [
            ("192.168.1.2", "198.51.100.1"),
            ("192.168.2.2", "198.51.100.2"),
        ];
        for (index, (inside, outside)) in sites.iter().enumerate() {
            let address: IpAddr = if natted {
                inside.parse().expect("an address")
            } else {
                outside.parse().expect("an address")
            };
            let device = device(
                &keys[index],
                51820 + index as u16,
                &[keys[1 - index].public()],
            );
            world.hosts.push(Host {
                mesh: Mesh::new(Settings::default(), [index as u8 + 1; 32]),
                device,
                key: keys[index].clone(),
                address,
                second: None,
                nat: natted.then(|| Nat::new(outside)),
                states: Vec::new(),
                endpoints_set: Vec::new(),
                nudges: 0,
                paths: Vec::new(),
                sources: BTreeSet::new(),
                transmitted: 0,
                wake_ups: 0,
                running: false,
                clock_offset: 0,
                settings: Settings::default(),
                udp_blocked: false,
                relay: None,
                tcp: Tcp::default(),
                received: 0,
                lost: 0,
                subscriptions: BTreeSet::new(),
            });
        }
        world
    }

    /// Starts, or after a crash starts again, the agent of one host.
    pub fn boot(&mut self, host: usize) {
        let seed: [u8; 32] = self.random.random();
        let machine = &mut self.hosts[host];
        machine.mesh = Mesh::new(machine.settings.clone(), seed);
        machine.running = true;
        machine.subscriptions.clear();
        let addresses = (machine.second.into_iter().chain([machine.address]))
            .map(|address| LocalAddress {
                link: "eth0".into(),
                address,
                deprecated: false,
            })
            .collect();
        self.input(host, Input::BackendUp);
        self.input(host, Input::Addresses(addresses));
        let server = STUN_SERVER.parse().expect("an address");
        self.input(host, Input::StunServers(vec![server]));
        let device = self.hosts[host].device.clone();
        self.input(host, Input::Device(device));
    }

    /// The agent dies without a word; the kernel keeps what it has.
    pub fn crash(&mut self, host: usize) {
        self.hosts[host].running = false;
    }

    pub fn input(&mut self, host: usize, input: Input) {
        if !self.hosts[host].running {
            return;
        }
        let now = self.time(host);
        self.hosts[host].mesh.handle(input, now);
        self.drain(host);
    }

    pub fn dump(&mut self, host: usize) {
        let device = self.hosts[host].device.clone();
        self.input(host, Input::Device(device));
    }

    /// Lets virtual time pass until the condition holds; false when `limit` is over first.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            let event = self.events.first_key_value().map(|(key, _)| key.0);
            let alarms = self.hosts.iter().filter(|host| host.running);
            let alarm = alarms.filter_map(|host| host.mesh.poll_timeout()).min();
            let Some(next) = event.into_iter().chain(alarm).min().filter(|at| *at <= end) else {
                self.now = end;
                return done(self);
            };
            self.now = self.now.max(next);
            while self
                .events
                .first_key_value()
                .is_some_and(|(key, _)| key.0 <= self.now)
            {
                let (_, (host, event)) = self.events.pop_first().expect("looked at just now");
                match event {
                    Event::Input(input) => self.input(host, input),
                    Event::Data(source, destination) => self.receive(host, source, destination),
                }
            }
            for host in 0..self.hosts.len() {
                if self.hosts[host]
                    .mesh
                    .poll_timeout()
                    .is_some_and(|at| at <= self.now)
                {
                    self.hosts[host].wake_ups += 1;
                    self.input(host, Input::Timeout);
                }
            }
        }
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    pub fn peer(&self, host: usize) -> PeerStatus {
        let key = self.hosts[1 - host].key.public();
        let now = self.time(host);
        self.hosts[host]
            .mesh
            .peer("wg0", &key, now)
            .expect("the peer is known")
    }

    pub fn connected(&self) -> bool {
        (0..2).all(|host| self.hosts[host].running && self.peer(host).state == State::Connected)
    }

    pub fn restart(&mut self, host: usize) {
        let peer = self.hosts[1 - host].key.public();
        self.input(
            host,
            Input::Restart {
                interface: "wg0".into(),
                peer,
            },
        );
    }

    /// Delivers a message as the backend of `host` would.
    pub fn deliver(&mut self, host: usize, mailbox: Mailbox, sealed: Sealed) {
        self.input(host, Input::Message { mailbox, sealed });
    }

    pub fn time(&self, host: usize) -> Now {
        let unix = 1_700_000_000_000_i64
            + self.hosts[host].clock_offset
            + (self.now - self.start).as_millis() as i64;
        Now {
            instant: self.now,
            unix: Duration::from_millis(unix as u64),
        }
    }

    /// Whether a packet that `host` sends to its endpoint now would arrive at the other WireGuard.
    pub fn tunnel_works(&mut self, host: usize) -> bool {
        self.reaches(host).is_some()
    }

    /// Who gets what WireGuard sends from here, and from whom it seems to come.
    fn reaches(&mut self, host: usize) -> Option<(usize, SocketAddr)> {
        let (source, endpoint) = self.leaves(host)?;
        let (other, seen, inside) = self.forward(host, source, endpoint)?;
        let seen = self.enters(other, seen, inside)?;
        Some((other, seen))
    }

    /// The same without sending anything: every NAT on the way has to be open already.
    pub fn is_open(&self, host: usize) -> bool {
        let (here, there) = (&self.hosts[host], &self.hosts[1 - host]);
        let source = SocketAddr::new(here.address, here.device.listen_port);
        let inside = SocketAddr::new(there.address, there.device.listen_port);
        let Some(endpoint) = self.endpoint(host).filter(|_| !self.cut) else {
            return false;
        };
        let seen = match &here.nat {
            Some(nat) => nat.mapped(source, endpoint),
            None => Some(source),
        };
        let arrives = |seen| match &there.nat {
            Some(nat) => nat.inbound(seen, endpoint),
            None => Some(endpoint),
        };
        seen.and_then(arrives) == Some(inside)
    }

    pub fn endpoint(&self, host: usize) -> Option<SocketAddr> {
        self.hosts[host]
            .device
            .peers
            .values()
            .next()
            .and_then(|peer| peer.endpoint)
    }

    fn drain(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].mesh.poll() {
            match output {
                Output::Publish {
                    mailbox, sealed, ..
                } => self.publish(mailbox, sealed),
                Output::Withdraw(mailbox) => {
                    self.mailboxes.remove(&mailbox);
                }
                Output::Subscribe { mailbox, .. } => {
                    self.hosts[host].subscriptions.insert(mailbox);
                    if let Some(sealed) = self.mailboxes.get(&mailbox).cloned() {
                        self.at(DELAY, host, Input::Message { mailbox, sealed });
                    }
                }
                Output::Unsubscribe(mailbox) => {
                    self.hosts[host].subscriptions.remove(&mailbox);
                }
                Output::Relay(order) => self.relay(host, order),
                Output::Tcp(order) => self.tcp(host, order),
                Output::Transmit(transmit) => {
                    self.hosts[host].transmitted += 1;
                    self.hosts[host].sources.insert(transmit.source);
                    self.send(
                        host,
                        transmit.source,
                        transmit.destination,
                        transmit.payload,
                    );
                }
                Output::SetEndpoint { peer, endpoint, .. } => {
                    let machine = &mut self.hosts[host];
                    machine.endpoints_set.push(endpoint);
                    if let Some(peer) = machine.device.peers.get_mut(&peer) {
                        peer.endpoint = Some(endpoint);
                    }
                }
                Output::Nudge { .. } => self.handshake(host),
                Output::Dump { .. } => {
                    let device = self.hosts[host].device.clone();
                    self.at(Duration::from_millis(1), host, Input::Device(device));
                }
                Output::Changed(Change::State { new, reason, .. }) => {
                    self.hosts[host].states.push((new, reason));
                }
                Output::Changed(Change::Path { new, .. }) => self.hosts[host].paths.push(new),
                Output::Changed(_) => {}
            }
        }
    }

    fn publish(&mut self, mailbox: Mailbox, sealed: Sealed) {
        self.published += 1;
        self.archive.push((mailbox, sealed.clone()));
        self.mailboxes.insert(mailbox, sealed.clone());
        let readers: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].subscriptions.contains(&mailbox))
            .collect();
        for host in readers {
            let copies = 1 + usize::from(self.random.random_bool(self.weather.duplication));
            for _ in 0..copies {
                if !self.random.random_bool(self.weather.loss) {
                    let extra = self.weather.max_delay.mul_f64(self.random.random());
                    let sealed = sealed.clone();
                    self.at(DELAY + extra, host, Input::Message { mailbox, sealed });
                }
            }
        }
    }

    fn send(&mut self, host: usize, source: SocketAddr, destination: SocketAddr, payload: Vec<u8>) {
        if destination.port() == STUN_PORT {
            if self.silent.contains(&destination) || self.hosts[host].udp_blocked {
                return;
            }
            let mapped = match &mut self.hosts[host].nat {
                Some(nat) => nat.outbound(source, destination),
                None => source,
            };
            let request = Message::from_bytes(&payload).expect("a binding request");
            let mut answer = Message::builder_success(&request, MessageWriteVec::new());
            answer
                .add_attribute(&XorMappedAddress::new(mapped, request.transaction_id()))
                .expect("it fits");
            let packet = Packet {
                source: destination,
                destination: source,
                payload: answer.finish(),
            };
            return self.at(2 * DELAY, host, Input::Packet(packet));
        }
        // The receiving NAT decides when the packet gets there; both ways take equally long.
        if let Some((other, source, destination)) = self.forward(host, source, destination) {
            let packet = Packet {
                source,
                destination,
                payload,
            };
            let delay = DELAY * self.legs(host, source, destination);
            self.at(delay, other, Input::Packet(packet));
        }
    }

    /// Who gets a packet, from whom and to which of its addresses.
    fn forward(
        &mut self,
        host: usize,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<(usize, SocketAddr, SocketAddr)> {
        if let Some(conveyed) = self.conveys(host, source, destination) {
            return Some(conveyed);
        }
        if self.cut {
            return None;
        }
        let relayed = self.relays(host, source);
        if relayed {
            let relay = self.hosts[host].relay.as_ref()?;
            if !relay.permits.contains(&destination.ip()) {
                return None;
            }
        } else if !self.hosts[host].has(source.ip()) || self.hosts[host].udp_blocked {
            return None;
        }
        let ends = [source.ip(), destination.ip()];
        if ends.iter().any(|end| self.unplugged.contains(end)) {
            return None;
        }
        let seen = match &mut self.hosts[host].nat {
            Some(nat) if !relayed => nat.outbound(source, destination),
            _ => source,
        };
        let other = 1 - host;
        if self.relays(other, destination) {
            let relay = self.hosts[other].relay.as_ref()?;
            return relay
                .permits
                .contains(&seen.ip())
                .then_some((other, seen, destination));
        }
        if self.hosts[other].udp_blocked || (self.direct_cut && !relayed) {
            return None;
        }
        let inside = match &self.hosts[other].nat {
            Some(nat) if nat.address == destination.ip() => nat.inbound(seen, destination)?,
            Some(_) => return None,
            None => destination,
        };
        let port = self.hosts[other].device.listen_port;
        (self.hosts[other].has(inside.ip()) && inside.port() == port)
            .then_some((other, seen, inside))
    }

    /// What WireGuard does when a packet is to be sent: an initiation, whose source becomes the endpoint of the side that
    /// gets it, and the answer, if that gets through.
    fn handshake(&mut self, host: usize) {
        self.hosts[host].nudges += 1;
        let Some((other, seen)) = self.reaches(host) else {
            return;
        };
        for peer in self.hosts[other].device.peers.values_mut() {
            peer.endpoint = Some(seen);
        }
        if !self.tunnel_works(other) {
            return;
        }
        for side in [host, other] {
            let unix = self.time(side).unix;
            for peer in self.hosts[side].device.peers.values_mut() {
                peer.latest_handshake = unix;
                peer.rx_bytes += 148;
                peer.tx_bytes += 148;
            }
        }
    }

    fn at(&mut self, delay: Duration, host: usize, input: Input) {
        self.schedule(delay, host, Event::Input(input));
    }

    fn schedule(&mut self, delay: Duration, host: usize, event: Event) {
        self.sequence += 1;
        self.events
            .insert((self.now + delay, self.sequence), (host, event));
    }
}

pub fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes([byte; 32]).expect("not zero")
}

pub fn device(key: &PrivateKey, port: u16, peers: &[PublicKey]) -> Device {
    let peer = |index: usize| Peer {
        allowed_ips: vec![AllowedIp {
            address: IpAddr::from([10, 0, 0, index as u8]),
            prefix: 32,
        }],
        ..Peer::default()
    };
    Device {
        name: "wg0".into(),
        index: 7,
        private_key: Some(key.clone()),
        listen_port: port,
        fwmark: 0,
        peers: peers
            .iter()
            .enumerate()
            .map(|(index, key)| (*key, peer(index)))
            .collect(),
    }
}
