//! All interfaces and peers of one machine: takes what happens, says what to do, wakes when something is due.
//!
//! Routes every input to the peer that it concerns. What a peer does with it is in `mesh/peer.rs`; I/O is nowhere here.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::SeedableRng;

use crate::explain::{Explanation, Surroundings};
use crate::io::{Change, Input, LocalAddress, Now, Output, Packet, Transmit};
use crate::key::PublicKey;
use crate::offer::Rejection;
use crate::session::Random;
use crate::settings::Settings;
use crate::status::{InterfaceStatus, PeerStatus, Reason};

mod alarms;
mod context;
mod devices;
mod interface;
mod negotiation;
mod peer;
mod relays;
mod routes;
mod streams;

use alarms::Alarms;
use context::Context;
use interface::{DUMP_SLOW, Interface};
use peer::Peer;
use routes::{PeerId, Routes};

/// The state of every WireGuard interface and peer of this machine.
#[derive(Debug)]
pub struct Mesh {
    settings: Settings,
    interfaces: BTreeMap<u32, Interface>,
    addresses: Vec<LocalAddress>,
    servers: Vec<SocketAddr>,
    backend_up: bool,
    routes: Routes,
    alarms: Alarms<Alarm>,
    outputs: VecDeque<Output>,
    rejected: BTreeMap<Rejection, u64>,
    strays: u64,
    restarts: BTreeMap<Reason, u64>,
    random: Random,
    /// Peers whose path is watched closely.
    busy: u32,
}

/// Between checks of a busy peer, so that another pair takes over within seconds.
const BUSY_INTERVAL: Duration = Duration::from_millis(400);
/// With more busy peers than this the interval grows, so that the checks of all together do not.
const BUSY_PEERS: u32 = 64;

/// What a deadline is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Gather(u32),
    Dump(u32),
    Peer(PeerId),
    Permit(u32),
}

impl Mesh {
    /// Starts with nothing; `seed` must be fresh randomness, because ICE credentials come from it.
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        Self {
            settings,
            interfaces: BTreeMap::new(),
            addresses: Vec::new(),
            servers: Vec::new(),
            backend_up: false,
            routes: Routes::default(),
            alarms: Alarms::default(),
            outputs: VecDeque::new(),
            rejected: BTreeMap::new(),
            strays: 0,
            restarts: BTreeMap::new(),
            random: Random::from_seed(seed),
            busy: 0,
        }
    }

    /// Takes one thing that happened; what follows from it comes out of [`Mesh::poll`].
    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Settings(settings) => {
                self.settings = settings;
                self.reconfigure(now);
            }
            Input::Device(device) => self.device(&device, now),
            Input::Gone(name) => {
                let index = self.index(&name);
                if let Some(index) = index {
                    self.remove_interface(index, now);
                }
            }
            Input::Addresses(addresses) => {
                self.addresses = addresses;
                self.regather(now);
            }
            Input::StunServers(servers) => {
                self.servers = servers;
                self.regather(now);
            }
            Input::Message { mailbox, sealed } => {
                if let Some(id) = self.routes.reader(&mailbox)
                    && let Some(Err(rejection)) =
                        self.with_peer(id, now, |peer, cx| peer.receive(&sealed, cx))
                {
                    *self.rejected.entry(rejection).or_default() += 1;
                }
            }
            Input::BackendUp => self.backend(true, now),
            Input::BackendDown => self.backend(false, now),
            Input::Packet(packet) => self.packet(&packet, now),
            Input::Relayed {
                interface,
                addresses,
                finished,
            } => self.relayed(interface, &addresses, finished, now),
            Input::RelayRoute {
                interface,
                peer,
                endpoint,
            } => {
                let id = PeerId {
                    interface,
                    key: peer,
                };
                self.with_peer(id, now, |peer, cx| peer.routed(endpoint, cx));
            }
            Input::Tcp(input) => self.tcp(input, now),
            Input::Resumed => {
                self.each_peer(now, |peer, cx| peer.resumed(cx));
                self.ask_again(now);
            }
            Input::NetworkHint => self.ask_again(now),
            Input::Restart { interface, peer } => {
                if let Some(index) = self.index(&interface) {
                    let id = PeerId {
                        interface: index,
                        key: peer,
                    };
                    self.with_peer(id, now, |peer, cx| {
                        peer.restart(Reason::RestartRequested, cx);
                    });
                }
            }
            Input::Stop => self.each_peer(now, |peer, cx| peer.leave(cx)),
            Input::Timeout => self.timeout(now),
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.alarms.next().map(|(at, _)| at)
    }

    /// All interfaces, as they are shown.
    pub fn interfaces(&self) -> impl Iterator<Item = InterfaceStatus> {
        self.interfaces.values().map(Interface::status)
    }

    /// One interface, as it is shown.
    pub fn interface(&self, name: &str) -> Option<InterfaceStatus> {
        let index = self.index(name)?;
        Some(self.interfaces.get(&index)?.status())
    }

    /// One peer, as it is shown.
    pub fn peer(&self, interface: &str, key: &PublicKey, now: Now) -> Option<PeerStatus> {
        let index = self.index(interface)?;
        let peer = self.interfaces.get(&index)?.peers.get(key)?;
        let name = self.settings.peer_name(key).to_owned();
        Some(peer.status(name, now.instant))
    }

    /// Why the path to a peer is as it is.
    pub fn explain(&self, interface: &str, key: &PublicKey, now: Now) -> Option<Explanation> {
        let interface = self.interfaces.get(&self.index(interface)?)?;
        let peer = interface.peers.get(key)?;
        let surroundings = Surroundings {
            locals: &interface.locals,
            end_of_candidates: interface.gather.is_finished(),
            stun_servers: self.servers.len(),
            stun_answered: interface.gather.is_answered(),
            relayed: interface.gather.relayed(),
            policy: self.settings.policy,
        };
        Some(peer.explain(&surroundings, now.instant))
    }

    /// The keys of an interface's peers.
    pub fn peers(&self, interface: &str) -> Vec<PublicKey> {
        self.index(interface)
            .and_then(|index| self.interfaces.get(&index))
            .map(|interface| interface.peers.keys().copied().collect())
            .unwrap_or_default()
    }

    /// The ports that STUN shares with WireGuard now.
    pub fn ports(&self) -> std::collections::BTreeSet<u16> {
        self.interfaces
            .values()
            .filter(|interface| interface.managed && interface.listen_port != 0)
            .map(|interface| interface.listen_port)
            .collect()
    }

    /// How many messages were refused, by reason.
    pub const fn rejected(&self) -> &BTreeMap<Rejection, u64> {
        &self.rejected
    }

    /// How many STUN packets belonged to no peer and no question of ours.
    pub const fn strays(&self) -> u64 {
        self.strays
    }

    /// How often sessions were started anew, by reason; those of peers that are gone count as well.
    pub const fn restarts(&self) -> &BTreeMap<Reason, u64> {
        &self.restarts
    }

    fn index(&self, name: &str) -> Option<u32> {
        self.interfaces
            .iter()
            .find(|(_, interface)| interface.name == name)
            .map(|(index, _)| *index)
    }

    fn backend(&mut self, up: bool, now: Now) {
        if std::mem::replace(&mut self.backend_up, up) != up {
            self.each_peer(now, |peer, cx| peer.backend_changed(cx));
        }
    }

    fn packet(&mut self, packet: &Packet, now: Now) {
        let port = packet.destination.port();
        let answered = self
            .interfaces
            .iter_mut()
            .filter(|(_, interface)| interface.listen_port == port)
            .find_map(|(index, interface)| {
                let news = interface.gather.handle_packet(packet, now.instant)?;
                Some((*index, news))
            });
        match answered {
            Some((index, true)) => self.gathered(index, now),
            Some((index, false)) => self.gather(index, now),
            None => {
                if let Some(id) = self.routes.addressee(&packet.payload) {
                    self.with_peer(id, now, |peer, _| peer.packet(packet, now.instant));
                } else {
                    self.strays += 1;
                }
            }
        }
    }

    fn timeout(&mut self, now: Now) {
        // Each at most once, so that nothing which is due again at once can hold the others up.
        let due: Vec<Alarm> = std::iter::from_fn(|| self.alarms.take_due(now.instant)).collect();
        for alarm in due {
            match alarm {
                Alarm::Gather(index) => self.gather(index, now),
                Alarm::Dump(index) => {
                    if let Some(interface) = self.interfaces.get_mut(&index) {
                        // Asked again even if this dump never arrives.
                        interface.dump_at = now.instant + DUMP_SLOW;
                        self.alarms.set(Alarm::Dump(index), Some(interface.dump_at));
                        let interface = interface.name.clone();
                        self.outputs.push_back(Output::Dump { interface });
                    }
                }
                Alarm::Permit(index) => {
                    let position = self.outputs.len();
                    self.permit(index, position, now);
                }
                Alarm::Peer(id) => {
                    self.with_peer(id, now, |_, _| ());
                }
            }
        }
    }

    fn regather(&mut self, now: Now) {
        let indices: Vec<u32> = self.interfaces.keys().copied().collect();
        for index in indices {
            self.regather_interface(index, now);
        }
    }

    fn regather_interface(&mut self, index: u32, now: Now) {
        let wireguard: Vec<String> = self
            .interfaces
            .values()
            .map(|interface| interface.name.clone())
            .collect();
        let addresses: Vec<LocalAddress> = self
            .addresses
            .iter()
            .filter(|address| !wireguard.contains(&address.link))
            .cloned()
            .collect();
        if let Some(interface) = self.interfaces.get_mut(&index) {
            interface.regather(&addresses, &self.servers, &self.settings, now.instant);
            self.gather(index, now);
        }
    }

    /// Asks all STUN servers once more; what they said before holds until they say something else.
    fn ask_again(&mut self, now: Now) {
        let indices: Vec<u32> = self.interfaces.keys().copied().collect();
        for index in indices {
            if let Some(interface) = self.interfaces.get_mut(&index) {
                interface.gather.ask_again(now.instant);
                self.gather(index, now);
            }
        }
    }

    /// Sends what gathering wants, and tells the peers what it found.
    fn gather(&mut self, index: u32, now: Now) {
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return;
        };
        let fwmark = interface.fwmark;
        for request in interface
            .gather
            .handle_timeout(now.instant, &mut self.random)
        {
            self.outputs.push_back(Output::Transmit(Transmit {
                source: request.source,
                destination: request.destination,
                fwmark,
                payload: request.payload,
            }));
        }
        self.gathered(index, now);
    }

    fn gathered(&mut self, index: u32, now: Now) {
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return;
        };
        let changed = interface.refresh(&self.settings);
        let next = interface.gather.poll_timeout();
        self.alarms.set(Alarm::Gather(index), next);
        self.converge_doors(index);
        if changed {
            self.each_peer_of(index, now, |peer, cx| peer.gathered(cx));
        }
    }

    fn each_peer(&mut self, now: Now, mut act: impl FnMut(&mut Peer, &mut Context<'_>)) {
        let indices: Vec<u32> = self.interfaces.keys().copied().collect();
        for index in indices {
            self.each_peer_of(index, now, &mut act);
        }
    }

    fn each_peer_of(
        &mut self,
        index: u32,
        now: Now,
        mut act: impl FnMut(&mut Peer, &mut Context<'_>),
    ) {
        let keys: Vec<PublicKey> = self
            .interfaces
            .get(&index)
            .map(|interface| interface.peers.keys().copied().collect())
            .unwrap_or_default();
        for key in keys {
            self.with_peer(
                PeerId {
                    interface: index,
                    key,
                },
                now,
                &mut act,
            );
        }
    }

    /// Lets one peer act, does what follows from it and sets its alarm.
    fn with_peer<T>(
        &mut self,
        id: PeerId,
        now: Now,
        act: impl FnOnce(&mut Peer, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let pace = self.pace();
        let position = self.outputs.len();
        let interface = self.interfaces.get_mut(&id.interface)?;
        let peer = interface.peers.get_mut(&id.key)?;
        let mut cx = Context {
            now,
            random: &mut self.random,
            outputs: &mut self.outputs,
            restarts: &mut self.restarts,
            routes: &mut self.routes,
            interface: &interface.name,
            key: interface.private_key.as_ref(),
            fwmark: interface.fwmark,
            candidates: &interface.candidates,
            locals: &interface.locals,
            end_of_candidates: interface.end_of_candidates,
            name: self.settings.peer_name(&id.key),
            listen_port: interface.listen_port,
            policy: self.settings.policy,
            tcp: self.settings.candidates.tcp,
            udp_blocked: interface.gather.is_udp_blocked(),
            pace,
            allow_loopback: self.settings.allow_loopback,
            backend_up: self.backend_up,
        };
        let unsettled = peer.is_unsettled();
        let needed = peer.needs_candidates();
        let was_busy = peer.is_busy();
        let (negotiated, wanted) = (peer.negotiates(), peer.wants_streams());
        let result = act(peer, &mut cx);
        peer.settle(&mut cx);
        self.busy = (self.busy + u32::from(peer.is_busy())).saturating_sub(u32::from(was_busy));
        if let Some(old) = peer.take_moved() {
            interface.relays.exchange(&old, peer.reach());
        }
        let at = peer
            .poll_timeout(now.instant)
            .map(|at| self.alarms.gather(Alarm::Peer(id), at, now.instant));
        let unsettles = !unsettled && peer.is_unsettled();
        let needs = peer.needs_candidates();
        self.alarms.set(Alarm::Peer(id), at);
        if needs != needed {
            interface.needing = if needs {
                interface.needing + 1
            } else {
                interface.needing.saturating_sub(1)
            };
            // Server-reflexive addresses are kept alive as long as a peer may yet be told of them.
            (interface.gather).set_refreshing(interface.needing > 0, now.instant);
            let next = interface.gather.poll_timeout();
            self.alarms.set(Alarm::Gather(id.interface), next);
        }
        let permit = interface.relays.changed;
        let (negotiates, wants) = (peer.negotiates(), peer.wants_streams());
        interface.doors.wanting =
            (interface.doors.wanting + usize::from(wants)).saturating_sub(usize::from(wanted));
        let doors = (negotiates, wants) != (negotiated, wanted);
        if unsettles {
            self.schedule_dump(id.interface, now, false);
        }
        if permit {
            self.permit(id.interface, position, now);
        }
        if doors {
            self.converge_doors(id.interface);
        }
        Some(result)
    }

    /// Between checks of a busy peer; in steps, so that it seldom changes.
    fn pace(&self) -> Option<Duration> {
        let steps = (self.busy / BUSY_PEERS + 1).next_power_of_two();
        Some(BUSY_INTERVAL * steps).filter(|it| *it < 4 * BUSY_INTERVAL)
    }

    fn changed(&mut self, change: Change) {
        self.outputs.push_back(Output::Changed(change));
    }
}
