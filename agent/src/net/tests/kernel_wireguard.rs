//! The same beside the kernel's own WireGuard, where there is one. Elsewhere an ordinary socket stands in for it.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use nix::libc;

use super::super::{NetError, nudge};
use super::{
    LOOPBACKS, add_ipv6, in_namespace, ip, listening, next_datagram, owner, receive, stun, transmit,
};

const PORT: u16 = 51820;

/// A public key of nobody.
const PEER: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

#[test]
fn stun_shares_the_port_of_a_kernel_interface() {
    in_namespace(async || {
        if !interface() {
            return;
        }
        for address in LOOPBACKS {
            let (peer, theirs) = owner(address).await;
            let ours = SocketAddr::new(address, PORT);
            let port = listening([PORT]);

            peer.send_to(&stun(1, 24), ours)
                .await
                .expect("loopback carries it");
            assert_eq!(receive(&port).await.source, theirs);

            port.send(&transmit(ours, theirs, stun(2, 24)))
                .expect("loopback carries it");
            assert_eq!(next_datagram(&peer).await, (ours, stun(2, 24)));
        }
    });
}

#[test]
fn a_nudge_makes_the_kernel_handshake_once_it_has_an_endpoint() {
    in_namespace(async || {
        if !interface() {
            return;
        }
        for (behind, loopback) in ["10.9.0.2", "fd09::2"].into_iter().zip(LOOPBACKS) {
            let behind: IpAddr = behind.parse().expect("an address");
            assert_eq!(
                no_tunnel(behind),
                Some(libc::ENOKEY),
                "no peer has this address"
            );

            wg(&["peer", PEER, "allowed-ips", "10.9.0.2/32,fd09::2/128"]);
            assert_eq!(
                no_tunnel(behind),
                Some(libc::EDESTADDRREQ),
                "the peer has no endpoint"
            );

            let (peer, theirs) = owner(loopback).await;
            wg(&["peer", PEER, "endpoint", &theirs.to_string()]);
            nudge("wg0", behind).expect("the tunnel takes it");
            let (source, initiation) = next_datagram(&peer).await;
            assert_eq!(source, SocketAddr::new(loopback, PORT));
            assert_eq!(
                (initiation.len(), initiation[0]),
                (148, 1),
                "a handshake initiation"
            );

            wg(&["peer", PEER, "remove"]);
        }
    });
}

fn no_tunnel(address: IpAddr) -> Option<i32> {
    match nudge("wg0", address) {
        Err(NetError::NoTunnel { source, .. }) => source.raw_os_error(),
        outcome => panic!("{outcome:?}"),
    }
}

/// Makes `wg0`, or says that this kernel has no WireGuard.
fn interface() -> bool {
    let made = Command::new("ip")
        .args(["link", "add", "wg0", "type", "wireguard"])
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this kernel has no WireGuard");
        return false;
    }
    wg(&[
        "listen-port",
        &PORT.to_string(),
        "private-key",
        "/proc/self/fd/0",
    ]);
    ip("address add 10.9.0.1/24 dev wg0");
    ip("link set wg0 up");
    add_ipv6("fd09::1", 64, "wg0");
    true
}

/// Runs `wg set wg0`; a private key that it wants to read is there.
fn wg(arguments: &[&str]) {
    let mut child = Command::new("wg")
        .args(["set", "wg0"])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .expect("wireguard-tools is installed");
    if let Some(mut input) = child.stdin.take() {
        // Whoever wants no key may have left already.
        let _ = input.write_all(b"aAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAUE=\n");
    }
    let status = child.wait().expect("wg ends");
    assert!(status.success(), "wg set wg0 {arguments:?}");
}
