//! The kernel's WireGuard; where the kernel has none, a machine that has one runs these with `--ignored`.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;

use super::lab::{alone, changes_until, names, sh, some_key};
use crate::kernel::{InterfaceKind, Kernel, KernelError};

#[test]
#[ignore = "needs a kernel with WireGuard"]
fn a_dump_that_the_kernel_splits_is_whole() {
    alone(async || {
        let kernel = Kernel::open().await.unwrap();
        sh("modprobe wireguard; ip link add wg0 type wireguard");
        let key = sh("wg genkey");
        let mut config =
            format!("[Interface]\nPrivateKey = {key}\nListenPort = 4242\nFwMark = 0x33\n");
        let mut peers = Vec::new();
        for peer in 1..=3 {
            let key = some_key();
            let ips: Vec<String> = (0..400)
                .map(|n| format!("10.{peer}.{}.{}/32", n / 250, n % 250))
                .collect();
            write!(
                config,
                "[Peer]\nPublicKey = {key}\nEndpoint = 192.0.2.{peer}:9\nAllowedIPs = {}, fd00:{peer}::/64\n",
                ips.join(", ")
            )
            .unwrap();
            peers.push(key);
        }
        fs::write("/run/wg0.conf", config).unwrap();
        sh("wg setconf wg0 /run/wg0.conf");

        let found = kernel.interfaces().await.unwrap().remove(0);
        assert_eq!(
            (found.name.as_str(), found.kind),
            ("wg0", InterfaceKind::Netlink)
        );
        let device = kernel.dump("wg0").await.unwrap().unwrap();
        assert_eq!(device.index, found.index);
        assert_eq!((device.listen_port, device.fwmark), (4242, 0x33));
        assert!(device.private_key.is_some());
        assert_eq!(device.peers.len(), 3);
        for (key, n) in peers.iter().zip(1..) {
            let peer = &device.peers[key];
            assert_eq!(peer.endpoint, format!("192.0.2.{n}:9").parse().ok());
            let mut ips: Vec<_> = peer.allowed_ips.iter().map(|ip| ip.address).collect();
            ips.sort();
            ips.dedup();
            assert_eq!(ips.len(), 401);
        }
    });
}

#[test]
#[ignore = "needs a kernel with WireGuard"]
fn an_endpoint_is_written_into_the_kernel_and_a_missing_peer_is_not_added() {
    alone(async || {
        let kernel = Kernel::open().await.unwrap();
        let peer = some_key();
        sh(&format!(
            "modprobe wireguard; ip link add wg0 type wireguard; wg set wg0 peer {peer} allowed-ips 10.1.0.0/16"
        ));
        let mut before = kernel.dump("wg0").await.unwrap().unwrap();
        for endpoint in ["192.0.2.1:9", "[2001:db8::7]:9"] {
            let endpoint: SocketAddr = endpoint.parse().unwrap();
            kernel.set_endpoint("wg0", &peer, endpoint).await.unwrap();
            assert_eq!(sh("wg show wg0 endpoints"), format!("{peer}\t{endpoint}"));
            before.peers.get_mut(&peer).unwrap().endpoint = Some(endpoint);
            assert_eq!(kernel.dump("wg0").await.unwrap().unwrap(), before);
        }
        let endpoint = "192.0.2.1:9".parse().unwrap();
        let result = kernel.set_endpoint("wg0", &some_key(), endpoint).await;
        assert!(matches!(result, Err(KernelError::PeerGone { .. })));
        assert_eq!(sh("wg show wg0 peers"), peer.to_string());
    });
}

#[test]
#[ignore = "needs a kernel with WireGuard"]
fn interfaces_that_come_are_renamed_are_made_anew_and_go_are_followed() {
    alone(async || {
        let mut kernel = Kernel::open().await.unwrap();
        assert!(names(&kernel).await.is_empty());
        sh(
            "modprobe wireguard; ip link add wg0 type wireguard; ip addr add 10.1.0.1/24 dev wg0; ip link set wg0 up",
        );
        let seen = changes_until(&mut kernel, async |kernel| names(kernel).await == ["wg0"]).await;
        assert!(seen.iter().any(|change| change.links()));
        let addresses = kernel.addresses().await.unwrap();
        assert!(
            addresses.iter().all(|found| found.link == "lo"),
            "{addresses:?}"
        );

        let first = kernel.dump("wg0").await.unwrap().unwrap().index;
        sh("ip link set wg0 down; ip link set wg0 name home");
        changes_until(&mut kernel, async |kernel| names(kernel).await == ["home"]).await;
        assert_eq!(kernel.dump("wg0").await.unwrap(), None);
        let renamed = kernel.dump("home").await.unwrap().unwrap();
        assert_eq!((renamed.name.as_str(), renamed.index), ("home", first));

        sh("ip link del home; ip link add home type wireguard");
        changes_until(&mut kernel, async |kernel| {
            matches!(kernel.dump("home").await, Ok(Some(device)) if device.index != first)
        })
        .await;
        sh("ip link del home");
        changes_until(&mut kernel, async |kernel| names(kernel).await.is_empty()).await;
        assert_eq!(kernel.dump("home").await.unwrap(), None);
    });
}

#[test]
#[ignore = "needs a kernel with WireGuard as a module"]
fn a_module_that_was_loaded_anew_is_spoken_to() {
    alone(async || {
        let kernel = Kernel::open().await.unwrap();
        for _ in 0..2 {
            sh("modprobe wireguard; ip link add wg0 type wireguard");
            assert!(kernel.dump("wg0").await.unwrap().is_some());
            sh("ip link del wg0; modprobe -r wireguard");
            assert_eq!(kernel.dump("wg0").await.unwrap(), None);
        }
    });
}
