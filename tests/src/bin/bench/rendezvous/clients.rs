//! Many WebSocket clients on one thread.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::usage::Usage;

type Socket = WebSocketStream<TcpStream>;

/// Clients with one address: fewer than the server allows, and a part of the ports that an address has.
const CLIENTS_PER_ADDRESS: usize = 400;
/// Whatever is waited for comes sooner.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long messages flow before they are counted, and while they are.
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(5);
/// Pairs of a publisher and a subscriber, and the mailboxes of each; one message a mailbox is under way.
const PAIRS: usize = 32;
const SLOTS: usize = 16;

/// What flowed.
#[derive(Debug)]
pub(crate) struct Flow {
    latencies: Vec<Duration>,
    processor: Duration,
    time: Duration,
}

impl Flow {
    /// Messages a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.time.as_secs_f64()
    }

    /// Messages for each second that the server was on a processor.
    pub(crate) fn per_core(&self) -> f64 {
        self.latencies.len() as f64 / self.processor.as_secs_f64()
    }

    /// From the publication to the delivery; of the sorted times, the one at this per cent.
    pub(crate) fn percentile(&self, per_cent: usize) -> Duration {
        let place = self.latencies.len() * per_cent / 100;
        self.latencies.get(place).copied().unwrap_or_default()
    }
}

/// Opens this many WebSockets, from many addresses.
async fn connect(server: SocketAddr, count: usize) -> Result<Vec<Socket>> {
    let mut sockets = Vec::with_capacity(count);
    while sockets.len() < count {
        let mut opening = JoinSet::new();
        for number in sockets.len()..count.min(sockets.len() + 200) {
            opening.spawn(open(server, number));
        }
        while let Some(opened) = opening.join_next().await {
            sockets.push(opened??);
        }
    }
    Ok(sockets)
}

async fn open(server: SocketAddr, number: usize) -> Result<Socket> {
    let host = u32::try_from(number / CLIENTS_PER_ADDRESS)?;
    let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + host);
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = timeout(PATIENCE, socket.connect(server)).await??;
    stream.set_nodelay(true)?;
    let mut request = format!("ws://{server}/v1/websocket").into_client_request()?;
    let protocol = HeaderValue::from_static("wice.1");
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol);
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
    let (socket, _) = timeout(PATIENCE, opened).await?.context("no WebSocket")?;
    Ok(socket)
}

/// Clients that read what comes, and so answer the server's pings, until they are dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    fill: watch::Sender<bool>,
    filled: UnboundedReceiver<()>,
    clients: JoinSet<Result<()>>,
}

impl Crowd {
    /// Opens this many WebSockets, from many addresses. Each will fill as many mailboxes as said.
    pub(crate) async fn connect(
        server: SocketAddr,
        count: usize,
        mailboxes: usize,
        bytes: usize,
    ) -> Result<Self> {
        let (fill, told) = watch::channel(false);
        let (done, filled) = unbounded_channel();
        let mut clients = JoinSet::new();
        for (number, socket) in connect(server, count).await?.into_iter().enumerate() {
            clients.spawn(client(
                socket,
                number,
                mailboxes,
                bytes,
                told.clone(),
                done.clone(),
            ));
        }
        Ok(Self {
            fill,
            filled,
            clients,
        })
    }

    /// Has each client wait for its mailboxes, fills them, and waits until all is delivered.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        let count = self.clients.len();
        self.fill.send(true)?;
        for _ in 0..count {
            if timeout(PATIENCE, self.filled.recv()).await?.is_none() {
                bail!("a client gave up");
            }
        }
        self.all_there()
    }

    /// Fails when a client was disconnected.
    pub(crate) fn all_there(&mut self) -> Result<()> {
        match self.clients.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.context("the server closed a WebSocket"),
        }
    }
}

async fn client(
    mut socket: Socket,
    number: usize,
    mailboxes: usize,
    bytes: usize,
    mut told: watch::Receiver<bool>,
    done: UnboundedSender<()>,
) -> Result<()> {
    let mut missing = 0;
    loop {
        tokio::select! {
            changed = told.changed(), if missing == 0 => {
                changed?;
                missing = mailboxes;
                let names: Vec<String> = (0..mailboxes).map(|mailbox| name(number, mailbox)).collect();
                send(&mut socket, json!({"op": "subscribe", "mailboxes": names})).await?;
                let message = "x".repeat(bytes);
                for mailbox in names {
                    send(&mut socket, json!({"op": "publish", "mailbox": mailbox, "message": message})).await?;
                }
            }
            frame = socket.next() => {
                if let Message::Text(text) = frame.context("the server closed a WebSocket")?? {
                    ensure!(missing > 0 && text.contains("\"op\":\"message\""), "the server says {text}");
                    missing -= 1;
                    if missing == 0 {
                        done.send(())?;
                    }
                }
            }
        }
    }
}

fn name(client: usize, mailbox: usize) -> String {
    format!("{client:032x}{mailbox:08x}")
}

async fn send(socket: &mut Socket, operation: serde_json::Value) -> Result<()> {
    Ok(socket.send(Message::text(operation.to_string())).await?)
}

/// Has clients of the first server publish to those of the second as fast as they are told of the last message.
pub(crate) async fn flow(
    servers: [SocketAddr; 2],
    usage: impl Fn() -> Result<Usage>,
) -> Result<Flow> {
    let mut publishers = connect(servers[0], PAIRS).await?;
    let mut subscribers = connect(servers[1], PAIRS).await?;
    for (number, socket) in subscribers.iter_mut().enumerate() {
        let names: Vec<String> = (0..SLOTS).map(|slot| name(number, slot)).collect();
        send(socket, json!({"op": "subscribe", "mailboxes": names})).await?;
        // An answered ping says that all before it is done.
        socket.send(Message::Ping(Vec::new().into())).await?;
        while !matches!(
            timeout(PATIENCE, socket.next()).await?,
            Some(Ok(Message::Pong(_)))
        ) {}
    }
    let pairs = publishers.drain(..).zip(subscribers).collect();
    run(pairs, usage, |pair, slot, stamp| {
        let filler = "x".repeat(80);
        json!({"op": "publish", "mailbox": name(pair, slot), "message": format!("{stamp:020}{filler}")}).to_string()
    })
    .await
}

/// Has clients send texts of the same size that come back.
pub(crate) async fn echoes(server: SocketAddr, usage: impl Fn() -> Result<Usage>) -> Result<Flow> {
    let sockets = connect_bare(server, PAIRS).await?;
    let mut pairs = Vec::new();
    for socket in sockets {
        pairs.push(socket.split());
    }
    run_split(pairs, usage, |pair, slot, stamp| {
        let filler = "x".repeat(80);
        json!({"op": "message", "mailbox": name(pair, slot), "message": format!("{stamp:020}{filler}")}).to_string()
    })
    .await
}

async fn connect_bare(server: SocketAddr, count: usize) -> Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (socket, _) =
            tokio_tungstenite::client_async(format!("ws://{server}/"), stream).await?;
        sockets.push(socket);
    }
    Ok(sockets)
}

async fn run(
    pairs: Vec<(Socket, Socket)>,
    usage: impl Fn() -> Result<Usage>,
    text: fn(usize, usize, u64) -> String,
) -> Result<Flow> {
    let mut halves = Vec::new();
    let mut idle = JoinSet::new();
    for (publisher, subscriber) in pairs {
        let (sink, mut unread) = publisher.split();
        let (rest, stream) = subscriber.split();
        // Reads what the server says to a publisher, pings above all, and keeps the subscriber's other half.
        idle.spawn(async move {
            while let Some(Ok(_)) = unread.next().await {}
            drop(rest);
        });
        halves.push((sink, stream));
    }
    run_split(halves, usage, text).await
}

async fn run_split(
    pairs: Vec<(SplitSink<Socket, Message>, SplitStream<Socket>)>,
    usage: impl Fn() -> Result<Usage>,
    text: fn(usize, usize, u64) -> String,
) -> Result<Flow> {
    let start = Instant::now();
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for (pair, (sink, stream)) in pairs.into_iter().enumerate() {
        let (free, slots) = unbounded_channel();
        (0..SLOTS).try_for_each(|slot| free.send(slot))?;
        tasks.spawn(publish(sink, slots, move |slot| {
            text(pair, slot, nanoseconds(start))
        }));
        tasks.spawn(receive(stream, free, start, Arc::clone(&latencies)));
    }
    tokio::time::sleep(WARM_UP).await;
    latencies.lock().expect("no panic").clear();
    let (before, began) = (usage()?, Instant::now());
    tokio::time::sleep(MEASURED).await;
    let (after, time) = (usage()?, began.elapsed());
    let mut latencies = std::mem::take(&mut *latencies.lock().expect("no panic"));
    while let Some(ended) = tasks.try_join_next() {
        ended??;
    }
    latencies.sort_unstable();
    Ok(Flow {
        latencies,
        processor: after.processor() - before.processor(),
        time,
    })
}

async fn publish(
    mut sink: SplitSink<Socket, Message>,
    mut slots: UnboundedReceiver<usize>,
    text: impl Fn(usize) -> String,
) -> Result<()> {
    let mut free = Vec::new();
    while slots.recv_many(&mut free, SLOTS).await > 0 {
        for slot in free.drain(..) {
            sink.feed(Message::text(text(slot))).await?;
        }
        sink.flush().await?;
    }
    Ok(())
}

async fn receive(
    mut stream: SplitStream<Socket>,
    free: UnboundedSender<usize>,
    start: Instant,
    latencies: Arc<Mutex<Vec<Duration>>>,
) -> Result<()> {
    while let Some(frame) = stream.next().await {
        let Message::Text(text) = frame? else {
            continue;
        };
        // No parser: the client is not what is measured.
        let after = |key: &str| text.split_once(key).map(|it| it.1);
        let (Some(mailbox), Some(message)) = (after("\"mailbox\":\""), after("\"message\":\""))
        else {
            bail!("the server says {text}");
        };
        let slot = usize::from_str_radix(mailbox.get(32..40).context("a short name")?, 16)?;
        let sent: u64 = message.get(..20).context("a short message")?.parse()?;
        let latency = Duration::from_nanos(nanoseconds(start).saturating_sub(sent));
        latencies.lock().expect("no panic").push(latency);
        free.send(slot)?;
    }
    bail!("the server closed a WebSocket")
}

fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
