//! What `Explain` returns, and how it is written into a dictionary.

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant};

use crate::{Candidate, Finding, PairState, Reason, State};

/// Why the path to a peer is as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    /// What the session is doing.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// The agent's candidates.
    pub local: Vec<Candidate>,
    /// The candidates of the peer's newest offer.
    pub remote: Vec<Candidate>,
    /// The pairs of the present checks.
    pub pairs: Vec<Pair>,
    /// What stands in the way of a direct path.
    pub findings: Vec<Finding>,
}

/// An address of the agent's machine and one of the peer's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pair {
    /// Where checks leave from.
    pub local: Candidate,
    /// Where they go to.
    pub remote: Candidate,
    /// How far they are.
    pub state: PairState,
    /// Checks sent.
    pub sent: u32,
    /// Answers to them.
    pub answered: u32,
    /// Checks of the peer's that arrived.
    pub received: u32,
}

/// A candidate on the wire: `(ssqs)`.
type CandidateFields = (String, String, u16, String);
/// A pair on the wire: `((ssqs)(ssqs)uuuu)`.
type PairFields = (CandidateFields, CandidateFields, u32, u32, u32, u32);

impl Explanation {
    /// The dictionary as the agent sends it.
    pub fn into_dictionary(self) -> HashMap<&'static str, Variant<'static>> {
        let candidates = |candidates: Vec<Candidate>| -> Vec<CandidateFields> {
            candidates.into_iter().map(Candidate::into_fields).collect()
        };
        let pair = |pair: Pair| -> PairFields {
            (
                pair.local.into_fields(),
                pair.remote.into_fields(),
                pair.state.number(),
                pair.sent,
                pair.answered,
                pair.received,
            )
        };
        let pairs: Vec<PairFields> = self.pairs.into_iter().map(pair).collect();
        let findings: Vec<u32> = self.findings.iter().map(|it| it.number()).collect();
        HashMap::from([
            ("State", self.state.number().into()),
            ("Reason", self.reason.number().into()),
            ("LocalCandidates", candidates(self.local).into()),
            ("RemoteCandidates", candidates(self.remote).into()),
            ("Pairs", pairs.into()),
            ("Findings", findings.into()),
        ])
    }

    /// Reads the dictionary; what is missing reads as empty, what is unknown is passed over.
    pub fn from_dictionary(mut dictionary: HashMap<String, OwnedVariant>) -> Self {
        let mut number = |name: &str| -> u32 {
            let value = dictionary.remove(name);
            value
                .and_then(|it| u32::try_from(it).ok())
                .unwrap_or_default()
        };
        let (state, reason) = (number("State"), number("Reason"));
        let mut candidates = |name: &str| -> Vec<Candidate> {
            let value = dictionary.remove(name);
            let fields = value.and_then(|it| <Vec<CandidateFields>>::try_from(it).ok());
            let fields = fields.unwrap_or_default().into_iter();
            fields.map(Candidate::from_fields).collect()
        };
        let (local, remote) = (
            candidates("LocalCandidates"),
            candidates("RemoteCandidates"),
        );
        let pairs = dictionary.remove("Pairs");
        let pairs = pairs.and_then(|it| <Vec<PairFields>>::try_from(it).ok());
        let pair = |(local, remote, state, sent, answered, received): PairFields| Pair {
            local: Candidate::from_fields(local),
            remote: Candidate::from_fields(remote),
            state: state.into(),
            sent,
            answered,
            received,
        };
        let findings = dictionary.remove("Findings");
        let findings = findings.and_then(|it| <Vec<u32>>::try_from(it).ok());
        Self {
            state: state.into(),
            reason: reason.into(),
            local,
            remote,
            pairs: pairs.unwrap_or_default().into_iter().map(pair).collect(),
            findings: findings
                .unwrap_or_default()
                .into_iter()
                .map(Into::into)
                .collect(),
        }
    }
}

impl Candidate {
    fn into_fields(self) -> CandidateFields {
        (self.kind, self.address, self.port, self.network)
    }

    fn from_fields((kind, address, port, network): CandidateFields) -> Self {
        Self {
            kind,
            address,
            port,
            network,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_survives_the_bus() {
        let candidate = |port| Candidate {
            kind: "host".to_owned(),
            address: "192.0.2.1".to_owned(),
            port,
            network: "udp4".to_owned(),
        };
        let explanation = Explanation {
            state: State::Failed,
            reason: Reason::NoPairWorks,
            local: vec![candidate(1)],
            remote: vec![candidate(2), candidate(3)],
            pairs: vec![Pair {
                local: candidate(1),
                remote: candidate(2),
                state: PairState::Failed,
                sent: 9,
                answered: 0,
                received: 1,
            }],
            findings: vec![Finding::Unanswered],
        };
        let dictionary = explanation.clone().into_dictionary();
        let received = dictionary
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.try_into().expect("owned")))
            .collect();
        assert_eq!(Explanation::from_dictionary(received), explanation);
        assert_eq!(
            Explanation::from_dictionary(HashMap::new()),
            Explanation::default()
        );
    }
}
