//! The suite that every backend passes, against the real server where there is one.
//!
//! Only uses the room's façade: what a backend is inside is none of the suite's business.

#[cfg(feature = "kubernetes")]
mod cluster;
#[cfg(feature = "kubernetes")]
mod crowd;
mod distance;
mod facade;
mod lies;
#[cfg(feature = "kubernetes")]
mod outages;
#[cfg(feature = "kubernetes")]
mod refusals;
mod site;
mod tls;

use std::collections::BTreeSet;

use tokio::time::Instant;
use wice_core::mailbox::MAX_SEALED;

#[cfg(feature = "kubernetes")]
use cluster::Cluster;
use site::{Agent, Memory, PATIENCE, Rest, Site, Socket, mailbox};

/// Instantiates the suite for one kind of site; the gate is what a `cfg_attr` makes of each test.
macro_rules! contract {
    ($gate:tt $name:ident, $site:ty: $($behaviour:ident),+ $(,)?) => {
        mod $name {
            $(
                #[tokio::test]
                #[cfg_attr $gate]
                async fn $behaviour() {
                    super::$behaviour(<$site as super::Site>::start().await).await;
                }
            )+
        }
    };
    ($($gate:tt $name:ident = $site:ty),+ $(,)?) => {
        $(contract!(
            $gate $name, $site:
            a_message_reaches_who_subscribed_before,
            a_message_reaches_who_subscribes_later,
            only_the_newest_message_waits_for_who_subscribes_later,
            a_subscription_that_comes_anew_gets_the_message_again,
            repetitions_leave_the_newest_message_in_place,
            a_message_of_the_greatest_length_arrives_whole,
            a_message_is_opaque,
            more_than_a_thousand_mailboxes_arrive_each_with_its_message,
            a_withdrawn_message_is_gone,
            leaving_withdraws_everything,
            nothing_arrives_of_a_mailbox_that_is_unsubscribed,
            a_reader_that_is_slow_loses_nothing,
        );)+
    };
}

contract!(
    (any(), ignore) memory = super::Memory,
    (any(), ignore) http = super::Rest,
    (any(), ignore) websocket = super::Socket,
);
#[cfg(feature = "kubernetes")]
contract!((all(), ignore = "needs tests/kubernetes/cluster") kubernetes = super::Cluster);

async fn a_message_reaches_who_subscribed_before<S: Site>(site: S) {
    let mut bob = Agent::connected(&site).await;
    bob.subscribe(1);
    let mut alice = Agent::connected(&site).await;
    alice.publish(1, "hello");
    bob.expect(1, "hello").await;
    alice.publish(1, "again");
    bob.expect(1, "again").await;
}

async fn a_message_reaches_who_subscribes_later<S: Site>(site: S) {
    let mut alice = Agent::connected(&site).await;
    alice.publish(1, "hello");
    alice.settled().await;
    let mut bob = Agent::connected(&site).await;
    bob.subscribe(1);
    bob.expect(1, "hello").await;
}

async fn only_the_newest_message_waits_for_who_subscribes_later<S: Site>(site: S) {
    let mut alice = Agent::connected(&site).await;
    for number in 0..20 {
        alice.publish(1, &format!("message {number}"));
    }
    alice.settled().await;
    let mut bob = Agent::connected(&site).await;
    bob.subscribe(1);
    assert_eq!(bob.message().await, (mailbox(1), "message 19".to_owned()));
}

async fn a_subscription_that_comes_anew_gets_the_message_again<S: Site>(site: S) {
    let mut alice = Agent::connected(&site).await;
    alice.publish(1, "hello");
    alice.settled().await;
    let mut bob = Agent::connected(&site).await;
    for _ in 0..3 {
        bob.subscribe(1);
        bob.expect(1, "hello").await;
        bob.signaling.unsubscribe(mailbox(1));
    }
}

async fn repetitions_leave_the_newest_message_in_place<S: Site>(site: S) {
    let mut bob = Agent::connected(&site).await;
    bob.subscribe(1);
    let mut alice = Agent::connected(&site).await;
    for text in ["one", "two", "one", "two", "two", "three"] {
        alice.publish(1, text);
        tokio::task::yield_now().await;
    }
    bob.until(1, "three").await;
    let mut carol = Agent::connected(&site).await;
    carol.subscribe(1);
    carol.expect(1, "three").await;
}

async fn a_message_of_the_greatest_length_arrives_whole<S: Site>(site: S) {
    let text = "x".repeat(MAX_SEALED);
    let mut alice = Agent::connected(&site).await;
    alice.publish(1, &text);
    let mut bob = Agent::connected(&site).await;
    bob.subscribe(1);
    bob.expect(1, &text).await;
}

async fn a_message_is_opaque<S: Site>(site: S) {
    // What a message says is the business of whoever opens it: no backend looks into it.
    let text = r#"{"op":"error"} "quoted" \ üñ€ .."#;
    let mut alice = Agent::connected(&site).await;
    let mut bob = Agent::connected(&site).await;
    bob.subscribe(1);
    alice.publish(1, text);
    alice.publish(2, "next");
    bob.subscribe(2);
    bob.until(2, "next").await;
}

async fn more_than_a_thousand_mailboxes_arrive_each_with_its_message<S: Site>(site: S) {
    let mut bob = Agent::connected(&site).await;
    let mut alice = Agent::connected(&site).await;
    let mut missing = BTreeSet::new();
    for number in 0..1200 {
        bob.subscribe(number);
        alice.publish(number, &format!("message {number}"));
        missing.insert((mailbox(number), format!("message {number}")));
    }
    while !missing.is_empty() {
        let message = bob.message().await;
        missing.remove(&message);
    }
    alice.publish(500, "news");
    bob.until(500, "news").await;
}

async fn a_withdrawn_message_is_gone<S: Site>(site: S) {
    let mut alice = Agent::connected(&site).await;
    alice.publish(1, "hello");
    alice.settled().await;
    alice.signaling.withdraw(mailbox(1));
    alice.signaling.withdraw(mailbox(7));
    alice.publish(2, "still here");
    alice.settled().await;
    let mut bob = Agent::connected(&site).await;
    bob.subscribe(1);
    bob.subscribe(2);
    assert_eq!(bob.message().await, (mailbox(2), "still here".to_owned()));
}

async fn leaving_withdraws_everything<S: Site>(site: S) {
    let mut alice = Agent::connected(&site).await;
    for number in 1..40 {
        alice.publish(number, "hello");
    }
    alice.settled().await;
    let started = Instant::now();
    alice.signaling.leave(PATIENCE).await;
    assert!(started.elapsed() < PATIENCE, "leaving took all the time");
    let mut carol = Agent::connected(&site).await;
    carol.publish(40, "still here");
    carol.settled().await;
    let mut bob = Agent::connected(&site).await;
    for number in 1..=40 {
        bob.subscribe(number);
    }
    assert_eq!(bob.message().await, (mailbox(40), "still here".to_owned()));
}

async fn nothing_arrives_of_a_mailbox_that_is_unsubscribed<S: Site>(site: S) {
    let mut alice = Agent::connected(&site).await;
    let mut bob = Agent::connected(&site).await;
    bob.subscribe(1);
    alice.publish(1, "wanted");
    bob.expect(1, "wanted").await;
    bob.signaling.unsubscribe(mailbox(1));
    bob.subscribe(2);
    alice.publish(1, "unwanted");
    alice.settled().await;
    alice.publish(2, "wanted");
    assert_eq!(bob.message().await, (mailbox(2), "wanted".to_owned()));
}

async fn a_reader_that_is_slow_loses_nothing<S: Site>(site: S) {
    let mut alice = Agent::connected(&site).await;
    let mut bob = Agent::connected(&site).await;
    // More messages than wait for an agent that does not read.
    let mut missing = BTreeSet::new();
    for number in 0..200 {
        bob.subscribe(number);
        alice.publish(number, "hello");
        missing.insert(mailbox(number));
    }
    alice.settled().await;
    while !missing.is_empty() {
        missing.remove(&bob.message().await.0);
    }
    bob.publish(1000, "hello");
    bob.settled().await;
}
