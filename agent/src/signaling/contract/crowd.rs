//! A benchmark: what a crowd of agents, each with a pair of mailboxes for every other, asks of one API server.
//!
//! WICE_BENCH_AGENTS agents (200); the figures are the server's own. Nothing is asserted but that everything arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use wice_core::key::PublicKey;
use wice_core::mailbox::{Mailbox, Recipient};

use super::super::{BackendState, Event, Signaling};
use super::cluster::{Cluster, tool};
use super::site::{Agent, Site, config, sealed};

/// A sealed offer of four candidates.
const LENGTH: usize = 1500;
/// How long the settled crowd is watched.
const QUIET: Duration = Duration::from_secs(60);
/// Longest time for a phase.
const DEADLINE: Duration = Duration::from_secs(1800);

#[tokio::test]
#[ignore = "a benchmark: needs tests/kubernetes/cluster, alone"]
async fn a_crowd_of_agents() {
    let count = std::env::var("WICE_BENCH_AGENTS").map_or(200, |count| count.parse().unwrap());
    let cluster = Cluster::start().await;
    let pairs = usize::from(count) * (usize::from(count) - 1);
    println!("{count} agents, {pairs} offers of {LENGTH} bytes");
    let before = cluster.answered().await;
    let start = Instant::now();
    let mut crowd = Crowd::start(&cluster, count);
    crowd
        .until("everything is delivered", |it| it.delivered() == pairs)
        .await;
    crowd.settled().await;
    report("start", start.elapsed(), &before, &cluster.answered().await);

    let before = cluster.answered().await;
    let start = Instant::now();
    tokio::time::sleep(QUIET).await;
    report(
        "settled",
        start.elapsed(),
        &before,
        &cluster.answered().await,
    );

    tool("kill");
    let lost = |it: &Crowd| {
        it.agents
            .iter()
            .all(|it| state(it) != BackendState::Connected)
    };
    crowd.until("everybody notices", lost).await;
    tool("resume");
    let start = Instant::now();
    let back = |it: &Crowd| {
        it.agents
            .iter()
            .all(|it| state(it) == BackendState::Connected)
    };
    crowd.until("everybody is back", back).await;
    crowd.settled().await;
    let all = start.elapsed();
    // Its counters began with it.
    report("restart", all, &BTreeMap::new(), &cluster.answered().await);
}

/// The agents, and what has arrived at them.
struct Crowd {
    agents: Vec<Signaling>,
    delivered: Arc<AtomicUsize>,
    _readers: JoinSet<()>,
}

impl Crowd {
    fn start(cluster: &Cluster, count: u8) -> Self {
        let delivered = Arc::new(AtomicUsize::new(0));
        let mut readers = JoinSet::new();
        let agents = (0..count).map(|own| {
            let Agent {
                mut signaling,
                mut events,
            } = Agent::new(vec![config(cluster.url())]);
            for other in (0..count).filter(|other| *other != own) {
                signaling.subscribe(mailbox(other, own), recipient(own));
                let text = "x".repeat(LENGTH);
                signaling.publish(mailbox(own, other), recipient(other), sealed(&text));
            }
            let delivered = Arc::clone(&delivered);
            readers.spawn(async move {
                let mut seen = BTreeSet::new();
                while let Some(event) = events.recv().await {
                    if let Event::Message { mailbox, .. } = event
                        && seen.insert(mailbox)
                    {
                        delivered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            signaling
        });
        Self {
            agents: agents.collect(),
            delivered,
            _readers: readers,
        }
    }

    fn delivered(&self) -> usize {
        self.delivered.load(Ordering::Relaxed)
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        let mut ticks = interval(Duration::from_millis(100));
        while !condition(self) {
            ticks.tick().await;
            assert!(
                Instant::now() < end,
                "{what}: {} delivered",
                self.delivered()
            );
        }
    }

    async fn settled(&mut self) {
        let settled = |it: &Self| {
            it.agents.iter().all(|it| {
                let revision = it.desired.borrow().revision();
                it.running[0].progress.borrow().settled >= revision
            })
        };
        self.until("everything is written", settled).await;
    }
}

fn state(signaling: &Signaling) -> BackendState {
    signaling.statuses()[0].state
}

fn report(
    phase: &str,
    time: Duration,
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) {
    let mut total = 0;
    let mut verbs = String::new();
    for (verb, count) in after {
        if verb.ends_with("(open)") {
            verbs += &format!(", {verb} {count}");
            continue;
        }
        let count = count - before.get(verb).unwrap_or(&0);
        if count > 0 {
            total += count;
            verbs += &format!(", {verb} {count}");
        }
    }
    let seconds = time.as_secs_f64();
    let rate = total as f64 / seconds;
    println!("{phase}: {seconds:.1} s, {total} requests ({rate:.1} a second){verbs}");
}

fn mailbox(from: u8, to: u8) -> Mailbox {
    let mut bytes = [9; 20];
    bytes[..2].copy_from_slice(&[from, to]);
    Mailbox::from_bytes(bytes)
}

fn recipient(number: u8) -> Recipient {
    Recipient::of(&PublicKey::from_bytes([number; 32]))
}
