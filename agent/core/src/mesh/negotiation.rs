//! What the agent does for one managed peer: a session, the checks of the present one and of the one before, a path.
//!
//! Keeps old checks alive until new ones have nominated (make before break); what a user is shown is not here.

use std::time::{Duration, Instant};

use super::context::Context;
use crate::backoff::Backoff;
use crate::candidate::Candidate;
use crate::ice::{Ice, IceEvent};
use crate::path::Path;
use crate::seal::PairSecrets;
use crate::session::Session;
use crate::status::CandidateStatus;

/// What the agent does for a managed peer.
#[derive(Debug)]
pub(super) struct Negotiation {
    pub(super) secrets: PairSecrets,
    pub(super) session: Session,
    /// Checks of the present session; none before it is paired.
    pub(super) ice: Option<Ice>,
    pub(super) remotes: Vec<Candidate>,
    /// Checks of the session before, whose pair carries packets until the present one has nominated another.
    pub(super) carrying: Option<Ice>,
    pub(super) path: Path,
    pub(super) give_up: Option<Instant>,
    pub(super) retry: Backoff,
    pub(super) retry_at: Option<Instant>,
}

/// Checks that nominated nothing for this long have failed: by then `is` has retransmitted each of them nine times.
pub(super) const GIVE_UP: Duration = Duration::from_secs(15);
/// Sessions after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(10);
const RETRY_LAST: Duration = Duration::from_secs(300);

impl Negotiation {
    /// Begins with a session that nobody has answered.
    pub(super) fn new(secrets: PairSecrets, session: Session) -> Self {
        Self {
            secrets,
            session,
            ice: None,
            remotes: Vec::new(),
            carrying: None,
            path: Path::default(),
            give_up: None,
            retry: Backoff::new(RETRY_FIRST, RETRY_LAST),
            retry_at: None,
        }
    }

    /// The next event, and whether it is of the present session.
    pub(super) fn poll(&mut self) -> Option<(IceEvent, bool)> {
        if let Some(event) = self.ice.as_mut().and_then(Ice::poll) {
            return Some((event, true));
        }
        self.carrying
            .as_mut()
            .and_then(Ice::poll)
            .map(|event| (event, false))
    }

    /// Ends the present checks; a pair that they selected goes on carrying packets (make before break).
    pub(super) fn retire(&mut self, cx: &mut Context<'_>) {
        self.give_up = None;
        self.retry_at = None;
        self.remotes.clear();
        let Some(ice) = self.ice.take() else {
            return;
        };
        if ice.selected_pair().is_some() {
            self.drop_carrying(cx);
            self.carrying = Some(ice);
        } else {
            self.forget(ice.ufrag(), cx);
        }
    }

    /// Tells whether the present checks had selected a pair: then nothing waits for them to do so.
    pub(super) const fn was_selected(&self) -> bool {
        self.ice.is_some() && self.give_up.is_none() && self.retry_at.is_none()
    }

    pub(super) fn drop_carrying(&mut self, cx: &mut Context<'_>) {
        if let Some(ice) = self.carrying.take() {
            self.forget(ice.ufrag(), cx);
        }
    }

    /// Ends the route of a fragment, unless other checks go by the same: a session may be paired anew.
    fn forget(&self, ufrag: &str, cx: &mut Context<'_>) {
        let in_use = [&self.ice, &self.carrying]
            .into_iter()
            .flatten()
            .any(|ice| ice.ufrag() == ufrag);
        if !in_use {
            cx.routes.remove_ufrag(ufrag);
        }
    }

    /// Both ends and the round-trip time of the pair that carries packets.
    pub(super) fn selected(&self) -> Option<(CandidateStatus, CandidateStatus, Option<Duration>)> {
        [&self.ice, &self.carrying]
            .into_iter()
            .flatten()
            .find_map(|ice| {
                let pair = ice.selected_pair()?;
                Some((pair.local, pair.remote, ice.round_trip_time()))
            })
    }
}
