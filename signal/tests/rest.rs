//! Mailboxes over HTTP, as an agent and as a careless client see them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{ONE, Running, TWO, header, soon};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wice_signal::{Limits, Options, Token};

#[tokio::test]
async fn a_mailbox_gives_back_its_newest_message() {
    let server = Running::start(Options::default()).await;
    assert_eq!(
        server.get(server.mailbox(ONE)).await.status(),
        StatusCode::NOT_FOUND
    );
    server.put(ONE, "old").await;
    let written = server.put(ONE, "new").await;
    assert_eq!(written.status(), StatusCode::NO_CONTENT);
    let read = server.get(server.mailbox(ONE)).await;
    assert_eq!(header(&read, "etag"), header(&written, "etag"));
    assert_eq!(header(&read, "content-type"), "application/jose");
    assert_eq!(read.text().await.unwrap(), "new");

    let deleted = server.client.delete(server.mailbox(ONE)).send();
    assert_eq!(deleted.await.unwrap().status(), StatusCode::NO_CONTENT);
    let gone = server.get(server.mailbox(ONE)).await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&gone, "content-type"), "application/problem+json");
}

#[tokio::test]
async fn a_long_poll_answers_when_a_message_comes_and_not_for_an_equal_one() {
    let server = Running::start(Options::default()).await;
    let first = header(&server.put(ONE, "first").await, "etag");
    let wait = async {
        let request = server.client.get(server.mailbox(ONE) + "?wait=60");
        request
            .header("if-none-match", &first)
            .send()
            .await
            .unwrap()
    };
    let write = async {
        // The equal message must not answer the poll, or the assertion below sees it.
        let equal = server.put(ONE, "first").await;
        assert_eq!(header(&equal, "etag"), first);
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.put(ONE, "second").await;
    };
    let (answer, ()) = soon(async { tokio::join!(wait, write) }).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.text().await.unwrap(), "second");
}

#[tokio::test]
async fn a_long_poll_for_an_empty_mailbox_gets_the_first_message() {
    let server = Running::start(Options::default()).await;
    let wait = server.get(server.mailbox(ONE) + "?wait=60");
    let (answer, _) = tokio::join!(wait, server.put(ONE, "first"));
    assert_eq!(answer.text().await.unwrap(), "first");
}

#[tokio::test]
async fn a_long_poll_ends_with_not_modified_when_nothing_comes() {
    let server = Running::start(Options::default()).await;
    let etag = header(&server.put(ONE, "first").await, "etag");
    let start = Instant::now();
    let request = server.client.get(server.mailbox(ONE) + "?wait=1");
    let answer = soon(request.header("if-none-match", etag).send()).await;
    assert_eq!(answer.unwrap().status(), StatusCode::NOT_MODIFIED);
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn one_poll_waits_for_many_mailboxes_and_names_those_that_differ() {
    let server = Running::start(Options::default()).await;
    let one = header(&server.put(ONE, "one").await, "etag");
    let question = json!({"wait": 60, "mailboxes": {ONE: one, TWO: null}});
    let (answer, _) = tokio::join!(server.poll(question), server.put(TWO, "two"));
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["mailboxes"][TWO]["message"], "two");
    assert_eq!(answer["mailboxes"].as_object().unwrap().len(), 1);

    let known = answer["mailboxes"][TWO]["etag"].clone();
    let question = json!({"wait": 60, "mailboxes": {ONE: one, TWO: known}});
    let withdraw = server.client.delete(server.mailbox(ONE)).send();
    let (answer, _) = tokio::join!(server.poll(question), withdraw);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(
        answer,
        json!({"mailboxes": {ONE: {"etag": null, "message": null}}})
    );
}

#[tokio::test]
async fn a_poll_that_ends_without_news_has_an_empty_answer() {
    let server = Running::start(Options::default()).await;
    let answer = server
        .poll(json!({"wait": 1, "mailboxes": {ONE: null}}))
        .await;
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer, json!({"mailboxes": {}}));
}

#[tokio::test]
async fn a_message_expires_unless_it_is_written_again() {
    let limits = Limits {
        expiry: Duration::from_secs(2),
        ..Limits::default()
    };
    let server = Running::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let kept = header(&server.put(ONE, "kept").await, "etag");
    let lost = header(&server.put(TWO, "lost").await, "etag");
    // Written again and again, the one outlives the other.
    let question = json!({"wait": 60, "mailboxes": {ONE: kept, TWO: lost}});
    let refresh = async {
        loop {
            server.put(ONE, "kept").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let answer = tokio::select! {
        answer = server.poll(question) => answer,
        () = refresh => unreachable!("it refreshes for ever"),
    };
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(
        answer,
        json!({"mailboxes": {TWO: {"etag": null, "message": null}}})
    );
    let kept = server.get(server.mailbox(ONE)).await;
    assert_eq!(kept.text().await.unwrap(), "kept");
}

#[tokio::test]
async fn every_mistake_has_its_status_and_an_explanation() {
    let server = Running::start(Options::default()).await;
    let put = |kind: &str| {
        let request = server.client.put(server.mailbox(ONE));
        request.header("content-type", kind).body("message")
    };
    let post = |body: &'static str| {
        let request = server.client.post(server.url("/v1/poll"));
        request
            .header("content-type", "application/json")
            .body(body)
    };
    let get = |path: &str| server.client.get(server.url(path));
    let cases = [
        (get("/nowhere"), 404),
        (get("/v1/poll"), 405),
        (get("/v1/mailboxes/short"), 400),
        (get(&format!("/v1/mailboxes/{}", TWO.to_uppercase())), 400),
        (get(&format!("/v1/mailboxes/{ONE}?wait=61")), 400),
        (get("/v1/websocket"), 426),
        (put("text/plain"), 415),
        (put("application/jose").body(""), 422),
        (put("application/jose").body(vec![0xff]), 422),
        (put("application/jose").body(vec![b'a'; 16 * 1024 + 1]), 413),
        (post("{"), 400),
        (post("[]"), 422),
        (post("{}"), 422),
        (post(r#"{"mailboxes": {"x": null}}"#), 422),
        (post(r#"{"wait": 61, "mailboxes": {}}"#), 422),
    ];
    for (request, status) in cases {
        let answer = soon(request.send()).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{}", answer.url());
        assert_eq!(header(&answer, "content-type"), "application/problem+json");
        if status == 405 {
            assert_eq!(header(&answer, "allow"), "POST");
        }
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["status"], status);
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    let largest = server.put(ONE, vec![b'a'; 16 * 1024]).await;
    assert_eq!(largest.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_private_server_opens_to_its_token_only() {
    let options = Options {
        tokens: Some(Token::new("correct-horse").unwrap().into()),
        ..Options::default()
    };
    let server = Running::start(options).await;
    let with = |token: &str| {
        let request = server.client.get(server.url("/v1/ice-servers"));
        request.header("authorization", token).send()
    };
    for wrong in [
        "Bearer correct-hors",
        "Bearer correct-horsecorrect-horse",
        "Basic x",
        "",
    ] {
        let answer = soon(with(wrong)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{wrong:?}");
        assert!(header(&answer, "www-authenticate").starts_with("Bearer"));
    }
    let right = soon(with("bearer correct-horse")).await.unwrap();
    assert_eq!(right.status(), StatusCode::OK);
    for open in ["/healthz", "/v1/openapi.json"] {
        assert_eq!(server.get(server.url(open)).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn the_stun_server_is_offered_where_it_can_be_named() {
    let without = Running::start(Options::default()).await;
    let none = without.get(without.url("/v1/ice-servers")).await;
    assert_eq!(none.json::<Value>().await.unwrap(), json!([]));

    let stun = vec!["0.0.0.0:0".parse().unwrap()];
    let server = Running::start(Options {
        stun,
        ..Options::default()
    })
    .await;
    let port = server.stun[0].port();
    let list = server.get(server.url("/v1/ice-servers")).await;
    let list: Value = list.json().await.unwrap();
    assert_eq!(list, json!([{"urls": [format!("stun:127.0.0.1:{port}")]}]));
}
