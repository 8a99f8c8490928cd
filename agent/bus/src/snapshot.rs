//! Everything that the agent shows, as one `GetManagedObjects` call returns it.
//!
//! A property that is missing (an older agent) reads as empty or zero; one that is unknown (a newer agent) is passed over.

use std::collections::{BTreeMap, HashMap};

use zbus::fdo::{ManagedObjects, ObjectManagerProxy};
use zbus::proxy::{CacheProperties, MethodFlags};
use zbus::{Connection, OwnedVariant, Proxy};

use crate::path;
use crate::{BackendState, ManagerProxy, Reason, RelayState, State};

/// The agent, its interfaces and their peers at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Version of the agent.
    pub version: String,
    /// Signalling backends in the order of the configuration.
    pub backends: Vec<Backend>,
    /// Relay servers, those of the configuration first.
    pub relays: Vec<Relay>,
    /// Interfaces by name.
    pub interfaces: Vec<Interface>,
}

/// A signalling backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backend {
    /// Its URL without secrets.
    pub url: String,
    /// What it is doing.
    pub state: BackendState,
    /// Its last error; empty when none.
    pub error: String,
}

/// A relay server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relay {
    /// Its URL, which holds no secret.
    pub url: String,
    /// What it is doing.
    pub state: RelayState,
    /// What went wrong last; empty when nothing did.
    pub error: String,
}

/// A WireGuard interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Name of the interface.
    pub name: String,
    /// Public key in base64; empty when it has none.
    pub public_key: String,
    /// UDP port of WireGuard; 0 when it is not bound.
    pub listen_port: u16,
    /// SO_MARK of outgoing packets; 0 when off.
    pub firewall_mark: u32,
    /// Whether the agent negotiates for its peers.
    pub managed: bool,
    /// Peers by name, then key; those without a name come last.
    pub peers: Vec<Peer>,
}

/// A peer of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Object path.
    pub path: String,
    /// Public key in base64.
    pub public_key: String,
    /// Name from the configuration; empty when none.
    pub name: String,
    /// What the session is doing.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// `none`, `direct` or `relay`.
    pub packet_path: String,
    /// WireGuard's endpoint; empty when none.
    pub endpoint: String,
    /// Our candidate of the selected pair.
    pub local_candidate: Option<Candidate>,
    /// The peer's candidate of the selected pair.
    pub remote_candidate: Option<Candidate>,
    /// Round-trip time of the selected pair in microseconds; 0 when unknown.
    pub rtt_us: u64,
    /// Unix time of WireGuard's latest handshake in seconds; 0 for "never".
    pub latest_handshake: u64,
    /// Addresses that WireGuard sends to the peer, as `address/prefix`.
    pub allowed_ips: Vec<String>,
    /// Bytes received through the tunnel.
    pub rx_bytes: u64,
    /// Bytes sent through the tunnel.
    pub tx_bytes: u64,
    /// Unix time of the last change of state in seconds.
    pub since: u64,
    /// How often the session was started anew.
    pub restarts: u32,
}

/// One end of the selected pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// `host`, `srflx`, `prflx` or `relay`.
    pub kind: String,
    /// Address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// `udp4`, `udp6`, `tcp4` or `tcp6`.
    pub network: String,
}

impl Snapshot {
    /// Asks the agent; two calls, whatever the number of peers.
    ///
    /// # Errors
    /// Those of the bus, `ServiceUnknown` among them when no agent runs.
    pub async fn read(connection: &Connection) -> zbus::Result<Self> {
        let manager = ManagerProxy::builder(connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let objects = ObjectManagerProxy::builder(connection)
            .destination(crate::SERVICE)
            .path(path::ROOT)
            .build()
            .await?;
        let version = manager.version().await?;
        let backends = manager.backends().await?;
        let relays = match manager.relays().await {
            Ok(relays) => relays,
            // An agent of the time before there were any.
            Err(zbus::Error::FDO(error))
                if matches!(*error, zbus::fdo::Error::UnknownProperty(_)) =>
            {
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let mut snapshot = Self::from_objects(objects.get_managed_objects().await?);
        snapshot.version = version;
        snapshot.backends = backends
            .into_iter()
            .map(|(url, state, error)| Backend {
                url,
                state: state.into(),
                error,
            })
            .collect();
        snapshot.relays = relays
            .into_iter()
            .map(|(url, state, error)| Relay {
                url,
                state: state.into(),
                error,
            })
            .collect();
        Ok(snapshot)
    }

    fn from_objects(objects: ManagedObjects) -> Self {
        let mut interfaces = BTreeMap::<String, Interface>::new();
        for (path, properties) in objects {
            let Some(name) = path::interface_of(path.as_str()) else {
                continue;
            };
            for (kind, properties) in properties {
                let mut properties = Properties(properties);
                let interface = interfaces.entry(name.clone()).or_default();
                match kind.as_str() {
                    crate::INTERFACE => interface.fill(&mut properties),
                    crate::PEER => interface
                        .peers
                        .push(Peer::from_properties(path.as_str(), &mut properties)),
                    _ => {}
                }
            }
        }
        let mut interfaces: Vec<Interface> = interfaces
            .into_values()
            .filter(|interface| !interface.name.is_empty())
            .collect();
        for interface in &mut interfaces {
            interface.peers.sort_by(|a, b| {
                let order = |peer: &Peer| {
                    (
                        peer.name.is_empty(),
                        peer.name.clone(),
                        peer.public_key.clone(),
                    )
                };
                order(a).cmp(&order(b))
            });
        }
        Self {
            interfaces,
            ..Self::default()
        }
    }
}

impl Interface {
    fn fill(&mut self, properties: &mut Properties) {
        self.name = properties.take("Name");
        self.public_key = properties.take("PublicKey");
        self.listen_port = properties.take("ListenPort");
        self.firewall_mark = properties.take("FirewallMark");
        self.managed = properties.take("Managed");
    }
}

impl Peer {
    /// Asks the agent about the one peer of this object path.
    ///
    /// # Errors
    /// Those of the bus, `UnknownObject` among them when the peer is gone.
    pub async fn read(connection: &Connection, path: &str) -> zbus::Result<Self> {
        let properties = Proxy::new(connection, crate::SERVICE, path, PROPERTIES).await?;
        let no_start = MethodFlags::NO_AUTO_START;
        let answer = properties
            .call_with_flags("GetAll", no_start, &crate::PEER)
            .await?;
        let properties = answer.ok_or(zbus::Error::InvalidReply)?;
        Ok(Self::from_properties(path, &mut Properties(properties)))
    }

    fn from_properties(path: &str, properties: &mut Properties) -> Self {
        let (_, reason): (u32, u32) = properties.take("StateReason");
        Self {
            path: path.to_owned(),
            public_key: properties.take("PublicKey"),
            name: properties.take("Name"),
            state: properties.take::<u32>("State").into(),
            reason: reason.into(),
            packet_path: properties.take("Path"),
            endpoint: properties.take("Endpoint"),
            local_candidate: properties.candidate("LocalCandidate"),
            remote_candidate: properties.candidate("RemoteCandidate"),
            rtt_us: properties.take("RoundTripTime"),
            latest_handshake: properties.take("LatestHandshake"),
            allowed_ips: properties.take("AllowedIps"),
            rx_bytes: properties.take("RxBytes"),
            tx_bytes: properties.take("TxBytes"),
            since: properties.take("Since"),
            restarts: properties.take("Restarts"),
        }
    }
}

/// The interface that reads properties of any object.
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

struct Properties(HashMap<String, OwnedVariant>);

impl Properties {
    fn take<T>(&mut self, name: &str) -> T
    where
        T: TryFrom<OwnedVariant> + Default,
    {
        self.0
            .remove(name)
            .and_then(|value| T::try_from(value).ok())
            .unwrap_or_default()
    }

    fn candidate(&mut self, name: &str) -> Option<Candidate> {
        let (kind, address, port, network): (String, String, u16, String) = self.take(name);
        (!kind.is_empty()).then_some(Candidate {
            kind,
            address,
            port,
            network,
        })
    }
}
