//! One table for every deadline of the mesh: nothing polls, nothing has a timer of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// When each thing wants to be looked at again.
#[derive(Debug)]
pub(super) struct Alarms<Id> {
    due: BTreeSet<(Instant, Id)>,
    set: BTreeMap<Id, Instant>,
}

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

    /// The next deadline.
    pub(super) fn next(&self) -> Option<(Instant, Id)> {
        self.due.first().copied()
    }
}
