//! Links and their addresses, as rtnetlink lists them.
//!
//! Must not know: what WireGuard is configured to; which link is a tunnel is its caller's business.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use nix::errno::Errno;
use rtnetlink::Handle;
use tokio::task::JoinSet;
use wice_core::io::LocalAddress;

use super::KernelError;

/// A connection that asks; the one that listens is another, so that a flood of events loses no answer.
pub(super) struct Links {
    handle: Handle,
    /// Ends with the value.
    _connection: JoinSet<()>,
}

/// A network interface of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Its name.
    pub(super) name: String,
    /// Its index in the network namespace.
    pub(super) index: u32,
    /// As far as WireGuard is concerned.
    pub(super) kind: LinkKind,
    /// Whether it is administratively up.
    pub(super) up: bool,
}

/// What a link can be to WireGuard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// A WireGuard interface of the kernel.
    Wireguard,
    /// A TUN device: userspace WireGuard, or something else.
    Tun,
    /// No tunnel of WireGuard.
    Other,
}

impl Links {
    /// Opens the connection.
    pub(super) fn open() -> Result<Self, KernelError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| KernelError::Open {
                protocol: "rtnetlink",
                source,
            })?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Self {
            handle,
            _connection: tasks,
        })
    }

    /// Lists all links of this network namespace.
    pub(super) async fn all(&self) -> Result<Vec<Link>, KernelError> {
        self.handle
            .link()
            .get()
            .execute()
            .try_filter_map(async |message| Ok(Link::from_message(&message)))
            .try_collect()
            .await
            .map_err(|source| failed("links", source))
    }

    /// Looks one link up by its name.
    pub(super) async fn named(&self, name: &str) -> Result<Option<Link>, KernelError> {
        let request = self.handle.link().get().match_name(name);
        match Box::pin(request.execute()).next().await {
            None => Ok(None),
            Some(Ok(message)) => Ok(Link::from_message(&message)),
            Some(Err(error)) => match errno(&error) {
                // ERANGE, EINVAL: longer or emptier than any link's name can be.
                Some(Errno::ENODEV | Errno::ERANGE | Errno::EINVAL) => Ok(None),
                _ => Err(failed("links", error)),
            },
        }
    }

    /// Lists the usable addresses of some links, sorted.
    pub(super) async fn addresses(
        &self,
        links: Vec<Link>,
    ) -> Result<Vec<LocalAddress>, KernelError> {
        let names: BTreeMap<u32, String> = links
            .into_iter()
            .map(|link| (link.index, link.name))
            .collect();
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| failed("addresses", source))?;
        let mut addresses: Vec<LocalAddress> = messages
            .iter()
            .filter_map(|message| local_address(names.get(&message.header.index)?, message))
            .collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }
}

impl Link {
    /// Reads a link out of an RTM_NEWLINK or RTM_DELLINK; `None` when it carries no name.
    pub(super) fn from_message(message: &LinkMessage) -> Option<Self> {
        let mut name = None;
        let mut kind = LinkKind::Other;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text.clone()),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(InfoKind::Wireguard) => kind = LinkKind::Wireguard,
                            LinkInfo::Kind(InfoKind::Tun) => kind = LinkKind::Tun,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(Self {
            name: name?,
            index: message.header.index,
            kind,
            up: message.header.flags.contains(LinkFlags::Up),
        })
    }
}

/// Reads an address, unless ICE could make nothing of it.
fn local_address(link: &str, message: &AddressMessage) -> Option<LocalAddress> {
    let mut flags = u32::from(AddressHeaderFlags::bits(&message.header.flags));
    let mut local = None;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(either) => address = Some(*either),
            AddressAttribute::Flags(all) => flags = all.bits(),
            _ => {}
        }
    }
    let flags = AddressFlags::from_bits_retain(flags);
    if flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed) {
        return None;
    }
    // On a point-to-point link IFA_ADDRESS is the other end, IFA_LOCAL ours; IPv6 elsewhere has no IFA_LOCAL.
    let address = local.or(address)?;
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return None;
    }
    Some(LocalAddress {
        link: link.to_owned(),
        address,
        deprecated: flags.contains(AddressFlags::Deprecated),
    })
}

fn failed(what: &'static str, source: rtnetlink::Error) -> KernelError {
    KernelError::List {
        what,
        source: Box::new(source),
    }
}

fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => io::Error::from(message.clone())
            .raw_os_error()
            .map(Errno::from_raw),
        _ => None,
    }
}
