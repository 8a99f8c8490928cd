//! Which addresses a WireGuard interface can be reached at: its own, those that STUN servers see, and those that TURN servers
//! relay to it (RFC 8445 §5.1.1).
//!
//! One for all peers of an interface, because they share its port. Knows no peer, no offer and no kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngExt;
use sha2::{Digest, Sha256};
use stun_types::attribute::XorMappedAddress;
use stun_types::message::{
    BINDING, Message, MessageClass, MessageType, MessageWrite, MessageWriteVec, TransactionId,
};

use crate::candidate::{Candidate, Kind, Network};
use crate::ice::LocalCandidate;
use crate::io::Packet;
use crate::offer::MAX_CANDIDATES;
use crate::relay::Relayed;
use crate::session::Random;

/// The candidates of one interface.
#[derive(Debug, Default)]
pub struct Gather {
    bases: Vec<SocketAddr>,
    offer_bases: bool,
    bindings: BTreeMap<(SocketAddr, SocketAddr), Binding>,
    transactions: BTreeMap<u128, (SocketAddr, SocketAddr)>,
    /// What servers that are no longer asked said of a base. It holds until another server says something: a peer may be
    /// using that address.
    former: BTreeMap<SocketAddr, BTreeSet<SocketAddr>>,
    refreshing: bool,
    relayed: Vec<Relayed>,
    /// Relays were asked for, and may yet come.
    relays_pending: bool,
}

/// Most host candidates, and as many server-reflexive ones: together what an offer carries.
const MAX_BASES: usize = 8;
/// Most relayed candidates: both families of the server in use, and of the one that it replaces.
const MAX_RELAYED: usize = 4;
/// A binding request is repeated after these delays (RFC 8489 §6.2.1, faster: a candidate that comes late is a slow path).
const RETRIES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];
/// A server that answered none of the requests is asked again after this.
const UNANSWERED: Duration = Duration::from_secs(30);
/// A NAT forgets a silent mapping after 30 s at the earliest that is common (RFC 4787 §4.3 asks for more).
const REFRESH: Duration = Duration::from_secs(25);

/// What one STUN server said of one base.
#[derive(Debug)]
struct Binding {
    mapped: Option<SocketAddr>,
    answered: Option<Instant>,
    /// Answered, or given up; a later round changes nothing about it.
    finished: bool,
    /// Requests sent in this round.
    sent: usize,
    transaction: u128,
    due: Option<Instant>,
    /// One more round was asked for, whether or not mappings are kept alive.
    again: bool,
}

/// A binding request to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The base.
    pub source: SocketAddr,
    /// The server.
    pub destination: SocketAddr,
    /// The STUN message.
    pub payload: Vec<u8>,
}

impl Gather {
    /// Makes the bases and servers exactly these; what is known of the others is kept.
    ///
    /// `offer_bases` tells whether bases are candidates themselves.
    pub fn set(
        &mut self,
        bases: &[SocketAddr],
        servers: &[SocketAddr],
        offer_bases: bool,
        now: Instant,
    ) {
        self.bases = bases.iter().copied().take(MAX_BASES).collect();
        self.offer_bases = offer_bases;
        let wanted: Vec<(SocketAddr, SocketAddr)> = self
            .bases
            .iter()
            .flat_map(|base| servers.iter().map(|server| (*base, *server)))
            .filter(|(base, server)| {
                base.is_ipv4() == server.is_ipv4()
                    && (server.ip().is_loopback() || !base.ip().is_loopback())
            })
            .collect();
        for ((base, server), binding) in &self.bindings {
            if let Some(mapped) = binding.mapped
                && !wanted.contains(&(*base, *server))
            {
                self.former.entry(*base).or_default().insert(mapped);
            }
        }
        self.former
            .retain(|base, _| wanted.iter().any(|(wanted, _)| wanted == base));
        self.bindings.retain(|key, _| wanted.contains(key));
        self.transactions.retain(|_, key| wanted.contains(key));
        for key in wanted {
            self.bindings.entry(key).or_insert(Binding {
                mapped: None,
                answered: None,
                finished: false,
                sent: 0,
                transaction: 0,
                due: Some(now),
                again: false,
            });
        }
    }

    /// Waits for relays from now on, or wants none any more.
    pub fn expect_relays(&mut self, wanted: bool) {
        self.relays_pending = wanted;
        if !wanted {
            self.relayed.clear();
        }
    }

    /// Makes the relayed addresses exactly these; `finished` when no more are to be waited for.
    pub fn set_relayed(&mut self, addresses: &[Relayed], finished: bool) {
        self.relayed = addresses.iter().copied().take(MAX_RELAYED).collect();
        self.relays_pending = !finished;
    }

    /// The relayed addresses.
    pub fn relayed(&self) -> &[Relayed] {
        &self.relayed
    }

    /// Tells whether any STUN server was asked and has answered; `None` when none was asked.
    pub fn is_answered(&self) -> Option<bool> {
        let asked = !self.bindings.is_empty();
        asked.then(|| self.bindings.values().any(|it| it.mapped.is_some()))
    }

    /// Tells whether every STUN server was given up: UDP does not get out.
    pub fn is_udp_blocked(&self) -> bool {
        !self.bindings.is_empty()
            && (self.bindings.values()).all(|it| it.finished && it.mapped.is_none())
    }

    /// Keeps mappings alive while somebody may still be told of them.
    pub fn set_refreshing(&mut self, refreshing: bool, now: Instant) {
        if refreshing && !self.refreshing {
            for binding in self.bindings.values_mut() {
                let due = binding.answered.map_or(now, |at| at + REFRESH);
                binding.due.get_or_insert(due.max(now));
            }
        }
        self.refreshing = refreshing;
    }

    /// Asks every server once more, at once. What is known stays until it answers something else.
    pub fn ask_again(&mut self, now: Instant) {
        for binding in self.bindings.values_mut() {
            binding.sent = 0;
            binding.again = true;
            binding.due = Some(now);
        }
    }

    /// The requests that are due.
    pub fn handle_timeout(&mut self, now: Instant, random: &mut Random) -> Vec<Request> {
        let mut requests = Vec::new();
        for ((base, server), binding) in &mut self.bindings {
            if binding.due.is_none_or(|due| due > now) {
                continue;
            }
            let new_round = binding.finished && (binding.sent == 0 || binding.sent > RETRIES.len());
            if new_round && !self.refreshing && !binding.again {
                binding.due = None;
                continue;
            }
            if new_round {
                binding.sent = 0;
            }
            if binding.sent == 0 {
                binding.again = false;
                self.transactions.remove(&binding.transaction);
                binding.transaction = random.random::<u128>() >> 32;
                self.transactions
                    .insert(binding.transaction, (*base, *server));
            }
            binding.due = Some(now + RETRIES.get(binding.sent).copied().unwrap_or(UNANSWERED));
            binding.sent += 1;
            binding.finished |= binding.sent > RETRIES.len();
            requests.push(Request {
                source: *base,
                destination: *server,
                payload: binding_request(binding.transaction),
            });
        }
        requests
    }

    /// Takes a STUN message; `None` when it answers no request of ours, else whether the candidates changed.
    ///
    /// An answer counts only from the server that was asked, to the base that asked.
    pub fn handle_packet(&mut self, packet: &Packet, now: Instant) -> Option<bool> {
        let message = Message::from_bytes(&packet.payload).ok()?;
        let transaction = u128::from(message.transaction_id());
        let key = *self.transactions.get(&transaction)?;
        if key != (packet.destination, packet.source) || !message.is_response() {
            return None;
        }
        let mapped = message
            .has_class(MessageClass::Success)
            .then(|| message.attribute::<XorMappedAddress>().ok())
            .flatten()
            .map(|mapped| mapped.addr(message.transaction_id()))
            .filter(|mapped| mapped.is_ipv4() == key.0.is_ipv4() && mapped.port() != 0)?;
        self.transactions.remove(&transaction);
        let due = self.refreshing.then_some(now + REFRESH);
        let binding = self.bindings.get_mut(&key)?;
        let replaced = self.former.remove(&key.0).is_some();
        let news = replaced || !binding.finished || binding.mapped != Some(mapped);
        *binding = Binding {
            mapped: Some(mapped),
            answered: Some(now),
            finished: true,
            sent: 0,
            transaction: 0,
            due,
            again: false,
        };
        Some(news)
    }

    /// When [`Gather::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.bindings
            .values()
            .filter_map(|binding| binding.due)
            .min()
    }

    /// Tells whether every server has answered or was given up.
    pub fn is_finished(&self) -> bool {
        !self.relays_pending && self.bindings.values().all(|binding| binding.finished)
    }

    /// The candidates for the peers, best first.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.locals()
            .iter()
            .filter(|local| self.offer_bases || local.kind != Kind::Host)
            .map(|local| self.candidate(local))
            .collect()
    }

    /// The same for the checks; bases are always among them, because checks leave from them.
    pub fn locals(&self) -> Vec<LocalCandidate> {
        let mut locals: Vec<LocalCandidate> = self
            .bases
            .iter()
            .map(|base| LocalCandidate {
                kind: Kind::Host,
                address: *base,
                base: *base,
            })
            .collect();
        let present = (self.bindings.iter())
            .filter_map(|((base, _), binding)| Some((*base, binding.mapped?)));
        let former = (self.former.iter())
            .flat_map(|(base, mapped)| mapped.iter().map(|mapped| (*base, *mapped)));
        let mut reflexive: Vec<LocalCandidate> = present
            .chain(former)
            .filter(|(_, mapped)| !self.bases.contains(mapped))
            .map(|(base, address)| LocalCandidate {
                kind: Kind::Srflx,
                address,
                base,
            })
            .collect();
        reflexive.sort();
        reflexive.dedup();
        let room = MAX_CANDIDATES - locals.len() - self.relayed.len();
        locals.extend(reflexive.into_iter().take(room.min(MAX_BASES)));
        locals.extend(self.relayed.iter().map(|relayed| LocalCandidate {
            kind: Kind::Relay,
            address: relayed.address,
            base: relayed.address,
        }));
        locals
    }

    fn candidate(&self, local: &LocalCandidate) -> Candidate {
        let index = match local.kind {
            Kind::Relay => self
                .relayed
                .iter()
                .position(|it| it.address == local.address),
            _ => self.bases.iter().position(|base| *base == local.base),
        };
        let reflexive = matches!(local.kind, Kind::Srflx | Kind::Prflx);
        Candidate {
            kind: local.kind,
            foundation: foundation(local.kind, local.base.ip()),
            component: 1,
            network: Network::udp(&local.address.ip()),
            priority: priority(local.kind, index.unwrap_or(MAX_BASES)),
            address: local.address.ip(),
            port: local.address.port(),
            related_address: reflexive.then(|| local.base.ip()),
            related_port: reflexive.then(|| local.base.port()),
            tcp_type: None,
        }
    }
}

/// Equal for candidates of one kind and base (RFC 8445 §5.1.1.3).
fn foundation(kind: Kind, base: IpAddr) -> String {
    let digest = Sha256::digest(format!("{} {base}", kind.as_str()));
    hex::encode(&digest[..4])
}

/// RFC 8445 §5.1.2.1 with the recommended type preferences; an earlier base is preferred.
pub(crate) fn priority(kind: Kind, index: usize) -> u32 {
    let kind_preference: u32 = match kind {
        Kind::Host => 126,
        Kind::Prflx => 110,
        Kind::Srflx => 100,
        Kind::Relay => 0,
    };
    let local_preference = u32::from(u16::MAX) - u32::try_from(index).unwrap_or(0);
    (kind_preference << 24) + (local_preference << 8) + 255
}

fn binding_request(transaction: u128) -> Vec<u8> {
    Message::builder(
        MessageType::from_class_method(MessageClass::Request, BINDING),
        TransactionId::from(transaction),
        MessageWriteVec::new(),
    )
    .finish()
}

#[cfg(test)]
mod tests;
