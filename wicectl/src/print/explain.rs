//! An explanation: text for people, JSON for programs (described in `docs/dbus.md`).

use serde::Serialize;
use wice_bus::{Candidate, Explanation, Finding, Interface, Pair, PairState, Peer, State};

use super::json::{self, CandidateFields};
use super::style::Style;
use super::{escape, status, words};
use crate::select;

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
        PairState::Failed => style.warn("failed: no check was answered"),
    };
    format!(
        "{ends}: {state} ({} sent, {} answered, {} of the peer's arrived)",
        pair.sent, pair.answered, pair.received
    )
}

/// What was found, and what a person can do about it.
const fn advice(finding: Finding) -> &'static str {
    match finding {
        Finding::Unknown => {
            "this agent found something that this wicectl has no words for: update wicectl"
        }
        Finding::NoLocalCandidates => {
            "This machine offers no address: bring a network up, or look at `exclude-interfaces` under [ice]."
        }
        Finding::NoStunServer => {
            "This machine offers private addresses only: name a STUN server under [ice] `servers`, so that it learns its public one."
        }
        Finding::StunUnanswered => {
            "This machine offers private addresses only, because no STUN server answered: check the names under [ice] `servers`, \
             and that the firewall lets UDP out of WireGuard's port."
        }
        Finding::NoRemoteCandidates => {
            "The peer offers no address: look at its network, and run wicectl explain there."
        }
        Finding::PeerOnlyPrivate => {
            "The peer offers private addresses only: give it a STUN server under [ice] `servers`, and see whether it answers."
        }
        Finding::NoCommonFamily => {
            "One side has only IPv4 addresses and the other only IPv6 ones: give one of them the other family."
        }
        Finding::NothingArrives => {
            "Nothing arrives from the peer: a firewall blocks UDP to or from WireGuard's port, or the NATs of both sides do not let \
             each other in. Open or forward that port on one side."
        }
        Finding::Unanswered => {
            "The peer's checks arrive, but it answers none of ours: a firewall in front of the peer, or here for what goes out, drops \
             them. Let UDP from and to WireGuard's port through."
        }
        Finding::MappingVaries => {
            "Our NAT uses another port for each destination (symmetric): forward WireGuard's port on our router, or set its NAT to \
             keep ports."
        }
        Finding::PeerMappingVaries => {
            "The peer's NAT uses another port for each destination (symmetric): forward WireGuard's port on the peer's router, or set \
             its NAT to keep ports."
        }
        Finding::UdpBlocked => {
            "This network lets no UDP out: no STUN server answers, and only the TURN server over TCP or TLS does. Packets go by that \
             relay until UDP gets through."
        }
        Finding::RelayOnly => {
            "The configuration asks for relays only: set `policy = \"all\"` under [ice] to allow direct paths."
        }
        Finding::PeerRelayOnly => {
            "The peer offers relayed addresses only: allow direct paths in its configuration, or see whether it has any other address."
        }
    }
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
    let text = serde_json::to_string_pretty(&document).expect("plain data becomes JSON");
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
        sent: pair.sent,
        answered: pair.answered,
        received: pair.received,
    }
}

#[cfg(test)]
mod tests {
    use wice_bus::Reason;

    use super::*;

    fn explained() -> (Interface, Peer, Explanation) {
        let candidate = |kind: &str, address: &str, port| Candidate {
            kind: kind.to_owned(),
            address: address.to_owned(),
            port,
            network: "udp4".to_owned(),
        };
        let peer = Peer {
            public_key: "bGFwdG9w".to_owned(),
            name: "laptop\u{7}".to_owned(),
            packet_path: "none".to_owned(),
            ..Peer::default()
        };
        let interface = Interface {
            name: "wg0".to_owned(),
            ..Interface::default()
        };
        let (own, seen) = (
            candidate("host", "192.168.1.2", 51820),
            candidate("srflx", "198.51.100.1", 4001),
        );
        let remote = candidate("srflx", "198.51.100.2", 4002);
        let pair = Pair {
            local: own.clone(),
            remote: remote.clone(),
            state: PairState::Failed,
            sent: 9,
            answered: 0,
            received: 0,
        };
        let explanation = Explanation {
            state: State::Failed,
            reason: Reason::NoPairWorks,
            local: vec![own, seen],
            remote: vec![remote],
            pairs: vec![pair],
            findings: vec![Finding::NoCommonFamily],
        };
        (interface, peer, explanation)
    }

    #[test]
    fn an_explanation_names_addresses_pairs_and_advice() {
        let (interface, peer, explanation) = explained();
        let expected = "\
peer: laptop\\u{7} on wg0
  state: failed: no pair of addresses works: it keeps trying

our candidates
  192.168.1.2:51820 (own address)
  198.51.100.1:4001 (as STUN sees it)

the peer's candidates
  198.51.100.2:4002 (as STUN sees it)

pairs
  192.168.1.2:51820 to 198.51.100.2:4002: failed: no check was answered (9 sent, 0 answered, 0 of the peer's arrived)

what would help
  One side has only IPv4 addresses and the other only IPv6 ones: give one of them the other family.
";
        assert_eq!(
            render(&interface, &peer, &explanation, Style::plain()),
            expected
        );
    }

    #[test]
    fn the_json_has_words_for_every_number() {
        let (interface, peer, explanation) = explained();
        let text = json(&interface, &peer, &explanation);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["version"], 1);
        assert_eq!(json["pairs"][0]["state"], "failed");
        assert_eq!(json["pairs"][0]["remote"]["type"], "srflx");
        assert_eq!(json["pairs"][0]["sent"], 9);
        assert_eq!(json["findings"][0], "no-common-family");
        assert_eq!(json["local_candidates"].as_array().map(Vec::len), Some(2));
    }
}
