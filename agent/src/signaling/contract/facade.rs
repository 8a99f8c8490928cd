//! What the façade keeps, whatever the backends are.

use tokio::sync::mpsc;

use super::super::{BackendState, Signaling, SignalingError, Token};
use super::site::{Agent, Memory, Site, config, mailbox};

fn start(url: &str) -> Result<Signaling, SignalingError> {
    let (events, _) = mpsc::channel(1);
    Signaling::start(vec![config(url.parse().unwrap())], events)
}

#[tokio::test]
async fn an_unknown_scheme_is_an_error_that_names_the_known_ones() {
    let error = start("gopher://user:secret@host/?token=secret")
        .unwrap_err()
        .to_string();
    for scheme in ["gopher", "http", "https", "ws", "wss"] {
        assert!(error.contains(scheme), "{error}");
    }
    assert!(!error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_password_in_a_url_is_an_error_that_does_not_show_it() {
    let error = start("https://user:secret@host/").unwrap_err().to_string();
    assert!(error.contains("token-file"), "{error}");
    assert!(
        !error.contains("secret") && !error.contains("user:"),
        "{error}"
    );
}

#[tokio::test]
async fn a_status_shows_no_query_of_the_url() {
    let (events, _received) = mpsc::channel(1);
    let url = "memory:status?key=secret".parse().unwrap();
    let signaling = Signaling::start(vec![config(url)], events).unwrap();
    assert_eq!(signaling.statuses()[0].url, "memory:status");
}

#[tokio::test]
async fn a_token_does_not_show_in_debug_output() {
    assert_eq!(format!("{:?}", Token::new("secret")), "Token(hidden)");
}

#[tokio::test]
async fn without_any_backend_everything_is_allowed_and_nothing_happens() {
    let mut agent = Agent::new(Vec::new());
    agent.subscribe(1);
    agent.publish(1, "hello");
    agent.signaling.withdraw(mailbox(1));
    assert_eq!(agent.signaling.statuses(), []);
    agent.signaling.leave(super::PATIENCE).await;
}

#[tokio::test]
async fn a_refused_configuration_changes_nothing() {
    let site = Memory::start().await;
    let mut agent = Agent::connected(&site).await;
    let wrong = vec![config("gopher://host/".parse().unwrap())];
    agent.signaling.reconfigure(wrong).unwrap_err();
    assert_eq!(agent.signaling.statuses()[0].state, BackendState::Connected);
}

#[tokio::test]
async fn a_backend_that_comes_later_is_told_what_was_wanted_before() {
    let site = Memory::start().await;
    let mut alice = Agent::new(Vec::new());
    alice.publish(1, "hello");
    let both = vec![config(site.url())];
    alice.signaling.reconfigure(both).unwrap();
    let mut bob = Agent::connected(&site).await;
    bob.subscribe(1);
    bob.expect(1, "hello").await;
}
