//! Who may send through an allocation, and the channels in it: what is wanted, asked for, and granted until when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// The addresses that may send.
#[derive(Debug, Default)]
pub(super) struct Permissions {
    peers: BTreeMap<IpAddr, Permission>,
}

#[derive(Debug, Default)]
struct Permission {
    granted: bool,
    refused: bool,
    asked: bool,
    renew: Option<Instant>,
}

/// A permission lasts 300 s (RFC 8656 §9).
const RENEW_PERMISSION: Duration = Duration::from_secs(240);
/// What is due soon is renewed in the same request.
const TOGETHER: Duration = Duration::from_secs(60);
/// Addresses in one request: what fits into a packet that no path breaks up.
const PER_REQUEST: usize = 32;

impl Permissions {
    pub(super) fn want(&mut self, peers: &BTreeSet<IpAddr>) {
        self.peers.retain(|peer, _| peers.contains(peer));
        for peer in peers {
            self.peers.entry(*peer).or_default();
        }
    }

    pub(super) fn is_granted(&self, peer: IpAddr) -> bool {
        self.peers.get(&peer).is_some_and(|known| known.granted)
    }

    /// Says whether the server was asked and has not answered yet.
    pub(super) fn is_asked(&self, peer: IpAddr) -> bool {
        self.peers.get(&peer).is_some_and(|known| known.asked)
    }

    /// When the next one is to be renewed.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting = self.peers.values().filter(|known| !known.asked);
        waiting.filter_map(|known| known.renew).min()
    }

    /// What to ask for now, by request; only addresses that these relay to.
    pub(super) fn ask(&mut self, relayed: &[SocketAddr], now: Instant) -> Vec<Vec<IpAddr>> {
        let any_due = self.due().is_some_and(|due| due <= now);
        let mut wanted = Vec::new();
        for (peer, known) in &mut self.peers {
            let due = match known.renew {
                Some(renew) => any_due && renew <= now + TOGETHER,
                None => !known.refused,
            };
            if due && !known.asked && relays(relayed, *peer) {
                known.asked = true;
                wanted.push(*peer);
            }
        }
        wanted.chunks(PER_REQUEST).map(<[_]>::to_vec).collect()
    }

    pub(super) fn granted(&mut self, peers: &[IpAddr], now: Instant) {
        for peer in peers {
            if let Some(known) = self.peers.get_mut(peer) {
                *known = Permission {
                    granted: true,
                    refused: false,
                    asked: false,
                    renew: Some(now + RENEW_PERMISSION),
                };
            }
        }
    }

    pub(super) fn refused(&mut self, peer: IpAddr) {
        if let Some(known) = self.peers.get_mut(&peer) {
            *known = Permission {
                refused: true,
                ..Permission::default()
            };
        }
    }
}

/// The channels, by the peer at their other end.
#[derive(Debug, Default)]
pub(super) struct Channels {
    peers: BTreeMap<SocketAddr, Channel>,
    numbers: BTreeMap<u16, SocketAddr>,
}

#[derive(Debug)]
struct Channel {
    number: u16,
    wanted: bool,
    bound: bool,
    asked: bool,
    /// When it is bound again; not before, where it was refused.
    renew: Instant,
    /// Until then the number belongs to this peer.
    reserved: Instant,
}

/// The numbers that there are (RFC 8656 §12).
const NUMBERS: std::ops::RangeInclusive<u16> = 0x4000..=0x4fff;
/// A binding lasts 600 s (RFC 8656 §12).
const RENEW_CHANNEL: Duration = Duration::from_secs(300);
/// And its number goes to nobody else for 300 s after that.
const RESERVED: Duration = Duration::from_secs(600 + 300);
/// A refused binding is tried again after this; packets travel in indications until then.
const REFUSED: Duration = Duration::from_secs(60);

impl Channels {
    pub(super) fn want(&mut self, peer: SocketAddr, now: Instant) {
        self.forget(now);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.wanted = true;
            return;
        }
        // With all of them taken, packets travel in indications.
        let Some(number) = NUMBERS
            .into_iter()
            .find(|number| !self.numbers.contains_key(number))
        else {
            return;
        };
        self.numbers.insert(number, peer);
        self.peers.insert(
            peer,
            Channel {
                number,
                wanted: true,
                bound: false,
                asked: false,
                renew: now,
                reserved: now + RESERVED,
            },
        );
    }

    pub(super) fn leave(&mut self, peer: SocketAddr) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.wanted = false;
        }
    }

    /// The channel of a peer, where one is bound.
    pub(super) fn number(&self, peer: SocketAddr) -> Option<u16> {
        let known = self.peers.get(&peer).filter(|known| known.bound);
        known.map(|known| known.number)
    }

    /// The peer of a channel.
    pub(super) fn peer(&self, number: u16) -> Option<SocketAddr> {
        self.numbers.get(&number).copied()
    }

    /// When the next one is to be bound again.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting = self
            .peers
            .values()
            .filter(|known| known.wanted && !known.asked);
        waiting.map(|known| known.renew).min()
    }

    /// What to bind now; only to peers that these relay to.
    pub(super) fn ask(&mut self, relayed: &[SocketAddr], now: Instant) -> Vec<(SocketAddr, u16)> {
        let mut wanted = Vec::new();
        for (peer, known) in &mut self.peers {
            if !known.wanted || known.asked || known.renew > now {
                continue;
            }
            if relays(relayed, peer.ip()) {
                known.asked = true;
                wanted.push((*peer, known.number));
            } else {
                known.renew = now + REFUSED;
            }
        }
        wanted
    }

    /// Notes a binding; says whether it is known.
    pub(super) fn bound(&mut self, peer: SocketAddr, now: Instant) -> bool {
        let Some(known) = self.peers.get_mut(&peer) else {
            return false;
        };
        known.asked = false;
        known.bound = true;
        known.renew = now + RENEW_CHANNEL;
        known.reserved = now + RESERVED;
        true
    }

    /// Notes a refusal; says whether it ends a channel that was bound.
    pub(super) fn refused(&mut self, peer: SocketAddr, now: Instant) -> bool {
        let Some(known) = self.peers.get_mut(&peer) else {
            return false;
        };
        known.asked = false;
        known.renew = now + REFUSED;
        std::mem::replace(&mut known.bound, false)
    }

    /// Gives numbers back that nobody uses any more.
    fn forget(&mut self, now: Instant) {
        self.peers.retain(|_, known| {
            let keep = known.wanted || known.reserved > now;
            if !keep {
                self.numbers.remove(&known.number);
            }
            keep
        });
    }
}

/// Says whether one of these addresses relays to a peer: it is of the same family, and not a public one of a private peer.
fn relays(relayed: &[SocketAddr], peer: IpAddr) -> bool {
    let mut same = relayed
        .iter()
        .filter(|relayed| relayed.is_ipv4() == peer.is_ipv4());
    same.any(|relayed| is_public(peer) || !is_public(relayed.ip()))
}

/// Says whether an address has a meaning everywhere (RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let shared = address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64;
            !(address.is_private() || address.is_loopback() || address.is_link_local() || shared)
        }
        IpAddr::V6(address) => {
            !(address.is_unique_local() || address.is_loopback() || address.is_unicast_link_local())
        }
    }
}
