//! The ICE servers of a cluster: a Secret that is watched, so that other servers are used without a restart.
//!
//! An agent without the right to see it works without.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::Secret;
use tokio::time::{Instant, sleep_until};

use super::super::backend::BackendError;
use super::super::ice_servers::Handed;
use super::client::Client;
use super::error::TryTo;
use super::watch::{Sight, Watch};

/// The watch on the Secret.
pub(super) struct Servers {
    watch: Watch<Secret>,
    client: Client,
    /// Until when nothing is tried, since the server refused.
    rest: Option<Instant>,
}

/// The Secret's key with the list.
const KEY: &str = "servers.json";
/// A refusal is hardly lifted sooner.
const REST: Duration = Duration::from_secs(600);

impl Servers {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            watch: client.watch_servers(),
            client: client.clone(),
            rest: None,
        }
    }

    /// The servers, whenever they are other ones.
    pub(super) fn stream(self) -> BoxStream<'static, Result<Handed, BackendError>> {
        stream::unfold(self, |mut servers| async move {
            let handed = servers.next().await;
            Some((handed, servers))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Handed, BackendError> {
        loop {
            if let Some(rest) = self.rest {
                sleep_until(rest).await;
                self.rest = None;
                self.watch = self.client.watch_servers();
            }
            match self.watch.next().await {
                Ok(Sight::Object(secret)) => {
                    if let Some(handed) = read(&secret) {
                        return Ok(handed);
                    }
                }
                Ok(Sight::Gone) => return Ok(Handed::default()),
                Ok(Sight::Open | Sight::Further | Sight::Anew | Sight::Unreadable) => {}
                Err(error @ kube::Error::Api(_)) => {
                    let refusal = self.client.refusal(TryTo::WatchServers, error);
                    tracing::info!("goes on without the cluster's ICE servers: {refusal}");
                    self.rest = Some(Instant::now() + REST);
                }
                Err(error) => return Err(self.client.refusal(TryTo::WatchServers, error)),
            }
        }
    }
}

/// The list in a Secret; `None` where there is none that can be read, and those before stay.
fn read(secret: &Secret) -> Option<Handed> {
    let list = secret.data.as_ref().and_then(|data| data.get(KEY));
    let Some(list) = list else {
        tracing::warn!(
            "the Secret wice-ice-servers has no key {KEY}; its servers stay what they were"
        );
        return None;
    };
    match serde_json::from_slice(&list.0) {
        Ok(handed) => Some(handed),
        Err(error) => {
            // The error names a place in the list, never a credential.
            tracing::warn!(
                "{KEY} of the Secret wice-ice-servers is not [{{\"urls\": [\"stun:…\"]}}, …] (line {}, column {}); \
                 its servers stay what they were",
                error.line(),
                error.column()
            );
            None
        }
    }
}
