//! What backends with a server keep when the server or the way to it fails.

use std::sync::atomic::Ordering;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::super::{BackendConfig, BackendState};
use super::site::{Agent, Distant, Line, PATIENCE, Rendezvous, Rest, Socket, config, token};

/// Instantiates this part of the suite for one kind of site.
macro_rules! at_a_distance {
    ($name:ident, $site:ty: $($behaviour:ident),+ $(,)?) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $behaviour() {
                    super::$behaviour::<$site>().await;
                }
            )+
        }
    };
    ($($name:ident = $site:ty),+ $(,)?) => {
        $(at_a_distance!(
            $name, $site:
            a_restarted_server_is_told_everything_again,
            a_line_that_breaks_again_and_again_loses_no_message,
            a_slow_server_gets_only_the_newest_message,
            a_dead_backend_does_not_delay_a_live_one,
            a_wrong_token_is_an_error_that_names_the_token,
            a_missing_token_is_an_error_that_names_the_setting,
            a_right_token_opens_the_server,
            a_server_that_is_not_there_is_an_error_that_says_what_was_tried,
            an_equal_backend_keeps_its_connection_when_others_change,
            another_network_means_another_connection_at_once,
            a_first_message_takes_no_longer_than_a_few_round_trips,
            leaving_waits_for_no_dead_backend,
        );)+
    };
}

at_a_distance!(http = super::Rest, websocket = super::Socket);

async fn a_restarted_server_is_told_everything_again<S: Distant>() {
    let server = Rendezvous::start(None, None).await;
    let address = server.address;
    let mut alice = Agent::new(vec![config(S::at(address))]);
    let mut bob = Agent::new(vec![config(S::at(address))]);
    bob.subscribe(1);
    bob.subscribe(2);
    alice.publish(1, "hello");
    bob.expect(1, "hello").await;
    server.stop().await;
    bob.state(BackendState::Failed).await;
    alice.publish(2, "while the server was away");
    let _server = Rendezvous::start(Some(address), None).await;
    bob.until(2, "while the server was away").await;
    alice.settled().await;
    let mut carol = Agent::new(vec![config(S::at(address))]);
    carol.subscribe(1);
    carol.expect(1, "hello").await;
}

async fn a_line_that_breaks_again_and_again_loses_no_message<S: Distant>() {
    let server = Rendezvous::start(None, None).await;
    let line = Line::to(server.address).await;
    let mut alice = Agent::new(vec![config(S::at(line.address))]);
    let mut bob = Agent::new(vec![config(S::at(line.address))]);
    bob.subscribe(1);
    for round in 0..3 {
        let text = format!("message {round}");
        alice.publish(1, &text);
        line.cut();
        bob.until(1, &text).await;
    }
}

async fn a_slow_server_gets_only_the_newest_message<S: Distant>() {
    let server = Rendezvous::start(None, None).await;
    let line = Line::to(server.address).await;
    let mut bob = Agent::new(vec![config(S::at(server.address))]);
    bob.subscribe(1);
    bob.state(BackendState::Connected).await;
    let mut alice = Agent::new(vec![config(S::at(line.address))]);
    alice.state(BackendState::Connected).await;
    line.hold(true);
    let text = "x".repeat(1000);
    let started = Instant::now();
    for number in 0..5000 {
        alice.publish(1, &format!("{number} {text}"));
        tokio::task::yield_now().await;
    }
    assert!(started.elapsed() < PATIENCE / 4, "publishing waited");
    line.hold(false);
    let before = bob.until(1, &format!("4999 {text}")).await;
    assert!(before < 4000, "{before} messages went before the newest");
}

async fn a_dead_backend_does_not_delay_a_live_one<S: Distant>() {
    let server = Rendezvous::start(None, None).await;
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = S::at(silent.local_addr().unwrap());
    let both = || vec![config(silent.clone()), config(S::at(server.address))];
    let mut alice = Agent::new(both());
    let mut bob = Agent::new(both());
    let started = Instant::now();
    bob.subscribe(1);
    for round in 0..20 {
        let text = format!("message {round}");
        alice.publish(1, &text);
        bob.expect(1, &text).await;
    }
    assert!(started.elapsed() < PATIENCE / 4, "the dead one delayed it");
    let states = bob.signaling.statuses().into_iter().map(|it| it.state);
    let expected = [BackendState::Connecting, BackendState::Connected];
    assert_eq!(states.collect::<Vec<_>>(), expected);
}

async fn a_wrong_token_is_an_error_that_names_the_token<S: Distant>() {
    let server = Rendezvous::start(None, Some("open-sesame")).await;
    let url = S::at(server.address);
    let wrong = token("open-barley");
    let mut alice = Agent::new(vec![BackendConfig { url, token: wrong }]);
    let error = alice.state(BackendState::Failed).await.error.unwrap();
    assert!(
        error.contains("401") && error.contains("it refuses the token"),
        "{error}"
    );
    assert!(!error.contains("barley"), "{error}");
    assert!(!format!("{:?}", alice.signaling).contains("barley"));
}

async fn a_missing_token_is_an_error_that_names_the_setting<S: Distant>() {
    let server = Rendezvous::start(None, Some("open-sesame")).await;
    let mut alice = Agent::new(vec![config(S::at(server.address))]);
    let error = alice.state(BackendState::Failed).await.error.unwrap();
    assert!(error.contains("set `token-file`"), "{error}");
}

async fn a_right_token_opens_the_server<S: Distant>() {
    let server = Rendezvous::start(None, Some("open-sesame")).await;
    let with = || BackendConfig {
        url: S::at(server.address),
        token: token("open-sesame\n"),
    };
    let mut alice = Agent::new(vec![with()]);
    let mut bob = Agent::new(vec![with()]);
    bob.subscribe(1);
    alice.publish(1, "hello");
    bob.expect(1, "hello").await;
}

async fn a_server_that_is_not_there_is_an_error_that_says_what_was_tried<S: Distant>() {
    let server = Rendezvous::start(None, None).await;
    let address = server.address;
    server.stop().await;
    let mut alice = Agent::new(vec![config(S::at(address))]);
    let status = alice.state(BackendState::Failed).await;
    let error = status.error.unwrap();
    assert!(error.contains("tried to connect"), "{error}");
    assert!(error.contains("refused"), "{error}");
    assert!(error.contains("check the URL"), "{error}");
    // The same error again is no news.
    let _server = Rendezvous::start(Some(address), None).await;
    alice.state(BackendState::Connected).await;
    assert_eq!(alice.signaling.statuses()[0].error, None);
}

async fn an_equal_backend_keeps_its_connection_when_others_change<S: Distant>() {
    let server = Rendezvous::start(None, None).await;
    let other = Rendezvous::start(None, None).await;
    let line = Line::to(server.address).await;
    let kept = config(S::at(line.address));
    let mut bob = Agent::new(vec![kept.clone()]);
    bob.subscribe(1);
    let mut alice = Agent::new(vec![config(S::at(server.address))]);
    alice.publish(1, "hello");
    bob.expect(1, "hello").await;
    let before = line.connections.load(Ordering::Relaxed);
    bob.signaling
        .reconfigure(vec![config(S::at(other.address)), kept])
        .unwrap();
    bob.state(BackendState::Connected).await;
    alice.publish(1, "again");
    bob.until(1, "again").await;
    assert_eq!(line.connections.load(Ordering::Relaxed), before);
    // The new one has the subscriptions that were there before it.
    let mut carol = Agent::new(vec![config(S::at(other.address))]);
    carol.publish(1, "over the other");
    bob.until(1, "over the other").await;
    // And the one that is gone delivers no more.
    bob.signaling.reconfigure(Vec::new()).unwrap();
    assert_eq!(bob.signaling.statuses(), []);
}

async fn another_network_means_another_connection_at_once<S: Distant>() {
    let server = Rendezvous::start(None, None).await;
    let line = Line::to(server.address).await;
    let mut bob = Agent::new(vec![config(S::at(line.address))]);
    bob.subscribe(1);
    bob.state(BackendState::Connected).await;
    let mut alice = Agent::new(vec![config(S::at(server.address))]);
    alice.publish(1, "hello");
    bob.until(1, "hello").await;
    let before = line.connections.load(Ordering::Relaxed);
    bob.signaling.network_changed();
    bob.state(BackendState::Connecting).await;
    bob.state(BackendState::Connected).await;
    assert!(line.connections.load(Ordering::Relaxed) > before);
    alice.publish(1, "again");
    bob.until(1, "again").await;
}

async fn a_first_message_takes_no_longer_than_a_few_round_trips<S: Distant>() {
    let server = Rendezvous::start(None, None).await;
    let mut bob = Agent::new(vec![config(S::at(server.address))]);
    bob.subscribe(1);
    bob.state(BackendState::Connected).await;
    let started = Instant::now();
    let mut alice = Agent::new(vec![config(S::at(server.address))]);
    alice.publish(1, "hello");
    bob.expect(1, "hello").await;
    let first = started.elapsed();
    eprintln!("first message: {first:?}");
    // Loaded test machines are slow, but nobody waits on purpose for as long as this.
    assert!(first < PATIENCE / 20, "{first:?}");
}

async fn leaving_waits_for_no_dead_backend<S: Distant>() {
    let server = Rendezvous::start(None, None).await;
    let mut alice = Agent::new(vec![config(S::at(server.address))]);
    alice.publish(1, "hello");
    alice.settled().await;
    server.stop().await;
    alice.state(BackendState::Failed).await;
    let started = Instant::now();
    alice.signaling.leave(PATIENCE).await;
    assert!(started.elapsed() < PATIENCE / 2, "leaving waited for it");
}
