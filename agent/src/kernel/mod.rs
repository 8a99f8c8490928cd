//! WireGuard interfaces, links and addresses of this machine, over netlink and the UAPI socket.
//!
//! Must not know: sessions, candidates, signalling. It remembers nothing of what it read: every answer is a fresh one.

mod error;
mod links;
mod netlink;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod uapi;
mod watch;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tokio::sync::Mutex;
use wice_core::device::Device;
use wice_core::io::LocalAddress;
use wice_core::key::PublicKey;

pub(crate) use error::KernelError;
pub(crate) use watch::Change;

use links::{Link, LinkKind, Links};
use netlink::Netlink;
use uapi::Uapi;
use watch::Watch;

/// The door to this network namespace's WireGuard interfaces, links and addresses.
///
/// Must be opened and used inside a tokio runtime with I/O and time.
pub(crate) struct Kernel {
    links: Links,
    netlink: Netlink,
    uapi: Uapi,
    /// Behind a lock so that a request and a wait for changes can go on at the same time.
    watch: Mutex<Watch>,
}

/// A WireGuard interface that is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Name of the interface.
    pub(crate) name: String,
    /// Index of the interface in its network namespace.
    pub(crate) index: u32,
    /// Who runs it.
    pub(crate) kind: InterfaceKind,
}

/// Who runs a WireGuard interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InterfaceKind {
    /// The kernel; configured over generic netlink.
    Netlink,
    /// A userspace process; configured over its UAPI socket.
    Uapi,
}

/// One way to configure WireGuard.
///
/// The link was looked up a moment ago and may be gone by now.
trait Wireguard {
    /// Reads the whole interface; `None` when it is gone.
    async fn dump(&self, link: &Link) -> Result<Option<Device>, KernelError>;

    /// Writes one peer's endpoint and nothing else; succeeds silently when there is no such peer.
    async fn write_endpoint(
        &self,
        link: &Link,
        peer: &PublicKey,
        endpoint: SocketAddr,
    ) -> Result<(), KernelError>;
}

impl Kernel {
    /// Opens the netlink sockets and starts to watch.
    ///
    /// A kernel without WireGuard is no error: its family is asked for when a kernel interface shows up.
    pub(crate) async fn open() -> Result<Self, KernelError> {
        // Watching first: what changes while the caller reads the first lists is reported.
        let watch = Watch::open()?;
        Ok(Self {
            links: Links::open()?,
            netlink: Netlink::open()?,
            uapi: Uapi,
            watch: Mutex::new(watch),
        })
    }

    /// Lists the WireGuard interfaces that are present now, by index.
    pub(crate) async fn interfaces(&self) -> Result<Vec<Interface>, KernelError> {
        let mut interfaces = Vec::new();
        for link in self.links.all().await? {
            if let Some(kind) = self.kind(&link).await {
                interfaces.push(Interface {
                    name: link.name,
                    index: link.index,
                    kind,
                });
            }
        }
        interfaces.sort_by_key(|interface| interface.index);
        Ok(interfaces)
    }

    /// Reads one interface with all its peers; `None` when it is gone or no WireGuard interface.
    pub(crate) async fn dump(&self, interface: &str) -> Result<Option<Device>, KernelError> {
        let Some(link) = self.links.named(interface).await? else {
            return Ok(None);
        };
        match self.kind(&link).await {
            Some(InterfaceKind::Netlink) => self.netlink.dump(&link).await,
            Some(InterfaceKind::Uapi) => self.uapi.dump(&link).await,
            None => Ok(None),
        }
    }

    /// Writes where WireGuard sends a peer's packets to, touching nothing else.
    ///
    /// Fails with [`KernelError::PeerGone`] when there is no such peer; never adds one.
    pub(crate) async fn set_endpoint(
        &self,
        interface: &str,
        peer: &PublicKey,
        endpoint: SocketAddr,
    ) -> Result<(), KernelError> {
        let gone = || KernelError::InterfaceGone {
            interface: interface.to_owned(),
        };
        let link = self.links.named(interface).await?.ok_or_else(gone)?;
        let device = match self.kind(&link).await.ok_or_else(gone)? {
            InterfaceKind::Netlink => write(&self.netlink, &link, peer, endpoint).await?,
            InterfaceKind::Uapi => write(&self.uapi, &link, peer, endpoint).await?,
        };
        // Another endpoint than ours is no failure: WireGuard may have roamed in between.
        if device.ok_or_else(gone)?.peers.contains_key(peer) {
            Ok(())
        } else {
            Err(KernelError::PeerGone {
                interface: interface.to_owned(),
                peer: *peer,
            })
        }
    }

    /// Lists the addresses of all links that are up, but not those of WireGuard interfaces.
    ///
    /// Tentative and duplicate addresses (RFC 4862 §5.4) and IPv6 link-local ones are left out; loopback is not.
    pub(crate) async fn addresses(&self) -> Result<Vec<LocalAddress>, KernelError> {
        let links = self.links.all().await?;
        let mut tunnels = BTreeSet::new();
        for link in &links {
            if self.kind(link).await.is_some() {
                tunnels.insert(link.index);
            }
        }
        let carriers = links
            .into_iter()
            .filter(|link| link.up && !tunnels.contains(&link.index));
        self.links.addresses(carriers.collect()).await
    }

    /// Waits until links, addresses or UAPI sockets change, and gathers a burst of changes into one.
    ///
    /// Cancel-safe: a change that was seen before the future was dropped is reported by the next call.
    pub(crate) async fn changed(&self) -> Change {
        self.watch.lock().await.changed().await
    }

    async fn kind(&self, link: &Link) -> Option<InterfaceKind> {
        match link.kind {
            LinkKind::Wireguard => Some(InterfaceKind::Netlink),
            // The socket directory is shared between network namespaces; the link is not.
            LinkKind::Tun if self.uapi.serves(&link.name).await => Some(InterfaceKind::Uapi),
            LinkKind::Tun | LinkKind::Other => None,
        }
    }
}

/// Writes an endpoint and reads the interface back, as a write to a missing peer succeeds.
async fn write(
    wireguard: &impl Wireguard,
    link: &Link,
    peer: &PublicKey,
    endpoint: SocketAddr,
) -> Result<Option<Device>, KernelError> {
    wireguard.write_endpoint(link, peer, endpoint).await?;
    wireguard.dump(link).await
}
