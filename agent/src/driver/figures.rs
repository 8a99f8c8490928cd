//! Counts what the agent has, when Prometheus asks.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use wice_core::offer::Rejection;

use super::{Driver, now};
use crate::metrics::{BackendFigures, Figures};
use crate::signaling::BackendState;

impl Driver {
    /// The agent in numbers; every series that can be foreseen is there from the start.
    pub(super) fn figures(&self) -> Figures {
        let now = now();
        let states = wice_bus::State::ALL.iter();
        let relays = wice_bus::RelayState::ALL.iter();
        let mut figures = Figures {
            peers: states.map(|state| (state.word(), 0)).collect(),
            relays: relays.map(|state| (state.word(), 0)).collect(),
            paths: BTreeMap::from([(("none", ""), 0)]),
            dropped: self.dropped(),
            ..Figures::default()
        };
        for interface in self.mesh.interfaces() {
            *figures.interfaces.entry(interface.managed).or_default() += 1;
            for key in self.mesh.peers(&interface.name) {
                let Some(peer) = self.mesh.peer(&interface.name, &key, now) else {
                    continue;
                };
                let state = wice_bus::State::from(peer.state as u32);
                *figures.peers.entry(state.word()).or_default() += 1;
                let network = peer.local_candidate.map(|local| local.network.as_str());
                let path = (peer.path.as_str(), network.unwrap_or_default());
                *figures.paths.entry(path).or_default() += 1;
            }
        }
        for (reason, count) in self.mesh.restarts() {
            let reason = wice_bus::Reason::from(*reason as u32).word();
            *figures.restarts.entry(reason).or_default() += count;
        }
        for status in self.relays.statuses() {
            let state = super::relays::shown(status.state).word();
            *figures.relays.entry(state).or_default() += 1;
        }
        let traffic = self.relays.traffic();
        figures.relay_sent = traffic.sent.load(Ordering::Relaxed);
        figures.relay_received = traffic.received.load(Ordering::Relaxed);
        let counts = self.signaling.counts().into_iter();
        figures.backends = counts
            .zip(self.signaling.statuses())
            .map(|(counts, status)| BackendFigures {
                url: status.url,
                up: status.state == BackendState::Connected,
                failures: counts.failures,
                messages: [
                    ("sent", counts.sent),
                    ("refused", counts.refused),
                    ("received", counts.received),
                    ("ignored", counts.ignored),
                ],
            })
            .collect();
        figures
    }

    fn dropped(&self) -> BTreeMap<&'static str, u64> {
        let mut dropped = BTreeMap::from([("stray-packet", self.mesh.strays())]);
        for rejection in Rejection::ALL {
            let count = self.mesh.rejected().get(&rejection).copied();
            dropped.insert(rejection.word(), count.unwrap_or_default());
        }
        dropped
    }
}
