//! Relays: what the core wants of them, and what they tell.

use tracing::debug;
use wice_core::server::IceServer;

use super::Driver;
use crate::net::{RelayEvent, RelayState, RelayStatus};

impl Driver {
    /// Follows the servers of the configuration and those that backends hand out.
    pub(super) fn servers_changed(&mut self) {
        let servers: Vec<IceServer> =
            [self.servers.as_slice(), &self.signaling.ice_servers()].concat();
        self.resolver.resolve(&servers);
        self.relays.set_servers(&servers);
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
        let statuses: Vec<RelayStatus> = self.relays.statuses();
        let connected = statuses
            .iter()
            .filter(|status| status.state == RelayState::Connected)
            .count();
        debug!(?statuses, "{connected} TURN servers relay");
    }
}
