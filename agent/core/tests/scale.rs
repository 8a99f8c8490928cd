//! Hundreds of peers on one interface, half of them answering, in virtual time: what they cost.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::{DELAY, device};
use wice_core::device::Device;
use wice_core::io::{Input, LocalAddress, Now, Output, Packet};
use wice_core::key::{PrivateKey, PublicKey};
use wice_core::mailbox::Mailbox;
use wice_core::mesh::Mesh;
use wice_core::relay::{RelayOrder, Relayed};
use wice_core::server::Transport;
use wice_core::settings::Settings;
use wice_core::status::State;

const PEERS: u16 = 400;
const ANSWERING: u16 = PEERS / 2;
const PORT: u16 = 51820;

struct Host {
    mesh: Mesh,
    device: Device,
    counts: BTreeMap<&'static str, usize>,
    alarm: Option<Instant>,
}

/// One machine that knows all peers, and those peers that run an agent; no NAT and no loss.
struct Star {
    start: Instant,
    now: Instant,
    /// The hub first.
    hosts: Vec<Host>,
    keys: Vec<PublicKey>,
    readers: BTreeMap<Mailbox, usize>,
    flying: BTreeMap<(Instant, u64), (usize, Input)>,
    alarms: BTreeSet<(Instant, usize)>,
    sequence: u64,
    /// Every host has a relay, and nothing else works.
    relayed: bool,
    only_relayed: bool,
}

impl Star {
    fn new(relayed: bool, only_relayed: bool) -> Self {
        let secrets: Vec<PrivateKey> = (0..=PEERS).map(secret).collect();
        let keys: Vec<PublicKey> = secrets.iter().map(PrivateKey::public).collect();
        let start = Instant::now();
        let mut star = Self {
            start,
            now: start,
            hosts: Vec::new(),
            keys: keys.clone(),
            readers: BTreeMap::new(),
            flying: BTreeMap::new(),
            alarms: BTreeSet::new(),
            sequence: 0,
            relayed,
            only_relayed,
        };
        for index in 0..=ANSWERING {
            let peers = if index == 0 { &keys[1..] } else { &keys[..1] };
            let mut seed = [0; 32];
            seed[..2].copy_from_slice(&index.to_be_bytes());
            star.hosts.push(Host {
                mesh: Mesh::new(Settings::default(), seed),
                device: device(&secrets[usize::from(index)], PORT, peers),
                counts: BTreeMap::new(),
                alarm: None,
            });
        }
        for index in 0..star.hosts.len() {
            star.input(index, Input::BackendUp);
            let local = LocalAddress {
                link: "eth0".into(),
                address: address(index).ip(),
                deprecated: false,
            };
            star.input(index, Input::Addresses(vec![local]));
            let device = star.hosts[index].device.clone();
            star.input(index, Input::Device(device));
        }
        star
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let event = self.flying.first_key_value().map(|((at, _), _)| *at);
            let alarm = self.alarms.first().map(|(at, _)| *at);
            let Some(next) = event.into_iter().chain(alarm).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if event == Some(next) {
                let (_, (host, input)) = self.flying.pop_first().expect("looked at just now");
                self.input(host, input);
            } else {
                let (_, host) = self.alarms.pop_first().expect("looked at just now");
                self.hosts[host].alarm = None;
                self.count(host, "wake-ups");
                self.input(host, Input::Timeout);
            }
        }
    }

    fn input(&mut self, host: usize, input: Input) {
        let now = Now {
            instant: self.now,
            unix: Duration::from_secs(1_700_000_000) + (self.now - self.start),
        };
        self.hosts[host].mesh.handle(input, now);
        while let Some(output) = self.hosts[host].mesh.poll() {
            self.output(host, output);
        }
        let alarm = self.hosts[host].mesh.poll_timeout();
        if let Some(old) = std::mem::replace(&mut self.hosts[host].alarm, alarm) {
            self.alarms.remove(&(old, host));
        }
        self.alarms.extend(alarm.map(|at| (at, host)));
    }

    fn output(&mut self, host: usize, output: Output) {
        match output {
            Output::Subscribe { mailbox, .. } => {
                self.readers.insert(mailbox, host);
            }
            Output::Publish {
                mailbox, sealed, ..
            } => {
                self.count(host, "offers");
                if let Some(reader) = self.readers.get(&mailbox) {
                    self.later(*reader, DELAY, Input::Message { mailbox, sealed });
                }
            }
            Output::Transmit(transmit) => {
                self.count(host, "packets");
                self.send(transmit.source, transmit.destination, transmit.payload);
            }
            Output::Relay(RelayOrder::Allocate { interface, .. }) => {
                let relayed = Relayed {
                    address: relayed(host),
                    server: relayed(host),
                    transport: Transport::Udp,
                };
                let addresses = Vec::from_iter(self.relayed.then_some(relayed));
                let input = Input::Relayed {
                    interface,
                    addresses,
                    finished: true,
                };
                self.later(host, DELAY, input);
            }
            Output::Relay(RelayOrder::Transmit {
                relayed,
                destination,
                payload,
                ..
            }) => {
                self.count(host, "relayed packets");
                self.send(relayed, destination, payload);
            }
            Output::Relay(RelayOrder::Permit { peers, .. }) => {
                self.count(host, "permissions");
                assert!(peers.len() <= 2 * usize::from(PEERS), "{}", peers.len());
            }
            Output::Relay(RelayOrder::Open {
                interface, peer, ..
            }) => {
                self.count(host, "routes");
                let endpoint = Some(SocketAddr::from(([127, 128, 0, 1], 4_000)));
                let input = Input::RelayRoute {
                    interface,
                    peer,
                    endpoint,
                };
                self.later(host, Duration::ZERO, input);
            }
            Output::Relay(_) | Output::Tcp(_) => {}
            Output::SetEndpoint { peer, endpoint, .. } => {
                let peer = self.hosts[host].device.peers.get_mut(&peer).expect("known");
                peer.endpoint = Some(endpoint);
            }
            Output::Nudge { .. } => {
                self.count(host, "nudges");
                for peer in self.hosts[host].device.peers.values_mut() {
                    if peer.endpoint.is_some() && peer.rx_bytes == 0 {
                        peer.rx_bytes = 148;
                    }
                }
            }
            Output::Dump { .. } => {
                self.count(host, "dumps");
                let device = self.hosts[host].device.clone();
                self.later(host, Duration::from_millis(1), Input::Device(device));
            }
            Output::Changed(_) => self.count(host, "changes"),
            Output::Withdraw(_) | Output::Unsubscribe(_) => {}
        }
    }

    fn send(&mut self, source: SocketAddr, destination: SocketAddr, payload: Vec<u8>) {
        let relays = source.port() != PORT || destination.port() != PORT;
        if self.only_relayed && !relays {
            return;
        }
        let there = (0..self.hosts.len())
            .find(|it| address(*it) == destination || relayed(*it) == destination);
        if let Some(there) = there {
            let packet = Packet {
                source,
                destination,
                payload,
            };
            self.later(there, DELAY, Input::Packet(packet));
        }
    }

    fn count(&mut self, host: usize, what: &'static str) {
        *self.hosts[host].counts.entry(what).or_default() += 1;
    }

    fn later(&mut self, host: usize, delay: Duration, input: Input) {
        self.sequence += 1;
        self.flying
            .insert((self.now + delay, self.sequence), (host, input));
    }

    fn connected(&self) -> usize {
        let now = Now {
            instant: self.now,
            unix: Duration::ZERO,
        };
        self.keys[1..]
            .iter()
            .filter_map(|key| self.hosts[0].mesh.peer("wg0", key, now))
            .filter(|peer| peer.state == State::Connected && peer.endpoint.is_some())
            .count()
    }
}

fn secret(index: u16) -> PrivateKey {
    let mut bytes = [7; 32];
    bytes[1..3].copy_from_slice(&index.to_be_bytes());
    PrivateKey::from_bytes(bytes).expect("not zero")
}

fn address(host: usize) -> SocketAddr {
    let host = u32::try_from(host).expect("few hosts");
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(first + host)), PORT)
}

/// Where the host is reached through its TURN server.
fn relayed(host: usize) -> SocketAddr {
    let port = 10_000 + u16::try_from(host).expect("few hosts");
    SocketAddr::from(([203, 0, 113, 10], port))
}

#[test]
fn hundreds_of_peers_share_a_relay_at_a_bounded_cost() {
    let mut star = Star::new(true, true);
    star.run(Duration::from_secs(20));
    assert_eq!(star.connected(), usize::from(ANSWERING));
    let start = &star.hosts[0].counts;
    println!("at the start: {start:?}");
    assert!(start["permissions"] <= 200, "{start:?}");
    star.run(Duration::from_secs(3));
    star.hosts[0].counts.clear();
    star.run(Duration::from_secs(20));
    assert_eq!(star.connected(), usize::from(ANSWERING));
    let counts = &star.hosts[0].counts;
    println!("while direct paths are looked for: {counts:?}");
    let count = |what| counts.get(what).copied().unwrap_or_default();
    assert!(count("offers") > usize::from(ANSWERING), "{counts:?}");
    assert!(count("dumps") <= 7, "{counts:?}");
    assert_eq!((count("changes"), count("nudges")), (0, 0), "{counts:?}");
    assert_eq!(count("routes"), 0, "{counts:?}");
}

#[test]
fn hundreds_of_peers_are_connected_or_awaited_at_a_bounded_cost() {
    let mut star = Star::new(false, false);
    star.run(Duration::from_secs(20));
    assert_eq!(star.connected(), usize::from(ANSWERING));
    // The pauses between offers to those who never answer grow to a minute.
    star.run(Duration::from_secs(220));
    star.hosts[0].counts.clear();
    star.run(Duration::from_secs(60));
    assert_eq!(star.connected(), usize::from(ANSWERING));
    let counts = &star.hosts[0].counts;
    println!("one minute of the hub: {counts:?}");
    let count = |what| counts.get(what).copied().unwrap_or_default();
    let answering = usize::from(ANSWERING);
    let silent = usize::from(PEERS - ANSWERING);
    // A check and an answer every four to five seconds; an offer a minute.
    assert!(count("packets") <= answering * 30, "{counts:?}");
    assert!(count("offers") <= silent * 3 / 2, "{counts:?}");
    assert!(
        count("wake-ups") <= answering * 15 + silent * 3 / 2 + 22,
        "{counts:?}"
    );
    assert!(count("dumps") <= 21, "{counts:?}");
    assert_eq!((count("changes"), count("nudges")), (0, 0), "{counts:?}");
}
