//! What two agents tell each other, and when: the rules of the protocol's §5.
//!
//! Knows offers and time; knows no address, no ICE check, no kernel and no backend.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::backoff::Backoff;
use crate::candidate::Candidate;
use crate::key::PublicKey;
use crate::offer::{Credentials, Implementation, Offer, Password, Role};

/// The session with one peer, as far as offers go.
#[derive(Debug)]
pub struct Session {
    own: PublicKey,
    peer: PublicKey,
    local: Local,
    paired: Option<Paired>,
    /// Highest session id of the peer that was accepted.
    seen: u64,
    /// Highest session id of ours that the peer has told of.
    told: u64,
    resend: Backoff,
    resend_at: Option<Instant>,
    /// When the last answer went out that only repeats.
    answered: Option<Instant>,
    answer_at: Option<Instant>,
    publish: bool,
}

/// Between two answers that bring no news (protocol §5.2).
const ANSWER_INTERVAL: Duration = Duration::from_secs(1);
/// Resends of an unacknowledged offer (protocol §5.4).
const RESEND_FIRST: Duration = Duration::from_millis(500);
const RESEND_LAST: Duration = Duration::from_secs(60);

/// Our own side of the session.
#[derive(Debug)]
struct Local {
    id: u64,
    epoch: u64,
    acknowledged: Option<u64>,
    candidates: Vec<Candidate>,
    eoc: bool,
    credentials: Credentials,
}

/// The peer's session that ours is paired with.
#[derive(Debug)]
struct Paired {
    rid: u64,
    repoch: u64,
}

/// What an offer did to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing that ICE needs to know.
    None,
    /// Paired anew with the offer's session: checks start with its credentials and candidates.
    Paired,
    /// The peer's candidates changed.
    Candidates,
    /// The peer had restarted: a new session of ours, already paired with the offer's.
    Restarted,
    /// The session that we were paired with is over; ours stays.
    Unpaired,
    /// Our clock went back: a new session of ours; then what the offer did to it.
    Renewed {
        /// Whether the new session is already paired with the offer's.
        paired: bool,
    },
}

/// A source of randomness that is seeded from outside.
pub type Random = StdRng;

impl Session {
    /// Starts a session and asks to publish its initial offer (protocol §5.1).
    ///
    /// `unix` is the wall clock; `candidates` are those that are known already.
    pub fn start(
        own: PublicKey,
        peer: PublicKey,
        candidates: Vec<Candidate>,
        eoc: bool,
        unix: Duration,
        random: &mut Random,
    ) -> Self {
        Self {
            own,
            peer,
            local: Local::new(1, candidates, eoc, unix, random),
            paired: None,
            seen: 0,
            told: 0,
            resend: Backoff::new(RESEND_FIRST, RESEND_LAST),
            resend_at: None,
            answered: None,
            answer_at: None,
            publish: true,
        }
    }

    /// Starts a new session in the place of this one (protocol §5.3); the peer's memory of us is kept.
    pub fn restart(&mut self, unix: Duration, random: &mut Random) {
        let floor = (self.local.id + 1).max(self.told + 1);
        let candidates = std::mem::take(&mut self.local.candidates);
        self.local = Local::new(floor, candidates, self.local.eoc, unix, random);
        self.paired = None;
        self.changed();
    }

    /// Takes the candidates that are known now; a change raises the epoch and publishes.
    pub fn gathered(&mut self, candidates: &[Candidate], eoc: bool) {
        if self.local.candidates == candidates && self.local.eoc == eoc {
            return;
        }
        self.local.candidates = candidates.to_vec();
        self.local.eoc = eoc;
        self.local.epoch += 1;
        self.changed();
    }

    /// Applies a verified offer by the rules of the protocol's §5.2, in their order.
    pub fn receive(
        &mut self,
        offer: &Offer,
        now: Instant,
        unix: Duration,
        random: &mut Random,
    ) -> Reaction {
        self.told = self.told.max(offer.seen);
        if offer.seen > self.local.id {
            self.restart(unix, random);
            let paired = self.receive(offer, now, unix, random) == Reaction::Paired;
            return Reaction::Renewed { paired };
        }
        if offer.id < self.seen {
            self.answer(now);
            return Reaction::None;
        }
        self.seen = offer.id;
        let ours = offer.rid == Some(self.local.id);
        if ours {
            let told = offer.repoch.unwrap_or_default();
            self.local.acknowledged = self.local.acknowledged.max(Some(told));
            if !self.want_ack() {
                self.resend_at = None;
            }
        }
        match &mut self.paired {
            Some(paired) if paired.rid == offer.id => {
                if offer.epoch > paired.repoch {
                    paired.repoch = offer.epoch;
                    self.publish = true;
                    return Reaction::Candidates;
                }
                if offer.want_ack {
                    self.answer(now);
                }
                Reaction::None
            }
            None if ours || offer.rid.is_none() => {
                self.pair(offer);
                Reaction::Paired
            }
            None => {
                self.answer(now);
                Reaction::None
            }
            Some(_) if ours => {
                self.pair(offer);
                Reaction::Paired
            }
            Some(_) if offer.rid.is_none() => {
                self.restart(unix, random);
                self.pair(offer);
                Reaction::Restarted
            }
            Some(_) => {
                self.paired = None;
                // Whoever acknowledged our offer is over. Were this one said once only, its loss would leave one side unpaired
                // and both silent, for ever.
                self.local.acknowledged = None;
                self.changed();
                Reaction::Unpaired
            }
        }
    }

    /// Tells whether an offer is due now, and builds it.
    pub fn poll_offer(&mut self, now: Instant, random: &mut Random) -> Option<Offer> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if !self.publish && !due(self.resend_at) && !due(self.answer_at) {
            return None;
        }
        if due(self.answer_at) || self.publish {
            self.answer_at = None;
            self.answered = Some(now);
        }
        self.publish = false;
        self.resend_at = self
            .want_ack()
            .then(|| now + self.resend.next_delay(random));
        Some(Offer {
            from: self.own,
            to: self.peer,
            id: self.local.id,
            rid: self.paired.as_ref().map(|paired| paired.rid),
            epoch: self.local.epoch,
            repoch: self.paired.as_ref().map(|paired| paired.repoch),
            seen: self.seen,
            want_ack: self.want_ack(),
            implementation: Implementation::Full,
            role: self.role(),
            candidates: self.local.candidates.clone(),
            eoc: self.local.eoc,
            credentials: self.local.credentials.clone(),
        })
    }

    /// When [`Session::poll_offer`] has something to say if nothing else happens.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.publish {
            return Some(now);
        }
        [self.resend_at, self.answer_at].into_iter().flatten().min()
    }

    /// The credentials that our present session offers.
    pub const fn credentials(&self) -> &Credentials {
        &self.local.credentials
    }

    /// Our ICE role.
    pub fn role(&self) -> Role {
        Role::of(&self.own, &self.peer)
    }

    /// Tells whether the peer's session is known and talks to ours.
    pub const fn is_paired(&self) -> bool {
        self.paired.is_some()
    }

    /// Our session id.
    pub const fn id(&self) -> u64 {
        self.local.id
    }

    /// The peer's session id that ours is paired with.
    pub fn rid(&self) -> Option<u64> {
        self.paired.as_ref().map(|paired| paired.rid)
    }

    /// Tells whether gathering is finished.
    pub const fn end_of_candidates(&self) -> bool {
        self.local.eoc
    }

    /// True until the peer has acknowledged our present session and epoch.
    pub fn want_ack(&self) -> bool {
        self.local.acknowledged < Some(self.local.epoch)
    }

    fn pair(&mut self, offer: &Offer) {
        self.paired = Some(Paired {
            rid: offer.id,
            repoch: offer.epoch,
        });
        self.publish = true;
    }

    /// Something is new: publish, and resend soon if nobody acknowledges it.
    fn changed(&mut self) {
        self.publish = true;
        self.resend.reset();
    }

    /// Repeats the current offer, at most once a second.
    fn answer(&mut self, now: Instant) {
        let earliest = self.answered.map_or(now, |at| at + ANSWER_INTERVAL);
        self.answer_at = Some(self.answer_at.unwrap_or(earliest.max(now)));
    }
}

impl Local {
    fn new(
        floor: u64,
        candidates: Vec<Candidate>,
        eoc: bool,
        unix: Duration,
        random: &mut Random,
    ) -> Self {
        let unix = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        Self {
            id: unix.clamp(floor, crate::offer::MAX_INTEGER.max(floor)),
            epoch: 0,
            acknowledged: None,
            candidates,
            eoc,
            credentials: Credentials {
                ufrag: ice_chars(8, random),
                pwd: Password::new(ice_chars(24, random)),
            },
        }
    }
}

/// Random `ice-char`s, 6 bits each: 8 make 48 bits of ufrag, 24 make 144 bits of password (RFC 8445 §5.3).
fn ice_chars(count: usize, random: &mut Random) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (0..count)
        .map(|_| char::from(ALPHABET[random.random_range(0..64)]))
        .collect()
}
