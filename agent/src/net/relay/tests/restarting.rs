//! Servers that die and come back, and credentials that change: the tunnel does not stay away.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::coturn::{Coturn, PASSWORD, server};
use super::{Input, RelayEvent, Scene, in_namespace};

#[test]
fn a_killed_server_carries_again_soon_after_it_is_back() {
    in_namespace(async || comes_back("turn:127.0.0.1", true).await);
}

#[test]
fn a_killed_server_carries_again_soon_after_it_is_back_over_tcp() {
    in_namespace(async || comes_back("turn:127.0.0.1?transport=tcp", true).await);
}

/// Nobody has heard that it was gone: it answers, and knows us no more.
#[test]
fn a_server_that_restarts_between_two_packets_carries_again_soon() {
    in_namespace(async || comes_back("turn:127.0.0.1", false).await);
}

async fn comes_back(url: &str, noticed: bool) {
    let Some(mut server) = Coturn::start("") else {
        return;
    };
    let mut scene = Scene::new(&[Coturn::server(url)]).await;
    let relayed = scene.relayed().await[0].address;
    let endpoint = scene.open(relayed).await;
    scene.converse(endpoint, relayed).await;

    server.kill();
    if noticed {
        let killed = Instant::now();
        scene.send(endpoint).await;
        scene.lost().await;
        eprintln!("{url}: noticed after {:?}", killed.elapsed());
    }
    server.restart();
    let back = Instant::now();
    if !noticed {
        scene.send(endpoint).await;
        scene.lost().await;
        eprintln!("{url}: noticed {:?} after the restart", back.elapsed());
    }
    let relayed = scene.relayed().await[0].address;
    assert_eq!(
        scene.open(relayed).await,
        endpoint,
        "the loopback address stays"
    );
    scene.converse(endpoint, relayed).await;
    eprintln!(
        "{url}: carries {:?} after the server is back",
        back.elapsed()
    );
}

#[test]
fn new_credentials_replace_an_allocation_without_a_gap() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("user=bob:builder") else {
            return;
        };
        let mut scene = Scene::new(&[Coturn::server("turn:127.0.0.1")]).await;
        let old = scene.relayed().await[0].address;
        let endpoint = scene.open(old).await;
        scene.converse(endpoint, old).await;

        scene
            .relays
            .set_servers(&[server("turn:127.0.0.1", "bob", "builder")]);
        let both = scene
            .await_event(|_, event| match event {
                RelayEvent::Input(Input::Relayed { addresses, .. }) if addresses.len() == 4 => {
                    Some(addresses)
                }
                _ => None,
            })
            .await;
        assert_eq!(both[2].address, old, "the new ones come first");
        scene.converse(endpoint, old).await;
        let new = both[0].address;
        assert_eq!(scene.open(new).await, endpoint);
        scene.converse(endpoint, new).await;
        // And the old one goes when nothing uses it any more.
        let left = scene
            .await_event(|_, event| match event {
                RelayEvent::Input(Input::Relayed { addresses, .. }) => Some(addresses),
                _ => None,
            })
            .await;
        let left: BTreeSet<_> = left.iter().map(|it| it.address).collect();
        assert_eq!(left, both[..2].iter().map(|it| it.address).collect());
        scene.converse(endpoint, new).await;
    });
}

#[test]
fn wrong_new_credentials_do_not_end_what_works() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("") else {
            return;
        };
        let mut scene = Scene::new(&[Coturn::server("turn:127.0.0.1")]).await;
        let relayed = scene.relayed().await[0].address;
        let endpoint = scene.open(relayed).await;
        scene
            .relays
            .set_servers(&[server("turn:127.0.0.1", "mallory", PASSWORD)]);
        scene.status(|it| it[0].error.is_some()).await;
        scene.converse(endpoint, relayed).await;
    });
}

#[test]
fn the_next_server_takes_over_from_one_that_died() {
    in_namespace(async || {
        let Some(mut server) = Coturn::start("") else {
            return;
        };
        let Some(_other) = Coturn::start_at("127.0.0.3", "") else {
            return;
        };
        let servers = [
            Coturn::server("turn:127.0.0.1"),
            Coturn::server("turn:127.0.0.3?transport=tcp"),
        ];
        let mut scene = Scene::new(&servers).await;
        let relayed = scene.relayed().await[0];
        assert_eq!(
            relayed.server.ip().to_string(),
            "127.0.0.1",
            "UDP is preferred"
        );
        let endpoint = scene.open(relayed.address).await;
        scene.converse(endpoint, relayed.address).await;
        server.kill();
        scene.send(endpoint).await;
        let relayed = loop {
            let relayed = scene.relayed().await[0];
            if relayed.server.ip().to_string() == "127.0.0.3" {
                break relayed.address;
            }
        };
        scene.open(relayed).await;
        scene.converse(endpoint, relayed).await;
    });
}

#[test]
fn a_server_that_sends_us_on_is_followed() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("alternate-server=127.0.0.3:3478") else {
            return;
        };
        let Some(_other) = Coturn::start_at("127.0.0.3", "") else {
            return;
        };
        let mut scene = Scene::new(&[Coturn::server("turn:127.0.0.1")]).await;
        let relayed = scene.relayed().await[0];
        assert_eq!(relayed.server.to_string(), "127.0.0.3:3478");
        let endpoint = scene.open(relayed.address).await;
        scene.converse(endpoint, relayed.address).await;
    });
}

#[test]
fn credentials_that_are_valid_for_hours_are_replaced_when_they_end_and_not_at_every_new_list() {
    in_namespace(async || {
        let end = 4_102_444_800_u64;
        let Some(_server) = Coturn::start(&format!("user={end}:first\nuser={}:second", end + 60))
        else {
            return;
        };
        let url = "turn:127.0.0.1";
        let mut scene = Scene::new(&[server(url, &end.to_string(), "first")]).await;
        let relayed = scene.relayed().await;
        let endpoint = scene.open(relayed[0].address).await;
        scene
            .relays
            .set_servers(&[server(url, &(end + 60).to_string(), "second")]);
        // Whatever is ordered later is answered later.
        scene.relays.order(super::RelayOrder::Allocate {
            interface: super::INTERFACE,
            wanted: true,
            fwmark: 0,
        });
        assert_eq!(scene.relayed().await, relayed);
        scene.converse(endpoint, relayed[0].address).await;
        assert_eq!(
            scene.relays.statuses()[0].state,
            super::RelayState::Connected
        );
    });
}
