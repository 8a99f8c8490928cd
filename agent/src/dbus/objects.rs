//! The objects on the bus: getters over what was published, and methods that ask the driver.
//!
//! No object is ever locked for writing, so a slow answer of the driver delays nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use wice_bus::Error;
use wice_core::key::PublicKey;
use wice_core::status::{InterfaceStatus, PeerStatus};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant, interface};

use super::authority::{self, Action};
use super::model::Model;
use super::{Command, options, properties};

/// How long a caller waits for the driver; far beyond what it needs, below the 25 s after which D-Bus clients give up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A value that the publishing task writes and the getters read.
pub(super) struct Cell<T>(Arc<Mutex<T>>);

impl<T> Clone for Cell<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Cell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("nobody panics while holding a value")
    }
}

/// The root object.
pub(super) struct Manager {
    pub(super) version: &'static str,
    pub(super) backends: Cell<Vec<(String, u32, String)>>,
    pub(super) relays: Cell<Vec<(String, u32, String)>>,
    pub(super) model: Arc<Model>,
    pub(super) commands: mpsc::Sender<Command>,
}

#[interface(name = "org.wice.Wice1.Manager")]
impl Manager {
    /// Version of the agent.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        self.version.to_owned()
    }

    /// URL without secrets, state and last error of every signalling backend.
    #[zbus(property)]
    fn backends(&self) -> Vec<(String, u32, String)> {
        self.backends.lock().clone()
    }

    /// URL, state and last error of every relay server.
    #[zbus(property)]
    fn relays(&self) -> Vec<(String, u32, String)> {
        self.relays.lock().clone()
    }

    /// Reads the configuration again.
    async fn reload(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        authority::require(connection, &header, Action::Reload).await?;
        ask(&self.commands, |reply| Command::Reload { reply })
            .await?
            .map_err(Error::InvalidArgument)
    }

    /// The object of the peer with this public key (base64).
    #[zbus(out_args("path"))]
    fn get_peer(&self, interface: &str, key: &str) -> Result<OwnedObjectPath, Error> {
        let peer: PublicKey = key
            .parse()
            .map_err(|error| Error::InvalidArgument(format!("{key:?}: {error}")))?;
        if !self.model.has_interface(interface) {
            return Err(Error::UnknownInterface(format!(
                "there is no WireGuard interface {interface:?}"
            )));
        }
        if !self.model.has_peer(interface, &peer) {
            return Err(unknown_peer(interface, &peer));
        }
        Ok(wice_bus::path::peer(interface, peer.as_bytes()))
    }

    /// What this network does to UDP and who answers in it, after some seconds. Option: Timeout (u, milliseconds).
    /// Verdict (u), Findings (au), Families and Servers (aa{sv}), Backends (a(sus)).
    #[zbus(out_args("result"))]
    async fn net_check(
        &self,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<HashMap<&'static str, Variant<'static>>, Error> {
        let patience = options::check_timeout(options)?;
        let command = |reply| Command::NetCheck { patience, reply };
        let check = ask_within(patience + ANSWER_TIMEOUT, &self.commands, command).await?;
        let check = check.ok_or_else(|| {
            Error::Busy("another check of the network is running; ask again when it has ended, in some seconds".to_owned())
        })?;
        Ok(check.into_dictionary())
    }
}

/// A WireGuard interface.
pub(super) struct Interface {
    pub(super) status: Cell<InterfaceStatus>,
    pub(super) peers: Cell<Vec<OwnedObjectPath>>,
}

#[interface(name = "org.wice.Wice1.Interface")]
impl Interface {
    /// Name of the interface.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.status.lock().name.clone()
    }

    /// Public key in base64; empty without a private key.
    #[zbus(property)]
    fn public_key(&self) -> String {
        properties::public_key(&self.status.lock())
    }

    /// UDP port of WireGuard; 0 when it is not bound.
    #[zbus(property)]
    fn listen_port(&self) -> u16 {
        self.status.lock().listen_port
    }

    /// SO_MARK of outgoing packets; 0 when off.
    #[zbus(property)]
    fn firewall_mark(&self) -> u32 {
        self.status.lock().fwmark
    }

    /// Whether the agent negotiates for its peers.
    #[zbus(property)]
    fn managed(&self) -> bool {
        self.status.lock().managed
    }

    /// The objects of its peers.
    #[zbus(property)]
    fn peers(&self) -> Vec<OwnedObjectPath> {
        self.peers.lock().clone()
    }
}

/// A peer of an interface.
pub(super) struct Peer {
    pub(super) interface: String,
    pub(super) status: Cell<PeerStatus>,
    pub(super) commands: mpsc::Sender<Command>,
}

#[interface(name = "org.wice.Wice1.Peer")]
impl Peer {
    /// Public key in base64.
    #[zbus(property(emits_changed_signal = "const"))]
    fn public_key(&self) -> String {
        self.status.lock().public_key.to_string()
    }

    /// Name from the configuration; empty when none.
    #[zbus(property)]
    fn name(&self) -> String {
        self.status.lock().name.clone()
    }

    /// What the session is doing.
    #[zbus(property)]
    fn state(&self) -> u32 {
        self.status.lock().state as u32
    }

    /// The state, and why.
    #[zbus(property)]
    fn state_reason(&self) -> (u32, u32) {
        properties::state_reason(&self.status.lock())
    }

    /// How packets travel: none, direct or relay.
    #[zbus(property)]
    fn path(&self) -> String {
        self.status.lock().path.as_str().to_owned()
    }

    /// WireGuard's endpoint; empty when none.
    #[zbus(property)]
    fn endpoint(&self) -> String {
        properties::endpoint(&self.status.lock())
    }

    /// Our candidate of the selected pair: type, address, port, network.
    #[zbus(property)]
    fn local_candidate(&self) -> (String, String, u16, String) {
        properties::candidate(self.status.lock().local_candidate.as_ref())
    }

    /// The peer's candidate of the selected pair: type, address, port, network.
    #[zbus(property)]
    fn remote_candidate(&self) -> (String, String, u16, String) {
        properties::candidate(self.status.lock().remote_candidate.as_ref())
    }

    /// Round-trip time of the selected pair in microseconds; 0 when unknown.
    #[zbus(property(emits_changed_signal = "false"))]
    fn round_trip_time(&self) -> u64 {
        properties::round_trip_time(&self.status.lock())
    }

    /// Unix time of WireGuard's latest handshake in seconds; 0 for never.
    #[zbus(property(emits_changed_signal = "false"))]
    fn latest_handshake(&self) -> u64 {
        self.status.lock().latest_handshake.as_secs()
    }

    /// Addresses that WireGuard sends to the peer, as address/prefix.
    #[zbus(property)]
    fn allowed_ips(&self) -> Vec<String> {
        properties::allowed_ips(&self.status.lock())
    }

    /// Bytes received through the tunnel.
    #[zbus(property(emits_changed_signal = "false"))]
    fn rx_bytes(&self) -> u64 {
        self.status.lock().rx_bytes
    }

    /// Bytes sent through the tunnel.
    #[zbus(property(emits_changed_signal = "false"))]
    fn tx_bytes(&self) -> u64 {
        self.status.lock().tx_bytes
    }

    /// Unix time of the last change of state in seconds.
    #[zbus(property)]
    fn since(&self) -> u64 {
        self.status.lock().since.as_secs()
    }

    /// How often the session was started anew.
    #[zbus(property)]
    fn restarts(&self) -> u32 {
        self.status.lock().restarts
    }

    /// Starts the session anew; the present path stays until a new one is found.
    async fn restart(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let peer = self.status.lock().public_key;
        let action = Action::Restart {
            interface: &self.interface,
            peer: &peer.to_string(),
        };
        authority::require(connection, &header, action).await?;
        options::none(&options)?;
        let command = |reply| Command::Restart {
            interface: self.interface.clone(),
            peer,
            reply,
        };
        if ask(&self.commands, command).await? {
            Ok(())
        } else {
            Err(unknown_peer(&self.interface, &peer))
        }
    }

    /// Why the path is as it is: State and Reason (u), LocalCandidates and RemoteCandidates (a(ssqs)), Findings (au), and Pairs
    /// (a((ssqs)(ssqs)uuuu): both ends, state, checks sent, answered, and received from the peer).
    #[zbus(out_args("explanation"))]
    async fn explain(&self) -> Result<HashMap<&'static str, Variant<'static>>, Error> {
        let peer = self.status.lock().public_key;
        let command = |reply| Command::Explain {
            interface: self.interface.clone(),
            peer,
            reply,
        };
        let explanation = ask(&self.commands, command).await?;
        let explanation = explanation.ok_or_else(|| unknown_peer(&self.interface, &peer))?;
        Ok(properties::explanation(&explanation).into_dictionary())
    }

    /// The state changed; sent after the properties.
    #[zbus(signal, name = "StateChanged")]
    pub(super) async fn announce_state(
        emitter: &SignalEmitter<'_>,
        new: u32,
        old: u32,
        reason: u32,
    ) -> zbus::Result<()>;

    /// The path changed; sent after the properties.
    #[zbus(signal, name = "PathChanged")]
    pub(super) async fn announce_path(
        emitter: &SignalEmitter<'_>,
        new: &str,
        old: &str,
    ) -> zbus::Result<()>;
}

/// Hands a command to the driver and waits for its answer.
async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, Error> {
    ask_within(ANSWER_TIMEOUT, commands, command).await
}

/// As [`ask`], with other patience.
async fn ask_within<T>(
    patience: Duration,
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    let exchange = async {
        commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(patience, exchange).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Error::Busy("the agent is stopping".to_owned())),
        Err(_) => Err(Error::Busy(format!(
            "the agent did not answer within {} s; it may still do it",
            patience.as_secs()
        ))),
    }
}

fn unknown_peer(interface: &str, peer: &PublicKey) -> Error {
    Error::UnknownPeer(format!("interface {interface:?} has no peer {peer}"))
}
