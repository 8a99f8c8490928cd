//! A check on screen and in JSON.

use wice_bus::{Backend, BackendState, NetFinding};

use super::*;

fn checked() -> NetCheck {
    NetCheck {
        verdict: Verdict::Direct,
        findings: vec![NetFinding::ServerSilent, NetFinding::NoIpv6],
        families: vec![
            FamilyCheck {
                family: "ipv4".to_owned(),
                udp: Udp::Works,
                local_address: "192.168.1.2".to_owned(),
                mapped_address: "203.0.113.7:40213".to_owned(),
                mapping: Mapping::EndpointIndependent,
                mapping_method: MappingMethod::Rfc5780,
                filtering: Filtering::AddressAndPortDependent,
                hairpinning: Some(false),
                port_preserved: Some(true),
            },
            FamilyCheck {
                family: "ipv6".to_owned(),
                udp: Udp::NoAddress,
                ..FamilyCheck::default()
            },
        ],
        servers: vec![
            ServerCheck {
                url: "stun:a.example:3478".to_owned(),
                address: "198.51.100.1:3478".to_owned(),
                answered: true,
                rtt_us: 12_345,
                mapped_address: "203.0.113.7:40213".to_owned(),
                relays: None,
                discovery: true,
                error: String::new(),
            },
            ServerCheck {
                url: "turn:dead\u{1b}[2J:3478?transport=tcp".to_owned(),
                relays: Some(false),
                error: "no answer".to_owned(),
                ..ServerCheck::default()
            },
        ],
        backends: vec![Backend {
            url: "wss://a.example".to_owned(),
            state: BackendState::Up,
            error: String::new(),
        }],
    }
}

#[test]
fn a_check_says_what_it_means_and_what_it_comes_from() {
    let expected = "\
direct path: likely
  A direct path is likely with every peer that is not itself behind a NAT with another port for each destination.

IPv4
  UDP: works
  local address: 192.168.1.2
  mapped address: 203.0.113.7:40213
  mapping: endpoint-independent: one address for all destinations (by RFC 5780)
  filtering: address- and port-dependent: only the exact address and port that was sent to may
  hairpinning: no
  port preservation: yes

IPv6
  UDP: this machine has no address that leads anywhere

servers
  stun:a.example:3478 at 198.51.100.1:3478: 12 ms, sees 203.0.113.7:40213, tells filtering
  turn:dead\\u{1b}[2J:3478?transport=tcp: no answer

signalling
  wss://a.example up

what to know, and what would help
  Some of the servers do not answer: take the ones that are marked above out of the configuration, or mend them.
  This machine has no IPv6: where both sides have it, there is no NAT in the way.
";
    assert_eq!(render(&checked(), Style::plain()), expected);
}

#[test]
fn a_check_of_nothing_says_that_nobody_could_be_asked() {
    let text = render(&NetCheck::default(), Style::plain());
    assert!(text.contains("direct path: not known"), "{text}");
    assert!(
        text.contains("none is known, so nobody could be asked"),
        "{text}"
    );
    assert!(text.contains("no backend is configured"), "{text}");
}

#[test]
fn the_json_has_words_and_null_for_what_is_not_known() {
    let text = json(&checked());
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["version"], 1);
    assert_eq!(json["verdict"], "direct");
    assert_eq!(json["families"][0]["mapping"], "endpoint-independent");
    assert_eq!(json["families"][0]["hairpinning"], false);
    assert_eq!(json["families"][1]["udp"], "no-address");
    assert!(json["families"][1]["mapped_address"].is_null());
    assert_eq!(json["servers"][0]["rtt_us"], 12_345);
    assert!(json["servers"][0]["relays"].is_null());
    assert_eq!(json["servers"][1]["relays"], false);
    assert_eq!(json["servers"][1]["error"], "no answer");
    assert_eq!(json["findings"][1], "no-ipv6");
    assert_eq!(json["backends"][0]["state"], "up");
}
