//! The one task: finds the bus, takes the name, keeps the objects up to date, and starts over when the bus goes away.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use tokio::sync::{mpsc, oneshot};
use wice_core::backoff::Backoff;
use wice_core::session::Random;
use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::{ObjectManager, RequestNameFlags};

use super::Command;
use super::model::Model;
use super::objects::{Cell, Manager};
use super::published::Published;

/// The first and the longest pause between attempts; the bus of a booting machine is there within seconds.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A bus that accepts a connection and then says nothing counts as none after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a farewell may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Everything that the task needs to serve any number of connections, one after the other.
pub(super) struct Task {
    address: Option<String>,
    model: Arc<Model>,
    commands: mpsc::Sender<Command>,
    version: &'static str,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(
        "no system bus: wicectl has nobody to talk to until there is one (install and start D-Bus); everything else runs on"
    )]
    NoBus(#[source] zbus::Error),
    #[error(
        "another program owns org.wice.Wice1 on the system bus: is a second wice-agent running? wicectl talks to that one; trying again"
    )]
    NameTaken,
    #[error(
        "the system bus does not let this program own org.wice.Wice1: install org.wice.Wice1.conf into /usr/share/dbus-1/system.d and run as root; trying again"
    )]
    NameRefused(#[source] zbus::Error),
    #[error("the connection to the system bus broke; connecting again")]
    Lost(#[source] Option<zbus::Error>),
}

impl Task {
    pub(super) fn new(
        address: Option<String>,
        model: Arc<Model>,
        commands: mpsc::Sender<Command>,
        version: &'static str,
    ) -> Self {
        Self {
            address,
            model,
            commands,
            version,
        }
    }

    /// Runs until `stop` fires or its sender is gone.
    pub(super) async fn run(self, mut stop: oneshot::Receiver<()>) {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8);
        let mut random = Random::seed_from_u64(seed);
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut told = None;
        loop {
            let attempt = tokio::select! {
                biased;
                _ = &mut stop => return,
                attempt = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()) => attempt,
            };
            let failure = match attempt {
                Ok(Ok((connection, published))) => {
                    if told.take().is_some() {
                        tracing::info!("serving org.wice.Wice1 on the system bus");
                    }
                    backoff.reset();
                    let failure = self.serve(&connection, published, &mut stop).await;
                    let Some(failure) = failure else {
                        return farewell(connection).await;
                    };
                    failure
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::NoBus(zbus::Error::Failure("no answer".to_owned())),
            };
            self.model.offline();
            let kind = std::mem::discriminant(&failure);
            if told.replace(kind) != Some(kind) {
                failure.tell();
            }
            let pause = backoff.next_delay(&mut random);
            tokio::select! {
                biased;
                _ = &mut stop => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn connect(&self) -> Result<(Connection, Published), Failure> {
        let backends = Cell::new(Vec::new());
        let relays = Cell::new(Vec::new());
        let manager = Manager {
            version: self.version,
            backends: backends.clone(),
            relays: relays.clone(),
            model: Arc::clone(&self.model),
            commands: self.commands.clone(),
        };
        let builder = match &self.address {
            Some(address) => Builder::address(address.as_str()),
            None => Builder::system(),
        };
        let connection = builder
            .serve_at(wice_bus::path::ROOT, ObjectManager)
            .serve_at(wice_bus::path::ROOT, manager)
            .build()
            .await
            .map_err(Failure::NoBus)?;
        let commands = self.commands.clone();
        let mut published = Published::new(connection.clone(), commands, backends, relays);
        // Who sees the name sees every object.
        self.model.online();
        published
            .publish(self.model.take())
            .await
            .map_err(|error| Failure::Lost(Some(error)))?;
        connection
            .request_name_with_flags(wice_bus::SERVICE, RequestNameFlags::DO_NOT_QUEUE)
            .await
            .map_err(|error| match error {
                zbus::Error::NameTaken => Failure::NameTaken,
                error => Failure::NameRefused(error),
            })?;
        Ok((connection, published))
    }

    /// Publishes what changes; `None` when told to stop.
    async fn serve(
        &self,
        connection: &Connection,
        mut published: Published,
        stop: &mut oneshot::Receiver<()>,
    ) -> Option<Failure> {
        loop {
            tokio::select! {
                biased;
                _ = &mut *stop => {
                    let last = published.publish(self.model.take());
                    // A bus that takes nothing any more must not keep the agent from stopping.
                    let _ = tokio::time::timeout(STOP_TIMEOUT / 2, last).await;
                    return None;
                }
                () = connection.closed() => return Some(Failure::Lost(None)),
                () = self.model.news() => {}
            }
            let sent = tokio::select! {
                biased;
                () = connection.closed() => return Some(Failure::Lost(None)),
                sent = published.publish(self.model.take()) => sent,
                _ = &mut *stop => return None,
            };
            if let Err(error) = sent {
                return Some(Failure::Lost(Some(error)));
            }
        }
    }
}

impl Failure {
    fn tell(&self) {
        let source = std::error::Error::source(self).map(ToString::to_string);
        match self {
            Self::NoBus(_) | Self::Lost(_) => tracing::info!(cause = source, "{self}"),
            Self::NameTaken | Self::NameRefused(_) => tracing::warn!(cause = source, "{self}"),
        }
    }
}

async fn farewell(connection: Connection) {
    let goodbye = async {
        let _ = connection.release_name(wice_bus::SERVICE).await;
        let _ = connection.close().await;
    };
    let _ = tokio::time::timeout(STOP_TIMEOUT / 2, goodbye).await;
}
