//! Proxies of the agent's objects, for whoever calls methods or follows signals.

use std::collections::HashMap;

use zbus::{OwnedObjectPath, OwnedVariant, Variant, proxy};

/// The root object.
#[proxy(
    interface = "org.wice.Wice1.Manager",
    default_service = "org.wice.Wice1",
    default_path = "/org/wice/Wice1"
)]
pub trait Manager {
    /// Version of the agent.
    #[zbus(property, no_autostart)]
    fn version(&self) -> zbus::Result<String>;

    /// URL without secrets, state and last error of every signalling backend.
    #[zbus(property)]
    fn backends(&self) -> zbus::Result<Vec<(String, u32, String)>>;

    /// URL, state and last error of every relay server.
    #[zbus(property)]
    fn relays(&self) -> zbus::Result<Vec<(String, u32, String)>>;

    /// Reads the configuration again.
    #[zbus(no_autostart, allow_interactive_auth)]
    fn reload(&self) -> Result<(), crate::Error>;

    /// The object of the peer with this public key (base64).
    #[zbus(no_autostart)]
    fn get_peer(&self, interface: &str, key: &str) -> Result<OwnedObjectPath, crate::Error>;

    /// What this network does to UDP: [`crate::NetCheck::from_dictionary`] reads it. Takes seconds.
    #[zbus(no_autostart)]
    fn net_check(
        &self,
        options: HashMap<&str, Variant<'_>>,
    ) -> Result<HashMap<String, OwnedVariant>, crate::Error>;
}

/// A peer's object.
#[proxy(
    interface = "org.wice.Wice1.Peer",
    default_service = "org.wice.Wice1",
    assume_defaults = false
)]
pub trait Peer {
    /// Starts the peer's session anew; the present path stays until a new one is found.
    #[zbus(no_autostart, allow_interactive_auth)]
    fn restart(&self, options: HashMap<&str, Variant<'_>>) -> Result<(), crate::Error>;

    /// Candidates, pairs and what stands in the way of a direct path: [`crate::Explanation::from_dictionary`] reads it.
    #[zbus(no_autostart)]
    fn explain(&self) -> Result<HashMap<String, OwnedVariant>, crate::Error>;

    /// The state changed; sent after the properties.
    #[zbus(signal)]
    fn state_changed(&self, new: u32, old: u32, reason: u32) -> zbus::Result<()>;

    /// The path changed; sent after the properties.
    #[zbus(signal)]
    fn path_changed(&self, new: &str, old: &str) -> zbus::Result<()>;
}
