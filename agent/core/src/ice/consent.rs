//! When the selected pair has been silent for too long, and what takes over then.
//!
//! The library alone keeps a dead pair for another ten seconds, because it counts the peer's last check as life.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use is::Protocol;

use super::Ice;

/// How often pairs are checked, and how long one may be silent.
#[derive(Debug)]
pub(super) struct Consent {
    /// Taken off the interval, so that the checks of many peers that connected at once do not stay together.
    jitter: u32,
    pace: Option<Pace>,
    /// The selected pair was given up already, and nothing has taken over yet.
    fallen: Option<Instant>,
    retry_at: Option<Instant>,
}

/// Checks that are more frequent than usual.
#[derive(Debug, Clone, Copy)]
struct Pace {
    interval: Duration,
    since: Instant,
}

/// Between checks of a pair that works, to keep its consent (RFC 7675 §5.1): at most this, and up to a fifth less.
const CONSENT_INTERVAL: Duration = Duration::from_secs(5);
/// Without an answer for this long, consent is lost. Sooner than RFC 7675's 30 s, because losing it only starts another
/// session beside this one; late enough for two regular checks and a handful of quick repetitions.
const CONSENT_TIMEOUT: Duration = Duration::from_secs(12);
/// While WireGuard moves bytes, another pair takes over after this many intervals without an answer: by then a check was
/// repeated five times.
const PATIENCE: u32 = 4;
/// How long another pair may take to take over: the controlled side waits for the other one to notice too.
const TAKEOVER: Duration = Duration::from_secs(4);

impl Consent {
    pub(super) fn new(tie_breaker: u64) -> Self {
        Self {
            jitter: u32::try_from(tie_breaker % 1_000).unwrap_or(0),
            pace: None,
            fallen: None,
            retry_at: None,
        }
    }

    /// Between checks of a pair that works.
    pub(super) fn interval(&self) -> Duration {
        let interval = self.pace.map_or(CONSENT_INTERVAL, |pace| pace.interval);
        interval - interval / 5_000 * self.jitter
    }

    /// A pair was selected.
    pub(super) fn selected(&mut self) {
        self.fallen = None;
        self.retry_at = None;
    }

    /// How long the selected pair may be silent before another one takes over.
    fn patience(&self) -> Duration {
        let patience = self.pace.map(|pace| pace.interval * PATIENCE);
        patience.unwrap_or(CONSENT_TIMEOUT).min(CONSENT_TIMEOUT)
    }
}

impl Ice {
    /// Checks pairs this often from now on, or as rarely as usual.
    pub fn set_pace(&mut self, interval: Option<Duration>, now: Instant) {
        let present = self.consent.pace.map(|pace| pace.interval);
        if present == interval {
            return;
        }
        self.consent.pace = interval.map(|interval| Pace {
            interval,
            since: now,
        });
        self.agent.set_max_stun_rto(self.consent.interval());
    }

    /// Moves the checks on.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
        if self.falls_back_at().is_some_and(|at| at <= now) {
            if self.fall_back(now) {
                self.consent.fallen = Some(now);
            } else {
                self.consent.retry_at = Some(now + self.consent.interval() / 2);
            }
        }
        if self.consent_ends().is_some_and(|at| at <= now) {
            self.lose();
        }
    }

    /// When [`Ice::handle_timeout`] is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let checks = self.agent.poll_timeout()?;
        [self.falls_back_at(), self.consent_ends()]
            .into_iter()
            .flatten()
            .chain([checks])
            .min()
    }

    /// Gives the selected pair up.
    pub fn lose(&mut self) {
        if let Some(pair) = self.selected {
            self.heard.remove(&pair);
            self.lost = true;
        }
    }

    /// Tells whether the selected pair has answered lately.
    pub fn is_fresh(&self, now: Instant) -> bool {
        let answer = self.selected.and_then(|pair| self.heard.get(&pair));
        answer.is_some_and(|answer| now < answer.at + self.consent.patience())
    }

    fn falls_back_at(&self) -> Option<Instant> {
        if self.consent.fallen.is_some() {
            return None;
        }
        let heard = self.heard.get(&self.selected?)?.at;
        // The checks before were rare.
        let since = self.consent.pace.map_or(heard, |pace| pace.since);
        let at = heard.max(since) + self.consent.patience();
        Some(self.consent.retry_at.map_or(at, |retry| retry.max(at)))
    }

    fn consent_ends(&self) -> Option<Instant> {
        let heard = self.heard.get(&self.selected?)?.at;
        let takeover = |fallen| fallen + self.consent.patience().max(TAKEOVER);
        Some((self.consent.fallen).map_or(heard + CONSENT_TIMEOUT, takeover))
    }

    /// Gives up the selected pair where another one answers, so that it takes over. False when nothing else answers.
    ///
    /// The library gives up candidates only, not pairs: of the end that the two pairs do not share, the candidate is taken out
    /// and put in anew, so that its pairs have to prove themselves again.
    fn fall_back(&mut self, now: Instant) -> bool {
        let Some(dead) = self.selected else {
            return false;
        };
        let recent = self.consent.patience() / 2;
        let best = (self.heard.iter())
            .filter(|(pair, answer)| {
                **pair != dead
                    && now < answer.at + recent
                    && (self.locals.iter().any(|local| local.base == pair.0)
                        || self.stream(**pair).is_some())
                    && self.agent.has_viable_remote_candidate(pair.1)
            })
            .map(|(pair, _)| *pair)
            .max_by_key(|pair| self.pair_priority(*pair));
        let Some(best) = best else {
            return false;
        };
        if let Some(stream) = self.stream(dead) {
            self.renew_stream(stream);
        } else if best.0 == dead.0 {
            self.renew_remote(dead.1);
        } else {
            self.renew_local(dead.0);
        }
        self.agent.handle_timeout(now);
        true
    }

    /// RFC 8445 §6.1.2.3, without its last bit.
    fn pair_priority(&self, (base, remote): (SocketAddr, SocketAddr)) -> u64 {
        let ours = (self.agent.local_candidates())
            .filter(|it| it.addr() == base)
            .map(|it| it.prio());
        let theirs = (self.agent.remote_candidates())
            .filter(|it| it.addr() == remote)
            .map(|it| it.prio());
        let ours = u64::from(ours.max().unwrap_or_default());
        let theirs = u64::from(theirs.max().unwrap_or_default());
        (ours.min(theirs) << 32) + 2 * ours.max(theirs)
    }

    fn renew_local(&mut self, base: SocketAddr) {
        let candidates: Vec<_> = (self.locals.iter())
            .filter(|local| local.base == base)
            .filter_map(|local| self.to_local(local))
            .collect();
        for candidate in &candidates {
            self.agent.invalidate_candidate(candidate);
        }
        for candidate in candidates {
            self.agent.add_local_candidate(candidate);
        }
    }

    fn renew_remote(&mut self, address: SocketAddr) {
        let gone: Vec<_> = (self.agent.remote_candidates())
            .filter(|it| it.proto() == Protocol::Udp && it.addr() == address)
            .collect();
        for candidate in &gone {
            self.agent.invalidate_candidate(candidate);
        }
        if let Some(remote) = self.remotes.get_mut(&address) {
            self.added = self.added.wrapping_add(1);
            remote.added = self.added;
            self.agent
                .add_remote_candidate(remote.to_library(self.role));
        } else if let Some(gone) = gone.first() {
            self.agent.add_remote_candidate(peer_reflexive(gone));
        }
    }
}

/// The same candidate as the library makes of a check, whose foundation it recognizes.
pub(super) fn peer_reflexive(candidate: &is::Candidate) -> is::Candidate {
    is::Candidate::from_parts(
        "tmp_prflx".to_owned(),
        1,
        candidate.proto(),
        candidate.prio(),
        candidate.addr(),
        is::CandidateKind::PeerReflexive,
        None,
        None,
        None,
    )
}
