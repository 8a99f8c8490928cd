//! TURN in virtual time: one server for each host that has one, routes to the peer, and WireGuard's data by them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use wice_core::io::Input;
use wice_core::relay::{RelayOrder, Relayed, Route};
use wice_core::server::Transport;

use super::{DELAY, Event, World};

/// Where WireGuard reaches the peer while it goes by a relay.
pub const LOOPBACK: &str = "127.128.0.1:4000";

/// A TURN server, and what the shell keeps at it.
pub struct Relay {
    pub server: SocketAddr,
    /// The relayed address.
    pub address: SocketAddr,
    pub transport: Transport,
    pub up: bool,
    pub wanted: bool,
    pub permits: BTreeSet<IpAddr>,
    /// Every set that was ordered.
    pub orders: usize,
    pub route: Option<Route>,
    /// What late packets seem to come from.
    pub left: Option<SocketAddr>,
    /// Routes that were opened and closed.
    pub opened: usize,
    pub closed: usize,
}

impl Relay {
    pub fn new(address: &str, transport: Transport) -> Self {
        let address: SocketAddr = address.parse().expect("an address");
        Self {
            server: SocketAddr::new(address.ip(), 3479),
            address,
            transport,
            up: true,
            wanted: false,
            permits: BTreeSet::new(),
            orders: 0,
            route: None,
            left: None,
            opened: 0,
            closed: 0,
        }
    }
}

impl World {
    /// Two hosts with symmetric NATs; each with a relay of its own where `relays` says so.
    pub fn symmetric(seed: u64, relays: [bool; 2]) -> Self {
        let mut world = Self::new(seed, true);
        for host in &mut world.hosts {
            host.nat.as_mut().expect("it has one").symmetric = true;
        }
        world.give_relays(relays);
        world
    }

    pub fn give_relays(&mut self, relays: [bool; 2]) {
        let addresses = ["203.0.113.10:50000", "203.0.113.20:50000"];
        for host in 0..2 {
            self.hosts[host].relay =
                relays[host].then(|| Relay::new(addresses[host], Transport::Udp));
        }
    }

    /// What the relays are told to do by one host.
    pub(super) fn relay(&mut self, host: usize, order: RelayOrder) {
        match order {
            RelayOrder::Allocate { wanted, .. } => {
                if let Some(relay) = &mut self.hosts[host].relay {
                    relay.wanted = wanted;
                }
                if wanted {
                    self.tell_relayed(host, 4 * DELAY);
                }
            }
            RelayOrder::Permit { peers, .. } => {
                let relay = self.hosts[host].relay.as_mut().expect("it has one");
                relay.permits = peers;
                relay.orders += 1;
            }
            RelayOrder::Transmit {
                relayed,
                destination,
                payload,
                ..
            } => {
                self.hosts[host].transmitted += 1;
                let private = destination.ip().to_string().starts_with("192.168.");
                assert!(!private, "the server cannot reach {destination}");
                if self.relays(host, relayed) {
                    self.send(host, relayed, destination, payload);
                }
            }
            RelayOrder::Open {
                interface,
                peer,
                route,
                ..
            } => {
                let relay = self.hosts[host].relay.as_mut().expect("it has one");
                assert_eq!(route.relayed, relay.address, "that is not relayed");
                relay.route = Some(route);
                relay.left = None;
                relay.opened += 1;
                let endpoint = LOOPBACK.parse().ok();
                let answer = Input::RelayRoute {
                    interface,
                    peer,
                    endpoint,
                };
                self.at(Duration::from_millis(1), host, answer);
            }
            RelayOrder::HandOver { endpoint, .. } => {
                let relay = self.hosts[host].relay.as_mut().expect("it has one");
                assert!(relay.route.is_some() || !relay.up, "no route is open");
                relay.left = Some(endpoint);
            }
            RelayOrder::Close { .. } => {
                let relay = self.hosts[host].relay.as_mut().expect("it has one");
                relay.route = None;
                relay.left = None;
                relay.closed += 1;
            }
        }
    }

    /// Tells a host which address is relayed to it now.
    pub fn tell_relayed(&mut self, host: usize, delay: Duration) {
        let relay = self.hosts[host].relay.as_ref();
        let addresses = relay
            .filter(|relay| relay.up && relay.wanted)
            .map(|relay| Relayed {
                address: relay.address,
                server: relay.server,
                transport: relay.transport,
            });
        let input = Input::Relayed {
            interface: 7,
            addresses: addresses.into_iter().collect(),
            finished: true,
        };
        self.at(delay, host, input);
    }

    /// The TURN server of one host dies; the shell notices after `notice`.
    pub fn kill_relay(&mut self, host: usize, notice: Duration) {
        let relay = self.hosts[host].relay.as_mut().expect("it has one");
        relay.up = false;
        relay.permits.clear();
        relay.route = None;
        self.tell_relayed(host, notice);
    }

    /// It is there again, and gives another address.
    pub fn revive_relay(&mut self, host: usize) {
        let relay = self.hosts[host].relay.as_mut().expect("it has one");
        relay.up = true;
        relay.address.set_port(relay.address.port() + 1);
        self.tell_relayed(host, 4 * DELAY);
    }

    /// Whether packets to or from this address go through the TURN server of that host.
    pub(super) fn relays(&self, host: usize, address: SocketAddr) -> bool {
        let relay = self.hosts[host].relay.as_ref();
        relay.is_some_and(|relay| relay.up && relay.wanted && relay.address == address)
    }

    /// How many delays a packet takes.
    pub(super) fn legs(&self, host: usize, source: SocketAddr, destination: SocketAddr) -> u32 {
        1 + u32::from(self.relays(host, source)) + u32::from(self.relays(1 - host, destination))
    }

    /// From where and to where WireGuard's packets leave.
    pub(super) fn leaves(&self, host: usize) -> Option<(SocketAddr, SocketAddr)> {
        let endpoint = self.endpoint(host)?;
        let machine = &self.hosts[host];
        if let Some(stream) = self.boards(host) {
            return Some((stream.local, stream.remote));
        }
        if endpoint.ip().is_loopback() {
            let route = machine.relay.as_ref()?.route?;
            return Some((route.relayed, route.remote));
        }
        let source = SocketAddr::new(machine.address, machine.device.listen_port);
        Some((source, endpoint))
    }

    /// Whom WireGuard sees a packet from that has got to an address of this host.
    pub(super) fn enters(
        &self,
        host: usize,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<SocketAddr> {
        if let Some(carried) = self.alights(host, source, destination) {
            return carried;
        }
        if !self.relays(host, destination) {
            return Some(source);
        }
        let relay = self.hosts[host].relay.as_ref()?;
        let route = relay.route?;
        let carried = route.relayed == destination && route.remote == source;
        carried.then(|| {
            let own = LOOPBACK.parse().expect("an address");
            relay.left.unwrap_or(own)
        })
    }

    /// WireGuard sends data from this host.
    pub fn ping(&mut self, host: usize) {
        for peer in self.hosts[host].device.peers.values_mut() {
            peer.tx_bytes += 128;
        }
        let sent = self.leaves(host).and_then(|(source, destination)| {
            let (other, seen, inside) = self.forward(host, source, destination)?;
            let delay = DELAY * self.legs(host, source, destination);
            self.schedule(delay, other, Event::Data(seen, inside));
            Some(())
        });
        if sent.is_none() {
            self.hosts[1 - host].lost += 1;
        }
    }

    /// Data arrives: its source becomes the endpoint.
    pub(super) fn receive(&mut self, host: usize, source: SocketAddr, destination: SocketAddr) {
        let Some(source) = self.enters(host, source, destination) else {
            self.hosts[host].lost += 1;
            return;
        };
        let unix = self.time(host).unix;
        let machine = &mut self.hosts[host];
        machine.received += 1;
        for peer in machine.device.peers.values_mut() {
            peer.rx_bytes += 128;
            peer.endpoint = Some(source);
            peer.latest_handshake = unix;
        }
    }

    /// Both sides send data every 20 ms for a time.
    pub fn traffic(&mut self, time: Duration, mut look: impl FnMut(&World)) {
        let end = self.now + time;
        while self.now < end {
            self.ping(0);
            self.ping(1);
            self.run(Duration::from_millis(20));
            look(self);
        }
    }
}
