//! What the relays are asked to do for a whole interface: an allocation, and permission for the peers' addresses.
//!
//! Which peer goes by a relay is decided by the peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Alarm, Mesh};
use crate::io::{Now, Output};
use crate::key::PublicKey;
use crate::relay::{RelayOrder, Relayed};

/// What one interface has ordered.
#[derive(Debug, Default)]
pub(super) struct Relays {
    /// SO_MARK of the allocation that was asked for; `None` when none is.
    wanted: Option<u32>,
    /// Addresses that may send through the allocation, and how many peers want each.
    permits: BTreeMap<IpAddr, u32>,
    permitted: Option<Instant>,
    pub(super) changed: bool,
}

/// Between two orders of permissions: while many peers start, each order carries the addresses of several.
const PERMIT_INTERVAL: Duration = Duration::from_millis(20);
/// Most addresses that are let through one allocation.
const MAX_PERMITS: usize = 4_096;

impl Relays {
    /// Exchanges what one peer wants.
    pub(super) fn exchange(&mut self, old: &BTreeSet<IpAddr>, new: &BTreeSet<IpAddr>) {
        for address in new.difference(old) {
            let count = self.permits.entry(*address).or_default();
            *count += 1;
            self.changed |= *count == 1;
        }
        for address in old.difference(new) {
            if let Some(count) = self.permits.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    self.permits.remove(address);
                    self.changed = true;
                }
            }
        }
    }

    /// The order that is due now; else when it is.
    fn permit(
        &mut self,
        interface: u32,
        relayed: &[Relayed],
        now: Instant,
    ) -> Result<RelayOrder, Instant> {
        let due = self.permitted.map_or(now, |at| at + PERMIT_INTERVAL);
        if now < due {
            return Err(due);
        }
        self.permitted = Some(now);
        self.changed = false;
        let reached =
            |peer: &IpAddr| (relayed.iter()).any(|it| Relayed::reaches(it.address.ip(), *peer));
        let peers = (self.permits.keys().copied())
            .filter(reached)
            .take(MAX_PERMITS)
            .collect();
        Ok(RelayOrder::Permit { interface, peers })
    }
}

impl Mesh {
    /// Asks for an allocation, or gives it back; `peers` are those that the interface has.
    pub(super) fn allocate<'a>(
        &mut self,
        index: u32,
        mut peers: impl Iterator<Item = &'a PublicKey>,
    ) {
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return;
        };
        let settings = &self.settings;
        let wanted = interface.is_active()
            && settings.wants_relays()
            && peers.any(|peer| settings.manages_peer(peer));
        let fwmark = interface.fwmark;
        let wanted = wanted.then_some(fwmark);
        let old = std::mem::replace(&mut interface.relays.wanted, wanted);
        if old == wanted {
            return;
        }
        if old.is_some() != wanted.is_some() {
            interface.gather.expect_relays(wanted.is_some());
        }
        self.outputs.push_back(Output::Relay(RelayOrder::Allocate {
            interface: index,
            wanted: wanted.is_some(),
            fwmark,
        }));
    }

    /// Takes the addresses that are relayed to an interface.
    pub(super) fn relayed(&mut self, index: u32, addresses: &[Relayed], finished: bool, now: Now) {
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return;
        };
        if interface.relays.wanted.is_none() {
            return;
        }
        interface.gather.set_relayed(addresses, finished);
        // A new allocation knows none of the permissions of the one before.
        interface.relays.changed |= !addresses.is_empty();
        let position = self.outputs.len();
        self.permit(index, position, now);
        self.gathered(index, now);
    }

    /// Orders permissions where they changed and something is allocated, ahead of what they are for.
    pub(super) fn permit(&mut self, index: u32, position: usize, now: Now) {
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return;
        };
        if !interface.relays.changed || interface.gather.relayed().is_empty() {
            return;
        }
        let relayed = interface.gather.relayed();
        match interface.relays.permit(index, relayed, now.instant) {
            Ok(order) => self.outputs.insert(position, Output::Relay(order)),
            Err(due) => self.alarms.set(Alarm::Permit(index), Some(due)),
        }
    }

    /// Forgets what an interface that is gone has ordered.
    pub(super) fn deallocate(&mut self, index: u32) {
        self.alarms.set(Alarm::Permit(index), None);
        self.allocate(index, std::iter::empty());
    }
}
