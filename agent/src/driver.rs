//! Turns the core: feeds it what happens and does what it wants.
//!
//! Decides nothing about a peer, and waits for nobody: whatever may take long happens beside the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{debug, error, info, warn};
use wice_core::io::{Input, LocalAddress, Now, Output};
use wice_core::mesh::Mesh;
use wice_core::server::IceServer;

use crate::config::Config;
use crate::dbus::{self, Command};
use crate::host::{self, Host};
use crate::kernel::Kernel;
use crate::logging::causes;
use crate::metrics::Metrics;
use crate::net::{Relays, Streams, StunPort};
use crate::signaling::{self, BackendConfig, BackendState, Signaling};
use crate::systemd;

mod check;
mod errands;
mod figures;
mod relays;
mod resolve;
mod show;
mod signals;

use errands::{Errands, News};
use resolve::Resolver;
use signals::{Signal, Signals};

/// The agent at work.
pub(crate) struct Driver {
    path: Option<PathBuf>,
    mesh: Mesh,
    kernel: Arc<Kernel>,
    errands: Errands,
    stun: StunPort,
    relays: Relays,
    streams: Streams,
    signaling: Signaling,
    bus: dbus::Service,
    metrics: Metrics,
    host: Host,
    resolver: Resolver,
    /// A check of the network that somebody asked for.
    check: Option<AbortHandle>,
    /// Servers that the configuration names.
    servers: Vec<IceServer>,
    events: mpsc::Receiver<signaling::Event>,
    commands: mpsc::Receiver<Command>,
    signals: Signals,
    /// The WireGuard interfaces that are present, by index.
    names: BTreeMap<u32, String>,
    addresses: Option<Vec<LocalAddress>>,
    /// What the STUN sockets listen to, and what they last refused to.
    ports: BTreeSet<u16>,
    refused: Option<BTreeSet<u16>>,
    /// Whether any backend is connected, as the core was told.
    reachable: bool,
    /// When the service manager last heard of us.
    reported: Instant,
}

/// How long the first sight of the interfaces may delay the start; they are there at once, or one hangs.
const FIRST_SIGHT: Duration = Duration::from_millis(500);
/// Packets taken at a time, so that a flood of them does not keep everything else waiting.
const BATCH: usize = 64;
/// What a clean stop may spend on withdrawing mailboxes.
const LEAVE: Duration = Duration::from_secs(2);

impl Driver {
    /// Opens everything that the agent cannot do without; says what is missing.
    pub(crate) async fn start(path: Option<PathBuf>, config: Config) -> anyhow::Result<Self> {
        // First, because a signal that nobody handles ends the process.
        let signals = Signals::new()?;
        let (event_sender, events) = mpsc::channel(256);
        let (command_sender, commands) = mpsc::channel(16);
        // Early, so that its connections are made while the rest opens.
        let signaling = Signaling::start(backends(&config), event_sender)?;
        let stun = StunPort::open()?;
        stun.self_test().await?;
        let kernel = Arc::new(Kernel::open().await?);
        let bus = dbus::Service::start(command_sender, env!("WICE_VERSION"));
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let mut metrics = Metrics::new();
        metrics.listen(config.metrics);
        for warning in &config.warnings {
            warn!("{warning}");
        }
        if config.backends.is_empty() {
            warn!("no signalling backend is configured; name one under [signaling] backends");
        }
        Ok(Self {
            path,
            mesh: Mesh::new(config.settings, seed),
            errands: Errands::new(Arc::clone(&kernel)),
            kernel,
            stun,
            relays: Relays::new(),
            streams: Streams::default(),
            signaling,
            bus,
            metrics,
            host: Host::start(),
            resolver: Resolver::default(),
            check: None,
            servers: config.servers,
            events,
            commands,
            signals,
            names: BTreeMap::new(),
            addresses: None,
            ports: BTreeSet::new(),
            refused: None,
            reachable: false,
            reported: Instant::now(),
        })
    }

    /// Serves until a signal asks to leave.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        self.show_backends();
        self.servers_changed();
        self.addresses().await;
        self.interfaces(true).await;
        self.first_sight().await;
        self.perform();
        systemd::ready();
        let watchdog = systemd::watchdog_interval();
        loop {
            let alarm = self.mesh.poll_timeout();
            let watch = watchdog.map(|interval| self.reported + interval);
            let next = alarm.into_iter().chain(watch).min();
            tokio::select! {
                signal = self.signals.next() => match signal {
                    // What is wrong with it was logged.
                    Signal::Reload => { let _ = self.reload(); }
                    Signal::Leave => break,
                },
                packet = self.stun.receive() => {
                    self.input(Input::Packet(packet));
                    for _ in 1..BATCH {
                        match self.stun.try_receive() {
                            Some(packet) => self.input(Input::Packet(packet)),
                            None => break,
                        }
                    }
                }
                Some(event) = self.events.recv() => self.event(event),
                Some(command) = self.commands.recv() => self.command(command),
                change = self.kernel.changed() => {
                    if change.addresses() {
                        self.addresses().await;
                    }
                    if change.links() {
                        self.interfaces(true).await;
                    }
                }
                news = self.errands.next() => self.news(news).await,
                event = self.relays.next() => self.relay_event(event),
                input = self.streams.next() => self.input(Input::Tcp(input)),
                servers = self.resolver.next() => self.input(Input::StunServers(servers)),
                scrape = self.metrics.next() => scrape.answer(&self.figures()),
                event = self.host.next() => self.host_event(event),
                () = sleep_until(next) => {}
            }
            if self
                .mesh
                .poll_timeout()
                .is_some_and(|at| at <= Instant::now())
            {
                self.input(Input::Timeout);
            }
            self.perform();
            if watchdog.is_some_and(|interval| self.reported.elapsed() >= interval) {
                systemd::alive();
                self.reported = Instant::now();
            }
        }
        systemd::stopping();
        info!("leaving; every endpoint stays as it is");
        self.input(Input::Stop);
        self.perform();
        tokio::join!(
            self.signaling.leave(LEAVE),
            self.relays.leave(LEAVE),
            self.bus.stop()
        );
        Ok(())
    }

    fn input(&mut self, input: Input) {
        self.mesh.handle(input, now());
    }

    fn event(&mut self, event: signaling::Event) {
        match event {
            signaling::Event::Message { mailbox, sealed } => {
                self.input(Input::Message { mailbox, sealed });
            }
            signaling::Event::Changed(_) => self.backends_changed(),
            signaling::Event::IceServers => self.servers_changed(),
        }
    }

    /// Tells the core when the first backend connects and when the last one is lost.
    fn backends_changed(&mut self) {
        let reachable = self
            .signaling
            .statuses()
            .iter()
            .any(|status| status.state == BackendState::Connected);
        match (std::mem::replace(&mut self.reachable, reachable), reachable) {
            (false, true) => self.input(Input::BackendUp),
            (true, false) => self.input(Input::BackendDown),
            _ => {}
        }
        self.show_backends();
    }

    /// Lets everything that may have changed unseen be looked at again.
    fn host_event(&mut self, event: host::Event) {
        match event {
            host::Event::Resumed => {
                info!("the machine has slept: checks every path, asks every server again");
                self.signaling.network_changed();
                self.relays.network_changed();
                self.input(Input::Resumed);
                for name in self.names.values() {
                    self.errands.dump(name);
                }
            }
            host::Event::NetworkHint => {
                debug!("the network may be another one: asks the servers again");
                self.relays.network_changed();
                self.input(Input::NetworkHint);
            }
        }
        self.servers_changed();
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Restart {
                interface,
                peer,
                reply,
            } => {
                let known = self.mesh.peer(&interface, &peer, now()).is_some();
                if known {
                    self.input(Input::Restart { interface, peer });
                }
                // Whoever asked may have gone.
                let _ = reply.send(known);
            }
            Command::Explain {
                interface,
                peer,
                reply,
            } => {
                let _ = reply.send(self.mesh.explain(&interface, &peer, now()));
            }
            Command::NetCheck { patience, reply } => self.check_network(patience, reply),
            Command::Reload { reply } => {
                let _ = reply.send(self.reload());
            }
        }
    }

    /// Reads the configuration again; one that is not valid changes nothing, and is told what is wrong with.
    fn reload(&mut self) -> Result<(), String> {
        systemd::reloading();
        let result = self.reconfigure();
        match &result {
            Ok(()) => info!("the configuration was read again"),
            Err(error) => error!("the configuration stays as it was: {error}"),
        }
        systemd::ready();
        self.show_backends();
        result
    }

    fn reconfigure(&mut self) -> Result<(), String> {
        let config = Config::load(self.path.as_deref()).map_err(|error| causes(&error))?;
        // Refuses before it changes anything.
        self.signaling
            .reconfigure(backends(&config))
            .map_err(|error| causes(&error))?;
        for warning in &config.warnings {
            warn!("{warning}");
        }
        self.metrics.listen(config.metrics);
        self.servers = config.servers;
        self.servers_changed();
        self.input(Input::Settings(config.settings));
        self.backends_changed();
        Ok(())
    }

    /// Does everything that the core wants.
    fn perform(&mut self) {
        while let Some(output) = self.mesh.poll() {
            self.output(output);
        }
        self.listen();
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Publish {
                mailbox,
                recipient,
                sealed,
            } => self.signaling.publish(mailbox, recipient, sealed),
            Output::Withdraw(mailbox) => self.signaling.withdraw(mailbox),
            Output::Subscribe { mailbox, recipient } => {
                self.signaling.subscribe(mailbox, recipient);
            }
            Output::Unsubscribe(mailbox) => self.signaling.unsubscribe(mailbox),
            Output::Transmit(transmit) => {
                // The filter must be there before the first answer can be.
                if !self.ports.contains(&transmit.source.port()) {
                    self.listen();
                }
                if let Err(error) = self.stun.send(&transmit) {
                    debug!(destination = %transmit.destination, "cannot send a check: {error}");
                }
            }
            Output::Tcp(order) => self.streams.order(order),
            Output::Relay(order) => self.relays.order(order),
            Output::SetEndpoint {
                interface,
                peer,
                endpoint,
            } => self.errands.set_endpoint(&interface, peer, endpoint),
            Output::Nudge { interface, address } => self.errands.nudge(&interface, address),
            Output::Dump { interface } => self.errands.dump(&interface),
            Output::Changed(change) => self.show(change),
        }
    }

    /// Lets STUN in on the ports that WireGuard uses now. A set that was refused is tried again when it changes.
    fn listen(&mut self) {
        let ports = self.mesh.ports();
        if ports == self.ports || self.refused.as_ref() == Some(&ports) {
            return;
        }
        match self.stun.listen(&ports) {
            Ok(()) => {
                self.ports = ports;
                self.refused = None;
            }
            Err(error) => {
                error!("{}", causes(&error));
                self.refused = Some(ports);
            }
        }
    }

    async fn addresses(&mut self) {
        match self.kernel.addresses().await {
            Ok(addresses) => {
                if let Some(known) = self.addresses.replace(addresses.clone()) {
                    let lost = known.iter().any(|old| !addresses.contains(old));
                    let gained = addresses.iter().any(|new| !known.contains(new));
                    if lost || (gained && !self.reachable) {
                        self.signaling.network_changed();
                    }
                    if lost || gained {
                        self.relays.network_changed();
                    }
                }
                self.input(Input::Addresses(addresses));
            }
            Err(error) => warn!("{}", causes(&error)),
        }
    }

    /// Waits a moment for the interfaces, so that who is told that the agent is ready finds them.
    async fn first_sight(&mut self) {
        let deadline = tokio::time::sleep(FIRST_SIGHT);
        tokio::pin!(deadline);
        while self.errands.is_busy() {
            tokio::select! {
                news = self.errands.next() => self.news(news).await,
                () = &mut deadline => return,
            }
        }
    }

    async fn news(&mut self, news: News) {
        match news {
            News::Device(device) if self.names.get(&device.index) == Some(&device.name) => {
                self.input(Input::Device(device));
            }
            // It was renamed or replaced since.
            News::Device(_) => self.interfaces(false).await,
            // Perhaps it has another name now, which is no end: the list tells.
            News::Gone(name) => {
                self.interfaces(false).await;
                if !self.is_present(&name) {
                    self.errands.forget(&name);
                }
            }
        }
    }

    /// Follows appearing, renamed and vanished interfaces; reads the new ones, or `all`.
    async fn interfaces(&mut self, all: bool) {
        let present = match self.kernel.interfaces().await {
            Ok(present) => present,
            Err(error) => return warn!("{}", causes(&error)),
        };
        let names = present
            .into_iter()
            .map(|interface| (interface.index, interface.name))
            .collect();
        let old = std::mem::replace(&mut self.names, names);
        for (index, name) in &self.names {
            if all || old.get(index) != Some(name) {
                self.errands.dump(name);
            }
        }
        for (index, name) in old {
            if self.is_present(&name) {
                continue;
            }
            self.errands.forget(&name);
            // Of a renamed one the dump under the new name tells the core.
            if !self.names.contains_key(&index) {
                self.input(Input::Gone(name));
            }
        }
    }

    fn is_present(&self, name: &str) -> bool {
        self.names.values().any(|present| present == name)
    }
}

fn backends(config: &Config) -> Vec<BackendConfig> {
    config
        .backends
        .iter()
        .map(|url| BackendConfig {
            url: url.clone(),
            token: config.token.clone(),
        })
        .collect()
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        unix: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
