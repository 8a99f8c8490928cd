//! What users see of a peer: its state, its path, and every change of them.
//!
//! Decides nothing.

use std::time::{Duration, Instant};

use super::Peer;
use crate::candidate::Kind;
use crate::io::{Change, Output};
use crate::mesh::context::Context;
use crate::status::{PathKind, PeerStatus, Reason, State};

/// WireGuard answers data within KEEPALIVE_TIMEOUT (10 s), so twice that without a packet is silence.
const ALIVE: Duration = Duration::from_secs(20);

impl Peer {
    /// The peer as it is shown.
    pub(in crate::mesh) fn status(&self, name: String, now: Instant) -> PeerStatus {
        let pair = self.negotiation.as_ref().and_then(|it| it.selected());
        PeerStatus {
            public_key: self.id.key,
            name,
            state: self.state,
            reason: self.reason,
            path: self.path(now),
            endpoint: self.kernel.endpoint,
            local_candidate: pair.map(|(local, _, _)| local),
            remote_candidate: pair.map(|(_, remote, _)| remote),
            round_trip_time: pair.and_then(|(_, _, time)| time),
            latest_handshake: self.kernel.latest_handshake,
            allowed_ips: self.kernel.allowed_ips.clone(),
            rx_bytes: self.kernel.rx_bytes,
            tx_bytes: self.kernel.tx_bytes,
            since: self.since,
            restarts: self.restarts,
        }
    }

    pub(super) fn path(&self, now: Instant) -> PathKind {
        let Some(negotiation) = &self.negotiation else {
            return PathKind::None;
        };
        match negotiation.selected() {
            Some((local, remote, _)) if [local.kind, remote.kind].contains(&Kind::Relay) => {
                PathKind::Relay
            }
            Some(_) => PathKind::Direct,
            None if negotiation.path.wanted().is_some() && self.is_alive(now) => {
                negotiation.shown_way()
            }
            None => PathKind::None,
        }
    }

    pub(super) fn is_alive(&self, now: Instant) -> bool {
        self.alive.is_some_and(|at| now < at + ALIVE)
    }

    pub(super) fn enter(&mut self, state: State, reason: Reason, cx: &Context<'_>) {
        if (state, reason) == (self.state, self.reason) {
            return;
        }
        self.dirty = true;
        self.reason = reason;
        if state != self.state {
            self.transitions.push((self.state, state, reason));
            self.state = state;
            self.since = cx.now.unix;
        }
    }

    pub(super) fn report(&mut self, cx: &mut Context<'_>) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let interface = || cx.interface.to_owned();
        let peer = self.id.key;
        let new = self.path(cx.now.instant);
        let old = std::mem::replace(&mut self.shown_path, new);
        cx.outputs.push_back(Output::Changed(Change::Peer {
            interface: interface(),
            peer,
        }));
        for (old, new, reason) in self.transitions.drain(..) {
            cx.outputs.push_back(Output::Changed(Change::State {
                interface: interface(),
                peer,
                old,
                new,
                reason,
            }));
        }
        if old != new {
            cx.outputs.push_back(Output::Changed(Change::Path {
                interface: interface(),
                peer,
                old,
                new,
            }));
        }
    }
}
