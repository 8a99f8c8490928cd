//! The UAPI's text, good and bad.

use std::time::Duration;

use wice_core::device::{AllowedIp, Device, Peer};
use wice_core::key::PublicKey;

use super::text::{TextError, acknowledge, device, set_endpoint};

const KEY: &str = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20";

fn parse(text: &str) -> Result<Device, TextError> {
    device("wg0", 7, text.as_bytes())
}

#[test]
fn an_interface_with_two_peers_is_read_whole() {
    let other = "ff".repeat(32);
    let device = parse(&format!(
        "private_key={KEY}\nlisten_port=51820\nfwmark=51\n\
         public_key={KEY}\npreshared_key={other}\nprotocol_version=1\nendpoint=[2001:db8::1]:51821\n\
         last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\ntx_bytes=3\nrx_bytes=4\n\
         persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/24\nallowed_ip=fd00::/64\n\
         public_key={other}\nendpoint=192.0.2.1:9\nlast_handshake_time_sec=0\n\
         last_handshake_time_nsec=0\npersistent_keepalive_interval=0\nnovelty=1\nerrno=0\n\n"
    ))
    .unwrap();
    assert_eq!((device.name.as_str(), device.index), ("wg0", 7));
    assert_eq!((device.listen_port, device.fwmark), (51820, 51));
    assert!(device.private_key.is_some());
    assert_eq!(device.peers.len(), 2);
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(1..).for_each(|(byte, n)| *byte = n);
    let first = &device.peers[&PublicKey::from_bytes(bytes)];
    let second = &device.peers[&PublicKey::from_bytes([0xff; 32])];
    let expected = Peer {
        endpoint: Some("[2001:db8::1]:51821".parse().unwrap()),
        latest_handshake: Duration::new(1_700_000_000, 5),
        rx_bytes: 4,
        tx_bytes: 3,
        persistent_keepalive: Some(25),
        allowed_ips: vec![
            AllowedIp {
                address: "10.0.0.0".parse().unwrap(),
                prefix: 24,
            },
            AllowedIp {
                address: "fd00::".parse().unwrap(),
                prefix: 64,
            },
        ],
    };
    assert_eq!(*first, expected);
    let expected = Peer {
        endpoint: Some("192.0.2.1:9".parse().unwrap()),
        ..Peer::default()
    };
    assert_eq!(*second, expected);
}

#[test]
fn an_interface_without_key_and_peers_is_read() {
    let device = parse("errno=0\n\n").unwrap();
    assert_eq!((device.private_key, device.peers.len()), (None, 0));
}

#[test]
fn a_scoped_endpoint_keeps_its_link() {
    for (shown, meant) in [
        ("[fe80::1%lo]:5", "[fe80::1%1]:5"),
        ("[fe80::1%7]:5", "[fe80::1%7]:5"),
        ("[fe80::1%nosuchlink]:5", "[fe80::1]:5"),
    ] {
        let text = format!("public_key={KEY}\nendpoint={shown}\nerrno=0\n\n");
        let peer = parse(&text).unwrap().peers.into_values().next().unwrap();
        assert_eq!(peer.endpoint, meant.parse().ok(), "{shown}");
    }
}

#[test]
fn a_refusal_keeps_its_errno_whatever_its_sign() {
    assert_eq!(parse("errno=5\n\n"), Err(TextError::Errno(5)));
    assert_eq!(acknowledge(b"errno=-22\n\n"), Err(TextError::Errno(22)));
    assert_eq!(acknowledge(b"errno=0\n\n"), Ok(()));
}

#[test]
fn what_is_no_whole_answer_is_refused() {
    for text in [
        "",
        "\n\n",
        "errno=0\n",
        "listen_port=1\n\n",
        "garbage\nerrno=0\n\n",
        "listen_port=65536\nerrno=0\n\n",
        "private_key=00\nerrno=0\n\n",
        &format!("private_key={}\nerrno=0\n\n", "zz".repeat(32)),
        &format!("public_key={KEY}\nendpoint=example.net:1\nerrno=0\n\n"),
        &format!("public_key={KEY}\nallowed_ip=10.0.0.0/33\nerrno=0\n\n"),
        &format!("public_key={KEY}\nallowed_ip=10.0.0.0\nerrno=0\n\n"),
        &format!("public_key={KEY}\nlast_handshake_time_nsec=1000000000\nerrno=0\n\n"),
        &format!("public_key={KEY}\nrx_bytes=-1\nerrno=0\n\n"),
    ] {
        assert!(
            matches!(parse(text), Err(TextError::Malformed(_))),
            "{text:?}"
        );
    }
    assert!(device("wg0", 7, b"\xff\n\n").is_err());
}

#[test]
fn the_request_names_one_peer_and_one_endpoint_only() {
    let peer = PublicKey::from_bytes([0xab; 32]);
    assert_eq!(
        set_endpoint(&peer, "[2001:db8::1]:51820".parse().unwrap()),
        format!(
            "set=1\npublic_key={}\nupdate_only=true\nendpoint=[2001:db8::1]:51820\n\n",
            "ab".repeat(32)
        )
    );
}
