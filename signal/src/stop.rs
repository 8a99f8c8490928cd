//! How the tasks of a server end together: told first, waited for, and cut off at last.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Over,
}

/// The end that tells. When it is dropped, everything is over.
#[derive(Debug)]
pub(crate) struct Stopper {
    phase: watch::Sender<Phase>,
    alive: mpsc::Sender<Infallible>,
    ended: mpsc::Receiver<Infallible>,
    grace: Duration,
    goodbyes: Duration,
}

/// The end that each task holds, as long as it lives.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    phase: watch::Receiver<Phase>,
    goodbyes: Duration,
    _alive: mpsc::Sender<Infallible>,
}

impl Stopper {
    /// Nothing is stopping yet. In the end all have `grace`, and those that are told to leave are told over the time of
    /// `goodbyes`.
    pub(crate) fn new(grace: Duration, goodbyes: Duration) -> Self {
        let (alive, ended) = mpsc::channel(1);
        Self {
            phase: watch::Sender::new(Phase::Running),
            alive,
            ended,
            grace,
            goodbyes,
        }
    }

    /// An end for a task that is waited for.
    pub(crate) fn stop(&self) -> Stop {
        Stop {
            phase: self.phase.subscribe(),
            goodbyes: self.goodbyes,
            _alive: self.alive.clone(),
        }
    }

    /// Tells all tasks to finish and waits for them; cuts off those that do not in time. Whether all
    /// finished by themselves.
    pub(crate) async fn finish(self) -> bool {
        let Self {
            phase,
            alive,
            mut ended,
            grace,
            ..
        } = self;
        drop(alive);
        phase.send_replace(Phase::Draining);
        let finished = timeout(grace, ended.recv()).await.is_ok();
        phase.send_replace(Phase::Over);
        finished
    }
}

impl Stop {
    /// Waits until the server wants to end.
    pub(crate) async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until the server wants this one client to leave: not all at once, or the servers that they go to are
    /// stormed. Serves it until then.
    pub(crate) async fn goodbye(&self) {
        self.draining().await;
        let share = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        sleep(self.goodbyes.mul_f64(share)).await;
    }

    /// Whether clients are told one after the other: there are other servers that they can go to.
    pub(crate) fn is_move(&self) -> bool {
        !self.goodbyes.is_zero()
    }

    /// Whether the server wants to end.
    pub(crate) fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Waits until nothing may go on.
    pub(crate) async fn over(&self) {
        self.reached(Phase::Over).await;
    }

    async fn reached(&self, wanted: Phase) {
        let mut phase = self.phase.clone();
        // An error means that the server was dropped, which is the last phase too.
        let _ = phase.wait_for(|phase| *phase >= wanted).await;
    }
}
