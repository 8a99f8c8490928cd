//! Relays against a real coturn, in network namespaces that end with the test.

mod carrying;
mod coturn;
mod failing;
mod measuring;
mod restarting;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use wice_core::io::{Input, Packet};
use wice_core::key::PublicKey;
use wice_core::relay::{RelayOrder, Relayed, Route};
use wice_core::server::IceServer;

use super::{RelayEvent, RelayState, RelayStatus, Relays};
use crate::net::tests::{in_namespace, stun};

const DEADLINE: Duration = Duration::from_secs(20);
const INTERFACE: u32 = 7;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The relays of one interface, a socket in WireGuard's place, and one in the place of a peer.
struct Scene {
    relays: Relays,
    wireguard: UdpSocket,
    peer: UdpSocket,
}

impl Scene {
    /// Asks for an allocation on these servers.
    async fn new(servers: &[IceServer]) -> Self {
        Self::with_peer(servers, LOCALHOST).await
    }

    async fn with_peer(servers: &[IceServer], peer: IpAddr) -> Self {
        let mut relays = Relays::new();
        relays.set_servers(servers);
        relays.order(RelayOrder::Allocate {
            interface: INTERFACE,
            wanted: true,
            fwmark: 0,
        });
        Self {
            relays,
            wireguard: UdpSocket::bind((LOCALHOST, 0)).await.expect("a port"),
            peer: UdpSocket::bind((peer, 0)).await.expect("a port"),
        }
    }

    fn permit(&mut self, peers: impl IntoIterator<Item = IpAddr>) {
        self.relays.order(RelayOrder::Permit {
            interface: INTERFACE,
            peers: BTreeSet::from_iter(peers),
        });
    }

    /// Waits for something that the relays tell.
    async fn await_event<T>(
        &mut self,
        mut wanted: impl FnMut(&Relays, RelayEvent) -> Option<T>,
    ) -> T {
        let waiting = async {
            loop {
                let event = self.relays.next().await;
                if let Some(found) = wanted(&self.relays, event) {
                    return found;
                }
            }
        };
        let outcome = timeout(DEADLINE, waiting).await;
        outcome.unwrap_or_else(|_| panic!("not told; {:?}", self.relays.statuses()))
    }

    /// Waits for an allocation.
    async fn relayed(&mut self) -> Vec<Relayed> {
        self.await_event(|_, event| match event {
            RelayEvent::Input(Input::Relayed { addresses, .. }) if !addresses.is_empty() => {
                Some(addresses)
            }
            _ => None,
        })
        .await
    }

    /// Waits until there is none.
    async fn lost(&mut self) {
        self.await_event(|_, event| match event {
            RelayEvent::Input(Input::Relayed { addresses, .. }) => {
                addresses.is_empty().then_some(())
            }
            _ => None,
        })
        .await;
    }

    /// Waits until a server fares like this.
    async fn status(&mut self, wanted: impl Fn(&[RelayStatus]) -> bool) -> Vec<RelayStatus> {
        self.await_event(|relays, _| Some(relays.statuses()).filter(|statuses| wanted(statuses)))
            .await
    }

    /// Opens a route to the peer through this address of ours.
    async fn open(&mut self, relayed: SocketAddr) -> SocketAddr {
        let remote = address(&self.peer);
        self.permit([remote.ip()]);
        self.relays.order(RelayOrder::Open {
            interface: INTERFACE,
            peer: key(1),
            route: Route { relayed, remote },
            port: address(&self.wireguard).port(),
        });
        let endpoint = self
            .await_event(|_, event| match event {
                RelayEvent::Input(Input::RelayRoute { endpoint, .. }) => Some(endpoint),
                _ => None,
            })
            .await;
        endpoint.expect("a loopback address")
    }

    /// Waits for STUN of the peer.
    async fn packet(&mut self) -> Packet {
        self.await_event(|_, event| match event {
            RelayEvent::Input(Input::Packet(packet)) => Some(packet),
            _ => None,
        })
        .await
    }

    /// Sends one packet of WireGuard's, which may be lost.
    async fn send(&self, endpoint: SocketAddr) {
        let _ = self.wireguard.send_to(b"\x04\0\0\0 lost", endpoint).await;
    }

    /// Says something in both directions until it arrives, as WireGuard repeats its handshakes.
    async fn converse(&self, endpoint: SocketAddr, relayed: SocketAddr) {
        exchange(&self.wireguard, endpoint, &self.peer).await;
        exchange(&self.peer, relayed, &self.wireguard).await;
    }
}

/// Sends until the other one has received; answers who sent it.
async fn exchange(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket) -> SocketAddr {
    let payload = b"\x04\0\0\0 a packet of WireGuard's";
    let sending = async {
        let mut buffer = [0; 2048];
        loop {
            // A port that is closed for a moment is what some of these tests are about.
            let _ = from.send_to(payload, to).await;
            let received = timeout(Duration::from_millis(100), receiver.recv_from(&mut buffer));
            if let Ok(Ok((length, source))) = received.await
                && buffer[..length] == payload[..]
            {
                return source;
            }
        }
    };
    timeout(DEADLINE, sending).await.expect("it arrives")
}

/// Receives one datagram.
async fn receive(socket: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut buffer = [0; 16_384];
    let (length, source) = timeout(DEADLINE, socket.recv_from(&mut buffer))
        .await
        .expect("a datagram arrives")
        .expect("the socket works");
    (source, buffer[..length].to_vec())
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("a bound socket")
}

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32])
}
