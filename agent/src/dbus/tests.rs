//! The service on a real bus, as a client of it sees it.

mod annotations;
mod example;
mod explain;
mod fixture;
mod netcheck;
mod options;
mod packaging;
mod ping;
mod polkit;
mod private_bus;
mod wait;
mod wicectl;

use std::collections::HashMap;
use std::time::Duration;

use wice_core::explain::{Finding, PairState};
use wice_core::status::{PathKind, PeerStatus, Reason, State};

use super::Command;
use fixture::{
    busctl_as_nobody, changed, connected, interface, key, listed, member, next, peer_path, peers,
    read, serve, signals_after, waiting,
};
use private_bus::PrivateBus;

#[tokio::test]
async fn what_the_driver_shows_is_what_a_client_reads() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg-home"));
    service.peer("wg-home", connected(1));
    service.backends(vec![("wss://a".to_owned(), 30, "refused".to_owned())]);
    service.relays(vec![("turn:a:3478".to_owned(), 60, "401".to_owned())]);

    let snapshot = read(&bus, |s| peers(s) + s.backends.len() + s.relays.len() == 3).await;

    assert_eq!(snapshot.version, "1.2.3");
    assert_eq!(snapshot.backends[0].state, wice_bus::BackendState::Down);
    assert_eq!(snapshot.backends[0].error, "refused");
    assert_eq!(snapshot.relays[0].state, wice_bus::RelayState::Down);
    assert_eq!(snapshot.relays[0].error, "401");
    let shown = &snapshot.interfaces[0];
    assert_eq!((shown.name.as_str(), shown.listen_port), ("wg-home", 51820));
    assert_eq!((shown.firewall_mark, shown.managed), (7, true));
    assert_eq!(shown.public_key, key(9).to_string());
    let candidate = |kind: &str, port| wice_bus::Candidate {
        kind: kind.to_owned(),
        address: "192.0.2.1".to_owned(),
        port,
        network: "udp4".to_owned(),
    };
    let expected = wice_bus::Peer {
        path: wice_bus::path::peer("wg-home", key(1).as_bytes()).to_string(),
        public_key: key(1).to_string(),
        name: "laptop".to_owned(),
        state: wice_bus::State::Connected,
        reason: wice_bus::Reason::PairNominated,
        packet_path: "direct".to_owned(),
        endpoint: "192.0.2.1:2".to_owned(),
        local_candidate: Some(candidate("host", 1)),
        remote_candidate: Some(candidate("srflx", 2)),
        rtt_us: 1500,
        latest_handshake: 1_700_000_000,
        allowed_ips: vec!["10.213.0.2/32".to_owned()],
        rx_bytes: 10,
        tx_bytes: 20,
        since: 1_700_000_001,
        restarts: 3,
    };
    assert_eq!(shown.peers, [expected]);
    service.stop().await;
}

#[tokio::test]
async fn a_change_of_state_sends_what_differs_and_then_the_signal() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    let mut signals = signals_after(&bus, |s| peers(s) == 1).await;

    service.peer(
        "wg0",
        PeerStatus {
            state: State::Failed,
            reason: Reason::NoPairWorks,
            rx_bytes: 99,
            ..waiting(1)
        },
    );
    service.state_changed(
        "wg0",
        &key(1),
        State::Failed,
        State::Waiting,
        Reason::NoPairWorks,
    );
    service.path_changed("wg0", &key(1), PathKind::None, PathKind::Direct);

    let properties = next(&mut signals).await;
    let (interface, changed) = changed(&properties);
    assert_eq!(interface, "org.wice.Wice1.Peer");
    let mut names: Vec<&str> = changed.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["State", "StateReason"]);
    let state = next(&mut signals).await;
    assert_eq!(member(&state), "StateChanged");
    let body: (u32, u32, u32) = state.body().deserialize().expect("(uuu)");
    assert_eq!(body, (60, 20, 90));
    let path = next(&mut signals).await;
    let body: (String, String) = path.body().deserialize().expect("(ss)");
    assert_eq!(
        (member(&path).as_str(), body.0.as_str(), body.1.as_str()),
        ("PathChanged", "none", "direct")
    );
}

#[tokio::test]
async fn counters_of_a_thousand_peers_are_readable_and_signal_nothing() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    for index in 0..1000 {
        service.peer("wg0", waiting(index));
    }
    let mut signals = signals_after(&bus, |s| peers(s) == 1000).await;

    for index in 0..1000 {
        let counted = PeerStatus {
            rx_bytes: 5,
            tx_bytes: 6,
            ..waiting(index)
        };
        service.peer("wg0", counted);
    }
    read(&bus, |s| {
        s.interfaces[0]
            .peers
            .iter()
            .all(|p| (p.rx_bytes, p.tx_bytes) == (5, 6))
    })
    .await;
    service.peer_gone("wg0", &key(0));

    assert_eq!(member(&next(&mut signals).await), "InterfacesRemoved");
}

#[tokio::test]
async fn interfaces_and_peers_come_and_go() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    let mut signals = signals_after(&bus, |s| s.interfaces.is_empty()).await;

    service.interface(interface("wg0"));
    service.interface(interface("wg00"));
    service.peer("wg0", waiting(1));
    service.peer("wg00", waiting(2));
    let snapshot = read(&bus, |s| peers(s) == 2).await;
    assert_eq!(snapshot.interfaces.len(), 2);
    assert_eq!(listed(&bus, "wg0").await, [peer_path("wg0", 1)]);
    service.interface_gone("wg0");

    let snapshot = read(&bus, |s| s.interfaces.len() == 1).await;
    assert_eq!(snapshot.interfaces[0].name, "wg00");
    assert_eq!(snapshot.interfaces[0].peers.len(), 1);
    let mut removed = Vec::new();
    while removed.len() < 2 {
        let signal = next(&mut signals).await;
        if member(&signal) == "InterfacesRemoved" {
            let body: (zbus::OwnedObjectPath, Vec<String>) =
                signal.body().deserialize().expect("(oas)");
            removed.push(body.0.to_string());
        }
    }
    assert_eq!(
        removed,
        [
            peer_path("wg0", 1),
            "/org/wice/Wice1/interface/wg0".to_owned()
        ]
    );
}

#[tokio::test]
async fn the_agents_own_user_restarts_a_peer() {
    let bus = PrivateBus::started().await;
    let (service, mut commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    read(&bus, |s| peers(s) == 1).await;
    let driver = tokio::spawn(async move {
        let Some(Command::Restart {
            interface,
            peer,
            reply,
        }) = commands.recv().await
        else {
            panic!("no restart arrived");
        };
        reply.send(true).expect("somebody waits");
        // The next one finds a driver that no longer knows the peer, and then none.
        let Some(Command::Restart { reply, .. }) = commands.recv().await else {
            panic!("no second restart arrived");
        };
        reply.send(false).expect("somebody waits");
        (interface, peer)
    });
    let client = bus.client().await;
    let path = wice_bus::path::peer("wg0", key(1).as_bytes());
    let peer = wice_bus::PeerProxy::new(&client, path)
        .await
        .expect("a proxy");

    peer.restart(HashMap::new())
        .await
        .expect("root or the agent's user may");
    let unknown = peer.restart(HashMap::new()).await;
    assert!(
        matches!(unknown, Err(wice_bus::Error::UnknownPeer(_))),
        "{unknown:?}"
    );
    assert_eq!(
        driver.await.expect("the driver"),
        ("wg0".to_owned(), key(1))
    );
    let gone = peer.restart(HashMap::new()).await;
    assert!(matches!(gone, Err(wice_bus::Error::Busy(_))), "{gone:?}");
}

#[tokio::test]
async fn a_reload_that_fails_says_why() {
    let bus = PrivateBus::started().await;
    let (_service, mut commands) = serve(&bus);
    read(&bus, |_| true).await;
    tokio::spawn(async move {
        while let Some(Command::Reload { reply }) = commands.recv().await {
            let _ = reply.send(Err("wice.toml: unknown key".to_owned()));
        }
    });
    let client = bus.client().await;
    let manager = wice_bus::ManagerProxy::new(&client).await.expect("a proxy");

    let refused = manager.reload().await;

    let Err(wice_bus::Error::InvalidArgument(message)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(message, "wice.toml: unknown key");
}

#[tokio::test]
async fn a_peer_is_found_by_its_key() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    read(&bus, |s| peers(s) == 1).await;
    let client = bus.client().await;
    let manager = wice_bus::ManagerProxy::new(&client).await.expect("a proxy");

    let found = manager
        .get_peer("wg0", &key(1).to_string())
        .await
        .expect("known");
    assert_eq!(found, wice_bus::path::peer("wg0", key(1).as_bytes()));
    let unknown = manager.get_peer("wg1", &key(1).to_string()).await;
    assert!(matches!(unknown, Err(wice_bus::Error::UnknownInterface(_))));
    let unknown = manager.get_peer("wg0", &key(2).to_string()).await;
    assert!(matches!(unknown, Err(wice_bus::Error::UnknownPeer(_))));
    let malformed = manager.get_peer("wg0", "laptop").await;
    assert!(matches!(
        malformed,
        Err(wice_bus::Error::InvalidArgument(_))
    ));
}

#[tokio::test]
async fn another_user_may_read_but_not_change_anything() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let bus = PrivateBus::started().await;
    let (service, mut commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    read(&bus, |s| peers(s) == 1).await;
    let path = wice_bus::path::peer("wg0", key(1).as_bytes());

    let (read, _) = busctl_as_nobody(
        &bus,
        &[
            "get-property",
            wice_bus::SERVICE,
            &path,
            wice_bus::PEER,
            "State",
        ],
    )
    .await;
    assert_eq!(read.trim(), "u 20");
    for call in [
        vec![path.as_str(), wice_bus::PEER, "Restart", "a{sv}", "0"],
        vec![wice_bus::path::ROOT, wice_bus::MANAGER, "Reload"],
    ] {
        let (_, error) =
            busctl_as_nobody(&bus, &[&["call", wice_bus::SERVICE], &call[..]].concat()).await;
        assert!(error.contains("user 65534 may not"), "{error}");
    }
    assert!(commands.try_recv().is_err(), "the driver was asked");
}

#[tokio::test]
async fn the_service_appears_when_the_bus_does_and_survives_its_restart() {
    let mut bus = PrivateBus::absent();
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    tokio::time::sleep(Duration::from_millis(50)).await;

    bus.start().await;
    read(&bus, |s| peers(s) == 1).await;

    bus.stop();
    service.peer_gone("wg0", &key(1));
    service.interface(interface("wg1"));
    bus.start().await;
    let snapshot = read(&bus, |s| !s.interfaces.is_empty()).await;
    assert_eq!((snapshot.interfaces.len(), peers(&snapshot)), (2, 0));
}

#[tokio::test]
async fn a_second_agent_waits_until_the_name_is_free() {
    let bus = PrivateBus::started().await;
    let (first, _first_commands) = serve(&bus);
    first.interface(interface("wg0"));
    read(&bus, |s| s.interfaces.len() == 1).await;
    let (second, _commands) = serve(&bus);
    second.interface(interface("wg1"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(read(&bus, |_| true).await.interfaces[0].name, "wg0");

    first.stop().await;

    read(&bus, |s| s.interfaces.iter().any(|i| i.name == "wg1")).await;
}

#[tokio::test]
async fn stopping_without_a_bus_takes_no_time() {
    let bus = PrivateBus::absent();
    let (service, _commands) = serve(&bus);
    tokio::time::timeout(Duration::from_secs(5), service.stop())
        .await
        .expect("stops at once");
}

#[test]
fn the_agents_numbers_are_those_of_the_contract() {
    for state in wice_bus::State::ALL {
        let core = [
            State::Unknown,
            State::Unmanaged,
            State::Waiting,
            State::Gathering,
            State::Checking,
            State::Connected,
            State::Failed,
        ];
        let same = core
            .iter()
            .find(|core| **core as u32 == state.number())
            .expect("the number exists");
        assert_eq!(format!("{same:?}"), format!("{state:?}"));
    }
    let findings = [
        Finding::NoLocalCandidates,
        Finding::NoStunServer,
        Finding::StunUnanswered,
        Finding::NoRemoteCandidates,
        Finding::PeerOnlyPrivate,
        Finding::NoCommonFamily,
        Finding::NothingArrives,
        Finding::Unanswered,
        Finding::MappingVaries,
        Finding::PeerMappingVaries,
        Finding::UdpBlocked,
        Finding::RelayOnly,
        Finding::PeerRelayOnly,
    ];
    let pair_states = [
        PairState::Waiting,
        PairState::Checking,
        PairState::Answered,
        PairState::Selected,
        PairState::Failed,
    ];
    // The contract's first is "unknown".
    let numbered = |core: &dyn std::fmt::Debug, number: u32| (number, format!("{core:?}"));
    let ours: Vec<_> = findings.iter().map(|it| numbered(it, *it as u32)).collect();
    let bus = wice_bus::Finding::ALL.iter().skip(1);
    let contract: Vec<_> = bus.map(|it| numbered(it, it.number())).collect();
    assert_eq!(ours, contract);
    let ours: Vec<_> = pair_states
        .iter()
        .map(|it| numbered(it, *it as u32))
        .collect();
    let bus = wice_bus::PairState::ALL.iter().skip(1);
    let contract: Vec<_> = bus.map(|it| numbered(it, it.number())).collect();
    assert_eq!(ours, contract);
    for (core, bus) in [
        (Reason::PeerAdded, wice_bus::Reason::PeerAdded),
        (Reason::NoBackend, wice_bus::Reason::NoBackend),
        (Reason::NoOffer, wice_bus::Reason::NoOffer),
        (Reason::PairNominated, wice_bus::Reason::PairNominated),
        (Reason::NoPairWorks, wice_bus::Reason::NoPairWorks),
        (Reason::ConsentLost, wice_bus::Reason::ConsentLost),
        (Reason::RestartRequested, wice_bus::Reason::RestartRequested),
        (Reason::KernelAlive, wice_bus::Reason::KernelAlive),
        (Reason::InvalidKey, wice_bus::Reason::InvalidKey),
        (Reason::DirectPathLost, wice_bus::Reason::DirectPathLost),
        (Reason::RelayLost, wice_bus::Reason::RelayLost),
    ] {
        assert_eq!(core as u32, bus.number(), "{core:?}");
    }
}
