//! What follows from what was seen, case by case.

use std::net::SocketAddr;
use std::time::Duration;

use wice_bus::{
    Backend, BackendState, FamilyCheck, Filtering, Mapping, MappingMethod, NetFinding, ServerCheck,
    Udp, Verdict,
};

use super::family::{Alternate, IpFamily, Seen, is_second};
use super::judge::{judge, one};
use super::socket::Silence;
use super::*;
use crate::net::binding::Bound;

const LOCAL: &str = "192.168.1.2:5000";
const MAPPED: &str = "203.0.113.7:5000";
const OTHER: &str = "203.0.113.7:6000";
const THIRD: &str = "203.0.113.7:7000";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Each server with what it sees; nothing for one that does not answer.
fn seen(answers: &[(&str, Option<&str>)]) -> Seen {
    let answer = |mapped: &str| {
        let bound = Bound {
            mapped: address(mapped),
            other: None,
        };
        (bound, Duration::from_millis(10))
    };
    let answers = answers.iter().map(|(server, mapped)| {
        let answer = mapped.map(answer).ok_or(Silence::Unanswered);
        (address(server), answer)
    });
    Seen {
        local: Some(address(LOCAL)),
        answers: answers.collect(),
        alternates: Vec::new(),
        hairpins: None,
    }
}

fn tested(other_address: Option<&str>, other_both: Option<&str>, admits: (bool, bool)) -> Seen {
    Seen {
        alternates: vec![Alternate {
            mapped: address(MAPPED),
            other_address: other_address.map(address),
            other_both: other_both.map(address),
            admits_addresses: admits.0,
            admits_ports: admits.1,
        }],
        ..seen(&[("192.0.2.1:3478", Some(MAPPED))])
    }
}

fn v4(seen: &Seen) -> FamilyCheck {
    one(IpFamily::V4, seen)
}

#[test]
fn the_second_address_of_a_server_tells_mapping_and_filtering() {
    for (second, both, admits, mapping, filtering) in [
        (
            Some(MAPPED),
            Some(MAPPED),
            (true, true),
            Mapping::EndpointIndependent,
            Filtering::EndpointIndependent,
        ),
        (
            Some(MAPPED),
            Some(MAPPED),
            (false, true),
            Mapping::EndpointIndependent,
            Filtering::AddressDependent,
        ),
        (
            Some(OTHER),
            Some(OTHER),
            (false, false),
            Mapping::AddressDependent,
            Filtering::AddressAndPortDependent,
        ),
        (
            Some(OTHER),
            Some(THIRD),
            (false, false),
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        ),
        (
            None,
            Some(OTHER),
            (false, false),
            Mapping::Dependent,
            Filtering::AddressAndPortDependent,
        ),
    ] {
        let check = v4(&tested(second, both, admits));
        assert_eq!(check.mapping, mapping, "{second:?} {both:?}");
        assert_eq!(check.mapping_method, MappingMethod::Rfc5780);
        assert_eq!(check.filtering, filtering, "{admits:?}");
        assert_eq!(check.udp, Udp::Works);
        assert_eq!(check.port_preserved, Some(true));
    }
}

#[test]
fn a_second_address_that_is_dead_tells_nothing() {
    let check = v4(&tested(None, None, (false, false)));
    assert_eq!(check.mapping, Mapping::Unknown);
    assert_eq!(check.mapping_method, MappingMethod::None);
    assert_eq!(check.filtering, Filtering::Unknown);
}

#[test]
fn several_servers_tell_the_mapping() {
    let (a, a2, b) = ("192.0.2.1:3478", "192.0.2.1:3479", "192.0.2.2:3478");
    for (answers, mapping) in [
        (vec![(a, Some(MAPPED))], Mapping::Unknown),
        (vec![(a, Some(MAPPED)), (b, None)], Mapping::Unknown),
        (
            vec![(a, Some(MAPPED)), (a2, Some(MAPPED))],
            Mapping::Unknown,
        ),
        (
            vec![(a, Some(MAPPED)), (b, Some(MAPPED))],
            Mapping::EndpointIndependent,
        ),
        (
            vec![(a, Some(MAPPED)), (b, Some(OTHER))],
            Mapping::Dependent,
        ),
        (
            vec![(a, Some(MAPPED)), (a2, Some(OTHER))],
            Mapping::AddressAndPortDependent,
        ),
        (vec![(a, Some(LOCAL))], Mapping::None),
    ] {
        assert_eq!(v4(&seen(&answers)).mapping, mapping, "{answers:?}");
    }
    // A test that one server passes does not outweigh what another one sees.
    let mut both = tested(Some(MAPPED), Some(MAPPED), (false, false));
    both.answers
        .extend(seen(&[("192.0.2.9:3478", Some(OTHER))]).answers);
    assert_eq!(v4(&both).mapping, Mapping::Dependent);
}

#[test]
fn a_family_without_a_way_or_a_server_says_so() {
    assert_eq!(v4(&Seen::default()).udp, Udp::NoAddress);
    assert_eq!(v4(&seen(&[])).udp, Udp::NoServer);
    assert_eq!(v4(&seen(&[("192.0.2.1:3478", None)])).udp, Udp::Unanswered);
}

#[test]
fn a_server_cannot_send_us_wherever_it_likes() {
    let server = address("192.0.2.1:3478");
    assert!(is_second(server, address("198.51.100.1:3479")));
    for other in [
        "192.0.2.1:3479",
        "198.51.100.1:3478",
        "198.51.100.1:0",
        "0.0.0.0:3479",
        "127.0.0.1:3479",
        "224.0.0.1:3479",
        "255.255.255.255:3479",
        "[2001:db8::1]:3479",
    ] {
        assert!(!is_second(server, address(other)), "{other}");
    }
}

fn server(url: &str, answered: bool, relays: Option<bool>) -> ServerCheck {
    ServerCheck {
        url: url.to_owned(),
        answered,
        relays,
        ..ServerCheck::default()
    }
}

fn judged(ipv4: Seen, servers: Vec<ServerCheck>) -> NetCheck {
    let backend = Backend {
        url: "wss://a".to_owned(),
        state: BackendState::Up,
        error: String::new(),
    };
    let seen = [(IpFamily::V4, ipv4), (IpFamily::V6, seen(&[]))];
    judge(&seen, servers, vec![backend])
}

#[test]
fn a_verdict_and_its_findings_follow_from_what_was_seen() {
    use NetFinding as Found;
    const STUN: &str = "stun:a:3478";
    const TURN: &str = "turn:a:3478?transport=udp";
    const TLS: &str = "turns:a:443";
    let silent = || seen(&[("192.0.2.1:3478", None)]);
    let cone = || tested(Some(MAPPED), Some(MAPPED), (false, true));
    let symmetric = || tested(Some(OTHER), Some(THIRD), (false, false));
    for (ipv4, servers, verdict, findings) in [
        (seen(&[]), vec![], Verdict::Unknown, vec![Found::NoServer]),
        (
            cone(),
            vec![server(STUN, true, None), server(TURN, true, Some(true))],
            Verdict::Direct,
            vec![],
        ),
        (
            symmetric(),
            vec![server(STUN, true, None)],
            Verdict::DirectWithSome,
            vec![Found::MappingVaries, Found::NoRelay],
        ),
        (
            cone(),
            vec![server(STUN, true, None), server(TURN, false, Some(false))],
            Verdict::Direct,
            vec![Found::ServerSilent, Found::NoRelayWorks],
        ),
        (
            seen(&[("192.0.2.1:3478", Some(MAPPED))]),
            vec![server(TURN, true, Some(true))],
            Verdict::Direct,
            vec![Found::MappingUnknown, Found::FilteringUnknown],
        ),
        (
            silent(),
            vec![server(STUN, false, None), server(TLS, true, Some(true))],
            Verdict::RelayOnly,
            vec![Found::UdpBlocked],
        ),
        (
            silent(),
            vec![server(STUN, false, None), server(TURN, false, Some(false))],
            Verdict::Blocked,
            vec![
                Found::NothingAnswers,
                Found::NoRelayWorks,
                Found::NoTcpRelay,
            ],
        ),
    ] {
        let check = judged(ipv4, servers);
        assert_eq!(check.verdict, verdict, "{check:?}");
        assert_eq!(check.findings, findings, "{check:?}");
    }
    let check = judge(&[(IpFamily::V6, Seen::default())], Vec::new(), Vec::new());
    let found = [Found::NoServer, Found::NoBackend, Found::NoIpv6];
    assert_eq!(check.findings, found);
}

#[tokio::test]
async fn a_name_that_nobody_knows_and_a_port_where_nobody_is_are_named() {
    // A socket that never answers: the port is taken, so that nobody else is asked.
    let mute = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = mute.local_addr().expect("it has one").port();
    let server = |url: &str| IceServer {
        url: url.parse().expect("a URI"),
        username: String::new(),
        credential: None,
    };
    let check = start(Question {
        servers: vec![
            server("stun:nobody.invalid"),
            server(&format!("stun:127.0.0.1:{port}")),
        ],
        fwmark: 0,
        patience: Duration::from_millis(1200),
        backends: Vec::new(),
    });
    let check = tokio::time::timeout(Duration::from_secs(30), check)
        .await
        .expect("it ends by itself")
        .expect("a thread");
    let errors: Vec<&str> = check.servers.iter().map(|it| it.error.as_str()).collect();
    assert!(errors[0].contains("cannot resolve its name"), "{errors:?}");
    assert!(errors[1].contains("no answer over UDP"), "{errors:?}");
    assert_eq!(check.verdict, Verdict::Blocked);
    let mut request = [0; 64];
    mute.set_nonblocking(true).expect("set");
    assert!(mute.recv(&mut request).is_ok(), "nothing was asked");
}
