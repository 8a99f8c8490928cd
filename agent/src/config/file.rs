//! The shape of a configuration file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::ConfigError;

/// One file; everything is optional, because a drop-in may say one thing only.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    pub(super) signaling: Option<Signaling>,
    pub(super) ice: Option<Ice>,
    #[serde(default)]
    pub(super) interface: Interfaces,
    #[serde(default)]
    pub(super) peer: BTreeMap<String, Peer>,
    pub(super) metrics: Option<Metrics>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Signaling {
    pub(super) backends: Option<Vec<String>>,
    pub(super) token_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Ice {
    pub(super) servers: Option<Vec<Server>>,
    pub(super) candidates: Option<Vec<String>>,
    pub(super) exclude_interfaces: Option<Vec<String>>,
    pub(super) policy: Option<String>,
    pub(super) allow_loopback: Option<bool>,
}

/// A STUN or TURN server: a URI, or a table with credentials.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"stun:HOST\", \"turn:HOST\" or { url, username, credential-file }"
)]
pub(super) enum Server {
    Uri(String),
    Table(ServerTable),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ServerTable {
    pub(super) url: String,
    pub(super) username: Option<String>,
    pub(super) credential_file: Option<PathBuf>,
}

/// Tables in the order of the file, because later ones win.
#[derive(Debug, Default)]
pub(super) struct Interfaces(pub(super) Vec<(String, Interface)>);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Interface {
    pub(super) manage: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub(super) name: Option<String>,
    pub(super) manage: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<SocketAddr>,
}

/// Reads one file's text.
pub(super) fn parse(path: &Path, text: &str) -> Result<ConfigFile, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::parse(path, text, &error))
}

impl ConfigFile {
    /// Lets a later file override what it says.
    pub(super) fn merge(&mut self, later: Self) {
        if let Some(later) = later.signaling {
            let signaling = self.signaling.get_or_insert_default();
            replace(&mut signaling.backends, later.backends);
            replace(&mut signaling.token_file, later.token_file);
        }
        if let Some(later) = later.ice {
            let ice = self.ice.get_or_insert_default();
            replace(&mut ice.servers, later.servers);
            replace(&mut ice.candidates, later.candidates);
            replace(&mut ice.exclude_interfaces, later.exclude_interfaces);
            replace(&mut ice.policy, later.policy);
            replace(&mut ice.allow_loopback, later.allow_loopback);
        }
        self.interface.0.extend(later.interface.0);
        for (key, peer) in later.peer {
            let merged = self.peer.entry(key).or_default();
            replace(&mut merged.name, peer.name);
            replace(&mut merged.manage, peer.manage);
        }
        if let Some(later) = later.metrics {
            let metrics = self.metrics.get_or_insert_default();
            replace(&mut metrics.listen, later.listen);
        }
    }
}

fn replace<T>(old: &mut Option<T>, new: Option<T>) {
    if new.is_some() {
        *old = new;
    }
}

impl<'de> Deserialize<'de> for Interfaces {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tables;
        impl<'de> Visitor<'de> for Tables {
            type Value = Interfaces;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tables such as [interface.\"wg*\"]")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Interfaces, A::Error> {
                let mut tables = Vec::new();
                while let Some(table) = map.next_entry()? {
                    tables.push(table);
                }
                Ok(Interfaces(tables))
            }
        }
        deserializer.deserialize_map(Tables)
    }
}
