//! The agent's side of the contract, which serves a fixed [`Model`] and takes the name on the bus.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;
use wice_bus::Error;
use zbus::connection::Builder;
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant, Variant, interface};

use crate::model::Model;

type Dictionary = HashMap<&'static str, Variant<'static>>;
type Candidate = (String, String, u16, String);

/// Serves the model until the connection is dropped; `read` is told of each look at the agent's version, with which every reading
/// of the whole begins.
pub(crate) async fn serve(address: &str, model: &Model, read: Arc<Notify>) -> Connection {
    let connection = Builder::address(address)
        .build()
        .await
        .expect("the bus takes the service");
    let server = connection.object_server();
    let manager = Manager {
        model: model.clone(),
        read,
    };
    at(server.at(wice_bus::path::ROOT, manager).await);
    at(server
        .at(wice_bus::path::ROOT, zbus::fdo::ObjectManager)
        .await);
    for interface in &model.snapshot.interfaces {
        let path = wice_bus::path::interface(&interface.name);
        at(server.at(path, Interface(interface.clone())).await);
        for peer in &interface.peers {
            let path = ObjectPath::try_from(peer.path.clone()).expect("the model has good paths");
            let peer = Peer {
                peer: peer.clone(),
                model: model.clone(),
            };
            at(server.at(path, peer).await);
        }
    }
    connection
        .request_name(wice_bus::SERVICE)
        .await
        .expect("nobody else has the name");
    connection
}

/// What was there before comes back, and nothing is to have been.
fn at<T>(before: zbus::Result<Option<T>>) {
    let before = before.expect("the object is served");
    assert!(before.is_none(), "two objects of a path");
}

struct Manager {
    model: Model,
    read: Arc<Notify>,
}

#[interface(name = "org.wice.Wice1.Manager")]
impl Manager {
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        self.read.notify_one();
        self.model.snapshot.version.clone()
    }

    #[zbus(property)]
    fn backends(&self) -> Vec<(String, u32, String)> {
        let backends = self.model.snapshot.backends.iter();
        backends
            .map(|it| (it.url.clone(), it.state.number(), it.error.clone()))
            .collect()
    }

    #[zbus(property)]
    fn relays(&self) -> Vec<(String, u32, String)> {
        let relays = self.model.snapshot.relays.iter();
        relays
            .map(|it| (it.url.clone(), it.state.number(), it.error.clone()))
            .collect()
    }

    fn reload(&self) -> Result<(), Error> {
        let refusal = self.model.refusal.clone();
        refusal.map_or(Ok(()), |it| Err(Error::InvalidArgument(it)))
    }

    fn net_check(&self, _options: HashMap<String, OwnedVariant>) -> Dictionary {
        self.model.check.clone().into_dictionary()
    }
}

struct Interface(wice_bus::Interface);

#[interface(name = "org.wice.Wice1.Interface")]
impl Interface {
    #[zbus(property)]
    fn name(&self) -> String {
        self.0.name.clone()
    }

    #[zbus(property)]
    fn public_key(&self) -> String {
        self.0.public_key.clone()
    }

    #[zbus(property)]
    fn listen_port(&self) -> u16 {
        self.0.listen_port
    }

    #[zbus(property)]
    fn firewall_mark(&self) -> u32 {
        self.0.firewall_mark
    }

    #[zbus(property)]
    fn managed(&self) -> bool {
        self.0.managed
    }

    #[zbus(property)]
    fn peers(&self) -> Vec<OwnedObjectPath> {
        let path = |it: &wice_bus::Peer| OwnedObjectPath::try_from(it.path.clone());
        self.0.peers.iter().filter_map(|it| path(it).ok()).collect()
    }
}

struct Peer {
    peer: wice_bus::Peer,
    model: Model,
}

#[interface(name = "org.wice.Wice1.Peer")]
impl Peer {
    #[zbus(property)]
    fn public_key(&self) -> String {
        self.peer.public_key.clone()
    }

    #[zbus(property)]
    fn name(&self) -> String {
        self.peer.name.clone()
    }

    #[zbus(property)]
    fn state(&self) -> u32 {
        self.peer.state.number()
    }

    #[zbus(property)]
    fn state_reason(&self) -> (u32, u32) {
        (self.peer.state.number(), self.peer.reason.number())
    }

    #[zbus(property)]
    fn path(&self) -> String {
        self.peer.packet_path.clone()
    }

    #[zbus(property)]
    fn endpoint(&self) -> String {
        self.peer.endpoint.clone()
    }

    #[zbus(property)]
    fn local_candidate(&self) -> Candidate {
        candidate(self.peer.local_candidate.as_ref())
    }

    #[zbus(property)]
    fn remote_candidate(&self) -> Candidate {
        candidate(self.peer.remote_candidate.as_ref())
    }

    #[zbus(property)]
    fn round_trip_time(&self) -> u64 {
        self.peer.rtt_us
    }

    #[zbus(property)]
    fn latest_handshake(&self) -> u64 {
        self.peer.latest_handshake
    }

    #[zbus(property)]
    fn allowed_ips(&self) -> Vec<String> {
        self.peer.allowed_ips.clone()
    }

    #[zbus(property)]
    fn rx_bytes(&self) -> u64 {
        self.peer.rx_bytes
    }

    #[zbus(property)]
    fn tx_bytes(&self) -> u64 {
        self.peer.tx_bytes
    }

    #[zbus(property)]
    fn since(&self) -> u64 {
        self.peer.since
    }

    #[zbus(property)]
    fn restarts(&self) -> u32 {
        self.peer.restarts
    }

    fn restart(&self, _options: HashMap<String, OwnedVariant>) -> Result<(), Error> {
        let refusal = self.model.refusal.clone();
        refusal.map_or(Ok(()), |it| Err(Error::NotAuthorized(it)))
    }

    fn explain(&self) -> Dictionary {
        self.model.explanation(&self.peer).into_dictionary()
    }
}

fn candidate(candidate: Option<&wice_bus::Candidate>) -> Candidate {
    let it = candidate.cloned().unwrap_or_default();
    (it.kind, it.address, it.port, it.network)
}
