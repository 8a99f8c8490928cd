//! What other services of this machine tell: that it has slept, and that its network is another one.
//!
//! Only hints: a service that is absent costs one match rule on the bus, and nothing is logged about it. The kernel's own news are
//! the kernel room's. Must not know a session, a peer or the agent's own D-Bus service.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use futures_util::StreamExt;
use rand::SeedableRng;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug;
use wice_core::backoff::Backoff;
use wice_core::session::Random;
use zbus::connection::Builder;
use zbus::fdo::{PropertiesChanged, PropertiesProxy};
use zbus::proxy::CacheProperties;
use zbus::{Connection, proxy};

#[cfg(test)]
mod tests;

/// What a service of this machine told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The machine has slept and is awake again.
    Resumed,
    /// The network changed in a way that its addresses need not show.
    NetworkHint,
}

/// Listens on the system bus for as long as there is one.
pub(crate) struct Host {
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

/// Between attempts to reach the bus; nobody misses a hint for a minute.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A bus that accepts a connection and then says nothing counts as none after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One change of the network is told by several services, step by step: one hint at its end is enough.
const SETTLE: Duration = Duration::from_secs(1);
/// `NM_STATE_CONNECTED_SITE` (NetworkManager's D-Bus API): there is a way out of this link.
const CONNECTED_SITE: u32 = 60;

/// Services whose properties tell of the network: name, path, interface, properties.
const NETWORKD: Watched = Watched {
    service: "org.freedesktop.network1",
    path: "/org/freedesktop/network1",
    interface: "org.freedesktop.network1.Manager",
    properties: &["OperationalState", "OnlineState"],
};
const RESOLVED: Watched = Watched {
    service: "org.freedesktop.resolve1",
    path: "/org/freedesktop/resolve1",
    interface: "org.freedesktop.resolve1.Manager",
    properties: &["DNS"],
};

struct Watched {
    service: &'static str,
    path: &'static str,
    interface: &'static str,
    properties: &'static [&'static str],
}

#[proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Logind {
    /// Before (`start`) and after the machine sleeps.
    #[zbus(signal)]
    fn prepare_for_sleep(&self, start: bool) -> zbus::Result<()>;
}

#[proxy(
    interface = "org.freedesktop.NetworkManager",
    default_service = "org.freedesktop.NetworkManager",
    default_path = "/org/freedesktop/NetworkManager"
)]
trait NetworkManager {
    /// The state of all its networks together.
    #[zbus(signal)]
    fn state_changed(&self, state: u32) -> zbus::Result<()>;
}

impl Host {
    /// Starts to listen; must be called inside a tokio runtime.
    ///
    /// The address is `DBUS_SYSTEM_BUS_ADDRESS`, else the usual socket.
    pub(crate) fn start() -> Self {
        Self::start_at(None)
    }

    fn start_at(address: Option<String>) -> Self {
        let (sender, events) = mpsc::channel(8);
        Self {
            events,
            task: tokio::spawn(run(address, sender)),
        }
    }

    /// Waits for the next event; cancel-safe.
    pub(crate) async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // The task ended, which takes a panic that was logged.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(address: Option<String>, events: mpsc::Sender<Event>) {
    let seed = RandomState::new().hash_one(0_u8);
    let mut random = Random::seed_from_u64(seed);
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let builder = match &address {
            Some(address) => Builder::address(address.as_str()),
            None => Builder::system(),
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, builder.build()).await {
            Ok(Ok(connection)) => {
                backoff.reset();
                if let Err(error) = listen(&connection, &events).await {
                    debug!("no hints from the system bus: {error}");
                }
            }
            // What is wrong with the bus, the agent's own service on it tells.
            Ok(Err(error)) => debug!("no system bus to take hints from: {error}"),
            Err(_) => debug!("no system bus to take hints from: no answer"),
        }
        tokio::time::sleep(backoff.next_delay(&mut random)).await;
    }
}

/// Passes on what the services tell until the connection ends.
async fn listen(connection: &Connection, events: &mpsc::Sender<Event>) -> zbus::Result<()> {
    // Without a cache nothing is asked of a service, so that none is started by the bus for our sake.
    let logind = LogindProxy::builder(connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let manager = NetworkManagerProxy::builder(connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let mut sleep = logind.receive_prepare_for_sleep().await?;
    let mut state = manager.receive_state_changed().await?;
    let networkd = NETWORKD.proxy(connection).await?;
    let resolved = RESOLVED.proxy(connection).await?;
    let mut networkd = networkd.receive_properties_changed().await?;
    let mut resolved = resolved.receive_properties_changed().await?;
    let mut hint_at = None;
    loop {
        let hint = tokio::select! {
            Some(signal) = sleep.next() => {
                if signal.args().is_ok_and(|args| !args.start) {
                    // The hint is part of it.
                    hint_at = None;
                    tell(events, Event::Resumed);
                }
                false
            }
            Some(signal) = state.next() => signal.args().is_ok_and(|args| args.state >= CONNECTED_SITE),
            Some(signal) = networkd.next() => NETWORKD.is_concerned(&signal),
            Some(signal) = resolved.next() => RESOLVED.is_concerned(&signal),
            () = at(hint_at) => {
                hint_at = None;
                tell(events, Event::NetworkHint);
                false
            }
            () = connection.closed() => return Ok(()),
        };
        if hint {
            hint_at.get_or_insert_with(|| Instant::now() + SETTLE);
        }
    }
}

impl Watched {
    async fn proxy(&self, connection: &Connection) -> zbus::Result<PropertiesProxy<'static>> {
        PropertiesProxy::builder(connection)
            .destination(self.service)
            .path(self.path)
            .cache_properties(CacheProperties::No)
            .build()
            .await
    }

    fn is_concerned(&self, signal: &PropertiesChanged) -> bool {
        signal.args().is_ok_and(|args| {
            let changed = args.changed_properties.keys();
            let mut changed = changed.chain(args.invalidated_properties.iter());
            args.interface_name == self.interface
                && changed.any(|name| self.properties.contains(name))
        })
    }
}

/// A driver that has eight unread events looks at everything anyway.
fn tell(events: &mpsc::Sender<Event>, event: Event) {
    let _ = events.try_send(event);
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
