//! Keeps one backend running for ever: whatever it does, it is started again, later and later.
//!
//! Knows no single backend. A panic ends one attempt of one backend and nothing else.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use wice_core::backoff::Backoff;
use wice_core::session::Random;

use super::BackendConfig;
use super::backend::{Backend, BackendError};
use super::link::Link;

/// Delays between two attempts.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// A server that answered for so long is worth a quick attempt again.
const LASTING: Duration = Duration::from_secs(10);

/// The clients of a server that stops spread their way to another one over this, beside what the server does itself.
const MOVE: Duration = Duration::from_millis(500);

/// Runs a backend and restarts it whenever it fails, and whenever the way to its server may have changed; returns never.
pub(super) async fn supervise<B: Backend>(
    config: BackendConfig,
    mut link: Link,
    mut network: watch::Receiver<()>,
) {
    let mut random = Random::from_seed(seed());
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
    let mut backend: Option<B> = None;
    loop {
        let attempt = AssertUnwindSafe(attempt(&mut backend, &config, &mut link)).catch_unwind();
        let outcome = tokio::select! {
            outcome = attempt => Some(outcome),
            () = moved(&mut network) => None,
        };
        let error = match outcome {
            Some(Ok(Err(error))) => error,
            Some(Err(_panic)) => {
                // What a panic leaves behind cannot be trusted: the next attempt builds the backend anew.
                backend = None;
                BackendError::Panicked
            }
            None => {
                // A connection from an address that is gone would be missed only after minutes.
                backend = None;
                backoff.reset();
                link.reconnecting().await;
                continue;
            }
        };
        if matches!(error, BackendError::Moved) && link.lasted() >= Some(LASTING) {
            // Nothing is wrong: not a failure, and no longer a pause than keeps all its clients from coming at once.
            backoff.reset();
            link.reconnecting().await;
            tokio::time::sleep(random.random_range(Duration::ZERO..MOVE)).await;
            continue;
        }
        if link.failed(&error).await.is_some_and(|it| it >= LASTING) {
            backoff.reset();
        }
        let delay = backoff.next_delay(&mut random);
        match error.retry_after() {
            Some(ordered) => tokio::time::sleep(delay.max(ordered)).await,
            None => tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = moved(&mut network) => backoff.reset(),
            },
        }
    }
}

/// Waits until the machine's addresses are other ones.
async fn moved(network: &mut watch::Receiver<()>) {
    if network.changed().await.is_err() {
        // Nobody watches any more: this task is about to be stopped.
        std::future::pending::<()>().await;
    }
}

async fn attempt<B: Backend>(
    backend: &mut Option<B>,
    config: &BackendConfig,
    link: &mut Link,
) -> Result<Infallible, BackendError> {
    let backend = match backend {
        Some(backend) => backend,
        None => backend.insert(B::new(config)?),
    };
    backend.run(link).await
}

/// Seeds the jitter. Without the kernel's randomness the delays are merely not spread.
fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    if let Err(error) = getrandom::fill(&mut seed) {
        tracing::debug!("no randomness for the jitter of retries: {error}");
    }
    seed
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;
    use crate::signaling::desired::Desired;
    use crate::signaling::{BackendState, Event};

    /// Panics in its first attempt and works in the second.
    struct Fragile;

    static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);

    impl Backend for Fragile {
        const SCHEMES: &'static [&'static str] = &["fragile"];

        fn new(_: &BackendConfig) -> Result<Self, BackendError> {
            ATTEMPTS.fetch_add(1, Ordering::Relaxed);
            Ok(Self)
        }

        async fn run(&mut self, link: &mut Link) -> Result<Infallible, BackendError> {
            assert_ne!(ATTEMPTS.load(Ordering::Relaxed), 1, "the first attempt");
            link.connected().await;
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_backend_that_panics_is_reported_and_started_anew() {
        let (_desired, watch) = watch::channel(Desired::default());
        let (events, mut received) = mpsc::channel(4);
        let (link, _progress) = Link::new("fragile:".to_owned(), watch, events);
        let url = "fragile:".parse().expect("a URL");
        let config = BackendConfig { url, token: None };
        let task = tokio::spawn(supervise::<Fragile>(config, link, watch::channel(()).1));
        let mut states = Vec::new();
        while states.last() != Some(&BackendState::Connected) {
            match received.recv().await {
                Some(Event::Changed(status)) => states.push(status.state),
                other => panic!("{other:?}"),
            }
        }
        task.abort();
        assert_eq!(states, [BackendState::Failed, BackendState::Connected]);
        assert_eq!(ATTEMPTS.load(Ordering::Relaxed), 2);
    }
}
