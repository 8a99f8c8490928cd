//! Tables: addresses, servers and answers in; requests and candidates out.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use stun_types::attribute::XorMappedAddress;
use stun_types::message::{Message, MessageWrite, MessageWriteExt, MessageWriteVec};

use super::{Gather, Request};
use crate::candidate::{Kind, Network};
use crate::io::Packet;
use crate::relay::Relayed;
use crate::server::Transport;
use crate::session::Random;

const BASE: &str = "192.168.1.2:51820";
const SERVER: &str = "203.0.113.1:3478";
const OTHER_SERVER: &str = "203.0.113.2:3478";
const MAPPED: &str = "198.51.100.1:40000";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| address(text)).collect()
}

struct Bench {
    gather: Gather,
    start: Instant,
    random: Random,
}

impl Bench {
    fn new(bases: &[&str], servers: &[&str]) -> Self {
        let start = Instant::now();
        let mut gather = Gather::default();
        gather.set(&addresses(bases), &addresses(servers), true, start);
        Self {
            gather,
            start,
            random: Random::seed_from_u64(1),
        }
    }

    fn requests(&mut self, millis: u64) -> Vec<Request> {
        let now = self.start + Duration::from_millis(millis);
        self.gather.handle_timeout(now, &mut self.random)
    }

    /// What the server says; `None` when it is not taken for an answer.
    fn answer(&mut self, request: &Request, mapped: &str, millis: u64) -> Option<bool> {
        let packet = answer(request, address(mapped));
        let now = self.start + Duration::from_millis(millis);
        self.gather.handle_packet(&packet, now)
    }

    fn candidates(&self) -> Vec<(Kind, String)> {
        let candidates = self.gather.candidates();
        (candidates.iter())
            .map(|candidate| (candidate.kind, candidate.socket_addr().to_string()))
            .collect()
    }

    /// Milliseconds at which requests leave if nobody ever answers.
    fn request_times(&mut self, until: u64) -> Vec<u64> {
        let mut times = Vec::new();
        while let Some(at) = self.gather.poll_timeout() {
            let millis = at.duration_since(self.start).as_millis() as u64;
            if millis > until {
                break;
            }
            if !self.requests(millis).is_empty() {
                times.push(millis);
            }
        }
        times
    }
}

fn answer(request: &Request, mapped: SocketAddr) -> Packet {
    let message = Message::from_bytes(&request.payload).expect("a binding request");
    let mut answer = Message::builder_success(&message, MessageWriteVec::new());
    answer
        .add_attribute(&XorMappedAddress::new(mapped, message.transaction_id()))
        .expect("it fits");
    Packet {
        source: request.destination,
        destination: request.source,
        payload: answer.finish(),
    }
}

fn host(address: &str) -> (Kind, String) {
    (Kind::Host, address.to_owned())
}

fn reflexive(address: &str) -> (Kind, String) {
    (Kind::Srflx, address.to_owned())
}

#[test]
fn without_servers_gathering_is_finished_at_once() {
    let bench = Bench::new(&[BASE, "[2001:db8::1]:51820"], &[]);
    assert!(bench.gather.is_finished());
    assert_eq!(bench.gather.poll_timeout(), None);
    let expected = [host(BASE), host("[2001:db8::1]:51820")];
    assert_eq!(bench.candidates(), expected);
}

#[test]
fn each_base_asks_the_servers_of_its_family() {
    let mut bench = Bench::new(
        &[BASE, "[2001:db8::1]:51820", "127.0.0.1:51820"],
        &[SERVER, OTHER_SERVER, "[2001:db8::99]:3478"],
    );
    let mut asked: Vec<(String, String)> = (bench.requests(0).iter())
        .map(|it| (it.source.to_string(), it.destination.to_string()))
        .collect();
    asked.sort();
    let expected = [
        (BASE, SERVER),
        (BASE, OTHER_SERVER),
        ("[2001:db8::1]:51820", "[2001:db8::99]:3478"),
    ];
    let expected = expected.map(|(base, server)| (base.to_owned(), server.to_owned()));
    assert_eq!(asked, expected);
}

#[test]
fn an_answer_is_a_candidate_and_ends_gathering() {
    let mut bench = Bench::new(&[BASE], &[SERVER]);
    let request = bench.requests(0).remove(0);
    assert!(!bench.gather.is_finished());
    assert_eq!(bench.answer(&request, MAPPED, 20), Some(true));
    assert!(bench.gather.is_finished());
    assert_eq!(bench.candidates(), [host(BASE), reflexive(MAPPED)]);
    let candidates = bench.gather.candidates();
    assert!(candidates[0].priority > candidates[1].priority);
    assert_eq!(candidates[1].related_address, Some(address(BASE).ip()));
    assert_eq!(bench.answer(&request, MAPPED, 30), None, "said twice");
}

#[test]
fn an_address_that_is_not_translated_is_no_second_candidate() {
    let mut bench = Bench::new(&["198.51.100.1:51820"], &[SERVER]);
    let request = bench.requests(0).remove(0);
    bench.answer(&request, "198.51.100.1:51820", 20);
    assert_eq!(bench.candidates(), [host("198.51.100.1:51820")]);
}

#[test]
fn only_the_server_that_was_asked_may_answer_and_only_with_an_address_of_its_family() {
    let mut bench = Bench::new(&[BASE], &[SERVER]);
    let request = bench.requests(0).remove(0);
    let good = answer(&request, address(MAPPED));
    let foreign = Packet {
        source: address(OTHER_SERVER),
        ..good.clone()
    };
    let elsewhere = Packet {
        destination: address("192.168.1.3:51820"),
        ..good.clone()
    };
    let truncated = Packet {
        payload: good.payload[..20].to_vec(),
        ..good.clone()
    };
    let echo = Packet {
        payload: request.payload.clone(),
        ..good
    };
    for packet in [&foreign, &elsewhere, &truncated, &echo] {
        assert_eq!(bench.gather.handle_packet(packet, bench.start), None);
    }
    assert_eq!(bench.answer(&request, "[2001:db8::5]:40000", 20), None);
    assert_eq!(bench.answer(&request, "198.51.100.1:0", 20), None);
    assert_eq!(bench.candidates(), [host(BASE)]);
    assert_eq!(
        bench.answer(&request, MAPPED, 40),
        Some(true),
        "the true one still counts"
    );
}

#[test]
fn a_silent_server_is_asked_four_times_and_then_given_up() {
    let mut bench = Bench::new(&[BASE], &[SERVER]);
    assert_eq!(bench.request_times(600_000), [0, 200, 600, 1_400]);
    assert!(bench.gather.is_finished());
    assert_eq!(bench.gather.poll_timeout(), None);
}

#[test]
fn a_silent_server_is_asked_again_while_somebody_may_be_told() {
    let mut bench = Bench::new(&[BASE], &[SERVER]);
    bench.gather.set_refreshing(true, bench.start);
    let times = bench.request_times(40_000);
    assert_eq!(times, [0, 200, 600, 1_400, 31_400, 31_600, 32_000, 32_800]);
}

#[test]
fn a_mapping_is_refreshed_only_while_somebody_may_be_told_and_news_are_told() {
    let mut bench = Bench::new(&[BASE], &[SERVER]);
    let request = bench.requests(0).remove(0);
    bench.answer(&request, MAPPED, 20);
    assert_eq!(bench.gather.poll_timeout(), None);
    let much_later = bench.start + Duration::from_secs(100);
    bench.gather.set_refreshing(true, much_later);
    assert_eq!(bench.gather.poll_timeout(), Some(much_later), "overdue");
    let request = bench.requests(100_000).remove(0);
    assert_eq!(bench.answer(&request, MAPPED, 100_020), Some(false));
    let request = bench.requests(125_020).remove(0);
    assert_eq!(
        bench.answer(&request, "198.51.100.9:40000", 125_040),
        Some(true)
    );
    assert_eq!(
        bench.candidates(),
        [host(BASE), reflexive("198.51.100.9:40000")]
    );
}

#[test]
fn what_a_former_server_said_holds_until_another_one_answers() {
    let mut bench = Bench::new(&[BASE], &[SERVER]);
    let request = bench.requests(0).remove(0);
    bench.answer(&request, MAPPED, 20);
    let servers = addresses(&[OTHER_SERVER]);
    bench
        .gather
        .set(&addresses(&[BASE]), &servers, true, bench.start);
    assert!(!bench.gather.is_finished());
    assert_eq!(bench.candidates(), [host(BASE), reflexive(MAPPED)]);
    let request = bench.requests(100).remove(0);
    assert_eq!(
        bench.answer(&request, "198.51.100.9:40000", 120),
        Some(true)
    );
    assert_eq!(
        bench.candidates(),
        [host(BASE), reflexive("198.51.100.9:40000")]
    );
}

#[test]
fn what_was_said_of_an_address_goes_with_it() {
    let mut bench = Bench::new(&[BASE], &[SERVER]);
    let request = bench.requests(0).remove(0);
    bench.answer(&request, MAPPED, 20);
    let moved = addresses(&["10.0.0.9:51820"]);
    bench
        .gather
        .set(&moved, &addresses(&[SERVER]), true, bench.start);
    assert_eq!(bench.candidates(), [host("10.0.0.9:51820")]);
    bench
        .gather
        .set(&addresses(&[BASE]), &[], true, bench.start);
    assert_eq!(bench.candidates(), [host(BASE)]);
}

#[test]
fn an_offer_never_carries_more_than_sixteen_candidates() {
    let bases: Vec<String> = (1..=20)
        .map(|index| format!("10.0.0.{index}:51820"))
        .collect();
    let bases: Vec<&str> = bases.iter().map(String::as_str).collect();
    let mut bench = Bench::new(&bases, &[SERVER, OTHER_SERVER]);
    for (index, request) in bench.requests(0).iter().enumerate() {
        let mapped = format!("198.51.100.1:{}", 40_000 + index);
        bench.answer(request, &mapped, 20);
    }
    let candidates = bench.candidates();
    assert_eq!(candidates.len(), 16);
    assert_eq!(candidates[0], host("10.0.0.1:51820"));
}

#[test]
fn relayed_addresses_are_candidates_and_waited_for_only_at_the_end() {
    let mut bench = Bench::new(&[BASE], &[]);
    assert!(bench.gather.is_finished());
    bench.gather.expect_relays(true);
    assert!(!bench.gather.is_finished());
    assert_eq!(bench.candidates().len(), 1, "others are not held up");
    let relayed = |text: &str| Relayed {
        address: address(text),
        server: address(SERVER),
        transport: Transport::Udp,
    };
    let all = ["203.0.113.9:50000", "[2001:db8::9]:50000"].map(relayed);
    bench.gather.set_relayed(&all, false);
    assert!(!bench.gather.is_finished());
    bench.gather.set_relayed(&all, true);
    assert!(bench.gather.is_finished());
    let candidates = bench.gather.candidates();
    let relays: Vec<_> = (candidates.iter())
        .filter(|it| it.kind == Kind::Relay)
        .map(|it| (it.socket_addr(), it.network, it.priority >> 24))
        .collect();
    let expected = [
        (all[0].address, Network::Udp4, 0),
        (all[1].address, Network::Udp6, 0),
    ];
    assert_eq!(relays, expected);
    // Lost, or not wanted any more.
    bench.gather.set_relayed(&[], true);
    assert_eq!(bench.candidates().len(), 1);
    bench.gather.set_relayed(&all, true);
    bench.gather.expect_relays(false);
    assert_eq!(bench.candidates().len(), 1);
    assert!(bench.gather.is_finished());
}

#[test]
fn an_offer_has_room_for_relays_whatever_else_there_is() {
    let bases: Vec<String> = (1..=12).map(|it| format!("192.168.1.{it}:51820")).collect();
    let bases: Vec<&str> = bases.iter().map(String::as_str).collect();
    let mut bench = Bench::new(&bases, &[SERVER]);
    for (index, request) in bench.requests(0).iter().enumerate() {
        bench.answer(request, &format!("198.51.100.1:{}", 40_000 + index), 10);
    }
    let relayed = Relayed {
        address: address("203.0.113.9:50000"),
        server: address(SERVER),
        transport: Transport::Tls,
    };
    bench.gather.set_relayed(&[relayed], true);
    let candidates = bench.gather.candidates();
    assert_eq!(candidates.len(), 16);
    assert_eq!(candidates[15].kind, Kind::Relay);
}
