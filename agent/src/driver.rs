//! Turns the core: feeds it what happens and does what it wants.
//!
//! Decides nothing about a peer; an interface or a server that does not answer is asked less often, and the rest goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};
use wice_core::io::{Change, Input, LocalAddress, Now, Output};
use wice_core::mesh::Mesh;

use crate::config::{Config, ConfigError};
use crate::dbus::{self, Command};
use crate::kernel::Kernel;
use crate::net::{self, StunPort};
use crate::signaling::{self, BackendConfig, BackendState, Signaling};
use crate::systemd;

mod resolve;
mod signals;

use resolve::Resolver;
use signals::{Signal, Signals};

/// The agent at work.
pub(crate) struct Driver {
    path: Option<PathBuf>,
    mesh: Mesh,
    kernel: Kernel,
    stun: StunPort,
    signaling: Signaling,
    bus: dbus::Service,
    resolver: Resolver,
    events: mpsc::Receiver<signaling::Event>,
    commands: mpsc::Receiver<Command>,
    names: BTreeMap<u32, String>,
    addresses: Option<Vec<LocalAddress>>,
    ports: BTreeSet<u16>,
    resting: BTreeMap<String, Instant>,
    reachable: BTreeSet<String>,
}

/// An interface whose dump failed is left alone for this long.
const REST: Duration = Duration::from_secs(30);
/// Packets taken at a time, so that a flood of them does not keep everything else waiting.
const BATCH: usize = 64;
/// What a clean stop may spend on withdrawing mailboxes.
const LEAVE: Duration = Duration::from_secs(3);

impl Driver {
    /// Opens everything that the agent cannot do without; says what is missing.
    pub(crate) async fn start(path: Option<PathBuf>, config: Config) -> anyhow::Result<Self> {
        let (event_sender, events) = mpsc::channel(256);
        let (command_sender, commands) = mpsc::channel(16);
        // First, so that its connections are made while the rest opens.
        let signaling = Signaling::start(backends(&config), event_sender)?;
        let stun = StunPort::open()?;
        stun.self_test().await?;
        let kernel = Kernel::open().await?;
        let bus = dbus::Service::start(command_sender, env!("CARGO_PKG_VERSION"));
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let mut resolver = Resolver::default();
        resolver.resolve(config.stun_servers.clone());
        for warning in &config.warnings {
            warn!("{warning}");
        }
        if config.backends.is_empty() {
            warn!("no signalling backend is configured; name one under [signaling] backends");
        }
        Ok(Self {
            path,
            mesh: Mesh::new(config.settings, seed),
            kernel,
            stun,
            signaling,
            bus,
            resolver,
            events,
            commands,
            names: BTreeMap::new(),
            addresses: None,
            ports: BTreeSet::new(),
            resting: BTreeMap::new(),
            reachable: BTreeSet::new(),
        })
    }

    /// Serves until a signal asks to leave.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        self.show_backends();
        self.addresses().await;
        self.interfaces().await;
        self.perform().await;
        systemd::ready();
        let watchdog = systemd::watchdog_interval();
        loop {
            let alarm = self.mesh.poll_timeout();
            let watch = watchdog.map(|interval| Instant::now() + interval);
            let next = alarm.into_iter().chain(watch).min();
            tokio::select! {
                signal = signals.next() => match signal {
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
                        self.interfaces().await;
                    }
                }
                servers = self.resolver.next() => self.input(Input::StunServers(servers)),
                () = sleep_until(next) => {}
            }
            if self
                .mesh
                .poll_timeout()
                .is_some_and(|at| at <= Instant::now())
            {
                self.input(Input::Timeout);
            }
            self.perform().await;
            if watchdog.is_some() {
                systemd::alive();
            }
        }
        systemd::stopping();
        info!("leaving; every endpoint stays as it is");
        self.input(Input::Stop);
        self.perform().await;
        tokio::join!(self.signaling.leave(LEAVE), self.bus.stop());
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
            signaling::Event::Changed(status) => {
                let was_up = !self.reachable.is_empty();
                match status.state {
                    BackendState::Connected => self.reachable.insert(status.url),
                    BackendState::Connecting | BackendState::Failed => {
                        self.reachable.remove(&status.url)
                    }
                };
                match (was_up, !self.reachable.is_empty()) {
                    (false, true) => self.input(Input::BackendUp),
                    (true, false) => self.input(Input::BackendDown),
                    _ => {}
                }
                self.show_backends();
            }
        }
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
            Command::Reload { reply } => {
                let _ = reply.send(self.reload().map_err(|error| error.to_string()));
            }
        }
    }

    /// Reads the configuration again; one that is not valid changes nothing.
    fn reload(&mut self) -> Result<(), ConfigError> {
        systemd::reloading();
        let result = Config::load(self.path.as_deref());
        match &result {
            Ok(config) => {
                for warning in &config.warnings {
                    warn!("{warning}");
                }
                match self.signaling.reconfigure(backends(config)) {
                    Ok(()) => {}
                    Err(error) => error!("the backends stay as they were: {error}"),
                }
                let urls: BTreeSet<String> = self
                    .signaling
                    .statuses()
                    .into_iter()
                    .map(|status| status.url)
                    .collect();
                self.reachable.retain(|url| urls.contains(url));
                self.resolver.resolve(config.stun_servers.clone());
                self.input(Input::Settings(config.settings.clone()));
                self.show_backends();
                info!("the configuration was read again");
            }
            Err(error) => error!("the configuration stays as it was: {error}"),
        }
        systemd::ready();
        result.map(drop)
    }

    /// Does everything that the core wants.
    async fn perform(&mut self) {
        loop {
            while let Some(output) = self.mesh.poll() {
                self.output(output).await;
            }
            let ports = self.mesh.ports();
            if ports != self.ports {
                match self.stun.listen(&ports) {
                    Ok(()) => self.ports = ports,
                    Err(error) => {
                        error!("{error}");
                        return;
                    }
                }
            } else {
                return;
            }
        }
    }

    async fn output(&mut self, output: Output) {
        match output {
            Output::Publish { mailbox, sealed } => self.signaling.publish(mailbox, sealed),
            Output::Withdraw(mailbox) => self.signaling.withdraw(mailbox),
            Output::Subscribe(mailbox) => self.signaling.subscribe(mailbox),
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
            Output::SetEndpoint {
                interface,
                peer,
                endpoint,
            } => match self.kernel.set_endpoint(&interface, &peer, endpoint).await {
                Ok(()) => debug!(interface, %peer, %endpoint, "set the endpoint"),
                Err(error) => {
                    warn!(interface, %peer, %endpoint, "cannot set the endpoint: {error}");
                }
            },
            Output::Nudge { interface, address } => {
                if let Err(error) = net::nudge(&interface, address) {
                    debug!(interface, %address, "cannot nudge the tunnel: {error}");
                }
            }
            Output::Dump { interface } => self.dump(&interface).await,
            Output::Changed(change) => self.show(change),
        }
    }

    fn listen(&mut self) {
        let ports = self.mesh.ports();
        match self.stun.listen(&ports) {
            Ok(()) => self.ports = ports,
            Err(error) => error!("{error}"),
        }
    }

    async fn addresses(&mut self) {
        match self.kernel.addresses().await {
            Ok(addresses) => {
                if let Some(known) = self.addresses.replace(addresses.clone()) {
                    let lost = known.iter().any(|old| !addresses.contains(old));
                    let gained = addresses.iter().any(|new| !known.contains(new));
                    if lost || (gained && self.reachable.is_empty()) {
                        self.signaling.network_changed();
                    }
                }
                self.input(Input::Addresses(addresses));
            }
            Err(error) => warn!("cannot list the addresses of this machine: {error}"),
        }
    }

    /// Follows appearing, renamed and vanished interfaces.
    async fn interfaces(&mut self) {
        let present = match self.kernel.interfaces().await {
            Ok(present) => present,
            Err(error) => return warn!("cannot list the WireGuard interfaces: {error}"),
        };
        let names: BTreeMap<u32, String> = present
            .into_iter()
            .map(|interface| (interface.index, interface.name))
            .collect();
        let old = std::mem::replace(&mut self.names, names.clone());
        for name in names.values() {
            self.resting.remove(name);
            self.dump(name).await;
        }
        // Renamed ones were dumped under their new name before the old one is looked at.
        for (index, name) in old {
            if !names.contains_key(&index) && !names.values().any(|present| *present == name) {
                self.input(Input::Gone(name));
            }
        }
    }

    async fn dump(&mut self, interface: &str) {
        let present = Instant::now();
        if self
            .resting
            .get(interface)
            .is_some_and(|until| *until > present)
        {
            return;
        }
        match self.kernel.dump(interface).await {
            Ok(Some(device)) => {
                self.resting.remove(interface);
                self.input(Input::Device(device));
            }
            Ok(None) => self.input(Input::Gone(interface.to_owned())),
            Err(error) => {
                warn!(
                    interface,
                    "cannot read the interface, and leaves it alone for {REST:?}: {error}"
                );
                self.resting
                    .insert(interface.to_owned(), Instant::now() + REST);
            }
        }
    }

    fn show(&self, change: Change) {
        match change {
            Change::Interface(name) => {
                if let Some(status) = self.mesh.interface(&name) {
                    self.bus.interface(status);
                }
            }
            Change::InterfaceGone(name) => self.bus.interface_gone(&name),
            Change::Peer { interface, peer } => {
                if let Some(status) = self.mesh.peer(&interface, &peer, now()) {
                    self.bus.peer(&interface, status);
                }
            }
            Change::PeerGone { interface, peer } => self.bus.peer_gone(&interface, &peer),
            Change::State {
                interface,
                peer,
                old,
                new,
                reason,
            } => self.bus.state_changed(&interface, &peer, new, old, reason),
            Change::Path {
                interface,
                peer,
                old,
                new,
            } => self.bus.path_changed(&interface, &peer, new, old),
        }
    }

    fn show_backends(&self) {
        let statuses = self.signaling.statuses();
        let up = statuses
            .iter()
            .filter(|status| status.state == BackendState::Connected)
            .count();
        systemd::status(&format!(
            "{up} of {} signalling backends connected",
            statuses.len()
        ));
        let rows = statuses
            .into_iter()
            .map(|status| {
                (
                    status.url,
                    shown(status.state).number(),
                    status.error.unwrap_or_default(),
                )
            })
            .collect();
        self.bus.backends(rows);
    }
}

const fn shown(state: BackendState) -> wice_bus::BackendState {
    match state {
        BackendState::Connecting => wice_bus::BackendState::Connecting,
        BackendState::Connected => wice_bus::BackendState::Up,
        BackendState::Failed => wice_bus::BackendState::Down,
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
