//! What the agent tells others of itself: objects on D-Bus, a line in the service manager.

use wice_core::io::Change;

use super::{Driver, now};
use crate::signaling::BackendState;
use crate::systemd;

impl Driver {
    /// Shows what changed in the core.
    pub(super) fn show(&mut self, change: Change) {
        match change {
            Change::Interface(name) => {
                if let Some(status) = self.mesh.interface(&name) {
                    self.bus.interface(status);
                }
            }
            Change::InterfaceGone(name) => {
                self.metrics.interface_gone(&name);
                self.bus.interface_gone(&name);
            }
            Change::Peer { interface, peer } => {
                if let Some(status) = self.mesh.peer(&interface, &peer, now()) {
                    self.bus.peer(&interface, status);
                }
            }
            Change::PeerGone { interface, peer } => {
                self.metrics.peer_gone(&interface, &peer);
                self.bus.peer_gone(&interface, &peer);
            }
            Change::State {
                interface,
                peer,
                old,
                new,
                reason,
            } => {
                self.metrics.state_changed(&interface, &peer, new);
                self.bus.state_changed(&interface, &peer, new, old, reason);
            }
            Change::Path {
                interface,
                peer,
                old,
                new,
            } => self.bus.path_changed(&interface, &peer, new, old),
        }
    }

    /// Shows how the backends fare.
    pub(super) fn show_backends(&self) {
        let statuses = self.signaling.statuses();
        let up = statuses
            .iter()
            .filter(|status| status.state == BackendState::Connected)
            .count();
        systemd::status(&format!(
            "{up} of {} signalling backends connected",
            statuses.len()
        ));
        let rows = statuses
            .into_iter()
            .map(|status| {
                (
                    status.url,
                    shown(status.state).number(),
                    status.error.unwrap_or_default(),
                )
            })
            .collect();
        self.bus.backends(rows);
    }
}

pub(super) const fn shown(state: BackendState) -> wice_bus::BackendState {
    match state {
        BackendState::Connecting => wice_bus::BackendState::Connecting,
        BackendState::Connected => wice_bus::BackendState::Up,
        BackendState::Failed => wice_bus::BackendState::Down,
    }
}
