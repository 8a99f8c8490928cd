//! Servers that refuse, that are silent, that are not there: said in words, and in nobody's way.

use std::time::Duration;

use tokio::net::UdpSocket;

use super::coturn::{Coturn, USER, server};
use super::{Input, LOCALHOST, RelayEvent, RelayState, Scene, address, in_namespace};

#[test]
fn a_wrong_password_is_told_in_words() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("") else {
            return;
        };
        let mut scene = Scene::new(&[server("turn:127.0.0.1", USER, "swordfish")]).await;
        let statuses = scene.status(|it| it[0].state == RelayState::Failed).await;
        let error = statuses[0].error.clone().unwrap_or_default();
        assert!(
            error.contains("401") && error.contains("password"),
            "{error}"
        );
        assert!(!error.contains("swordfish"), "{error}");
    });
}

#[test]
fn nobody_waits_for_servers_that_fail() {
    in_namespace(async || {
        let mut scene = Scene::new(&[server("turn:127.0.0.1:9", USER, "")]).await;
        let finished = scene.await_event(|_, event| match event {
            RelayEvent::Input(Input::Relayed {
                finished: true,
                addresses,
                ..
            }) => Some(addresses),
            _ => None,
        });
        assert_eq!(finished.await, []);
        let statuses = scene.relays.statuses();
        let error = statuses[0].error.clone().unwrap_or_default();
        assert!(error.contains("cannot reach 127.0.0.1:9"), "{error}");
    });
}

#[test]
fn a_silent_server_delays_no_other_and_is_told() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("") else {
            return;
        };
        let silent = UdpSocket::bind((LOCALHOST, 0)).await.expect("a port");
        let url = format!("turn:{}", address(&silent));
        let mut scene = Scene::new(&[
            server(&url, USER, ""),
            Coturn::server("turn:127.0.0.1?transport=tcp"),
        ])
        .await;
        let begun = tokio::time::Instant::now();
        scene.relayed().await;
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{:?}",
            begun.elapsed()
        );
        let statuses = scene.status(|it| it[0].state == RelayState::Failed).await;
        let error = statuses[0].error.clone().unwrap_or_default();
        assert!(error.contains("does not answer"), "{error}");
    });
}

#[test]
fn a_quota_that_is_reached_is_told() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("user-quota=1") else {
            return;
        };
        let mut first = Scene::new(&[Coturn::server("turn:127.0.0.1")]).await;
        first.relayed().await;
        let mut second = Scene::new(&[Coturn::server("turn:127.0.0.1")]).await;
        let statuses = second.status(|it| it[0].state == RelayState::Failed).await;
        let error = statuses[0].error.clone().unwrap_or_default();
        assert!(error.contains("486") && error.contains("quota"), "{error}");
        // The first one gives its allocation back, and the second one gets it.
        first.relays.leave(super::DEADLINE).await;
        second.relayed().await;
    });
}

#[test]
fn a_certificate_that_nobody_trusts_is_told() {
    in_namespace(async || {
        let Some(_server) = Coturn::start("") else {
            return;
        };
        let mut scene = Scene::new(&[Coturn::server("turns:localhost")]).await;
        let statuses = scene.status(|it| it[0].state == RelayState::Failed).await;
        let error = statuses[0].error.clone().unwrap_or_default();
        assert!(error.contains("certificate"), "{error}");
    });
}
