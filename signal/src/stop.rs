//! How the tasks of a server end together: told first, waited for, and cut off at last.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// How long connections have to finish: long polls answer and WebSockets say goodbye at once, only a client
/// that reads nothing needs longer. Below the five seconds that an operator is willing to wait.
const GRACE: Duration = Duration::from_secs(4);

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
}

/// The end that each task holds, as long as it lives.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    phase: watch::Receiver<Phase>,
    _alive: mpsc::Sender<Infallible>,
}

impl Stopper {
    /// Nothing is stopping yet.
    pub(crate) fn new() -> Self {
        let (alive, ended) = mpsc::channel(1);
        Self {
            phase: watch::Sender::new(Phase::Running),
            alive,
            ended,
        }
    }

    /// An end for a task that is waited for.
    pub(crate) fn stop(&self) -> Stop {
        Stop {
            phase: self.phase.subscribe(),
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
        } = self;
        drop(alive);
        phase.send_replace(Phase::Draining);
        let finished = timeout(GRACE, ended.recv()).await.is_ok();
        phase.send_replace(Phase::Over);
        finished
    }
}

impl Stop {
    /// Waits until the server wants to end.
    pub(crate) async fn draining(&self) {
        self.reached(Phase::Draining).await;
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
