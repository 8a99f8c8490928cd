//! Names of STUN servers, resolved beside everything else: a slow resolver delays nobody.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::warn;

/// The servers' addresses as they were last found.
#[derive(Default)]
pub(super) struct Resolver {
    servers: Vec<(String, u16)>,
    task: Option<JoinHandle<Vec<SocketAddr>>>,
    found: Option<Vec<SocketAddr>>,
    failures: u32,
}

/// Names are looked up again after this: a server may move.
const AGAIN: Duration = Duration::from_secs(300);
/// A first retry for names that no resolver knew, for example before the network was up.
const RETRY: Duration = Duration::from_secs(2);

impl Resolver {
    /// Looks up these servers from now on.
    pub(super) fn resolve(&mut self, servers: Vec<(String, u16)>) {
        self.servers = servers;
        self.failures = 0;
        self.found = None;
        self.look_up(Duration::ZERO);
    }

    /// Waits until the addresses are other ones than before; cancel-safe.
    pub(super) async fn next(&mut self) -> Vec<SocketAddr> {
        loop {
            let Some(task) = &mut self.task else {
                return std::future::pending().await;
            };
            let found = task.await.unwrap_or_default();
            self.task = None;
            let names = self
                .servers
                .iter()
                .any(|(host, _)| host.parse::<IpAddr>().is_err());
            if found.is_empty() && !self.servers.is_empty() {
                self.failures += 1;
                if self.failures == 1 {
                    warn!(
                        "no STUN server could be resolved ({}); tries again",
                        self.servers
                            .iter()
                            .map(|(host, _)| host.as_str())
                            .collect::<Vec<_>>()
                            .join(", ")
                    );
                }
                self.look_up((RETRY * self.failures).min(AGAIN));
                // What was known before is better than nothing.
                if self.found.is_some() {
                    continue;
                }
            } else {
                self.failures = 0;
                if names {
                    self.look_up(AGAIN);
                }
            }
            if self.found.as_ref() != Some(&found) {
                self.found = Some(found.clone());
                return found;
            }
        }
    }

    fn look_up(&mut self, delay: Duration) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        let servers = self.servers.clone();
        self.task = Some(tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let mut found = BTreeSet::new();
            for (host, port) in servers {
                if let Ok(addresses) = tokio::net::lookup_host((host.as_str(), port)).await {
                    found.extend(addresses);
                }
            }
            found.into_iter().collect()
        }));
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
