//! Relays: what the core wants of them, and what they tell.

use wice_core::server::IceServer;

use super::Driver;
use crate::net::{RelayEvent, RelayState};

impl Driver {
    /// Follows the servers of the configuration and those that backends hand out.
    pub(super) fn servers_changed(&mut self) {
        let servers = self.known_servers();
        self.resolver.resolve(&servers);
        self.relays.set_servers(&servers);
        self.show_relays();
    }

    /// The servers of the configuration, and those that backends hand out.
    pub(super) fn known_servers(&self) -> Vec<IceServer> {
        [self.servers.as_slice(), &self.signaling.ice_servers()].concat()
    }

    /// Tells the core, or shows, what the relays tell.
    pub(super) fn relay_event(&mut self, event: RelayEvent) {
        match event {
            RelayEvent::Input(input) => self.input(input),
            RelayEvent::Statuses => self.show_relays(),
        }
    }

    /// Shows how the TURN servers fare.
    pub(super) fn show_relays(&self) {
        let rows = self.relays.statuses().into_iter().map(|status| {
            (
                status.url.to_string(),
                shown(status.state).number(),
                status.error.unwrap_or_default(),
            )
        });
        self.bus.relays(rows.collect());
    }
}

pub(super) const fn shown(state: RelayState) -> wice_bus::RelayState {
    match state {
        RelayState::Connecting => wice_bus::RelayState::Connecting,
        RelayState::Standby => wice_bus::RelayState::Standby,
        RelayState::Connected => wice_bus::RelayState::Up,
        RelayState::Failed => wice_bus::RelayState::Down,
    }
}
