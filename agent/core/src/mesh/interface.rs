//! One WireGuard interface: what its last dump said, its candidates and its peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::context::Obstacle;
use super::peer::Peer;
use super::relays::Relays;
use super::streams::Doors;
use crate::candidate::Candidate;
use crate::device::Device;
use crate::gather::Gather;
use crate::ice::LocalCandidate;
use crate::io::LocalAddress;
use crate::key::{PrivateKey, PublicKey};
use crate::offer::MAX_CANDIDATES;
use crate::settings::{Policy, Settings};
use crate::status::InterfaceStatus;
use crate::tcp::candidates::passive;

/// An interface as the mesh keeps it.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) private_key: Option<PrivateKey>,
    pub(super) public_key: Option<PublicKey>,
    pub(super) listen_port: u16,
    pub(super) fwmark: u32,
    pub(super) managed: bool,
    pub(super) gather: Gather,
    pub(super) candidates: Vec<Candidate>,
    pub(super) locals: Vec<LocalCandidate>,
    pub(super) end_of_candidates: bool,
    pub(super) peers: BTreeMap<PublicKey, Peer>,
    /// How many peers may yet be told of our server-reflexive addresses.
    pub(super) needing: usize,
    pub(super) dump_at: Instant,
    pub(super) relays: Relays,
    pub(super) doors: Doors,
}

/// Between dumps while a peer is about to change; the kernel announces nothing about peers.
const DUMP_FAST: Duration = Duration::from_millis(50);
/// More per peer of the interface: among a thousand somebody is always about to change, and a dump carries them all.
const DUMP_PER_PEER: Duration = Duration::from_millis(1);
/// Between dumps of an interface that is in use and on which nothing is about to change: so often that data is noticed, and its path
/// watched closely, soon after it begins to flow.
const DUMP_SETTLED: Duration = Duration::from_secs(1);
/// More per peer of such an interface, so that a crowd's dumps cost what they did without this.
const DUMP_SETTLED_PER_PEER: Duration = Duration::from_millis(5);
/// Between dumps at most, however many peers there are, and while no dump arrives.
pub(super) const DUMP_SLOW: Duration = Duration::from_secs(3);

impl Interface {
    pub(super) fn new(device: &Device, managed: bool, now: Instant) -> Self {
        Self {
            name: device.name.clone(),
            public_key: device.private_key.as_ref().map(PrivateKey::public),
            private_key: device.private_key.clone(),
            listen_port: device.listen_port,
            fwmark: device.fwmark,
            managed,
            gather: Gather::default(),
            candidates: Vec::new(),
            locals: Vec::new(),
            end_of_candidates: true,
            peers: BTreeMap::new(),
            needing: 0,
            dump_at: now + DUMP_SLOW,
            relays: Relays::default(),
            doors: Doors::default(),
        }
    }

    /// Takes what a dump says of the interface itself; tells what is different.
    pub(super) fn observe(&mut self, device: &Device) -> Difference {
        let difference = Difference {
            rename: self.name != device.name,
            identity: self.private_key != device.private_key
                || self.listen_port != device.listen_port,
            fwmark: self.fwmark != device.fwmark,
        };
        if self.private_key != device.private_key {
            self.private_key.clone_from(&device.private_key);
            self.public_key = device.private_key.as_ref().map(PrivateKey::public);
        }
        self.name.clone_from(&device.name);
        self.listen_port = device.listen_port;
        self.fwmark = device.fwmark;
        difference
    }

    /// Follows the machine's addresses and the STUN servers.
    pub(super) fn regather(
        &mut self,
        addresses: &[LocalAddress],
        servers: &[SocketAddr],
        settings: &Settings,
        now: Instant,
    ) {
        let active = self.is_active() && settings.policy != Policy::Relay;
        let mut usable: Vec<&LocalAddress> = addresses
            .iter()
            .filter(|it| active && is_usable(it, settings) && it.link != self.name)
            .collect();
        // IPv6 first (RFC 8421 §4), and what the kernel deprecates last.
        usable.sort_by_key(|it| (it.deprecated, it.address.is_ipv4(), it.address));
        let bases: Vec<SocketAddr> = usable
            .iter()
            .map(|it| SocketAddr::new(it.address, self.listen_port))
            .collect();
        let servers = if settings.candidates.server_reflexive {
            servers
        } else {
            &[]
        };
        self.gather
            .set(&bases, servers, settings.candidates.host, now);
    }

    /// Tells whether there is anything to gather for.
    pub(super) const fn is_active(&self) -> bool {
        self.managed && self.listen_port != 0 && self.private_key.is_some()
    }

    /// Reads the candidates anew; tells whether anything about them is different.
    pub(super) fn refresh(&mut self, settings: &Settings) -> bool {
        let mut candidates = self.gather.candidates();
        let locals = self.gather.locals();
        // Those of UDP come first where an offer cannot carry all.
        let tcp = passive(&locals, &self.doors.reserved, settings.candidates.host);
        let room = MAX_CANDIDATES.saturating_sub(candidates.len());
        candidates.extend(tcp.into_iter().take(room));
        let finished = self.gather.is_finished();
        let changed = candidates != self.candidates
            || locals != self.locals
            || finished != self.end_of_candidates;
        self.candidates = candidates;
        self.locals = locals;
        self.end_of_candidates = finished;
        changed
    }

    /// Between dumps while a peer is about to change.
    pub(super) fn dump_fast(&self) -> Duration {
        self.dump_after(DUMP_FAST, DUMP_PER_PEER)
    }

    /// Between dumps while none is.
    pub(super) fn dump_settled(&self) -> Duration {
        if self.peers.values().all(Peer::is_resting) {
            return DUMP_SLOW;
        }
        self.dump_after(DUMP_SETTLED, DUMP_SETTLED_PER_PEER)
    }

    fn dump_after(&self, pause: Duration, per_peer: Duration) -> Duration {
        let peers = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        (pause + per_peer.saturating_mul(peers)).min(DUMP_SLOW)
    }

    /// What is in the way of a peer's negotiation.
    pub(super) fn obstacle(&self, peer: &PublicKey, settings: &Settings) -> Option<Obstacle> {
        if !self.managed || !settings.manages_peer(peer) {
            Some(Obstacle::Unmanaged)
        } else if self.private_key.is_none() {
            Some(Obstacle::NoPrivateKey)
        } else if self.listen_port == 0 {
            Some(Obstacle::NoListenPort)
        } else {
            None
        }
    }

    /// The interface as it is shown.
    pub(super) fn status(&self) -> InterfaceStatus {
        InterfaceStatus {
            name: self.name.clone(),
            public_key: self.public_key,
            listen_port: self.listen_port,
            fwmark: self.fwmark,
            managed: self.managed,
        }
    }
}

/// How a dump differs from the one before, as far as the interface itself goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Difference {
    pub(super) rename: bool,
    /// The key or the port: every session is about another identity.
    pub(super) identity: bool,
    pub(super) fwmark: bool,
}

fn is_usable(local: &LocalAddress, settings: &Settings) -> bool {
    let link_local = match local.address {
        std::net::IpAddr::V4(address) => address.is_link_local(),
        std::net::IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !link_local
        && !local.address.is_unspecified()
        && !local.address.is_multicast()
        && (settings.allow_loopback || !local.address.is_loopback())
        && !settings.excludes_link(&local.link)
}
