//! Removes offers whose writers are gone, whoever they were.
//!
//! A writer that lives refreshes its offers long before; it is asked of the server that nobody has meanwhile.

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::super::backend::BackendError;
use super::client::Client;
use super::offer::Offer;

/// The removals under way: few at a time, since nobody waits for them.
#[derive(Default)]
pub(super) struct Sweep {
    pub(super) running: FuturesUnordered<BoxFuture<'static, Swept>>,
    queue: Vec<Offer>,
}

/// What became of a step.
pub(super) type Swept = Result<Vec<Offer>, BackendError>;

/// Removals at the same time.
const MAX_REMOVALS: usize = 2;
/// Those beyond are found again the next time.
const MAX_QUEUE: usize = 500;

impl Sweep {
    /// Looks for offers that are over.
    pub(super) fn look(&mut self, client: &Client) {
        let client = client.clone();
        self.running
            .push(Box::pin(async move { client.list_over().await }));
    }

    /// Has an offer removed.
    pub(super) fn add(&mut self, over: impl IntoIterator<Item = Offer>) {
        let room = MAX_QUEUE.saturating_sub(self.queue.len());
        self.queue.extend(over.into_iter().take(room));
    }

    /// Starts what may run.
    pub(super) fn start(&mut self, client: &Client) {
        while self.running.len() < MAX_REMOVALS
            && let Some(offer) = self.queue.pop()
        {
            let client = client.clone();
            self.running.push(Box::pin(async move {
                client.remove(offer).await.map(|()| Vec::new())
            }));
        }
    }

    /// Takes what became of a step; a failure means that the offers stay for now.
    pub(super) fn ended(&mut self, swept: Swept) {
        match swept {
            Ok(over) => self.add(over),
            Err(error) => {
                self.queue.clear();
                tracing::debug!("cannot remove expired offers, which does no harm: {error}");
            }
        }
    }
}
