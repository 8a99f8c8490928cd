//! An explanation on screen and in JSON.

use wice_bus::{Finding, Reason};

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
  192.168.1.2:51820 to 198.51.100.2:4002: failed: nothing came back (9 sent, 0 answered, 0 of the peer's arrived)

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

#[test]
fn a_pair_that_failed_says_why() {
    let pair = |it: &Pair| pair(it, Style::plain());
    let (_, _, explanation) = explained();
    let failed = &explanation.pairs[0];
    let private = Candidate {
        kind: "host".to_owned(),
        address: "192.168.7.2".to_owned(),
        ..failed.remote.clone()
    };
    let private = Pair {
        remote: private,
        ..failed.clone()
    };
    let heard = Pair {
        received: 2,
        ..private.clone()
    };
    let works = Pair {
        state: PairState::Answered,
        ..failed.clone()
    };
    assert!(!pair(failed).contains("TCP"));
    let stream = Candidate {
        network: "tcp4".to_owned(),
        ..failed.remote.clone()
    };
    let stream = Pair {
        remote: stream,
        ..failed.clone()
    };
    assert!(pair(&stream).contains("198.51.100.2:4002 over TCP: failed"));
    assert!(status::candidate(&stream.remote).ends_with("(as STUN sees it, TCP)"));
    for (tried, word) in [
        (failed, Some("nothing-came")),
        (&private, Some("private-address")),
        (&heard, Some("not-answered")),
        (&works, None),
    ] {
        assert_eq!(pair_fields(tried).cause, word, "{tried:?}");
    }
}
