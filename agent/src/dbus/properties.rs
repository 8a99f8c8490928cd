//! How a status becomes properties, and which of them changed.
//!
//! Each value is written down once; the objects' getters and `PropertiesChanged` both read it here.

use std::collections::HashMap;
use std::time::Duration;

use wice_core::explain::{Explanation, Pair};
use wice_core::status::{CandidateStatus, InterfaceStatus, PeerStatus};
use zbus::Variant;

/// The properties of an interface that differ, without `Peers`.
pub(super) fn interface_changes(
    old: &InterfaceStatus,
    new: &InterfaceStatus,
) -> HashMap<&'static str, Variant<'static>> {
    let mut changes = HashMap::new();
    note(&mut changes, "PublicKey", (old, new), public_key);
    note(&mut changes, "ListenPort", (old, new), |s| s.listen_port);
    note(&mut changes, "FirewallMark", (old, new), |s| s.fwmark);
    note(&mut changes, "Managed", (old, new), |s| s.managed);
    changes
}

/// The properties of a peer that differ, without those that are annotated not to be signalled.
///
/// `RxBytes`, `TxBytes`, `RoundTripTime` and `LatestHandshake` change again and again for every peer: who wants them asks for
/// them.
pub(super) fn peer_changes(
    old: &PeerStatus,
    new: &PeerStatus,
) -> HashMap<&'static str, Variant<'static>> {
    let mut changes = HashMap::new();
    note(&mut changes, "Name", (old, new), |s| s.name.clone());
    note(&mut changes, "State", (old, new), |s| s.state as u32);
    note(&mut changes, "StateReason", (old, new), state_reason);
    note(&mut changes, "Path", (old, new), |s| s.path.as_str());
    note(&mut changes, "Endpoint", (old, new), endpoint);
    let local = |s: &PeerStatus| candidate(s.local_candidate.as_ref());
    note(&mut changes, "LocalCandidate", (old, new), local);
    let remote = |s: &PeerStatus| candidate(s.remote_candidate.as_ref());
    note(&mut changes, "RemoteCandidate", (old, new), remote);
    note(&mut changes, "AllowedIps", (old, new), allowed_ips);
    note(&mut changes, "Since", (old, new), |s| s.since.as_secs());
    note(&mut changes, "Restarts", (old, new), |s| s.restarts);
    changes
}

fn note<S, T: PartialEq + Into<Variant<'static>>>(
    changes: &mut HashMap<&'static str, Variant<'static>>,
    name: &'static str,
    (old, new): (&S, &S),
    value: impl Fn(&S) -> T,
) {
    let new = value(new);
    if value(old) != new {
        changes.insert(name, new.into());
    }
}

/// Base64, or nothing.
pub(super) fn public_key(status: &InterfaceStatus) -> String {
    status
        .public_key
        .map(|key| key.to_string())
        .unwrap_or_default()
}

/// The state once more, and its reason: one value, so that no reader sees one without the other.
pub(super) fn state_reason(status: &PeerStatus) -> (u32, u32) {
    (status.state as u32, status.reason as u32)
}

/// `address:port`, or nothing.
pub(super) fn endpoint(status: &PeerStatus) -> String {
    status
        .endpoint
        .map(|address| address.to_string())
        .unwrap_or_default()
}

/// As `wg show` prints them.
pub(super) fn allowed_ips(status: &PeerStatus) -> Vec<String> {
    status.allowed_ips.iter().map(ToString::to_string).collect()
}

/// Type, address, port and network; empty words and zero for none.
pub(super) fn candidate(candidate: Option<&CandidateStatus>) -> (String, String, u16, String) {
    candidate.map_or_else(Default::default, |status| {
        let candidate = bus_candidate(status);
        (
            candidate.kind,
            candidate.address,
            candidate.port,
            candidate.network,
        )
    })
}

/// A candidate in the words of the contract.
fn bus_candidate(candidate: &CandidateStatus) -> wice_bus::Candidate {
    wice_bus::Candidate {
        kind: candidate.kind.as_str().to_owned(),
        address: candidate.address.ip().to_string(),
        port: candidate.address.port(),
        network: candidate.network.as_str().to_owned(),
    }
}

/// An explanation in the words of the contract.
pub(super) fn explanation(explanation: &Explanation) -> wice_bus::Explanation {
    let candidates =
        |candidates: &[CandidateStatus]| candidates.iter().map(bus_candidate).collect();
    let pair = |pair: &Pair| wice_bus::Pair {
        local: bus_candidate(&pair.local),
        remote: bus_candidate(&pair.remote),
        state: (pair.state as u32).into(),
        sent: pair.exchange.sent,
        answered: pair.exchange.answered,
        received: pair.exchange.received,
    };
    wice_bus::Explanation {
        state: (explanation.state as u32).into(),
        reason: (explanation.reason as u32).into(),
        local: candidates(&explanation.local),
        remote: candidates(&explanation.remote),
        pairs: explanation.pairs.iter().map(pair).collect(),
        findings: explanation
            .findings
            .iter()
            .map(|finding| (*finding as u32).into())
            .collect(),
    }
}

/// Microseconds; 0 when unknown.
pub(super) fn round_trip_time(status: &PeerStatus) -> u64 {
    status.round_trip_time.map_or(0, |time: Duration| {
        u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
    })
}
