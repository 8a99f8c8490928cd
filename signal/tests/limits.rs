//! What one address may use, and what it is told beyond that.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::time::Duration;

use common::{Folder, ONE, Running, TWO, header, soon, upgrade};
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_tungstenite::connect_async;
use wice_signal::{Limits, Options, Tokens};

async fn start(limits: Limits) -> Running {
    Running::start(Options {
        limits,
        ..Options::default()
    })
    .await
}

fn refused(answer: &reqwest::Response) {
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(header(answer, "retry-after").parse::<u64>().unwrap() >= 1);
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let server = start(Limits {
        requests_per_minute: 3,
        ..Limits::default()
    })
    .await;
    for _ in 0..3 {
        let answer = server.put(ONE, "message").await;
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }
    refused(&server.put(ONE, "message").await);
    let health = server.get(server.url("/healthz")).await;
    assert_eq!(health.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_address_fills_its_mailboxes_and_gets_room_by_withdrawing() {
    let server = start(Limits {
        mailboxes_per_address: 1,
        ..Limits::default()
    })
    .await;
    server.put(ONE, "one").await;
    refused(&server.put(TWO, "two").await);
    let again = server.put(ONE, "more").await;
    assert_eq!(again.status(), StatusCode::NO_CONTENT);
    soon(server.client.delete(server.mailbox(ONE)).send())
        .await
        .unwrap();
    let room = server.put(TWO, "two").await;
    assert_eq!(room.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn messages_beyond_the_memory_of_the_server_are_refused() {
    let server = start(Limits {
        stored_bytes: 10,
        ..Limits::default()
    })
    .await;
    server.put(ONE, "12345678").await;
    refused(&server.put(TWO, "12345678").await);
    let smaller = server.put(ONE, "1234").await;
    assert_eq!(smaller.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn waiting_is_bounded_and_what_is_given_up_can_be_used_again() {
    let server = start(Limits {
        subscriptions_per_address: 1,
        ..Limits::default()
    })
    .await;
    refused(
        &server
            .poll(json!({"wait": 1, "mailboxes": {ONE: null, TWO: null}}))
            .await,
    );
    for _ in 0..2 {
        let answer = server
            .poll(json!({"wait": 1, "mailboxes": {ONE: null}}))
            .await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_of_an_address_are_closed() {
    let server = start(Limits {
        connections_per_address: 1,
        ..Limits::default()
    })
    .await;
    let _first = TcpStream::connect(server.http).await.unwrap();
    let mut second = TcpStream::connect(server.http).await.unwrap();
    // A reset says the same as an end.
    let read = soon(second.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)));
}

/// A server that takes two tokens, `first` and `second`.
async fn with_tokens(name: &str, limits: Limits) -> Running {
    let folder = Folder::new(name);
    let file = folder.0.join("tokens");
    fs::write(&file, "first\n\nsecond\n").unwrap();
    Running::start(Options {
        tokens: Some(Tokens::read(&file).unwrap()),
        limits,
        ..Options::default()
    })
    .await
}

async fn put_with(server: &Running, token: &str) -> reqwest::Response {
    let request = server.client.put(server.mailbox(ONE)).bearer_auth(token);
    let request = request.header("content-type", "application/jose");
    soon(request.body("sealed").send()).await.unwrap()
}

#[tokio::test]
async fn each_token_has_requests_of_its_own() {
    let server = with_tokens(
        "requests",
        Limits {
            requests_per_minute_per_token: 2,
            ..Limits::default()
        },
    )
    .await;
    for _ in 0..2 {
        let answer = put_with(&server, "first").await;
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }
    refused(&put_with(&server, "first").await);
    let other = put_with(&server, "second").await;
    assert_eq!(other.status(), StatusCode::NO_CONTENT);
    let none = put_with(&server, "third").await;
    assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn each_token_has_as_much_under_way_as_it_may() {
    let server = with_tokens(
        "connections",
        Limits {
            connections_per_token: 1,
            ..Limits::default()
        },
    )
    .await;
    // The WebSocket is there once it is answered for, and as long as its client holds it.
    let mut request = upgrade(server.http);
    let shown = "Bearer first".parse().unwrap();
    request.headers_mut().insert("authorization", shown);
    let (held, _) = soon(connect_async(request)).await.unwrap();
    refused(&put_with(&server, "first").await);
    let other = put_with(&server, "second").await;
    assert_eq!(other.status(), StatusCode::NO_CONTENT);
    drop(held);
    soon(async {
        while put_with(&server, "first").await.status() != StatusCode::NO_CONTENT {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[test]
fn a_file_without_a_token_is_an_error_that_says_what_one_is() {
    let folder = Folder::new("no-tokens");
    let file = folder.0.join("tokens");
    for text in ["", "\n \n", "first\ntwo words\n"] {
        fs::write(&file, text).unwrap();
        let error = Tokens::read(&file).unwrap_err();
        let said = format!("{error}");
        assert!(
            said.contains("tokens") && said.contains("one a line"),
            "{said}"
        );
    }
}
