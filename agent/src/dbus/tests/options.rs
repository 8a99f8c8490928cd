//! Options that a method does not have, or does not take so.

use std::collections::HashMap;

use zbus::Variant;

use super::fixture::{interface, key, peers, read, serve, waiting};
use super::private_bus::PrivateBus;

#[tokio::test]
async fn an_option_that_a_check_does_not_have_is_refused() {
    let bus = PrivateBus::started().await;
    let (_service, mut commands) = serve(&bus);
    read(&bus, |_| true).await;
    let client = bus.client().await;
    let manager = wice_bus::ManagerProxy::new(&client).await.expect("a proxy");
    for (name, value, problem) in [
        ("Server", Variant::from("stun:a"), "unknown option"),
        ("Timeout", Variant::from("soon"), "as a u"),
        ("Timeout", Variant::from(1_u32), "1000"),
        ("Timeout", Variant::from(60_000_u32), "15000"),
    ] {
        let refused = manager.net_check(HashMap::from([(name, value)])).await;
        let Err(wice_bus::Error::InvalidArgument(message)) = refused else {
            panic!("{name}: {refused:?}");
        };
        assert!(message.contains(problem), "{message}");
    }
    assert!(commands.try_recv().is_err(), "the driver was asked");
}

#[tokio::test]
async fn an_option_that_a_restart_does_not_have_is_refused() {
    let bus = PrivateBus::started().await;
    let (service, mut commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    read(&bus, |s| peers(s) == 1).await;
    let client = bus.client().await;
    let path = wice_bus::path::peer("wg0", key(1).as_bytes());
    let peer = wice_bus::PeerProxy::new(&client, path)
        .await
        .expect("a proxy");

    let refused = peer
        .restart(HashMap::from([("Softly", Variant::from(true))]))
        .await;

    let Err(wice_bus::Error::InvalidArgument(message)) = refused else {
        panic!("{refused:?}");
    };
    assert!(message.contains("Softly"), "{message}");
    assert!(commands.try_recv().is_err(), "the driver was asked");
}
