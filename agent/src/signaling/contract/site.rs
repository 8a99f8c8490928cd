//! What the suite runs on: real servers, agents, and a line between them that can be cut and held.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use url::Url;
use wice_core::key::PublicKey;
use wice_core::mailbox::{Mailbox, Recipient, Sealed};
use wice_signal::{NatsAuth, NatsOptions, Options, Server};

use super::super::{BackendConfig, BackendState, BackendStatus, Event, Signaling, Token};

/// Longest wait for something that must happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Events that wait for an agent that does not read.
const EVENTS: usize = 16;

/// A place where mailboxes are.
pub(super) trait Site: Sized {
    /// A new one, empty.
    async fn start() -> Self;
    /// Where agents find it.
    fn url(&self) -> Url;
}

/// Mailboxes within this process.
pub(super) struct Memory(usize);

impl Site for Memory {
    async fn start() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn url(&self) -> Url {
        format!("memory:{}", self.0).parse().unwrap()
    }
}

/// A real server, spoken to over REST.
pub(super) struct Rest(pub(super) Rendezvous);

impl Site for Rest {
    async fn start() -> Self {
        Self(Rendezvous::start(None, None).await)
    }

    fn url(&self) -> Url {
        Self::at(self.0.address)
    }
}

/// A real server, spoken to over WebSocket.
pub(super) struct Socket(pub(super) Rendezvous);

impl Site for Socket {
    async fn start() -> Self {
        Self(Rendezvous::start(None, None).await)
    }

    fn url(&self) -> Url {
        Self::at(self.0.address)
    }
}

/// A site at a distance: its server can be reached by another address.
pub(super) trait Distant: Site {
    fn at(address: SocketAddr) -> Url;
}

impl Distant for Rest {
    fn at(address: SocketAddr) -> Url {
        format!("http://{address}").parse().unwrap()
    }
}

impl Distant for Socket {
    fn at(address: SocketAddr) -> Url {
        format!("ws://{address}/").parse().unwrap()
    }
}

/// The real server, in a task that ends with this value.
pub(super) struct Rendezvous {
    pub(super) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Rendezvous {
    /// Starts one, at a given address or any.
    pub(super) async fn start(address: Option<SocketAddr>, token: Option<&str>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(Options {
            listen: vec![address.unwrap_or(any)],
            tokens: token.map(|text| wice_signal::Token::new(text).unwrap().into()),
            store: store(),
            ..Options::default()
        });
        let server = server.await.unwrap();
        let address = server.local_addrs()[0];
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(stopped).await.unwrap();
        });
        ready(address).await;
        Self {
            address,
            stop,
            task,
        }
    }

    /// Stops it in an orderly way, and forgets all messages.
    pub(super) async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

/// Waits until the server has its mailboxes.
async fn ready(address: SocketAddr) {
    let look = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(b"GET /readyz HTTP/1.0\r\n\r\n")
                .await
                .unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            if answer.starts_with(b"HTTP/1.0 200") {
                return;
            }
        }
    };
    timeout(PATIENCE, look).await.unwrap();
}

/// A new bucket of the NATS that `WICE_NATS` names, or memory.
fn store() -> Option<NatsOptions> {
    static BUCKETS: AtomicUsize = AtomicUsize::new(0);
    let servers = std::env::var("WICE_NATS").ok()?.parse().unwrap();
    let number = BUCKETS.fetch_add(1, Ordering::Relaxed);
    let name = format!("contract-{}-{number}", std::process::id());
    Some(NatsOptions {
        servers,
        bucket: name.parse().unwrap(),
        replicas: 1,
        auth: NatsAuth::None,
        authority: None,
    })
}

/// A line to a server that can be cut and held.
pub(super) struct Line {
    pub(super) address: SocketAddr,
    /// How many connections were made over it.
    pub(super) connections: Arc<AtomicUsize>,
    state: watch::Sender<State>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    held: bool,
    cuts: usize,
}

impl Line {
    /// Opens a line to `server`.
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let state = watch::Sender::new(State::default());
        let mut tasks = JoinSet::new();
        let (count, watch) = (Arc::clone(&connections), state.subscribe());
        tasks.spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                lines.spawn(carry(client, server, watch.clone()));
            }
        });
        Self {
            address,
            connections,
            state,
            _tasks: tasks,
        }
    }

    /// Cuts all connections that there are.
    pub(super) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Lets nothing through, or everything again.
    pub(super) fn hold(&self, held: bool) {
        self.state.send_modify(|state| state.held = held);
    }
}

async fn carry(client: TcpStream, server: SocketAddr, state: watch::Receiver<State>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let cuts = state.borrow().cuts;
    let mut cut = state.clone();
    tokio::select! {
        _ = cut.wait_for(|state| state.cuts != cuts) => {}
        () = pump(&client, &server, state.clone()) => {}
        () = pump(&server, &client, state.clone()) => {}
    }
}

async fn pump(from: &TcpStream, to: &TcpStream, mut state: watch::Receiver<State>) {
    let mut buffer = [0; 4096];
    loop {
        if from.readable().await.is_err() || state.wait_for(|state| !state.held).await.is_err() {
            return;
        }
        let mut rest = match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => &buffer[..length],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        while !rest.is_empty() {
            if to.writable().await.is_err() {
                return;
            }
            match to.try_write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// The signalling of one agent, and what it tells.
pub(super) struct Agent {
    pub(super) signaling: Signaling,
    pub(super) events: mpsc::Receiver<Event>,
}

impl Agent {
    /// One with the given backends.
    pub(super) fn new(backends: Vec<BackendConfig>) -> Self {
        // As `main` does it; only the first call in a process has an effect.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (sender, events) = mpsc::channel(EVENTS);
        let signaling = Signaling::start(backends, sender).unwrap();
        Self { signaling, events }
    }

    /// One whose only backend is connected.
    pub(super) async fn connected<S: Site>(site: &S) -> Self {
        let mut agent = Self::new(vec![config(site.url())]);
        agent.state(BackendState::Connected).await;
        agent
    }

    pub(super) fn publish(&mut self, number: u16, text: &str) {
        self.signaling
            .publish(mailbox(number), recipient(), sealed(text));
    }

    pub(super) fn subscribe(&mut self, number: u16) {
        self.signaling.subscribe(mailbox(number), recipient());
    }

    /// The next message.
    pub(super) async fn message(&mut self) -> (Mailbox, String) {
        loop {
            if let Event::Message { mailbox, sealed } = self.event().await {
                return (mailbox, sealed.as_str().to_owned());
            }
        }
    }

    /// Takes the next message, which must be this one.
    pub(super) async fn expect(&mut self, number: u16, text: &str) {
        assert_eq!(self.message().await, (mailbox(number), text.to_owned()));
    }

    /// Takes messages until this one comes; tells how many came before.
    pub(super) async fn until(&mut self, number: u16, text: &str) -> usize {
        let mut before = 0;
        while self.message().await != (mailbox(number), text.to_owned()) {
            before += 1;
        }
        before
    }

    /// Waits until some backend has come into a state, dropping messages before.
    pub(super) async fn state(&mut self, state: BackendState) -> BackendStatus {
        loop {
            match self.event().await {
                Event::Changed(status) if status.state == state => return status,
                _ => {}
            }
        }
    }

    /// Waits until every backend has everything that was wanted of it.
    pub(super) async fn settled(&mut self) {
        let revision = self.signaling.desired.borrow().revision();
        for running in &self.signaling.running {
            let mut progress = running.progress.clone();
            let settled = progress.wait_for(|progress| progress.settled >= revision);
            timeout(PATIENCE, settled).await.expect("settles").unwrap();
        }
    }

    async fn event(&mut self) -> Event {
        let event = timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event in time").expect("a running backend")
    }
}

pub(super) fn config(url: Url) -> BackendConfig {
    BackendConfig { url, token: None }
}

pub(super) fn token(text: &str) -> Option<Token> {
    Some(Token::new(text))
}

pub(super) fn mailbox(number: u16) -> Mailbox {
    let mut bytes = [7; 20];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    Mailbox::from_bytes(bytes)
}

/// Every mailbox of the suite is the same agent's: which one makes no difference to it.
pub(super) fn recipient() -> Recipient {
    Recipient::of(&PublicKey::from_bytes([7; 32]))
}

pub(super) fn sealed(text: &str) -> Sealed {
    Sealed::new(text).expect("short enough")
}
