//! What a relay is for: packets of both sides arrive, by every transport.

use std::process::Command;

use super::coturn::{Coturn, Home};
use super::{INTERFACE, RelayOrder, RelayState};
use super::{LOCALHOST, Scene, address, exchange, in_namespace, key, receive, stun};

#[test]
fn packets_travel_through_a_channel_in_both_directions() {
    in_namespace(async || carries("turn:127.0.0.1").await);
}

#[test]
fn packets_travel_over_tcp() {
    in_namespace(async || carries("turn:127.0.0.1?transport=tcp").await);
}

#[test]
fn packets_travel_when_the_server_is_reached_over_ipv6() {
    in_namespace(async || carries("turn:[::1]").await);
}

/// Set where the test runs itself again with other trusted certificates.
const AGAIN: &str = "WICE_TEST_TRUSTING_RELAY";

#[test]
fn packets_travel_over_tls_with_a_certificate_that_the_system_trusts() {
    let Some(files) = std::env::var_os(AGAIN) else {
        let files = Home::new();
        files.make_certificate();
        // What the system trusts is read from the environment, which a running process should not change.
        let name = "net::relay::tests::carrying::packets_travel_over_tls_with_a_certificate_that_the_system_trusts";
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", name])
            .env(AGAIN, files.path(""))
            .env("SSL_CERT_FILE", files.path("cert.pem"))
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{output:?}"
        );
        return;
    };
    let files = files.to_string_lossy().into_owned();
    in_namespace(async move || {
        carries_with(
            "turns:localhost",
            &format!("cert={files}cert.pem\npkey={files}key.pem"),
        )
        .await;
    });
}

async fn carries(url: &str) {
    carries_with(url, "").await;
}

async fn carries_with(url: &str, extra: &str) {
    let Some(_server) = Coturn::start(extra) else {
        return;
    };
    let mut scene = Scene::new(&[Coturn::server(url)]).await;
    let relayed = scene.relayed().await;
    assert_eq!(
        relayed
            .iter()
            .map(|it| it.address.is_ipv4())
            .collect::<Vec<_>>(),
        [true, false],
        "one address of each family: {relayed:?}"
    );
    let relayed = relayed[0].address;
    let endpoint = scene.open(relayed).await;
    assert!(endpoint.ip().is_loopback() && endpoint.ip() != LOCALHOST);

    let source = exchange(&scene.wireguard, endpoint, &scene.peer).await;
    assert_eq!(source, relayed, "the peer sees the relay");
    let source = exchange(&scene.peer, relayed, &scene.wireguard).await;
    assert_eq!(source, endpoint, "WireGuard sees the peer's own address");
    let statuses = scene.relays.statuses();
    assert_eq!(statuses[0].state, RelayState::Connected);

    // Odd lengths, which a stream pads, and the largest that a tunnel makes.
    for length in [1, 33, 1452, 1453, 8000] {
        scene
            .wireguard
            .send_to(&vec![4; length], endpoint)
            .await
            .expect("loopback carries it");
        loop {
            let (_, payload) = receive(&scene.peer).await;
            if payload.len() == length {
                break;
            }
        }
    }
}

#[test]
fn stun_through_the_relay_goes_to_the_core_and_from_it() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("") else {
            return;
        };
        let mut scene = Scene::new(&[Coturn::server("turn:127.0.0.1")]).await;
        let relayed = scene.relayed().await[0].address;
        let peer = address(&scene.peer);

        // A check that is ordered together with its permission is not lost.
        scene.permit([peer.ip()]);
        scene.relays.order(RelayOrder::Transmit {
            interface: INTERFACE,
            relayed,
            destination: peer,
            payload: stun(1, 24),
        });
        assert_eq!(receive(&scene.peer).await, (relayed, stun(1, 24)));

        // Without a channel, and in one.
        for mark in [2, 3] {
            scene
                .peer
                .send_to(&stun(mark, 24), relayed)
                .await
                .expect("loopback carries it");
            let packet = scene.packet().await;
            assert_eq!(
                (packet.source, packet.destination, packet.payload),
                (peer, relayed, stun(mark, 24))
            );
            let endpoint = scene.open(relayed).await;
            scene.converse(endpoint, relayed).await;
        }
    });
}

#[test]
fn a_packet_that_comes_before_its_route_is_delivered_with_it() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("") else {
            return;
        };
        let mut scene = Scene::new(&[Coturn::server("turn:127.0.0.1")]).await;
        let relayed = scene.relayed().await[0].address;
        scene.permit([LOCALHOST]);
        // The permission is there once a check comes through; what is sent behind it arrives behind it.
        let checked = async {
            loop {
                let _ = scene.peer.send_to(&stun(1, 24), relayed).await;
                tokio::select! {
                    event = scene.relays.next() => if matches!(event, super::RelayEvent::Input(super::Input::Packet(_))) { return },
                    () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
                }
            }
        };
        tokio::time::timeout(super::DEADLINE, checked)
            .await
            .expect("a permission");
        scene
            .peer
            .send_to(b"handshake", relayed)
            .await
            .expect("loopback carries it");
        scene
            .peer
            .send_to(&stun(9, 24), relayed)
            .await
            .expect("loopback carries it");
        while scene.packet().await.payload != stun(9, 24) {}
        let endpoint = scene.open(relayed).await;
        assert_eq!(
            receive(&scene.wireguard).await,
            (endpoint, b"handshake".to_vec())
        );
    });
}

#[test]
fn only_wireguard_sends_through_a_loopback_address() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("") else {
            return;
        };
        let mut scene = Scene::new(&[Coturn::server("turn:127.0.0.1")]).await;
        let relayed = scene.relayed().await[0].address;
        let endpoint = scene.open(relayed).await;
        scene.converse(endpoint, relayed).await;
        let stranger = tokio::net::UdpSocket::bind((LOCALHOST, 0))
            .await
            .expect("a port");
        stranger
            .send_to(b"injected", endpoint)
            .await
            .expect("loopback carries it");
        scene
            .wireguard
            .send_to(b"genuine", endpoint)
            .await
            .expect("loopback carries it");
        loop {
            let (_, payload) = receive(&scene.peer).await;
            assert_ne!(payload, b"injected");
            if payload == b"genuine" {
                break;
            }
        }
    });
}

#[test]
fn a_route_that_is_moved_keeps_its_address_and_a_closed_one_carries_nothing() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("") else {
            return;
        };
        let mut scene = Scene::new(&[Coturn::server("turn:127.0.0.1")]).await;
        let relayed = scene.relayed().await[0].address;
        let endpoint = scene.open(relayed).await;
        scene.converse(endpoint, relayed).await;
        scene.peer = tokio::net::UdpSocket::bind((LOCALHOST, 0))
            .await
            .expect("a port");
        assert_eq!(scene.open(relayed).await, endpoint);
        scene.converse(endpoint, relayed).await;

        scene.relays.order(RelayOrder::Close {
            interface: INTERFACE,
            peer: key(1),
        });
        // The address is free again once the route is gone.
        let free = async {
            while tokio::net::UdpSocket::bind(endpoint).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(super::DEADLINE, free)
            .await
            .expect("it is closed");
    });
}
