//! One table for every deadline of the mesh: nothing polls, nothing has a timer of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// When each thing wants to be looked at again.
#[derive(Debug)]
pub(super) struct Alarms<Id> {
    due: BTreeSet<(Instant, Id)>,
    set: BTreeMap<Id, Instant>,
}

/// A deadline this far away may be put off a little.
const FAR: Duration = Duration::from_millis(500);
/// By at most this: nothing to a check that is due every few seconds.
const SLACK: Duration = Duration::from_millis(100);

impl<Id> Default for Alarms<Id> {
    fn default() -> Self {
        Self {
            due: BTreeSet::new(),
            set: BTreeMap::new(),
        }
    }
}

impl<Id: Copy + Ord> Alarms<Id> {
    /// Replaces the deadline of `id`.
    pub(super) fn set(&mut self, id: Id, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.set.insert(id, at),
            None => self.set.remove(&id),
        };
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.due.remove(&(old, id));
        }
        if let Some(at) = at {
            self.due.insert((at, id));
        }
    }

    /// Takes the first deadline that has passed.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Id> {
        let (at, id) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        self.set.remove(&id);
        Some(id)
    }

    /// Puts a deadline that is far away off to the one that follows it closely, so that many idle peers wake the machine
    /// together.
    pub(super) fn gather(&self, id: Id, at: Instant, now: Instant) -> Instant {
        if at < now + FAR {
            return at;
        }
        let next = self.due.range((at, id)..).next();
        next.map(|(due, _)| *due)
            .filter(|due| *due <= at + SLACK)
            .unwrap_or(at)
    }

    /// The next deadline.
    pub(super) fn next(&self) -> Option<(Instant, Id)> {
        self.due.first().copied()
    }
}
