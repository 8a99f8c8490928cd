//! What the agent does for one managed peer: a session, the checks of the present one and of the one before, a path, a route.
//!
//! Keeps old checks alive until new ones have nominated (make before break); what a user is shown is not here.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::context::Context;
use super::peer::Bearer;
use crate::backoff::Backoff;
use crate::candidate::Candidate;
use crate::ice::{Ice, IceEvent, SelectedPair};
use crate::path::Path;
use crate::relay::Route;
use crate::seal::PairSecrets;
use crate::session::Session;
use crate::status::{CandidateStatus, PathKind};
use crate::tcp::attempts::Attempts;

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
    /// How packets travel by the pair that was followed last.
    pub(super) way: PathKind,
    pub(super) carrier: Option<Carrier>,
    /// Streams that carry the peer's packets.
    pub(super) bearers: Vec<Bearer>,
    pub(super) attempts: Attempts,
    /// When streams that do not carry are closed.
    pub(super) tidy_at: Option<Instant>,
    /// The present checks have nominated a relay, while the direct pair of the ones before still answers: until then that one
    /// stays in use, because a direct one may follow.
    pub(super) hold: Option<Instant>,
    /// When a direct path is tried again.
    pub(super) direct_at: Option<Instant>,
    pub(super) direct: Backoff,
    pub(super) give_up: Option<Instant>,
    pub(super) retry: Backoff,
    pub(super) retry_at: Option<Instant>,
}

/// Checks that nominated nothing for this long have failed: by then `is` has retransmitted each of them nine times.
pub(super) const GIVE_UP: Duration = Duration::from_secs(15);
/// What carries the peer's packets outside of the kernel.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) route: Route,
    /// Where WireGuard reaches it, once that is known.
    pub(super) endpoint: Option<SocketAddr>,
    /// The kernel sends directly; until then late packets are delivered.
    pub(super) left: Option<Instant>,
}

/// How long packets may come late by a route that was left.
pub(super) const LINGER: Duration = Duration::from_secs(10);
/// How long a new session has to find a direct pair before its relay replaces the direct pair of the one before.
pub(super) const HOLD: Duration = Duration::from_secs(3);
/// Between attempts to leave a relay.
const DIRECT_FIRST: Duration = Duration::from_secs(30);
const DIRECT_LAST: Duration = Duration::from_secs(600);
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
            way: PathKind::None,
            carrier: None,
            bearers: Vec::new(),
            attempts: Attempts::default(),
            tidy_at: None,
            hold: None,
            direct_at: None,
            direct: Backoff::new(DIRECT_FIRST, DIRECT_LAST),
            give_up: None,
            retry: Backoff::new(RETRY_FIRST, RETRY_LAST),
            retry_at: None,
        }
    }

    /// Both checks.
    pub(super) fn checks(&mut self) -> impl Iterator<Item = &mut Ice> {
        [&mut self.ice, &mut self.carrying].into_iter().flatten()
    }

    /// Where the peer may be.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        [&self.ice, &self.carrying]
            .into_iter()
            .flatten()
            .flat_map(|ice| ice.addresses().iter().copied())
            .collect()
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
        self.hold = None;
        self.tidy_at = None;
        self.attempts.stop();
        self.remotes.clear();
        let Some(ice) = self.ice.take() else {
            return;
        };
        if ice.selected_pair().is_some() {
            self.drop_carrying(cx);
            self.carrying = Some(ice);
        } else {
            self.forget(ice.ufrag(), cx);
            self.release_streams(&ice, cx);
        }
    }

    /// Tells whether the present checks had selected a pair: then nothing waits for them to do so.
    pub(super) const fn was_selected(&self) -> bool {
        self.ice.is_some() && self.give_up.is_none() && self.retry_at.is_none()
    }

    pub(super) fn drop_carrying(&mut self, cx: &mut Context<'_>) {
        if let Some(ice) = self.carrying.take() {
            self.forget(ice.ufrag(), cx);
            self.release_streams(&ice, cx);
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

    /// The checks whose pair carries packets.
    pub(super) fn carrying(&self) -> Option<&Ice> {
        let present = self.ice.as_ref().filter(|_| self.hold.is_none());
        [present, self.carrying.as_ref(), self.ice.as_ref()]
            .into_iter()
            .flatten()
            .find(|ice| ice.selected_pair().is_some())
    }

    /// Both ends and the round-trip time of the pair that carries packets.
    pub(super) fn selected(&self) -> Option<(CandidateStatus, CandidateStatus, Option<Duration>)> {
        let ice = self.carrying()?;
        let pair = ice.selected_pair()?;
        Some((pair.local, pair.remote, ice.round_trip_time()))
    }

    /// How packets travel that arrive though no pair is selected.
    pub(super) const fn shown_way(&self) -> PathKind {
        if self.carrier.is_some() {
            PathKind::Relay
        } else {
            PathKind::Direct
        }
    }

    /// Tells whether packets can go by this pair: what carries them outside of the kernel is there.
    pub(super) fn is_followed(&self, pair: &SelectedPair) -> bool {
        let carrier = self.carrier.as_ref().filter(|it| it.left.is_none());
        self.hold.is_none()
            && pair.route.is_none_or(|route| {
                carrier.is_some_and(|it| it.route == route && it.endpoint.is_some())
            })
            && pair.stream.is_none_or(|stream| self.is_boarded(stream))
    }

    /// Tells whether a relay or a stream of the session before carries packets.
    pub(super) fn is_relayed_before(&self) -> bool {
        let before = self.carrying.as_ref().and_then(Ice::selected_pair);
        before.is_some_and(|pair| pair.path() == PathKind::Relay || pair.stream.is_some())
    }

    /// Tells whether a pair of the session before answers that is better by its kind.
    pub(super) fn is_better_before(&self, pair: &SelectedPair, now: Instant) -> bool {
        self.carrying.as_ref().is_some_and(|ice| {
            let before = ice.selected_pair();
            ice.is_fresh(now) && before.is_some_and(|before| before.means() > pair.means())
        })
    }
}
