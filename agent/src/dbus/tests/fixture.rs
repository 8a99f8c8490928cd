//! Statuses to show, and a client's view of them.

use std::collections::HashMap;
use std::process::Command as Process;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use wice_bus::Snapshot;
use wice_core::candidate::{Kind, Network};
use wice_core::device::AllowedIp;
use wice_core::key::PublicKey;
use wice_core::status::{CandidateStatus, InterfaceStatus, PathKind, PeerStatus, Reason, State};
use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant};

use super::private_bus::{PrivateBus, eventually};
use crate::dbus::{Command, Service};

pub(super) fn serve(bus: &PrivateBus) -> (Service, mpsc::Receiver<Command>) {
    let (sender, commands) = mpsc::channel(8);
    (
        Service::start_at(Some(bus.address()), sender, "1.2.3"),
        commands,
    )
}

/// Reads until the snapshot is as wanted.
pub(super) async fn read(bus: &PrivateBus, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let client = bus.client().await;
    eventually("a snapshot as wanted", async || {
        Snapshot::read(&client).await.ok().filter(&wanted)
    })
    .await
}

pub(super) fn peers(snapshot: &Snapshot) -> usize {
    snapshot.interfaces.iter().map(|i| i.peers.len()).sum()
}

pub(super) fn peer_path(interface: &str, index: u16) -> String {
    wice_bus::path::peer(interface, key(index).as_bytes()).to_string()
}

/// The property `Peers`, as soon as it lists somebody.
pub(super) async fn listed(bus: &PrivateBus, interface: &str) -> Vec<String> {
    let client = bus.client().await;
    let path = wice_bus::path::interface(interface);
    let proxy = zbus::Proxy::new(&client, wice_bus::SERVICE, path, wice_bus::INTERFACE)
        .await
        .expect("a proxy");
    eventually("a list of peers", async || {
        let peers: Vec<OwnedObjectPath> = proxy.get_property("Peers").await.ok()?;
        (!peers.is_empty()).then(|| peers.iter().map(ToString::to_string).collect())
    })
    .await
}

/// The agent's signals from the moment at which the snapshot is as wanted.
pub(super) async fn signals_after(
    bus: &PrivateBus,
    wanted: impl Fn(&Snapshot) -> bool,
) -> MessageStream {
    read(bus, wanted).await;
    let client: Connection = bus.client().await;
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(wice_bus::SERVICE)
        .build()
        .expect("a valid rule");
    MessageStream::for_match_rule(rule, &client, None)
        .await
        .expect("subscribed")
}

pub(super) async fn next(signals: &mut MessageStream) -> Message {
    tokio::time::timeout(Duration::from_secs(20), signals.next())
        .await
        .expect("a signal in time")
        .expect("the stream goes on")
        .expect("the connection holds")
}

pub(super) fn member(message: &Message) -> String {
    message
        .header()
        .member()
        .map(ToString::to_string)
        .unwrap_or_default()
}

pub(super) fn changed(message: &Message) -> (String, HashMap<String, OwnedVariant>) {
    assert_eq!(member(message), "PropertiesChanged");
    let body: (String, HashMap<String, OwnedVariant>, Vec<String>) =
        message.body().deserialize().expect("(sa{sv}as)");
    (body.0, body.1)
}

pub(super) async fn busctl_as_nobody(bus: &PrivateBus, arguments: &[&str]) -> (String, String) {
    let mut busctl = Process::new("setpriv");
    busctl
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "busctl"])
        .arg(format!("--address={}", bus.address()))
        .args(arguments);
    let output = tokio::task::spawn_blocking(move || busctl.output())
        .await
        .expect("the thread ends")
        .expect("setpriv and busctl run (Debian: util-linux, systemd)");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr))
}

pub(super) fn key(index: u16) -> PublicKey {
    let mut bytes = [1; 32];
    bytes[..2].copy_from_slice(&index.to_be_bytes());
    PublicKey::from_bytes(bytes)
}

pub(super) fn interface(name: &str) -> InterfaceStatus {
    InterfaceStatus {
        name: name.to_owned(),
        public_key: Some(key(9)),
        listen_port: 51820,
        fwmark: 7,
        managed: true,
    }
}

pub(super) fn waiting(index: u16) -> PeerStatus {
    PeerStatus {
        public_key: key(index),
        name: String::new(),
        state: State::Waiting,
        reason: Reason::NoOffer,
        path: PathKind::None,
        endpoint: None,
        local_candidate: None,
        remote_candidate: None,
        round_trip_time: None,
        latest_handshake: Duration::ZERO,
        allowed_ips: Vec::new(),
        rx_bytes: 0,
        tx_bytes: 0,
        since: Duration::from_secs(1_700_000_000),
        restarts: 0,
    }
}

pub(super) fn connected(index: u16) -> PeerStatus {
    let candidate = |kind, port| {
        Some(CandidateStatus {
            kind,
            network: Network::Udp4,
            address: ([192, 0, 2, 1], port).into(),
        })
    };
    PeerStatus {
        name: "laptop".to_owned(),
        state: State::Connected,
        reason: Reason::PairNominated,
        path: PathKind::Direct,
        endpoint: Some(([192, 0, 2, 1], 2).into()),
        local_candidate: candidate(Kind::Host, 1),
        remote_candidate: candidate(Kind::Srflx, 2),
        round_trip_time: Some(Duration::from_micros(1500)),
        latest_handshake: Duration::from_secs(1_700_000_000),
        allowed_ips: vec![AllowedIp {
            address: [10, 213, 0, 2].into(),
            prefix: 32,
        }],
        rx_bytes: 10,
        tx_bytes: 20,
        since: Duration::from_secs(1_700_000_001),
        restarts: 3,
        ..waiting(index)
    }
}
