//! Servers that lie: nothing that they send changes more than the state of their own backend.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use url::Url;
use wice_core::mailbox::MAX_SEALED;

use super::super::{BackendState, Event};
use super::site::{Agent, config, mailbox};

#[tokio::test]
async fn a_poll_that_is_not_json_is_an_error() {
    let liar = Liar::http("200 OK", "<html>welcome</html>").await;
    let error = subscriber(&liar.url).await.failure().await;
    assert!(error.contains("something else than the JSON"), "{error}");
}

#[tokio::test]
async fn a_poll_that_ends_early_counts_as_a_restart_of_the_server() {
    let liar = Liar::http("200 OK", r#"{"mailboxes":{}}"#).await;
    let error = subscriber(&liar.url).await.failure().await;
    assert!(error.contains("ended a poll early"), "{error}");
}

#[tokio::test]
async fn a_redirection_is_not_followed() {
    let liar = Liar::http("301 Moved Permanently\r\nlocation: http://192.0.2.1/", "").await;
    let error = subscriber(&liar.url).await.failure().await;
    assert!(error.contains("answered 301"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_an_error() {
    let liar = Liar::http("200 OK", &"x".repeat(5_000_000)).await;
    let error = subscriber(&liar.url).await.failure().await;
    assert!(error.contains("more than it may"), "{error}");
}

#[tokio::test]
async fn messages_nobody_asked_for_and_messages_too_long_are_ignored_over_http() {
    let long = "x".repeat(MAX_SEALED + 1);
    let body = serde_json::json!({ "mailboxes": {
        mailbox(1).to_string(): { "etag": "1", "message": long },
        mailbox(2).to_string(): { "etag": "2", "message": "for somebody else" },
        mailbox(3).to_string(): { "etag": "3", "message": "for us" },
        "no mailbox": { "etag": "4", "message": "for nobody" },
    }});
    let liar = Liar::http("200 OK", &body.to_string()).await;
    let mut agent = subscriber(&liar.url).await;
    agent.subscribe(3);
    agent.expect(3, "for us").await;
    assert_eq!(state(&agent), BackendState::Connected);
}

#[tokio::test]
async fn a_server_that_repeats_itself_does_not_send_us_round_and_round() {
    let body = serde_json::json!({ "mailboxes": {
        mailbox(1).to_string(): { "etag": "1", "message": "hello" },
    }});
    let mut liar = Liar::http("200 OK", &body.to_string()).await;
    let mut agent = subscriber(&liar.url).await;
    agent.expect(1, "hello").await;
    // One poll a second, and no second delivery.
    let second = tokio::time::timeout(Duration::from_millis(2500), async {
        while !matches!(agent.events.recv().await, Some(Event::Message { .. })) {}
    });
    assert!(second.await.is_err(), "the same message came again");
    let mut requests = 0;
    while liar.requests.try_recv().is_ok() {
        requests += 1;
    }
    assert!(requests < 8, "{requests} requests in 2.5 s");
}

#[tokio::test]
async fn a_pause_that_the_server_asks_for_is_kept() {
    let mut liar = Liar::http("429 Too Many Requests\r\nretry-after: 600", "").await;
    let mut agent = subscriber(&liar.url).await;
    agent.publish(5, "hello");
    agent.state(BackendState::Connected).await;
    let (mut polls, mut writes) = (0, 0);
    let _ = tokio::time::timeout(Duration::from_secs(2), async {
        while let Some(request) = liar.requests.recv().await {
            polls += u32::from(request.starts_with("POST"));
            writes += u32::from(request.starts_with("PUT"));
        }
    })
    .await;
    assert_eq!((polls, writes), (1, 1));
}

#[tokio::test]
async fn a_frame_that_is_not_json_is_an_error() {
    let liar = Liar::websocket(vec!["welcome".to_owned()]).await;
    let error = subscriber(&liar.url).await.failure().await;
    assert!(
        error.contains("something else than an operation"),
        "{error}"
    );
}

#[tokio::test]
async fn a_frame_that_is_too_long_is_an_error() {
    let liar = Liar::websocket(vec!["x".repeat(100_000)]).await;
    let error = subscriber(&liar.url).await.failure().await;
    assert!(error.contains("more than it may"), "{error}");
}

#[tokio::test]
async fn messages_nobody_asked_for_and_messages_too_long_are_ignored_over_websocket() {
    let message = |mailbox: &str, message: &str| {
        serde_json::json!({ "op": "message", "mailbox": mailbox, "message": message }).to_string()
    };
    let liar = Liar::websocket(vec![
        message(&mailbox(1).to_string(), &"x".repeat(MAX_SEALED + 1)),
        message(&mailbox(2).to_string(), "for somebody else"),
        message("no mailbox", "for nobody"),
        r#"{"op":"from the future"}"#.to_owned(),
        r#"{"op":"error","code":"whatever","detail":"no"}"#.to_owned(),
        message(&mailbox(1).to_string(), "for us"),
    ])
    .await;
    let mut agent = subscriber(&liar.url).await;
    agent.expect(1, "for us").await;
    assert_eq!(state(&agent), BackendState::Connected);
}

#[tokio::test]
async fn a_server_of_another_kind_is_named_as_such() {
    let liar = Liar::http("404 Not Found", "").await;
    let mut url = liar.url.clone();
    url.set_scheme("ws").unwrap();
    let error = subscriber(&url).await.failure().await;
    assert!(error.contains("answered 404"), "{error}");
    assert!(
        error.contains("check that the URL is that of a WICE server"),
        "{error}"
    );
}

async fn subscriber(url: &Url) -> Agent {
    let mut agent = Agent::new(vec![config(url.clone())]);
    agent.subscribe(1);
    agent
}

fn state(agent: &Agent) -> BackendState {
    agent.signaling.statuses()[0].state
}

impl Agent {
    async fn failure(mut self) -> String {
        let failed = self.state(BackendState::Failed).await;
        failed.error.expect("a failure says why")
    }
}

/// A server that says what it likes.
struct Liar {
    url: Url,
    /// The first line of every request.
    requests: tokio::sync::mpsc::UnboundedReceiver<String>,
    _task: JoinSet<()>,
}

impl Liar {
    /// One that answers the greeting as it should, and everything else with this.
    async fn http(status: &str, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let greeting = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]";
        let (sender, requests) = tokio::sync::mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let (sender, answer) = (sender.clone(), answer.clone());
                connections.spawn(async move {
                    let Some(request) = request(&mut socket).await else {
                        return;
                    };
                    let greeted = request.contains("/v1/ice-servers");
                    let answer = if greeted { greeting } else { &answer };
                    let _ = sender.send(request);
                    let _ = socket.write_all(answer.as_bytes()).await;
                    // Closing with something unread would tear the answer away.
                    let _ = socket.shutdown().await;
                    let _ = socket.read_to_end(&mut Vec::new()).await;
                });
            }
        });
        Self {
            url: url.parse().unwrap(),
            requests,
            _task: task,
        }
    }

    /// One that sends these texts to everybody who connects.
    async fn websocket(texts: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let (_, requests) = tokio::sync::mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let mut socket = accept_hdr_async(socket, subprotocol).await.unwrap();
                for text in &texts {
                    let _ = socket.send(Message::Text(text.into())).await;
                }
                while let Some(Ok(_)) = socket.next().await {}
            }
        });
        Self {
            url: url.parse().unwrap(),
            requests,
            _task: task,
        }
    }
}

/// Reads a request's head; the first line of it.
async fn request(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let length = socket.read_buf(&mut head).await.ok()?;
        if length == 0 {
            return None;
        }
    }
    let head = String::from_utf8_lossy(&head);
    head.lines().next().map(str::to_owned)
}

#[expect(clippy::result_large_err, reason = "the callback's type is given")]
fn subprotocol(
    _: &Request,
    mut response: Response,
) -> Result<Response, tokio_tungstenite::tungstenite::handshake::server::ErrorResponse> {
    let headers = response.headers_mut();
    headers.insert("sec-websocket-protocol", HeaderValue::from_static("wice.1"));
    Ok(response)
}
