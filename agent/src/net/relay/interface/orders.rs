//! What the core orders of one interface's relays.

use std::net::SocketAddr;
use std::rc::Rc;

use tracing::{debug, warn};
use wice_core::key::PublicKey;
use wice_core::relay::{RelayOrder, Route as Way};

use super::Interface;
use crate::net::relay::News;
use crate::net::relay::route::Route;

impl Interface {
    /// Does what the core wants.
    pub(super) fn relay(&mut self, order: RelayOrder) {
        match order {
            RelayOrder::Allocate { fwmark, .. } => {
                // It is answered each time.
                self.told = None;
                self.ground.fwmark = fwmark;
                for link in self.links() {
                    link.set_mark(fwmark);
                }
            }
            RelayOrder::Permit { peers, .. } => {
                self.permitted = peers;
                for link in self.links() {
                    link.with_client(|client, now| client.permit(&self.permitted, now));
                }
            }
            RelayOrder::Transmit {
                relayed,
                destination,
                payload,
                ..
            } => match self.link(relayed) {
                Some(link) => link.indicate(destination, &payload),
                None => debug!(%relayed, "a check is for an allocation that is gone"),
            },
            RelayOrder::Open {
                peer, route, port, ..
            } => {
                let endpoint = self.open(peer, route, port);
                self.say(News::Route {
                    interface: self.ground.interface,
                    peer,
                    endpoint,
                });
            }
            RelayOrder::HandOver {
                peer,
                endpoint,
                base,
                ..
            } => {
                let handed = self
                    .routes
                    .get(&peer)
                    .map(|route| route.hand_over(endpoint, base));
                if let Some(Err(error)) = handed {
                    warn!(%peer, "packets that still come by the relay will be lost: no raw socket: {error}");
                }
            }
            RelayOrder::Close { peer, .. } => {
                self.routes.remove(&peer);
            }
        }
    }

    /// Opens a way, or moves one that is open.
    fn open(&mut self, peer: PublicKey, way: Way, port: u16) -> Option<SocketAddr> {
        let link = Rc::clone(self.link(way.relayed)?);
        if !self.routes.contains_key(&peer) {
            match Route::open(port, way.remote, Rc::clone(&self.ground.room)) {
                Ok(route) => {
                    self.routes.insert(peer, route);
                }
                Err(error) => {
                    warn!(%peer, "cannot open a loopback address for a relayed peer: {error}; is the loopback up?");
                    return None;
                }
            }
        }
        let route = self.routes.get(&peer)?;
        route.lead(&link, way, port);
        Some(route.address())
    }
}
