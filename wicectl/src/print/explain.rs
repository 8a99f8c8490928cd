//! An explanation: text for people, JSON for programs (described in `docs/dbus.md`).

mod advice;
mod cause;
#[cfg(test)]
mod tests;

use serde::Serialize;
use wice_bus::{Candidate, Explanation, Interface, Pair, PairState, Peer, State};

use super::json::{self, CandidateFields};
use super::style::Style;
use super::{escape, status, words};
use crate::select;
use advice::advice;
use cause::cause;

/// Candidates, pairs and what would help.
pub(crate) fn render(
    interface: &Interface,
    peer: &Peer,
    explanation: &Explanation,
    style: Style,
) -> String {
    let label = escape(select::name(peer));
    let interface = escape(&interface.name);
    let mut state = style.state(explanation.state);
    if explanation.state == State::Connected {
        state.push_str(&format!(" ({})", escape(&peer.packet_path)));
    }
    let reason = words::reason(explanation.reason);
    if !reason.is_empty() {
        state.push_str(&format!(": {reason}"));
    }
    let mut text = format!(
        "{}: {label} on {interface}\n  {}: {state}\n",
        style.bold("peer"),
        style.bold("state")
    );
    let mut section = |title: &str, lines: Vec<String>, none: &str| {
        text.push_str(&format!("\n{}\n", style.bold(title)));
        if lines.is_empty() {
            text.push_str(&format!("  {}\n", style.dim(none)));
        }
        for line in lines {
            text.push_str(&format!("  {line}\n"));
        }
    };
    let candidates = |candidates: &[Candidate]| candidates.iter().map(status::candidate).collect();
    section("our candidates", candidates(&explanation.local), "none");
    section(
        "the peer's candidates",
        candidates(&explanation.remote),
        "none: no offer of the peer's is being followed",
    );
    let pairs = explanation.pairs.iter().map(|it| pair(it, style)).collect();
    section("pairs", pairs, "none is being checked");
    if !explanation.findings.is_empty() {
        let advice = explanation.findings.iter().map(|it| advice(*it).to_owned());
        section("what would help", advice.collect(), "");
    }
    text
}

fn pair(pair: &Pair, style: Style) -> String {
    let ends = format!(
        "{} to {}",
        status::address(&pair.local),
        status::address(&pair.remote)
    );
    let state = match pair.state {
        PairState::Unknown => style.dim("unknown"),
        PairState::Waiting => style.dim("no check sent yet"),
        PairState::Checking => "being checked".to_owned(),
        PairState::Answered => "works, but another one is better".to_owned(),
        PairState::Selected => style.bold("carries the packets"),
        PairState::Failed => {
            let cause = cause(pair).map_or("no check was answered", |it| it.sentence());
            style.warn(&format!("failed: {cause}"))
        }
    };
    let over = if pair.remote.network.starts_with("tcp") {
        " over TCP"
    } else {
        ""
    };
    format!(
        "{ends}{over}: {state} ({} sent, {} answered, {} of the peer's arrived)",
        pair.sent, pair.answered, pair.received
    )
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    interface: &'a str,
    public_key: &'a str,
    name: &'a str,
    state: &'static str,
    reason: &'static str,
    path: &'a str,
    local_candidates: Vec<CandidateFields<'a>>,
    remote_candidates: Vec<CandidateFields<'a>>,
    pairs: Vec<PairFields<'a>>,
    findings: Vec<&'static str>,
}

#[derive(Serialize)]
struct PairFields<'a> {
    local: CandidateFields<'a>,
    remote: CandidateFields<'a>,
    state: &'static str,
    cause: Option<&'static str>,
    sent: u32,
    answered: u32,
    received: u32,
}

/// One document, indented.
pub(crate) fn json(interface: &Interface, peer: &Peer, explanation: &Explanation) -> String {
    let document = Document {
        version: json::VERSION,
        interface: &interface.name,
        public_key: &peer.public_key,
        name: &peer.name,
        state: explanation.state.word(),
        reason: explanation.reason.word(),
        path: &peer.packet_path,
        local_candidates: candidate_fields(&explanation.local),
        remote_candidates: candidate_fields(&explanation.remote),
        pairs: explanation.pairs.iter().map(pair_fields).collect(),
        findings: explanation.findings.iter().map(|it| it.word()).collect(),
    };
    let text = super::json_pretty(&document);
    format!("{text}\n")
}

fn candidate_fields(candidates: &[Candidate]) -> Vec<CandidateFields<'_>> {
    candidates.iter().map(json::candidate).collect()
}

fn pair_fields(pair: &Pair) -> PairFields<'_> {
    PairFields {
        local: json::candidate(&pair.local),
        remote: json::candidate(&pair.remote),
        state: pair.state.word(),
        cause: cause(pair).map(|it| it.word()),
        sent: pair.sent,
        answered: pair.answered,
        received: pair.received,
    }
}
