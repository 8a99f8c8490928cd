//! Addresses and changes of them, on real links.

use std::time::Duration;

use tokio::time::timeout;

use super::lab::{Userspace, alone, changes_until, names, sh};
use crate::kernel::{Change, Kernel};

/// Adds two ends of a link; both are up and have no address but a link-local one.
const LINK: &str =
    "ip link add left type veth peer name right; ip link set left up; ip link set right up;";

async fn shown(kernel: &Kernel) -> Vec<String> {
    let addresses = kernel.addresses().await.expect("addresses can be listed");
    let deprecated = |yes| if yes { " deprecated" } else { "" };
    addresses
        .iter()
        .filter(|found| found.link != "lo")
        .map(|found| {
            let end = deprecated(found.deprecated);
            format!("{} {}{end}", found.link, found.address)
        })
        .collect()
}

#[test]
fn usable_addresses_of_links_that_are_up_are_listed_with_their_state() {
    alone(async || {
        sh(&format!(
            "{LINK} ip addr add 192.0.2.1/24 dev left; ip addr add 192.0.2.9 peer 192.0.2.8 dev left; \
             ip addr add 2001:db8::1/64 dev left nodad; \
             ip addr add 2001:db8::2/64 dev left nodad valid_lft 600 preferred_lft 0; \
             ip addr add 198.51.100.1/24 dev right; ip link set right down"
        ));
        let kernel = Kernel::open().await.unwrap();
        let expected = [
            "left 192.0.2.1",
            "left 192.0.2.9",
            "left 2001:db8::1",
            "left 2001:db8::2 deprecated",
        ];
        assert_eq!(shown(&kernel).await, expected);
        let all = kernel.addresses().await.unwrap();
        assert!(all.iter().any(|found| found.address.is_loopback()));
    });
}

#[test]
fn a_tentative_address_is_listed_once_the_link_has_no_duplicate_of_it() {
    alone(async || {
        sh(LINK);
        let mut kernel = Kernel::open().await.unwrap();
        sh("ip addr add 2001:db8::1/64 dev left");
        assert!(shown(&kernel).await.is_empty());
        changes_until(&mut kernel, async |kernel| {
            shown(kernel).await == ["left 2001:db8::1"]
        })
        .await;
    });
}

#[test]
fn the_addresses_of_a_tunnel_are_not_listed() {
    alone(async || {
        let mut kernel = Kernel::open().await.unwrap();
        let _process = Userspace::start("wg0");
        changes_until(&mut kernel, async |kernel| names(kernel).await == ["wg0"]).await;
        sh(
            "ip link set wg0 up; ip addr add 10.1.0.1/24 dev wg0; ip tuntap add dev vpn mode tun; \
            ip addr add 10.2.0.1/24 dev vpn; ip link set vpn up",
        );
        assert_eq!(shown(&kernel).await, ["vpn 10.2.0.1"]);
    });
}

#[test]
fn events_that_were_lost_count_as_a_change_of_everything() {
    alone(async || {
        sh(LINK);
        let mut kernel = Kernel::open().await.unwrap();
        // Nobody reads meanwhile, and the socket's buffer holds a few hundred.
        sh(
            "for a in 1 2 3 4 5 6 7 8; do for b in $(seq 250); do echo addr add 10.0.$a.$b/32 dev left; done; done \
            | ip -batch -",
        );
        let seen = changes_until(&mut kernel, async |kernel| {
            shown(kernel).await.len() == 2000
        })
        .await;
        assert_eq!(seen, [Change::Both]);
    });
}

#[test]
fn a_change_that_was_seen_by_a_call_that_was_given_up_is_not_lost() {
    alone(async || {
        sh(LINK);
        let kernel = Kernel::open().await.unwrap();
        sh("ip addr add 192.0.2.1/24 dev left");
        // Each call is given up before the burst can have ended.
        loop {
            if let Ok(change) = timeout(Duration::from_millis(5), kernel.changed()).await {
                assert!(change.addresses());
                break;
            }
        }
    });
}
