//! Puts a device together from the messages of one dump.
//!
//! The kernel splits what does not fit: a peer goes on in the next message under the same key, with allowed IPs only
//! (wg_get_device_dump in drivers/net/wireguard/netlink.c).

use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_wireguard::{
    WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardMessage,
    WireguardPeer, WireguardPeerAttribute,
};
use wice_core::device::{AllowedIp, Device};
use wice_core::key::{PrivateKey, PublicKey};
use zeroize::Zeroize;

use crate::kernel::links::Link;

/// The part of a device that has arrived.
pub(super) struct Dump {
    device: Device,
}

impl Dump {
    /// Starts with what rtnetlink knows of the link.
    pub(super) fn new(link: &Link) -> Self {
        Self {
            device: Device {
                name: link.name.clone(),
                index: link.index,
                private_key: None,
                listen_port: 0,
                fwmark: 0,
                peers: BTreeMap::new(),
            },
        }
    }

    /// Adds one message of the dump, and wipes the secrets where they lie in it.
    pub(super) fn absorb(&mut self, mut message: WireguardMessage) {
        for attribute in &mut message.attributes {
            match attribute {
                WireguardAttribute::IfIndex(index) => self.device.index = *index,
                WireguardAttribute::IfName(name) => self.device.name = mem::take(name),
                WireguardAttribute::PrivateKey(bytes) => {
                    self.device.private_key = PrivateKey::from_bytes(*bytes);
                    bytes.zeroize();
                }
                WireguardAttribute::ListenPort(port) => self.device.listen_port = *port,
                WireguardAttribute::Fwmark(mark) => self.device.fwmark = *mark,
                WireguardAttribute::Peers(peers) => {
                    for peer in peers {
                        self.absorb_peer(peer);
                    }
                }
                _ => {}
            }
        }
    }

    /// Ends the dump.
    pub(super) fn finish(self) -> Device {
        self.device
    }

    fn absorb_peer(&mut self, attributes: &mut WireguardPeer) {
        let key = attributes.0.iter().find_map(|attribute| match attribute {
            WireguardPeerAttribute::PublicKey(bytes) => Some(PublicKey::from_bytes(*bytes)),
            _ => None,
        });
        let Some(key) = key else { return };
        let peer = self.device.peers.entry(key).or_default();
        for attribute in &mut attributes.0 {
            match attribute {
                WireguardPeerAttribute::PresharedKey(bytes) => bytes.zeroize(),
                WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(*endpoint),
                WireguardPeerAttribute::PersistentKeepalive(seconds) => {
                    peer.persistent_keepalive = (*seconds != 0).then_some(*seconds);
                }
                WireguardPeerAttribute::LastHandshake(time) => {
                    // A clock that was set to before 1970 counts as "never".
                    peer.latest_handshake = u64::try_from(time.seconds)
                        .ok()
                        .zip(u32::try_from(time.nano_seconds).ok())
                        .filter(|(_, nanoseconds)| *nanoseconds < 1_000_000_000)
                        .map_or(Duration::ZERO, |(s, ns)| Duration::new(s, ns));
                }
                WireguardPeerAttribute::RxBytes(bytes) => peer.rx_bytes = *bytes,
                WireguardPeerAttribute::TxBytes(bytes) => peer.tx_bytes = *bytes,
                WireguardPeerAttribute::AllowedIps(ips) => {
                    peer.allowed_ips.extend(ips.iter().filter_map(allowed_ip));
                }
                _ => {}
            }
        }
    }
}

fn allowed_ip(attributes: &WireguardAllowedIp) -> Option<AllowedIp> {
    let mut address = None;
    let mut prefix = None;
    for attribute in &attributes.0 {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(ip) => address = Some(*ip),
            WireguardAllowedIpAttr::Cidr(bits) => prefix = Some(*bits),
            _ => {}
        }
    }
    let address: IpAddr = address?;
    Some(AllowedIp {
        address,
        prefix: prefix?,
    })
}
