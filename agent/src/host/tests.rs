//! On a bus of one's own: services that say what logind, NetworkManager, networkd and resolved say.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use zbus::Connection;
use zbus::connection::Builder;

use super::{Event, Host};

const DEADLINE: Duration = Duration::from_secs(30);

/// A dbus-daemon on which anybody may own any name; ends when dropped.
struct Bus {
    daemon: Child,
    address: String,
}

impl Bus {
    fn start() -> Self {
        let mut daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--print-address=1"])
            .arg("--address=unix:tmpdir=/tmp")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon starts (Debian: apt-get install dbus)");
        let mut address = String::new();
        let stdout = daemon.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut address)
            .expect("an address");
        let address = address.trim().to_owned();
        Self { daemon, address }
    }

    /// A program that owns `name`.
    async fn service(&self, name: &str) -> Connection {
        let service = self.program().await;
        service.request_name(name).await.expect("the name is free");
        service
    }

    async fn program(&self) -> Connection {
        let builder = Builder::address(self.address.as_str());
        builder.build().await.expect("the bus takes a client")
    }

    /// Starts the room and waits until the bus has all of its rules.
    async fn host(&self) -> Host {
        let mut host = Host::start_at(Some(self.address.clone()));
        // Ordered last: when its signal arrives, the rules for the others are there.
        let probe = self.service("org.freedesktop.resolve1").await;
        repeat(&probe, &mut host, Event::NetworkHint, dns).await;
        probe
            .release_name("org.freedesktop.resolve1")
            .await
            .expect("it is ours");
        host
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Sends until the event comes, and takes all that follow from it.
async fn repeat(from: &Connection, host: &mut Host, event: Event, send: AsyncSend) {
    let wait = async {
        loop {
            send(from.clone()).await;
            let next = tokio::time::timeout(Duration::from_millis(1_500), host.next()).await;
            if let Ok(next) = next {
                assert_eq!(next, event);
                // It may have been sent more than once.
                quiet(host, event).await;
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .expect("the event arrives");
}

/// Waits until nothing has come for a while; only more of the same may come before. Returns how many came.
async fn quiet(host: &mut Host, event: Event) -> u32 {
    let mut count = 0;
    while let Ok(more) = tokio::time::timeout(super::SETTLE * 2, host.next()).await {
        assert_eq!(more, event);
        count += 1;
    }
    count
}

type AsyncSend = fn(Connection) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

fn dns(from: Connection) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move { properties(&from, "resolve1", "DNS").await })
}

async fn properties(from: &Connection, service: &str, property: &str) {
    let changed = std::collections::HashMap::from([(property, zbus::Variant::from("new"))]);
    let body = (
        format!("org.freedesktop.{service}.Manager"),
        changed,
        Vec::<&str>::new(),
    );
    emit(
        from,
        &format!("/org/freedesktop/{service}"),
        "org.freedesktop.DBus.Properties",
        "PropertiesChanged",
        &body,
    )
    .await;
}

async fn sleeps(from: &Connection, start: bool) {
    let interface = "org.freedesktop.login1.Manager";
    let path = "/org/freedesktop/login1";
    emit(from, path, interface, "PrepareForSleep", &start).await;
}

async fn network_manager(from: &Connection, state: u32) {
    let interface = "org.freedesktop.NetworkManager";
    let path = "/org/freedesktop/NetworkManager";
    emit(from, path, interface, "StateChanged", &state).await;
}

async fn emit<B>(from: &Connection, path: &str, interface: &str, name: &str, body: &B)
where
    B: serde::Serialize + zbus::wire::DynamicType + Sync,
{
    from.emit_signal(None::<&str>, path, interface, name, body)
        .await
        .expect("the signal is sent");
}

async fn next(host: &mut Host) -> Event {
    tokio::time::timeout(DEADLINE, host.next())
        .await
        .expect("an event arrives")
}

#[tokio::test]
async fn waking_up_is_told_and_falling_asleep_is_not() {
    let bus = Bus::start();
    let mut host = bus.host().await;
    let logind = bus.service("org.freedesktop.login1").await;
    sleeps(&logind, true).await;
    sleeps(&logind, false).await;
    assert_eq!(next(&mut host).await, Event::Resumed);
    // Had the first one counted too, its event would come before this one.
    let networks = bus.service("org.freedesktop.NetworkManager").await;
    network_manager(&networks, 70).await;
    assert_eq!(next(&mut host).await, Event::NetworkHint);
}

#[tokio::test]
async fn a_program_that_is_not_logind_wakes_nobody() {
    let bus = Bus::start();
    let mut host = bus.host().await;
    let logind = bus.service("org.freedesktop.login1").await;
    let stranger = bus.program().await;
    sleeps(&stranger, false).await;
    network_manager(&stranger, 70).await;
    let heard = tokio::time::timeout(super::SETTLE * 2, host.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    sleeps(&logind, false).await;
    assert_eq!(next(&mut host).await, Event::Resumed);
}

#[tokio::test]
async fn many_changes_of_the_network_are_one_hint() {
    let bus = Bus::start();
    let mut host = bus.host().await;
    let networkd = bus.service("org.freedesktop.network1").await;
    let networks = bus.service("org.freedesktop.NetworkManager").await;
    let start = Instant::now();
    for _ in 0..20 {
        properties(&networkd, "network1", "OnlineState").await;
        network_manager(&networks, 60).await;
    }
    let sending = start.elapsed();
    assert_eq!(next(&mut host).await, Event::NetworkHint);
    let further = quiet(&mut host, Event::NetworkHint).await;
    // On a machine so busy that forty signals take longer than a hint is held back, there is another one.
    let most = sending.as_secs_f64() / super::SETTLE.as_secs_f64();
    assert!(f64::from(further) <= most, "{further} more");
    // Neither a property of no interest nor a network that is going away is a hint.
    properties(&networkd, "network1", "NamespaceId").await;
    network_manager(&networks, 20).await;
    let logind = bus.service("org.freedesktop.login1").await;
    let more = tokio::time::timeout(super::SETTLE * 2, host.next()).await;
    assert!(more.is_err(), "{more:?}");
    sleeps(&logind, false).await;
    assert_eq!(next(&mut host).await, Event::Resumed);
}
