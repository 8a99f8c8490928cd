//! Userspace WireGuard: a real wireguard-go, and processes that misbehave.

use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::Path;

use wice_core::key::PublicKey;

use super::lab::{Userspace, alone, changes_until, names, sh, some_key};
use crate::kernel::{InterfaceKind, Kernel, KernelError};

/// Starts wireguard-go and waits until the room has found it.
async fn started(kernel: &mut Kernel, name: &str) -> Userspace {
    let process = Userspace::start(name);
    changes_until(kernel, async |kernel| names(kernel).await == [name]).await;
    process
}

#[test]
fn an_interface_is_found_when_its_process_starts_and_lost_when_it_is_killed() {
    alone(async || {
        let mut kernel = Kernel::open().await.unwrap();
        assert!(names(&kernel).await.is_empty());
        let process = started(&mut kernel, "wg0").await;
        let found = kernel.interfaces().await.unwrap().remove(0);
        assert_eq!(found.kind, InterfaceKind::Uapi);
        assert_eq!(
            found.index.to_string(),
            sh("cat /sys/class/net/wg0/ifindex 2>/dev/null || ip -o link show wg0 | cut -d: -f1")
        );

        drop(process);
        let lost = changes_until(&mut kernel, async |kernel| names(kernel).await.is_empty()).await;
        assert!(lost.iter().any(|change| change.links()), "{lost:?}");
        assert!(Path::new("/run/wireguard/wg0.sock").exists());
        assert_eq!(kernel.dump("wg0").await.unwrap(), None);
    });
}

#[test]
fn a_process_that_is_started_again_is_found_again() {
    alone(async || {
        let mut kernel = Kernel::open().await.unwrap();
        for _ in 0..2 {
            let process = started(&mut kernel, "wg0").await;
            drop(process);
            changes_until(&mut kernel, async |kernel| names(kernel).await.is_empty()).await;
        }
        sh("rm -r /run/wireguard");
        started(&mut kernel, "wg0").await;
    });
}

#[test]
fn a_dump_shows_what_wg_has_set() {
    alone(async || {
        let mut kernel = Kernel::open().await.unwrap();
        let _process = started(&mut kernel, "wg0").await;
        let peer = some_key();
        let public: PublicKey = sh(&format!(
            "umask 077; wg genkey > /run/key; wg genpsk > /run/psk; wg set wg0 private-key /run/key listen-port 4242 \
             fwmark 0x33 peer {peer} preshared-key /run/psk endpoint '[2001:db8::7]:9' persistent-keepalive 25 \
             allowed-ips 10.1.0.0/16,fd00::/64; wg pubkey < /run/key"
        ))
        .parse()
        .unwrap();
        let device = kernel.dump("wg0").await.unwrap().unwrap();
        assert_eq!((device.listen_port, device.fwmark), (4242, 0x33));
        assert_eq!(device.private_key.unwrap().public(), public);
        let shown = &device.peers[&peer];
        assert_eq!(shown.endpoint, Some("[2001:db8::7]:9".parse().unwrap()));
        assert_eq!(shown.persistent_keepalive, Some(25));
        assert_eq!(shown.allowed_ips.len(), 2);
        assert!(shown.latest_handshake.is_zero());
    });
}

#[test]
fn an_endpoint_is_written_and_nothing_else_changes() {
    alone(async || {
        let mut kernel = Kernel::open().await.unwrap();
        let _process = started(&mut kernel, "wg0").await;
        let peer = some_key();
        sh(&format!(
            "wg set wg0 peer {peer} persistent-keepalive 25 allowed-ips 10.1.0.0/16"
        ));
        let mut before = kernel.dump("wg0").await.unwrap().unwrap();
        for endpoint in ["192.0.2.1:9", "[2001:db8::7]:9"] {
            let endpoint: SocketAddr = endpoint.parse().unwrap();
            kernel.set_endpoint("wg0", &peer, endpoint).await.unwrap();
            assert_eq!(sh("wg show wg0 endpoints"), format!("{peer}\t{endpoint}"));
            before.peers.get_mut(&peer).unwrap().endpoint = Some(endpoint);
            let mut after = kernel.dump("wg0").await.unwrap().unwrap();
            // Keepalives towards the new endpoint begin at once.
            after.peers.get_mut(&peer).unwrap().tx_bytes = 0;
            assert_eq!(after, before);
        }
    });
}

#[test]
fn a_peer_that_is_gone_is_reported_and_not_added() {
    alone(async || {
        let mut kernel = Kernel::open().await.unwrap();
        let _process = started(&mut kernel, "wg0").await;
        let endpoint = "192.0.2.1:9".parse().unwrap();
        let result = kernel.set_endpoint("wg0", &some_key(), endpoint).await;
        assert!(matches!(result, Err(KernelError::PeerGone { .. })));
        assert_eq!(sh("wg show wg0 peers"), "");
        let result = kernel.set_endpoint("wg1", &some_key(), endpoint).await;
        assert!(matches!(result, Err(KernelError::InterfaceGone { .. })));
    });
}

#[test]
fn a_process_that_does_not_answer_is_reported_as_stuck() {
    alone(async || {
        sh("mkdir /run/wireguard; ip tuntap add dev wg0 mode tun");
        let _deaf = UnixListener::bind("/run/wireguard/wg0.sock").unwrap();
        let kernel = Kernel::open().await.unwrap();
        let error = kernel.dump("wg0").await.unwrap_err();
        assert!(matches!(error, KernelError::Stuck { .. }), "{error}");
    });
}

#[test]
fn a_socket_without_process_or_without_tunnel_is_no_interface() {
    alone(async || {
        sh(
            "mkdir /run/wireguard; ip tuntap add dev stale mode tun; ip link add veth0 type veth peer name veth1",
        );
        drop(UnixListener::bind("/run/wireguard/stale.sock").unwrap());
        let _elsewhere = UnixListener::bind("/run/wireguard/elsewhere.sock").unwrap();
        let _veth = UnixListener::bind("/run/wireguard/veth0.sock").unwrap();
        let kernel = Kernel::open().await.unwrap();
        assert!(names(&kernel).await.is_empty());
        for name in [
            "stale",
            "elsewhere",
            "veth0",
            "lo",
            "",
            "a-name-that-no-link-can-have",
        ] {
            assert_eq!(kernel.dump(name).await.unwrap(), None, "{name:?}");
        }
    });
}

#[test]
fn a_socket_that_comes_after_its_tunnel_is_found_wherever_its_directory_was() {
    alone(async || {
        sh("ip tuntap add dev wg0 mode tun");
        let mut kernel = Kernel::open().await.unwrap();
        for _ in 0..2 {
            sh("mkdir /run/wireguard");
            let listening = UnixListener::bind("/run/wireguard/wg0.sock").unwrap();
            changes_until(&mut kernel, async |kernel| names(kernel).await == ["wg0"]).await;

            drop(listening);
            sh("rm /run/wireguard/wg0.sock");
            changes_until(&mut kernel, async |kernel| names(kernel).await.is_empty()).await;

            let _again = UnixListener::bind("/run/wireguard/wg0.sock").unwrap();
            changes_until(&mut kernel, async |kernel| names(kernel).await == ["wg0"]).await;

            sh("rm -r /run/wireguard");
            changes_until(&mut kernel, async |kernel| names(kernel).await.is_empty()).await;
        }
    });
}
