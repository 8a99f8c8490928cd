//! Clients that mean harm: what each costs the program, and that others do not notice.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use common::program::Program;
use common::{ONE, PATIENCE, TWO, client, soon, upgrade};
use futures_util::{SinkExt, StreamExt};
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// What a hostile client may cost at most: far less than it sends, far more than the noise of an allocator.
const MEGABYTES: u64 = 24;

/// A server with a subscriber that nobody may harm.
struct Victim {
    program: Program,
    address: SocketAddr,
    honest: Socket,
    before: u64,
    told: u32,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Victim {
    async fn start(arguments: &[&str]) -> Self {
        let program = Program::start(arguments).await;
        let address = program.address();
        let mut honest = open(address, address.ip()).await;
        say(&mut honest, json!({"op": "subscribe", "mailboxes": [ONE]})).await;
        let mut victim = Self {
            before: 0,
            program,
            address,
            honest,
            told: 0,
        };
        victim.serves().await;
        victim.before = victim.program.resident();
        victim
    }

    /// An honest agent publishes by REST from another address than the hostile ones, and its peer is told.
    async fn serves(&mut self) {
        self.told += 1;
        let message = format!("message {}", self.told);
        let client = client();
        let url = format!("{}/v1/mailboxes/{ONE}", self.program.url);
        let request = client.put(url).header("content-type", "application/jose");
        let answer = soon(request.body(message.clone()).send()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        loop {
            let heard = soon(self.honest.next()).await.unwrap().unwrap();
            if matches!(&heard, Message::Text(text) if text.contains(&message)) {
                return;
            }
        }
    }

    async fn is_unharmed(&mut self) {
        self.serves().await;
        let grown = self.program.resident().saturating_sub(self.before);
        assert!(grown < MEGABYTES << 20, "{grown} bytes more than before");
        assert!(self.program.is_running());
    }
}

/// Where the hostile ones come from; the honest ones use 127.0.0.1.
const HOSTILE: [u8; 4] = [127, 6, 6, 6];

async fn reach(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((HOSTILE, 0).into()).unwrap();
    soon(socket.connect(address)).await.unwrap()
}

async fn open(address: SocketAddr, from: std::net::IpAddr) -> Socket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = soon(socket.connect(address)).await.unwrap();
    over(stream, address).await
}

async fn over(stream: TcpStream, address: SocketAddr) -> Socket {
    let stream = MaybeTlsStream::Plain(stream);
    let opened = tokio_tungstenite::client_async(upgrade(address), stream);
    soon(opened).await.unwrap().0
}

async fn say(socket: &mut Socket, operation: serde_json::Value) {
    let text = Message::text(operation.to_string());
    soon(socket.send(text)).await.unwrap();
}

async fn hear(socket: &mut Socket) -> serde_json::Value {
    loop {
        if let Message::Text(text) = soon(socket.next()).await.unwrap().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

#[tokio::test]
async fn a_slow_loris_is_cut_off() {
    let mut victim = Victim::start(&[]).await;
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        let mut stream = reach(victim.address).await;
        clients.spawn(async move {
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n")
                .await
                .unwrap();
            let mut read = [0; 512];
            // One more header every half a second, for ever.
            for number in 0.. {
                if stream
                    .write_all(format!("x-{number}: y\r\n").as_bytes())
                    .await
                    .is_err()
                {
                    return;
                }
                let heard = timeout(Duration::from_millis(500), stream.read(&mut read)).await;
                if matches!(heard, Ok(Ok(0) | Err(_))) {
                    return;
                }
            }
        });
    }
    victim.serves().await;
    let start = Instant::now();
    while let Some(ended) = soon(clients.join_next()).await {
        ended.unwrap();
        assert!(start.elapsed() < PATIENCE);
    }
    victim.is_unharmed().await;
}

#[tokio::test]
async fn a_subscriber_of_a_million_mailboxes_gets_what_an_address_may_have() {
    let mut victim = Victim::start(&[]).await;
    let mut greedy = open(victim.address, HOSTILE.into()).await;
    let mut refused = 0;
    for request in 0..500_u64 {
        let names: Vec<String> = (0..2_000)
            .map(|name| format!("{request:020x}{name:020x}"))
            .collect();
        say(&mut greedy, json!({"op": "subscribe", "mailboxes": names})).await;
        if request >= 10 {
            let heard = hear(&mut greedy).await;
            assert_eq!(heard["op"], "error", "{heard}");
            assert_eq!(heard["code"], "too-many-subscriptions", "{heard}");
            refused += 1;
        }
    }
    assert_eq!(refused, 490);
    victim.is_unharmed().await;
}

#[tokio::test]
async fn a_body_of_a_gigabyte_is_refused_before_it_is_read() {
    let mut victim = Victim::start(&[]).await;
    let head = |length: &str| {
        format!(
            "PUT /v1/mailboxes/{TWO} HTTP/1.1\r\nhost: a\r\ncontent-type: application/jose\r\n{length}\r\n\r\n"
        )
    };
    // Announced: not a byte of it is waited for.
    let mut stream = reach(victim.address).await;
    let announced = head("content-length: 1073741824");
    stream.write_all(announced.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 413 "));
    // Not announced: refused at the limit, and the rest is not taken.
    let stream = reach(victim.address).await;
    let (mut reading, mut writing) = stream.into_split();
    let sent = tokio::spawn(async move {
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x1_0000], b"\r\n"].concat();
        let chunked = head("transfer-encoding: chunked");
        writing.write_all(chunked.as_bytes()).await.unwrap();
        let mut sent = 0_u64;
        while sent < 1 << 30 && writing.write_all(&chunk).await.is_ok() {
            sent += 0x1_0000;
        }
        sent
    });
    let mut read = [0; 64];
    let length = soon(reading.read(&mut read)).await.unwrap_or(0);
    assert!(read[..length].starts_with(b"HTTP/1.1 413 ") || length == 0);
    let sent = soon(sent).await.unwrap();
    assert!(sent < 1 << 26, "{sent} bytes were taken");
    victim.is_unharmed().await;
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut read = vec![0; 4_096];
    let length = soon(stream.read(&mut read)).await.unwrap();
    String::from_utf8_lossy(&read[..length]).into_owned()
}

#[tokio::test]
async fn a_client_that_never_reads_costs_no_more_than_its_subscriptions_and_is_disconnected() {
    let mut victim = Victim::start(&[]).await;
    let deaf = TcpSocket::new_v4().unwrap();
    // A small window, so that the system's buffers do not hide that nobody reads.
    deaf.set_recv_buffer_size(4_096).unwrap();
    deaf.bind((HOSTILE, 0).into()).unwrap();
    let stream = soon(deaf.connect(victim.address)).await.unwrap();
    let mut deaf = over(stream, victim.address).await;
    let names: Vec<String> = (0..64).map(|name| format!("{name:040x}")).collect();
    say(&mut deaf, json!({"op": "subscribe", "mailboxes": names})).await;
    // A hundred megabytes of messages to it, of which only the newest are kept.
    let mut writer = open(victim.address, [127, 6, 6, 7].into()).await;
    let filler = "x".repeat(16_000);
    for round in 0..100 {
        for name in &names {
            let message = format!("{round}{filler}");
            say(
                &mut writer,
                json!({"op": "publish", "mailbox": name, "message": message}),
            )
            .await;
        }
    }
    soon(writer.send(Message::Ping(Vec::new().into())))
        .await
        .unwrap();
    while !matches!(soon(writer.next()).await, Some(Ok(Message::Pong(_)))) {}
    victim.is_unharmed().await;
    // The server gives it half a minute to read on; then nobody holds the other end.
    let stream = match deaf.get_ref() {
        MaybeTlsStream::Plain(stream) => stream.local_addr().unwrap(),
        _ => unreachable!("no TLS was asked for"),
    };
    let deadline = Instant::now() + 2 * PATIENCE;
    while held(victim.address, stream) {
        assert!(Instant::now() < deadline, "it is still connected");
        sleep(Duration::from_millis(500)).await;
    }
    victim.is_unharmed().await;
}

/// Whether a process still holds the server's end of a connection (proc(5), /proc/net/tcp): an end that nobody holds has inode 0.
fn held(server: SocketAddr, client: SocketAddr) -> bool {
    let hex = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(v4) => {
            format!(
                "{:08X}:{:04X}",
                u32::from_ne_bytes(v4.octets()),
                address.port()
            )
        }
        std::net::IpAddr::V6(_) => unreachable!("loopback is IPv4 here"),
    };
    let pair = format!("{} {}", hex(server), hex(client));
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find(|line| line.contains(&pair));
    line.is_some_and(|line| line.split_whitespace().nth(9) != Some("0"))
}
