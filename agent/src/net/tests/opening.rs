//! Opening the sockets, with and without the right to, and the test that the agent makes of itself.

use std::env;
use std::process::Command;

use super::super::{NetError, StunPort};
use super::{LOOPBACKS, in_namespace, ip, listening, owner, receive, stun};

/// Tells this program, started again with fewer rights, what to do.
const CHILD: &str = "WICE_TEST_WITHOUT_CAPABILITIES";

#[test]
fn opening_without_the_capabilities_names_them() {
    if env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let _entered = runtime.as_ref().expect("a runtime").enter();
        let error = StunPort::open().expect_err("the capability is missing");
        assert!(matches!(error, NetError::NotPermitted { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("CAP_NET_RAW") && text.contains("CAP_NET_ADMIN"),
            "{text}"
        );
        println!("refused as it should be");
        return;
    }
    in_namespace(async || {
        let output = Command::new("setpriv")
            .args(["--bounding-set", "-net_raw,-net_admin"])
            .arg(env::current_exe().expect("this program has a path"))
            .args([
                "--nocapture",
                "--exact",
                "net::tests::opening::opening_without_the_capabilities_names_them",
            ])
            .env(CHILD, "1")
            .output()
            .expect("util-linux is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("refused as it should be"),
            "{output:?}"
        );
    });
}

#[test]
fn the_self_test_passes_on_this_kernel() {
    in_namespace(async || {
        listening([])
            .self_test()
            .await
            .expect("raw sockets work here");
    });
}

#[test]
fn the_self_test_takes_no_packet_from_the_agent() {
    in_namespace(async || {
        for address in LOOPBACKS {
            let (_owner, ours) = owner(address).await;
            let (peer, _) = owner(address).await;
            let port = listening([ours.port()]);
            peer.send_to(&stun(1, 20), ours)
                .await
                .expect("loopback carries it");

            port.self_test().await.expect("raw sockets work here");

            assert_eq!(receive(&port).await.payload, stun(1, 20));
            assert_eq!(port.try_receive(), None);
        }
    });
}

#[test]
fn the_self_test_lets_the_agent_start_while_loopback_is_down() {
    in_namespace(async || {
        let port = listening([]);
        ip("link set lo down");
        port.self_test().await.expect("only a warning");
        ip("link set lo up");
        ip("address flush dev lo");
        port.self_test().await.expect("only a warning");
    });
}

#[test]
fn the_self_test_fails_where_a_firewall_swallows_stun() {
    in_namespace(async || {
        let rules = "table inet t { chain input { type filter hook input priority -300; meta l4proto udp drop; }; }";
        let output = Command::new("nft").arg(rules).output();
        if !output.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: needs nftables");
            return;
        }
        let error = listening([])
            .self_test()
            .await
            .expect_err("nothing arrives");
        assert!(matches!(error, NetError::SelfTest { .. }), "{error:?}");
        assert!(error.to_string().contains("did not arrive"), "{error}");
    });
}
