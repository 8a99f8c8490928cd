//! What is known of one TURN server: how it fares, and when it is asked again.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use tracing::{debug, info, warn};
use wice_core::backoff::Backoff;
use wice_core::server::{IceServer, Transport};
use wice_core::session::Random;

use super::establish::transport;
use super::problem::Problem;
use super::status::{RelayState, RelayStatus};

/// A server of the list.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) server: IceServer,
    pub(super) state: RelayState,
    error: Option<String>,
    /// Whether it has answered, or was given up, at least once.
    tried: bool,
    trying: bool,
    backoff: Backoff,
    /// Whether it failed since it was last hoped for.
    failing: bool,
    retry: Option<Instant>,
}

/// A server that fails is asked again after this, and then ever later.
const FIRST_RETRY: Duration = Duration::from_millis(300);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Of several servers, one over UDP is faster by nature, and better for WireGuard: the others wait a moment for it.
const AFTER_UDP: Duration = Duration::from_millis(50);

impl Server {
    pub(super) const fn new(server: IceServer) -> Self {
        Self {
            server,
            state: RelayState::Standby,
            error: None,
            tried: false,
            trying: false,
            backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
            failing: false,
            retry: None,
        }
    }

    pub(super) fn status(&self) -> RelayStatus {
        RelayStatus {
            url: self.server.url.clone(),
            state: self.state,
            error: self.error.clone(),
        }
    }

    pub(super) const fn is_tried(&self) -> bool {
        self.tried
    }

    /// When it is asked again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry.filter(|_| !self.trying)
    }

    /// Asks it at the next opportunity.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.backoff.reset();
        self.failing = false;
        self.retry = Some(now);
    }

    /// Begins an attempt when one is due; answers the delay that it begins with.
    pub(super) fn begin(&mut self, now: Instant, alone: bool) -> Option<Duration> {
        if self.trying || self.retry.is_some_and(|retry| retry > now) {
            return None;
        }
        self.trying = true;
        if self.state != RelayState::Connected {
            self.state = self.state.max(RelayState::Connecting);
            if self.error.is_none() {
                self.state = RelayState::Connecting;
            }
        }
        Some(match transport(&self.server) {
            _ if alone || self.failing => Duration::ZERO,
            Some(Transport::Tcp) => AFTER_UDP,
            Some(Transport::Tls) => 2 * AFTER_UDP,
            Some(Transport::Udp) | None => Duration::ZERO,
        })
    }

    /// It gave an allocation.
    pub(super) fn succeeded(&mut self, state: RelayState) {
        if self.error.take().is_some() {
            info!("{} works again", self.server.url);
        }
        self.state = state;
        self.ended();
        self.failing = false;
        self.retry = None;
    }

    /// It was not asked after all.
    pub(super) fn withdrawn(&mut self, needed: bool) {
        self.trying = false;
        self.retry = None;
        if !needed {
            self.stand_by();
        }
    }

    /// It gave none.
    pub(super) fn failed(&mut self, problem: &Problem, now: Instant) {
        self.ended();
        self.failing = true;
        let mut random = Random::from_seed(rand::random());
        self.retry = Some(now + self.backoff.next_delay(&mut random));
        self.lost(problem);
    }

    /// Notes what went wrong, and says it when it is something new.
    fn lost(&mut self, problem: &Problem) {
        self.state = RelayState::Failed;
        let text = problem.to_string();
        let url = &self.server.url;
        if self.error.as_ref() == Some(&text) {
            debug!("{url}: {text}");
        } else {
            warn!("{url}: {text}; keeps trying");
            self.error = Some(text);
        }
    }

    /// Another one relays.
    pub(super) fn stand_by(&mut self) {
        if self.error.is_none() {
            self.state = RelayState::Standby;
        }
    }

    fn ended(&mut self) {
        self.trying = false;
        self.tried = true;
    }
}
