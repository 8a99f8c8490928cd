//! What one peer knows of its present checks.

use std::time::Instant;

use super::Peer;
use crate::explain::{Explanation, Facts, Surroundings};
use crate::ice::Ice;

impl Peer {
    /// Explains the path; the rest is what the interface knows.
    pub(in crate::mesh) fn explain(
        &self,
        surroundings: &Surroundings<'_>,
        now: Instant,
    ) -> Explanation {
        let negotiation = self.negotiation.as_ref();
        let ice = negotiation.and_then(|it| it.ice.as_ref().or(it.carrying.as_ref()));
        Explanation::new(&Facts {
            state: self.state,
            reason: self.reason,
            path: self.path(now),
            surroundings,
            remotes: negotiation.map_or(&[], |it| &it.remotes),
            ledger: ice.map(Ice::ledger),
            selected: ice.and_then(Ice::selected_ends),
        })
    }
}
