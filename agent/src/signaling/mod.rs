//! Moves sealed messages between mailboxes, over several backends at once.
//!
//! Publishes on all of them and accepts from any; no backend's failure delays another. Must not know what is sealed,
//! who the peers are, nor anything of the kernel: a mailbox is a name, a message is text.

#[cfg(not(any(feature = "http", feature = "kubernetes", feature = "websocket")))]
compile_error!(
    "an agent needs a signalling backend: enable the feature `http`, `kubernetes` or `websocket`"
);

mod backend;
mod desired;
#[cfg(feature = "http")]
mod http;
mod ice_servers;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod link;
#[cfg(any(feature = "http", feature = "kubernetes"))]
mod outbox;
mod supervise;
#[cfg(feature = "websocket")]
mod websocket;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod contract;
#[cfg(test)]
mod memory;

use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use url::Url;
use wice_core::mailbox::{Mailbox, Recipient, Sealed};
use wice_core::server::IceServer;
use zeroize::Zeroizing;

use backend::Backend;
use desired::Desired;
use link::{Link, Progress};

/// Where a rendezvous is, and what opens it. Two that are equal are the same connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendConfig {
    /// The server's address; its scheme chooses the backend.
    pub(crate) url: Url,
    /// The bearer token that the server asks for, if it asks for one.
    pub(crate) token: Option<Token>,
}

/// A bearer token: a secret, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(Zeroizing<String>);

impl Token {
    /// Takes the token as it was read, without the white space around it.
    pub(crate) fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.trim().to_owned()))
    }

    #[cfg(any(feature = "http", feature = "websocket"))]
    /// The token in the form in which HTTP carries it; wiped when dropped.
    fn bearer(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", *self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// What a backend has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A message in a mailbox that is subscribed: perhaps known, perhaps old.
    Message {
        /// Where it lay.
        mailbox: Mailbox,
        /// What it says.
        sealed: Sealed,
    },
    /// A backend's state or error changed.
    Changed(BackendStatus),
    /// A backend hands out other servers than before: [`Signaling::ice_servers`] has them all.
    IceServers,
}

/// How one backend fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendStatus {
    /// The backend's address without anything secret.
    pub(crate) url: String,
    /// Whether it works.
    pub(crate) state: BackendState,
    /// Why not: what was tried, what came back, what to do.
    pub(crate) error: Option<String>,
}

/// What a backend did since it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages of ours, and removals, that the server has.
    pub(crate) sent: u64,
    /// Messages of ours that the server would not have.
    pub(crate) refused: u64,
    /// Messages of subscribed mailboxes.
    pub(crate) received: u64,
    /// What the server sent and nobody had asked for, or what has no form.
    pub(crate) ignored: u64,
    /// Attempts and connections that ended with an error.
    pub(crate) failures: u64,
}

/// Whether a backend works, as D-Bus shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum BackendState {
    /// Not reached yet.
    Connecting = 10,
    /// The server answers.
    Connected = 50,
    /// The last attempt failed; it is repeated for ever.
    Failed = 60,
}

/// Why backends cannot be started.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SignalingError {
    /// No backend goes by the URL's scheme.
    #[error("backend {url}: unknown scheme \"{scheme}\"; known are: {}", known_schemes().join(", "))]
    UnknownScheme {
        /// The URL without anything secret.
        url: String,
        /// Its scheme.
        scheme: String,
    },
    /// The URL names no host to connect to.
    #[error("backend {url}: names no host; write it as https://host/ or wss://host/")]
    NoHost {
        /// The URL without anything secret.
        url: String,
    },
    /// The URL leads to no Kubernetes cluster.
    #[cfg(feature = "kubernetes")]
    #[error("backend {url}: {problem}")]
    Place {
        /// The URL without anything secret.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The URL carries a user name or a password, which would show wherever URLs show.
    #[error(
        "backend {url}: carries a user name or password; put a token into `token-file` instead"
    )]
    Userinfo {
        /// The URL without anything secret.
        url: String,
    },
}

/// All backends, and what is published and subscribed on each of them.
///
/// Lives on a tokio runtime; dropping it stops every backend and withdraws nothing.
#[derive(Debug)]
pub(crate) struct Signaling {
    desired: watch::Sender<Desired>,
    events: mpsc::Sender<Event>,
    network: watch::Sender<()>,
    running: Vec<Running>,
}

impl Signaling {
    /// Starts every backend; none at all is allowed.
    pub(crate) fn start(
        backends: Vec<BackendConfig>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, SignalingError> {
        let mut signaling = Self {
            desired: watch::Sender::new(Desired::default()),
            events,
            network: watch::Sender::new(()),
            running: Vec::new(),
        };
        signaling.reconfigure(backends)?;
        Ok(signaling)
    }

    /// Puts a message into a mailbox, in the place of the one before. Never blocks.
    pub(crate) fn publish(&mut self, mailbox: Mailbox, recipient: Recipient, sealed: Sealed) {
        self.desired
            .send_modify(|desired| desired.publish(mailbox, recipient, sealed));
    }

    /// Empties a mailbox. Never blocks.
    pub(crate) fn withdraw(&mut self, mailbox: Mailbox) {
        self.desired
            .send_if_modified(|desired| desired.withdraw(mailbox));
    }

    /// Asks for the newest message of a mailbox and all later ones. Never blocks.
    pub(crate) fn subscribe(&mut self, mailbox: Mailbox, recipient: Recipient) {
        self.desired
            .send_if_modified(|desired| desired.subscribe(mailbox, recipient));
    }

    /// Asks for no more messages of a mailbox. Never blocks.
    pub(crate) fn unsubscribe(&mut self, mailbox: Mailbox) {
        self.desired
            .send_if_modified(|desired| desired.unsubscribe(mailbox));
    }

    /// Replaces the backends; those that stay equal keep running. Changes nothing when one of them is refused.
    pub(crate) fn reconfigure(
        &mut self,
        backends: Vec<BackendConfig>,
    ) -> Result<(), SignalingError> {
        for config in &backends {
            check(config)?;
        }
        let mut old = std::mem::take(&mut self.running);
        for config in backends {
            let kept = old.iter().position(|running| running.config == config);
            self.running.push(match kept {
                Some(index) => old.swap_remove(index),
                None => self.start_backend(config),
            });
        }
        Ok(())
    }

    /// Connects every backend anew, at once: the machine's addresses are other ones than before.
    pub(crate) fn network_changed(&self) {
        self.network.send_replace(());
    }

    fn start_backend(&self, config: BackendConfig) -> Running {
        let (link, progress) = Link::new(
            display_url(&config.url),
            self.desired.subscribe(),
            self.events.clone(),
        );
        let task = spawn(config.clone(), link, self.network.subscribe()).abort_handle();
        Running {
            config,
            progress,
            task,
        }
    }

    /// How every backend fares, in the order of the configuration.
    pub(crate) fn statuses(&self) -> Vec<BackendStatus> {
        self.running
            .iter()
            .map(|running| running.progress.borrow().status.clone())
            .collect()
    }

    /// What every backend did, in the order of the configuration.
    pub(crate) fn counts(&self) -> Vec<Counts> {
        self.running
            .iter()
            .map(|running| running.progress.borrow().counts.clone())
            .collect()
    }

    /// The servers that the backends hand out, each once; those of a backend that is away hold until it says otherwise.
    pub(crate) fn ice_servers(&self) -> Vec<IceServer> {
        let mut servers = Vec::new();
        for running in &self.running {
            for server in &running.progress.borrow().servers {
                if !servers.contains(server) {
                    servers.push(server.clone());
                }
            }
        }
        servers
    }

    /// Withdraws all that is published from every backend that answers, for at most `deadline`, and stops.
    pub(crate) async fn leave(self, deadline: Duration) {
        // Even if nothing is published any more: what was withdrawn a moment ago has not reached the servers.
        self.desired.send_modify(Desired::leave);
        let revision = self.desired.borrow().revision();
        let done = self.running.iter().map(|running| {
            let mut progress = running.progress.clone();
            async move {
                let over = |progress: &Progress| {
                    progress.settled >= revision || progress.status.state != BackendState::Connected
                };
                // An error means that the backend is gone: nothing to wait for either.
                progress.wait_for(over).await.is_ok()
            }
        });
        if tokio::time::timeout(deadline, join_all(done))
            .await
            .is_err()
        {
            tracing::debug!("not every backend withdrew our messages in time; they expire there");
        }
    }
}

/// One backend's task, stopped when dropped.
#[derive(Debug)]
struct Running {
    config: BackendConfig,
    progress: watch::Receiver<Progress>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Refuses what no backend can run with.
fn check(config: &BackendConfig) -> Result<(), SignalingError> {
    let url = display_url(&config.url);
    if !known_schemes().contains(&config.url.scheme()) {
        let scheme = config.url.scheme().to_owned();
        return Err(SignalingError::UnknownScheme { url, scheme });
    }
    #[cfg(feature = "kubernetes")]
    if kubernetes::Kubernetes::SCHEMES.contains(&config.url.scheme()) {
        return check_place(&config.url).map_err(|problem| SignalingError::Place { url, problem });
    }
    if !config.url.username().is_empty() || config.url.password().is_some() {
        return Err(SignalingError::Userinfo { url });
    }
    if !config.url.has_host() && config.url.scheme() != "memory" {
        return Err(SignalingError::NoHost { url });
    }
    Ok(())
}

/// Says what is wrong with a URL that shall lead to a Kubernetes cluster.
#[cfg(feature = "kubernetes")]
pub(crate) fn check_place(url: &Url) -> Result<(), String> {
    match kubernetes::Place::parse(url) {
        Ok(_) => Ok(()),
        Err(problem) => Err(problem.to_string()),
    }
}

/// Every scheme that some backend of this build goes by.
fn known_schemes() -> Vec<&'static str> {
    [
        #[cfg(feature = "http")]
        http::Http::SCHEMES,
        #[cfg(feature = "kubernetes")]
        kubernetes::Kubernetes::SCHEMES,
        #[cfg(feature = "websocket")]
        websocket::Websocket::SCHEMES,
        #[cfg(test)]
        memory::Memory::SCHEMES,
    ]
    .concat()
}

/// Starts the task of the backend that the scheme chooses.
fn spawn(
    config: BackendConfig,
    link: Link,
    network: watch::Receiver<()>,
) -> tokio::task::JoinHandle<()> {
    match config.url.scheme() {
        #[cfg(feature = "http")]
        scheme if http::Http::SCHEMES.contains(&scheme) => {
            tokio::spawn(supervise::supervise::<http::Http>(config, link, network))
        }
        #[cfg(feature = "kubernetes")]
        scheme if kubernetes::Kubernetes::SCHEMES.contains(&scheme) => tokio::spawn(
            supervise::supervise::<kubernetes::Kubernetes>(config, link, network),
        ),
        #[cfg(feature = "websocket")]
        scheme if websocket::Websocket::SCHEMES.contains(&scheme) => tokio::spawn(
            supervise::supervise::<websocket::Websocket>(config, link, network),
        ),
        #[cfg(test)]
        scheme if memory::Memory::SCHEMES.contains(&scheme) => tokio::spawn(
            supervise::supervise::<memory::Memory>(config, link, network),
        ),
        scheme => unreachable!("`check` refused the scheme {scheme}"),
    }
}

/// The URL as people may see it: no user name, password, query or fragment.
fn display_url(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs that cannot carry user information.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}
