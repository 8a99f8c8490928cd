//! `wicectl wait` against the real service on a real bus.

use std::time::Duration;

use wice_core::status::{PathKind, PeerStatus};

use super::fixture::{connected, interface, peers, read, serve, waiting};
use super::private_bus::PrivateBus;
use super::wicectl::{fails, run, stdout};

#[tokio::test]
async fn waiting_ends_when_the_peer_is_connected_directly() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    let named = |status| PeerStatus {
        name: "laptop".to_owned(),
        ..status
    };
    service.interface(interface("wg0"));
    service.peer("wg0", named(waiting(1)));
    read(&bus, |s| peers(s) == 1).await;

    let refused = run(&bus, &["wait", "laptop", "--timeout", "0.2"]).await;
    fails(
        &refused,
        3,
        "wg0 laptop is not connected in time, it is: waiting (nothing heard from the peer yet",
    );
    let relayed = PeerStatus {
        path: PathKind::Relay,
        ..connected(1)
    };
    service.peer("wg0", relayed);
    stdout(&run(&bus, &["wait", "laptop", "--timeout", "20"]).await);
    let arguments = ["wait", "laptop", "--direct", "--timeout", "0.2"];
    fails(
        &run(&bus, &arguments).await,
        3,
        "wg0 laptop has no direct path in time, its path is: relay",
    );

    let driver = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        service.peer("wg0", connected(1));
    };
    let (output, ()) = tokio::join!(run(&bus, &["wait", "laptop", "--direct"]), driver);
    stdout(&output);

    let driver = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        service.interface_gone("wg0");
    };
    service.peer("wg0", named(waiting(1)));
    read(&bus, |s| {
        s.interfaces[0].peers[0].state == wice_bus::State::Waiting
    })
    .await;
    let (output, ()) = tokio::join!(run(&bus, &["wait", "laptop"]), driver);
    fails(&output, 10, "is gone");
    fails(
        &run(&bus, &["wait", "laptop", "--timeout=-1"]).await,
        2,
        "--timeout",
    );
}
