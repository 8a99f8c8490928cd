//! Several servers over one NATS, and what becomes of the mailboxes when a part of that dies.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::forwarder::Forwarder;
use common::nats::{Node, options, options_at};
use common::program::Program;
use common::{Folder, ONE, PATIENCE, Running, TWO, certify, header, soon, upgrade};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use wice_signal::{NatsAuth, NatsOptions, NatsUser, Options};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn server(nats: NatsOptions) -> Running {
    Running::start_as_is(Options {
        store: Some(nats),
        ..Options::default()
    })
    .await
}

#[tokio::test]
async fn any_server_answers_for_any_mailbox() {
    let node = Node::start();
    let one = server(options(&[&node])).await;
    let two = server(options(&[&node])).await;
    one.ready().await;
    two.ready().await;
    let mut subscriber = subscribe(two.http, &[ONE]).await;
    let poll = two.poll(json!({"wait": 60, "mailboxes": {ONE: null}}));
    let (answer, written) = tokio::join!(poll, one.put(ONE, "from one"));
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["mailboxes"][ONE]["message"], "from one");
    let etag = header(&written, "etag");
    assert_eq!(
        format!("\"{}\"", answer["mailboxes"][ONE]["etag"].as_str().unwrap()),
        etag
    );
    assert_eq!(hear(&mut subscriber).await, "from one");

    // A withdrawal is heard of by the other server's polls as well.
    let gone = one.poll(json!({"wait": 60, "mailboxes": {ONE: etag}}));
    let withdraw = two.client.delete(two.mailbox(ONE)).send();
    let (gone, withdrawn) = tokio::join!(gone, withdraw);
    assert_eq!(withdrawn.unwrap().status(), 204);
    let gone: Value = gone.json().await.unwrap();
    assert_eq!(
        gone,
        json!({"mailboxes": {ONE: {"etag": null, "message": null}}})
    );
    // And a mailbox is written again by another one than withdrew it.
    assert_eq!(one.put(ONE, "again").await.status(), 204);
    assert_eq!(hear(&mut subscriber).await, "again");
}

#[tokio::test]
async fn a_server_that_starts_later_has_what_was_written_before() {
    let node = Node::start();
    let early = server(options(&[&node])).await;
    early.ready().await;
    for number in 0..300 {
        let name = format!("{number:040x}");
        assert_eq!(early.put(&name, "kept").await.status(), 204);
    }
    let withdrawn = format!("{:040x}", 7);
    soon(early.client.delete(early.mailbox(&withdrawn)).send())
        .await
        .unwrap();
    let late = server(options(&[&node])).await;
    late.ready().await;
    for number in 0..300 {
        let expected = if number == 7 { 404 } else { 200 };
        let read = late.get(late.mailbox(&format!("{number:040x}"))).await;
        assert_eq!(read.status(), expected, "{number}");
    }
}

#[tokio::test]
async fn a_server_starts_without_nats_and_becomes_ready_by_itself() {
    let mut node = Node::start();
    node.kill();
    let server = server(options(&[&node])).await;
    let reason = server.unready().await;
    assert!(reason.contains("not connected to NATS"), "{reason}");
    refuses(&server).await;
    // Whoever subscribes now is served when there is something.
    let mut subscriber = subscribe(server.http, &[ONE]).await;
    node.run();
    server.ready().await;
    server.put(ONE, "first").await;
    assert_eq!(hear(&mut subscriber).await, "first");
}

#[tokio::test]
async fn without_nats_requests_are_refused_and_subscriptions_kept() {
    let mut node = Node::start();
    let one = server(options(&[&node])).await;
    let two = server(options(&[&node])).await;
    one.ready().await;
    two.ready().await;
    let mut subscriber = subscribe(one.http, &[ONE, TWO]).await;
    assert_eq!(one.put(ONE, "before").await.status(), 204);
    assert_eq!(hear(&mut subscriber).await, "before");

    node.kill();
    one.unready().await;
    two.unready().await;
    refuses(&one).await;
    say(
        &mut subscriber,
        json!({"op": "publish", "mailbox": TWO, "message": "x"}),
    )
    .await;
    assert_eq!(frame(&mut subscriber).await["code"], "unavailable");

    node.run();
    one.ready().await;
    two.ready().await;
    let read = two.get(two.mailbox(ONE)).await;
    assert_eq!(read.text().await.unwrap(), "before");
    assert_eq!(two.put(ONE, "after").await.status(), 204);
    assert_eq!(hear(&mut subscriber).await, "after");
}

#[tokio::test]
async fn nats_may_ask_for_a_password_and_be_reached_by_tls() {
    let folder = Folder::new("nats-tls");
    let files = certify(&folder.0);
    let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().unwrap());
    let tls = ["--tls", "--tlscert", cert, "--tlskey", key];
    let node = Node::start_with(&[&tls[..], &["--user", "fleet", "--pass", "p:ss"]].concat());
    let user = folder.0.join("user");
    std::fs::write(&user, "fleet:p:ss\n").unwrap();
    let named = NatsOptions {
        servers: format!("tls://127.0.0.1:{}", node.port).parse().unwrap(),
        auth: NatsAuth::User(NatsUser::read(&user).unwrap()),
        authority: Some(files.cert.clone()),
        ..options(&[&node])
    };
    let unnamed = NatsOptions {
        auth: NatsAuth::None,
        ..named.clone()
    };
    let trusted = server(named).await;
    let unknown = server(unnamed).await;
    trusted.ready().await;
    assert_eq!(trusted.put(ONE, "sealed").await.status(), 204);
    refuses(&unknown).await;
}

#[tokio::test]
async fn a_bucket_that_was_made_for_another_expiry_is_not_used() {
    let node = Node::start();
    let first = server(options(&[&node])).await;
    first.ready().await;
    let mut other = Options {
        store: Some(options(&[&node])),
        ..Options::default()
    };
    other.limits.expiry = Duration::from_secs(60);
    let other = Running::start_as_is(other).await;
    soon(async {
        while !other.unready().await.contains("keeps messages for 3600 s") {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_takes_nothing_along() {
    let node = Node::start();
    let store = format!("nats://127.0.0.1:{}", node.port);
    let mut dying = Program::start(&["--store", &store]).await;
    let staying = server(options(&[&node])).await;
    staying.ready().await;
    let client = common::client();
    let mailbox = format!("{}/v1/mailboxes/{ONE}", dying.url);
    soon(async {
        loop {
            let put = client
                .put(&mailbox)
                .header("content-type", "application/jose");
            if put.body("acknowledged").send().await.unwrap().status() == 204 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    dying.kill();
    let read = staying.get(staying.mailbox(ONE) + "?wait=30").await;
    assert_eq!(read.text().await.unwrap(), "acknowledged");
}

#[tokio::test]
async fn a_server_that_is_cut_off_catches_up_and_undoes_nothing() {
    let node = Node::start();
    let way = Forwarder::to(node.port).await;
    let cut = server(options_at(&[way.port], 1)).await;
    let whole = server(options(&[&node])).await;
    cut.ready().await;
    whole.ready().await;
    let mut subscriber = subscribe(cut.http, &[ONE, TWO]).await;
    assert_eq!(cut.put(ONE, "1").await.status(), 204);
    assert_eq!(hear(&mut subscriber).await, "1");

    way.cut();
    // Sent into the cut: it is on its way to NATS, and nobody was told that it is kept.
    let mailbox = cut.mailbox(ONE);
    let put = cut
        .client
        .put(mailbox)
        .header("content-type", "application/jose");
    assert_eq!(soon(put.body("2").send()).await.unwrap().status(), 503);
    cut.unready().await;
    assert_eq!(cut.get(cut.url("/healthz")).await.status(), 200);
    assert_eq!(whole.put(ONE, "3").await.status(), 204);
    assert_eq!(whole.put(TWO, "other").await.status(), 204);

    way.heal();
    cut.ready().await;
    let mut newest = BTreeMap::new();
    soon(async {
        while newest.len() < 2 {
            let frame = frame(&mut subscriber).await;
            let name = frame["mailbox"].as_str().unwrap().to_owned();
            newest.insert(name, frame["message"].as_str().unwrap().to_owned());
        }
    })
    .await;
    assert_eq!(newest[ONE], "3");
    assert_eq!(newest[TWO], "other");
    for server in [&cut, &whole] {
        let read = server.get(server.mailbox(ONE)).await;
        assert_eq!(
            read.text().await.unwrap(),
            "3",
            "the late write must not win"
        );
    }
}

#[tokio::test]
async fn a_dead_node_of_a_cluster_costs_no_acknowledged_message() {
    let mut nodes = Node::cluster();
    let fleet = Fleet::start(&nodes).await;
    for node in &mut nodes {
        fleet.progress().await;
        node.kill();
        fleet.progress().await;
        node.run();
    }
    fleet.settle().await;
}

#[tokio::test]
async fn restarting_all_nodes_costs_no_acknowledged_message() {
    let mut nodes = Node::cluster();
    let mut fleet = Fleet::start(&nodes).await;
    fleet.progress().await;
    for node in &mut nodes {
        node.kill();
    }
    for server in &fleet.servers {
        server.unready().await;
        refuses(server).await;
    }
    // What comes after must not stand in for what was lost.
    fleet.rest().await;
    for node in &mut nodes {
        node.run();
    }
    fleet.settle().await;
}

#[tokio::test]
async fn a_stopping_server_sends_its_clients_away_one_by_one() {
    let node = Node::start();
    let mut stopping = Options {
        store: Some(options(&[&node])),
        ..Options::default()
    };
    stopping.limits.drain = Duration::from_secs(10);
    let stopping = Running::start_as_is(stopping).await;
    let staying = server(options(&[&node])).await;
    stopping.ready().await;
    staying.ready().await;
    let (closed, mut first_closed) = mpsc::channel(64);
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut socket = subscribe(stopping.http, &[ONE]).await;
        let closed = closed.clone();
        clients.push(tokio::spawn(async move {
            let mut heard = 0;
            loop {
                match soon(socket.next()).await.unwrap().unwrap() {
                    Message::Text(_) => heard += 1,
                    Message::Close(Some(frame)) => {
                        assert_eq!(u16::from(frame.code), 1012, "{frame}");
                        let _ = closed.send(()).await;
                        return heard;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }));
    }
    let end = tokio::spawn(stopping.stop());
    soon(first_closed.recv()).await.unwrap();
    // Those that are still there are still served.
    assert_eq!(staying.put(ONE, "meanwhile").await.status(), 204);
    let mut heard = 0;
    for client in clients {
        heard += soon(client).await.unwrap();
    }
    assert!(heard > 0, "all were sent away at once");
    soon(end).await.unwrap();
}

/// Two servers over one cluster, writers that never rest, and a subscriber of every mailbox on each server.
struct Fleet {
    servers: Vec<Arc<Running>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
    /// What was acknowledged last, by mailbox.
    acknowledged: Arc<Mutex<BTreeMap<String, u64>>>,
    /// What each server's subscriber got last, by mailbox.
    heard: Vec<Arc<Mutex<BTreeMap<String, u64>>>>,
}

const WRITERS: u64 = 6;

impl Fleet {
    async fn start(nodes: &[Node]) -> Self {
        let nodes: Vec<&Node> = nodes.iter().collect();
        let names: Vec<String> = (0..WRITERS).map(|it| format!("{it:040x}")).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
        let (mut servers, mut heard) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let server = Arc::new(server(options(&nodes)).await);
            server.ready().await;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let socket = subscribe(server.http, &names).await;
            let got = Arc::new(Mutex::new(BTreeMap::new()));
            tokio::spawn(listen(socket, Arc::clone(&got)));
            heard.push(got);
            servers.push(server);
        }
        let writer = |(number, name): (usize, String)| {
            let (servers, stop) = (servers.clone(), Arc::clone(&stop));
            let acknowledged = Arc::clone(&acknowledged);
            tokio::spawn(async move {
                let mut message = 0;
                while !stop.load(Ordering::Relaxed) {
                    message += 1;
                    let server = &servers[(number + message as usize) % servers.len()];
                    let put = server.client.put(server.mailbox(&name));
                    let put = put.header("content-type", "application/jose");
                    let answer = soon(put.body(message.to_string()).send()).await.unwrap();
                    match answer.status().as_u16() {
                        204 => {
                            acknowledged.lock().unwrap().insert(name.clone(), message);
                        }
                        503 => assert!(!header(&answer, "retry-after").is_empty()),
                        other => panic!("{other}: {:?}", answer.text().await),
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            })
        };
        let writers = names.into_iter().enumerate().map(writer).collect();
        Self {
            servers,
            stop,
            writers,
            acknowledged,
            heard,
        }
    }

    /// Waits until every writer has had something new acknowledged and every subscriber has heard of it.
    async fn progress(&self) {
        let before = self.acknowledged.lock().unwrap().clone();
        let ahead = |now: &BTreeMap<String, u64>| {
            now.len() == WRITERS as usize
                && now
                    .iter()
                    .all(|(name, at)| before.get(name).unwrap_or(&0) < at)
        };
        let progress = async {
            loop {
                let all = [&self.acknowledged].into_iter().chain(&self.heard);
                if all.into_iter().all(|it| ahead(&it.lock().unwrap())) {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(PATIENCE, progress).await.is_err() {
            for server in &self.servers {
                let ready = server.get(server.url("/readyz")).await;
                eprintln!("{}", ready.text().await.unwrap());
            }
            panic!(
                "no progress since {before:?}: {:?}, heard {:?}",
                self.acknowledged, self.heard
            );
        }
    }

    /// Ends the writers.
    async fn rest(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            soon(writer).await.unwrap();
        }
    }

    /// Ends the writers; then every server and every subscriber must have what was acknowledged last, or what was written
    /// after it without an answer.
    async fn settle(mut self) {
        self.rest().await;
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        for (name, at_least) in acknowledged {
            let mut values = Vec::new();
            for server in &self.servers {
                server.ready().await;
                let read = server.get(server.mailbox(&name)).await;
                assert_eq!(read.status(), 200);
                values.push(read.text().await.unwrap().parse::<u64>().unwrap());
            }
            assert!(
                values[0] >= at_least,
                "{} was acknowledged, {} is there",
                at_least,
                values[0]
            );
            for heard in &self.heard {
                soon(async {
                    while heard.lock().unwrap().get(&name) != Some(&values[0]) {
                        sleep(Duration::from_millis(20)).await;
                    }
                })
                .await;
            }
        }
    }
}

async fn listen(mut socket: Socket, heard: Arc<Mutex<BTreeMap<String, u64>>>) {
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            let frame: Value = serde_json::from_str(&text).unwrap();
            let name = frame["mailbox"].as_str().unwrap().to_owned();
            let value = frame["message"].as_str().unwrap().parse().unwrap();
            heard.lock().unwrap().insert(name, value);
        }
    }
}

/// Reads and writes are refused, with a time to come back; the process itself is well.
async fn refuses(server: &Running) {
    let answers = [
        server.put(ONE, "message").await,
        server.get(server.mailbox(ONE)).await,
        server.poll(json!({"mailboxes": {ONE: null}})).await,
    ];
    for answer in answers {
        assert_eq!(answer.status(), 503);
        assert!(header(&answer, "retry-after").parse::<u64>().unwrap() >= 1);
        assert_eq!(header(&answer, "content-type"), "application/problem+json");
    }
    assert_eq!(server.get(server.url("/healthz")).await.status(), 200);
}

async fn subscribe(http: std::net::SocketAddr, names: &[&str]) -> Socket {
    let (mut socket, _) = soon(connect_async(upgrade(http))).await.unwrap();
    say(&mut socket, json!({"op": "subscribe", "mailboxes": names})).await;
    // An answered ping says that the subscription is there.
    socket.send(Message::Ping(Vec::new().into())).await.unwrap();
    let pong = soon(socket.next()).await.unwrap().unwrap();
    assert!(matches!(pong, Message::Pong(_)), "{pong:?}");
    socket
}

async fn say(socket: &mut Socket, operation: Value) {
    soon(socket.send(Message::text(operation.to_string())))
        .await
        .unwrap();
}

async fn frame(socket: &mut Socket) -> Value {
    loop {
        if let Message::Text(text) = soon(socket.next()).await.unwrap().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

async fn hear(socket: &mut Socket) -> String {
    let frame = frame(socket).await;
    assert_eq!(frame["op"], "message", "{frame}");
    frame["message"].as_str().unwrap().to_owned()
}
