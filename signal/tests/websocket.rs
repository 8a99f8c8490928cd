//! Mailboxes over a WebSocket.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{ONE, Running, TWO, soon};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use wice_signal::{Limits, Options, Token};

#[derive(Debug)]
struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

async fn connect(server: &Running, headers: &[(&'static str, &str)]) -> Result<Socket, Error> {
    let url = format!("ws://{}/v1/websocket", server.http);
    let mut request = url.into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let connected = soon(connect_async(request)).await;
    connected.map(|(socket, _)| Socket(socket))
}

const SUBPROTOCOL: (&str, &str) = ("sec-websocket-protocol", "wice.1");

async fn open(server: &Running) -> Socket {
    connect(server, &[SUBPROTOCOL]).await.unwrap()
}

async fn say(socket: &mut Socket, operation: Value) {
    let text = Message::text(operation.to_string());
    soon(socket.0.send(text)).await.unwrap();
}

async fn hear(socket: &mut Socket) -> Value {
    loop {
        let message = soon(socket.0.next()).await.unwrap().unwrap();
        if let Message::Text(text) = message {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

#[tokio::test]
async fn a_subscription_gets_the_newest_message_and_then_each_new_one() {
    let server = Running::start(Options::default()).await;
    server.put(ONE, "before").await;
    let mut reader = open(&server).await;
    say(
        &mut reader,
        json!({"op": "subscribe", "mailboxes": [ONE, TWO]}),
    )
    .await;
    assert_eq!(
        hear(&mut reader).await,
        json!({"op": "message", "mailbox": ONE, "message": "before"})
    );
    let mut writer = open(&server).await;
    say(
        &mut writer,
        json!({"op": "publish", "mailbox": TWO, "message": "after"}),
    )
    .await;
    assert_eq!(
        hear(&mut reader).await,
        json!({"op": "message", "mailbox": TWO, "message": "after"})
    );
    let stored = server.get(server.mailbox(TWO)).await;
    assert_eq!(stored.text().await.unwrap(), "after");
}

#[tokio::test]
async fn what_is_unsubscribed_or_withdrawn_is_heard_no_more() {
    let server = Running::start(Options::default()).await;
    let mut socket = open(&server).await;
    say(
        &mut socket,
        json!({"op": "subscribe", "mailboxes": [ONE, TWO]}),
    )
    .await;
    say(
        &mut socket,
        json!({"op": "unsubscribe", "mailboxes": [ONE]}),
    )
    .await;
    say(
        &mut socket,
        json!({"op": "publish", "mailbox": ONE, "message": "a"}),
    )
    .await;
    say(
        &mut socket,
        json!({"op": "publish", "mailbox": TWO, "message": "b"}),
    )
    .await;
    assert_eq!(hear(&mut socket).await["message"], "b");
    say(&mut socket, json!({"op": "withdraw", "mailbox": TWO})).await;
    say(
        &mut socket,
        json!({"op": "subscribe", "mailboxes": [ONE, TWO]}),
    )
    .await;
    assert_eq!(hear(&mut socket).await["message"], "a");
    assert_eq!(server.get(server.mailbox(TWO)).await.status().as_u16(), 404);
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_message_and_is_no_burden() {
    let server = Running::start(Options::default()).await;
    let mut reader = open(&server).await;
    say(&mut reader, json!({"op": "subscribe", "mailboxes": [ONE]})).await;
    // Far more than the buffers of both kernels hold.
    for number in 0..2_000 {
        let message = format!("{number:0>8000}");
        assert_eq!(server.put(ONE, message).await.status().as_u16(), 204);
    }
    let last = format!("{:0>8000}", 1_999);
    let mut heard = 0;
    while hear(&mut reader).await["message"] != last {
        heard += 1;
    }
    assert!(heard < 1_999, "nothing was left out");
}

#[tokio::test]
async fn a_mistake_is_answered_and_the_connection_goes_on() {
    let server = Running::start(Options::default()).await;
    let mut socket = open(&server).await;
    let large = "x".repeat(16 * 1024 + 1);
    let mistakes = [
        (json!([]), "bad-request"),
        (json!({"op": "dance"}), "bad-request"),
        (
            json!({"op": "subscribe", "mailboxes": ["x"]}),
            "invalid-mailbox",
        ),
        (
            json!({"op": "publish", "mailbox": ONE, "message": ""}),
            "unprocessable",
        ),
        (
            json!({"op": "publish", "mailbox": ONE, "message": large}),
            "too-large",
        ),
    ];
    for (operation, code) in mistakes {
        say(&mut socket, operation).await;
        let answer = hear(&mut socket).await;
        assert_eq!(
            (&answer["op"], &answer["code"]),
            (&json!("error"), &json!(code))
        );
    }
    soon(socket.0.send(Message::binary(vec![1]))).await.unwrap();
    assert_eq!(hear(&mut socket).await["op"], "error");
    say(&mut socket, json!({"op": "subscribe", "mailboxes": [ONE]})).await;
    server.put(ONE, "still here").await;
    assert_eq!(hear(&mut socket).await["message"], "still here");
}

#[tokio::test]
async fn a_frame_beyond_all_bounds_is_answered_and_ends_the_connection() {
    let server = Running::start(Options::default()).await;
    let mut socket = open(&server).await;
    let frame = Message::text("x".repeat(1024 * 1024));
    // The server may close before it is all sent.
    let _ = soon(socket.0.send(frame)).await;
    let answer = hear(&mut socket).await;
    assert_eq!(answer["code"], "too-large");
    let end = soon(socket.0.next()).await;
    assert!(matches!(end, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1009));
}

#[tokio::test]
async fn the_subprotocol_and_the_token_are_asked_for() {
    let options = Options {
        tokens: Some(Token::new("correct-horse").unwrap().into()),
        ..Options::default()
    };
    let server = Running::start(options).await;
    let refused = |result: Result<Socket, Error>| match result {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refused(connect(&server, &[SUBPROTOCOL]).await), 401);
    let token = ("authorization", "Bearer correct-horse");
    assert_eq!(refused(connect(&server, &[token]).await), 400);
    connect(&server, &[SUBPROTOCOL, token]).await.unwrap();
}

#[tokio::test]
async fn operations_beyond_the_rate_are_refused_by_name() {
    let limits = Limits {
        requests_per_minute: 2,
        ..Limits::default()
    };
    let server = Running::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let mut socket = open(&server).await;
    for message in ["a", "b"] {
        say(
            &mut socket,
            json!({"op": "publish", "mailbox": ONE, "message": message}),
        )
        .await;
    }
    assert_eq!(hear(&mut socket).await["code"], "rate-limited");
}

#[tokio::test]
async fn the_ice_servers_are_told_at_once() {
    let server = Running::start(Options {
        stun: vec!["127.0.0.1:0".parse().unwrap()],
        ..Options::default()
    })
    .await;
    let url = format!("stun:{}", server.stun[0]);
    let mut socket = open(&server).await;
    assert_eq!(
        hear(&mut socket).await,
        json!({"op": "ice-servers", "servers": [{"urls": [url]}]})
    );
}
