//! The codec against bytes that were written by hand from include/uapi/linux/wireguard.h, for a little-endian machine.

#![cfg(target_endian = "little")]

use std::time::Duration;

use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_generic::GenlHeader;
use netlink_packet_wireguard::WireguardMessage;
use wice_core::device::{AllowedIp, Device, Peer};
use wice_core::key::{PrivateKey, PublicKey};

use super::dump::Dump;
use super::{get_device, set_endpoint};
use crate::kernel::links::{Link, LinkKind};

const PRIVATE: [u8; 32] = [0x11; 32];
const PUBLIC: [u8; 32] = [0x22; 32];
const PRESHARED: [u8; 32] = [0x33; 32];
const ALICE: [u8; 32] = [0xaa; 32];
const BOB: [u8; 32] = [0xbb; 32];

/// The interface, and Alice with the first of her allowed IPs.
fn first_message() -> Vec<u8> {
    [
        &[0x06, 0x00, 0x06, 0x00, 0x6c, 0xca, 0x00, 0x00][..], // LISTEN_PORT 51820, two bytes of padding
        &[0x08, 0x00, 0x07, 0x00, 0x33, 0x00, 0x00, 0x00],     // FWMARK 0x33
        &[0x08, 0x00, 0x01, 0x00, 0x03, 0x00, 0x00, 0x00],     // IFINDEX 3
        &[0x08, 0x00, 0x02, 0x00, b'w', b'g', b'0', 0x00],     // IFNAME
        &[0x24, 0x00, 0x03, 0x00],                             // PRIVATE_KEY
        &PRIVATE,
        &[0x24, 0x00, 0x04, 0x00], // PUBLIC_KEY
        &PUBLIC,
        &[0xc0, 0x00, 0x08, 0x80], // PEERS, nested, 192 bytes
        &[0xbc, 0x00, 0x00, 0x80], // a peer, nested, 188 bytes
        &[0x24, 0x00, 0x01, 0x00], // PUBLIC_KEY
        &ALICE,
        &[0x24, 0x00, 0x02, 0x00], // PRESHARED_KEY
        &PRESHARED,
        &[0x14, 0x00, 0x06, 0x00], // LAST_HANDSHAKE_TIME
        &[0x00, 0xf1, 0x53, 0x65, 0x00, 0x00, 0x00, 0x00], // 1700000000 s
        &[0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00], // 5 ns
        &[0x06, 0x00, 0x05, 0x00, 0x19, 0x00, 0x00, 0x00], // PERSISTENT_KEEPALIVE_INTERVAL 25
        &[0x0c, 0x00, 0x08, 0x00], // TX_BYTES
        &[0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00], // 256
        &[0x0c, 0x00, 0x07, 0x00], // RX_BYTES
        &[0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00], // 2^32
        &[0x08, 0x00, 0x0a, 0x00, 0x01, 0x00, 0x00, 0x00], // PROTOCOL_VERSION 1
        &[0x14, 0x00, 0x04, 0x00], // ENDPOINT, struct sockaddr_in
        &[0x02, 0x00, 0xca, 0x6c, 192, 0, 2, 1], // AF_INET, port big-endian, address
        &[0; 8],                   // sin_zero
        &[0x20, 0x00, 0x09, 0x80], // ALLOWEDIPS, nested
        &[0x1c, 0x00, 0x00, 0x80], // one of them, nested
        &[0x06, 0x00, 0x01, 0x00, 0x02, 0x00, 0x00, 0x00], // FAMILY AF_INET
        &[0x08, 0x00, 0x02, 0x00, 10, 0, 0, 0], // IPADDR 10.0.0.0
        &[0x05, 0x00, 0x03, 0x00, 0x18, 0x00, 0x00, 0x00], // CIDR_MASK 24
    ]
    .concat()
}

/// More of Alice, by her key and allowed IPs only, and Bob.
fn second_message() -> Vec<u8> {
    [
        &[0xa8, 0x00, 0x08, 0x80][..], // PEERS, nested, 168 bytes
        &[0x54, 0x00, 0x00, 0x80],     // a peer, nested, 84 bytes
        &[0x24, 0x00, 0x01, 0x00],     // PUBLIC_KEY
        &ALICE,
        &[0x2c, 0x00, 0x09, 0x80], // ALLOWEDIPS, nested
        &[0x28, 0x00, 0x00, 0x80], // one of them, nested
        &[0x06, 0x00, 0x01, 0x00, 0x0a, 0x00, 0x00, 0x00], // FAMILY AF_INET6
        &[0x14, 0x00, 0x02, 0x00], // IPADDR
        &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x05, 0x00, 0x03, 0x00, 0x40, 0x00, 0x00, 0x00], // CIDR_MASK 64
        &[0x50, 0x00, 0x00, 0x80],                         // a peer, nested, 80 bytes
        &[0x24, 0x00, 0x01, 0x00],                         // PUBLIC_KEY
        &BOB,
        &[0x20, 0x00, 0x04, 0x00], // ENDPOINT, struct sockaddr_in6
        &[0x0a, 0x00, 0x00, 0x07], // AF_INET6, port 7 big-endian
        &[0; 4],                   // sin6_flowinfo
        &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01],
        &[0x02, 0x00, 0x00, 0x00], // sin6_scope_id 2
        &[0x06, 0x00, 0x05, 0x00, 0x00, 0x00, 0x00, 0x00], // PERSISTENT_KEEPALIVE_INTERVAL 0
    ]
    .concat()
}

fn read(messages: &[Vec<u8>]) -> Device {
    let link = Link {
        name: "wg0".to_owned(),
        index: 3,
        kind: LinkKind::Wireguard,
        up: true,
    };
    let header = GenlHeader { cmd: 0, version: 1 };
    let mut dump = Dump::new(&link);
    for message in messages {
        dump.absorb(WireguardMessage::parse_with_param(message, header).unwrap());
    }
    dump.finish()
}

fn emitted(message: &WireguardMessage) -> Vec<u8> {
    let mut bytes = vec![0xee; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn allowed(address: &str, prefix: u8) -> AllowedIp {
    AllowedIp {
        address: address.parse().unwrap(),
        prefix,
    }
}

#[test]
fn a_peer_that_is_split_over_two_messages_is_one_peer() {
    let device = read(&[first_message(), second_message()]);
    assert_eq!((device.name.as_str(), device.index), ("wg0", 3));
    assert_eq!((device.listen_port, device.fwmark), (51820, 0x33));
    assert_eq!(device.private_key, PrivateKey::from_bytes(PRIVATE));
    assert_eq!(device.peers.len(), 2);
    let alice = Peer {
        endpoint: Some("192.0.2.1:51820".parse().unwrap()),
        latest_handshake: Duration::new(1_700_000_000, 5),
        rx_bytes: 1 << 32,
        tx_bytes: 256,
        persistent_keepalive: Some(25),
        allowed_ips: vec![allowed("10.0.0.0", 24), allowed("fd00::", 64)],
    };
    assert_eq!(device.peers[&PublicKey::from_bytes(ALICE)], alice);
    let bob = Peer {
        endpoint: Some("[fe80::1%2]:7".parse().unwrap()),
        ..Peer::default()
    };
    assert_eq!(device.peers[&PublicKey::from_bytes(BOB)], bob);
}

#[test]
fn a_dump_that_was_cut_off_inside_an_attribute_is_refused() {
    let whole = first_message();
    let header = GenlHeader { cmd: 0, version: 1 };
    assert!(WireguardMessage::parse_with_param(&whole[..whole.len() - 9], header).is_err());
}

#[test]
fn a_dump_is_asked_for_by_index() {
    let expected = [0x08, 0x00, 0x01, 0x00, 0x03, 0x00, 0x00, 0x00]; // IFINDEX 3
    assert_eq!(emitted(&get_device(3)), expected);
}

#[test]
fn an_ipv4_endpoint_is_written_with_its_key_and_update_only_and_nothing_else() {
    let expected = [
        &[0x08, 0x00, 0x01, 0x00, 0x03, 0x00, 0x00, 0x00][..], // IFINDEX 3
        &[0x48, 0x00, 0x08, 0x80],                             // PEERS, nested, 72 bytes
        &[0x44, 0x00, 0x00, 0x80],                             // a peer, nested, 68 bytes
        &[0x24, 0x00, 0x01, 0x00],                             // PUBLIC_KEY
        &ALICE,
        &[0x08, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x00], // FLAGS WGPEER_F_UPDATE_ONLY
        &[0x14, 0x00, 0x04, 0x00],                         // ENDPOINT, struct sockaddr_in
        &[0x02, 0x00, 0xca, 0x6c, 192, 0, 2, 1],           // AF_INET, port big-endian, address
        &[0; 8],                                           // sin_zero
    ]
    .concat();
    let peer = PublicKey::from_bytes(ALICE);
    let message = set_endpoint(3, &peer, "192.0.2.1:51820".parse().unwrap());
    assert_eq!(emitted(&message), expected);
}

#[test]
fn an_ipv6_endpoint_keeps_its_scope() {
    let expected = [
        &[0x08, 0x00, 0x01, 0x00, 0x03, 0x00, 0x00, 0x00][..], // IFINDEX 3
        &[0x54, 0x00, 0x08, 0x80],                             // PEERS, nested, 84 bytes
        &[0x50, 0x00, 0x00, 0x80],                             // a peer, nested, 80 bytes
        &[0x24, 0x00, 0x01, 0x00],                             // PUBLIC_KEY
        &BOB,
        &[0x08, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x00], // FLAGS WGPEER_F_UPDATE_ONLY
        &[0x20, 0x00, 0x04, 0x00],                         // ENDPOINT, struct sockaddr_in6
        &[0x0a, 0x00, 0x00, 0x07],                         // AF_INET6, port 7 big-endian
        &[0; 4],                                           // sin6_flowinfo
        &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01],
        &[0x02, 0x00, 0x00, 0x00], // sin6_scope_id 2
    ]
    .concat();
    let peer = PublicKey::from_bytes(BOB);
    let message = set_endpoint(3, &peer, "[fe80::1%2]:7".parse().unwrap());
    assert_eq!(emitted(&message), expected);
}
