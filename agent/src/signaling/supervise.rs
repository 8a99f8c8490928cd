//! Keeps one backend running for ever: whatever it does, it is started again, later and later.
//!
//! Knows no single backend. A panic ends one attempt of one backend and nothing else.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use rand::SeedableRng;
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

/// Runs a backend and restarts it whenever it fails; returns never.
pub(super) async fn supervise<B: Backend>(config: BackendConfig, mut link: Link) {
    let mut random = Random::from_seed(seed());
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
    let mut backend: Option<B> = None;
    loop {
        let attempt = attempt(&mut backend, &config, &mut link);
        let error = match AssertUnwindSafe(attempt).catch_unwind().await {
            Ok(Err(error)) => error,
            Err(_panic) => {
                // What a panic leaves behind cannot be trusted: the next attempt builds the backend anew.
                backend = None;
                BackendError::Panicked
            }
        };
        if link.failed(&error).await.is_some_and(|it| it >= LASTING) {
            backoff.reset();
        }
        let delay = backoff.next_delay(&mut random);
        tokio::time::sleep(delay.max(error.retry_after().unwrap_or_default())).await;
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
