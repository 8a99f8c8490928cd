//! The client against an independent server, in virtual time, and against messages that no such server sends.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use stun_types::TransportType;
use stun_types::attribute::{AlternateServer, AttributeType, ErrorCode, Nonce, Realm};
use stun_types::message::{Message, MessageWrite, MessageWriteExt, MessageWriteVec};
use turn_server_proto::api::{Transmit, TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer;
use turn_types::channel::ChannelData;
use turn_types::message::{ALLOCATE, REFRESH};

use super::{Client, Event, Failure};
use crate::server::Credential;

const SERVER: &str = "192.0.2.1:3478";
const CLIENT: &str = "192.0.2.2:40000";
const PEER: &str = "198.51.100.7:51820";
const RELAYED: [&str; 2] = ["192.0.2.1:50000", "[2001:db8::1]:50000"];

/// A client, a server, and the wire between them.
struct World {
    client: Client,
    server: TurnServer,
    begin: Instant,
    now: Instant,
    /// What the server sent to peers, with where to.
    sent: Vec<(SocketAddr, Vec<u8>)>,
    events: Vec<Event>,
    /// Whether the wire is cut.
    cut: bool,
    requests: usize,
}

impl World {
    fn new(password: &str) -> Self {
        let begin = Instant::now();
        let password = Credential::new(password.into());
        Self {
            client: Client::new("alice", Some(&password), false, [7; 32], begin),
            server: server(),
            begin,
            now: begin,
            sent: Vec::new(),
            events: Vec::new(),
            cut: false,
            requests: 0,
        }
    }

    /// One that has an allocation.
    fn allocated() -> Self {
        let mut world = Self::new("wonderland");
        world.settle();
        assert_eq!(
            world.take(),
            [Event::Allocated(RELAYED.map(address).to_vec())]
        );
        world
    }

    fn stamp(&self) -> turn_types::Instant {
        let elapsed = self.now.duration_since(self.begin).as_nanos();
        turn_types::Instant::from_nanos(i64::try_from(elapsed).unwrap())
    }

    /// Lets everything arrive that is on its way.
    fn settle(&mut self) {
        let mut busy = true;
        while std::mem::take(&mut busy) {
            while let Some(bytes) = self.client.poll_transmit() {
                busy = true;
                self.requests += 1;
                if self.cut {
                    continue;
                }
                let packet =
                    Transmit::new(bytes, TransportType::Udp, address(CLIENT), address(SERVER));
                let forwarded = self.server.recv(packet, self.stamp());
                if let Some(forwarded) = forwarded.map(|it| it.build()) {
                    self.arrive(forwarded.to, forwarded.data);
                }
            }
            while let TurnServerPollRet::AllocateSocket {
                transport,
                listen_addr,
                client_addr,
                allocation_transport,
                family,
            } = self.server.poll(self.stamp())
            {
                busy = true;
                let relayed =
                    RELAYED.map(address)[usize::from(family == stun_types::AddressFamily::IPV6)];
                let now = self.stamp();
                self.server.allocated_socket(
                    transport,
                    listen_addr,
                    client_addr,
                    allocation_transport,
                    family,
                    Ok(relayed),
                    now,
                );
            }
            while let Some(packet) = self.server.poll_transmit(self.stamp()) {
                busy = true;
                self.arrive(packet.to, packet.data);
            }
        }
        self.events
            .extend(std::iter::from_fn(|| self.client.poll_event()));
    }

    fn arrive(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        if to == address(CLIENT) {
            self.client.handle(&bytes, self.now);
        } else {
            self.sent.push((to, bytes));
        }
    }

    /// Lets time pass, deadline by deadline.
    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(due) = self.client.poll_timeout().filter(|due| *due <= until) {
            assert!(due >= self.now, "a deadline in the past");
            self.now = due;
            self.client.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    /// A peer sends something to our relayed address.
    fn peer_sends(&mut self, payload: &[u8]) {
        let packet = Transmit::new(
            payload.to_vec(),
            TransportType::Udp,
            address(PEER),
            address(RELAYED[0]),
        );
        let forwarded = self.server.recv(packet, self.stamp());
        if let Some(forwarded) = forwarded.map(|it| it.build()) {
            self.arrive(forwarded.to, forwarded.data);
        }
        self.settle();
    }

    fn permit(&mut self, peers: impl IntoIterator<Item = IpAddr>) {
        self.client.permit(&BTreeSet::from_iter(peers), self.now);
        self.settle();
    }

    fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

fn server() -> TurnServer {
    let mut server = TurnServer::new(TransportType::Udp, address(SERVER), "example.org".into());
    server.add_user("alice".into(), "wonderland".into());
    server
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_wrong_password_is_a_refusal_and_not_a_loop() {
    let mut world = World::new("swordfish");
    world.settle();
    let [Event::Failed(Failure::Refused(refusal))] = &world.take()[..] else {
        panic!("no refusal");
    };
    assert_eq!(refusal.code, ErrorCode::UNAUTHORIZED);
    assert!(world.requests <= 3, "{} requests", world.requests);
    assert_eq!(world.client.poll_timeout(), None, "nothing follows");
}

#[test]
fn a_silent_server_is_given_up_after_a_few_seconds() {
    let mut world = World::new("wonderland");
    world.cut = true;
    world.settle();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.take(), []);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.take(), [Event::Failed(Failure::Silent)]);
    assert_eq!(world.requests, 5);
}

#[test]
fn packets_travel_in_indications_and_then_in_a_channel() {
    let mut world = World::allocated();
    let peer = address(PEER);
    world.permit([peer.ip()]);
    world.client.send(peer, b"early");
    world.peer_sends(b"one");
    assert_eq!(
        world.take(),
        [Event::Data {
            peer,
            payload: b"one".to_vec()
        }]
    );

    world.client.bind(peer, world.now);
    world.settle();
    let [Event::Bound { number, .. }] = world.take()[..] else {
        panic!("no channel");
    };
    world.client.send(peer, b"late");
    let framed = world.client.poll_transmit().unwrap();
    let data = ChannelData::parse(&framed).unwrap();
    assert_eq!((data.id(), data.data()), (number, &b"late"[..]));
    world.client.send(peer, b"late");
    world.settle();
    world.peer_sends(b"two");
    assert_eq!(
        world.take(),
        [Event::Data {
            peer,
            payload: b"two".to_vec()
        }]
    );
    let sent = [(peer, b"early".to_vec()), (peer, b"late".to_vec())];
    assert_eq!(world.sent, sent);
}

#[test]
fn what_is_sent_before_the_permission_waits_for_it_and_strangers_get_nothing() {
    let mut world = World::allocated();
    let peer = address(PEER);
    world.client.send(peer, b"to nobody that is permitted");
    world.client.permit(&BTreeSet::from([peer.ip()]), world.now);
    world.client.send(peer, b"check");
    world.settle();
    assert_eq!(world.sent, [(peer, b"check".to_vec())]);

    // The server lets it through for minutes yet; we do not.
    world.permit([]);
    world.peer_sends(b"late");
    assert_eq!(world.take(), []);
}

#[test]
fn an_hour_later_everything_is_still_there() {
    let mut world = World::allocated();
    let peer = address(PEER);
    world.permit([peer.ip()]);
    world.client.bind(peer, world.now);
    world.settle();
    world.take();
    world.requests = 0;
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.take(), []);
    // A refresh every 25 s, a permission every 4 minutes, a channel every 5, and a few stale nonces.
    assert!(world.requests < 250, "{} requests", world.requests);
    world.client.send(peer, b"still there");
    world.settle();
    assert_eq!(world.sent, [(peer, b"still there".to_vec())]);
}

#[test]
fn a_server_that_was_restarted_is_noticed_by_a_probe() {
    let mut world = World::allocated();
    world.server = server();
    world.client.probe(world.now);
    world.settle();
    assert_eq!(world.take(), [Event::Failed(Failure::Gone)]);
}

#[test]
fn a_server_that_died_is_noticed_by_a_probe() {
    let mut world = World::allocated();
    world.cut = true;
    world.client.probe(world.now);
    world.settle();
    world.pass(Duration::from_secs(4));
    assert_eq!(world.take(), [Event::Failed(Failure::Silent)]);
}

#[test]
fn a_lost_answer_costs_a_repetition_and_nothing_more() {
    let mut world = World::new("wonderland");
    for round in 0..4 {
        world.cut = round % 2 == 0;
        world.settle();
        world.pass(Duration::from_millis(800));
    }
    assert_eq!(
        world.take(),
        [Event::Allocated(RELAYED.map(address).to_vec())]
    );
}

#[test]
fn a_public_relay_is_not_asked_for_private_addresses() {
    let mut world = World::allocated();
    world.requests = 0;
    let peers =
        ["10.1.2.3", "100.64.0.9", "127.0.0.1", "fd00::1"].map(|text| text.parse().unwrap());
    world.permit(peers);
    for peer in peers {
        world.client.bind(SocketAddr::new(peer, 9), world.now);
        world.client.send(SocketAddr::new(peer, 9), b"x");
    }
    world.settle();
    assert_eq!((world.requests, world.sent.len()), (0, 0));
    assert!(world.client.held.is_empty());
}

#[test]
fn five_hundred_peers_cost_sixteen_permission_requests() {
    let mut world = World::allocated();
    world.requests = 0;
    world.permit((0..500u32).map(|n| IpAddr::from((0xc633_6400 + n).to_be_bytes())));
    assert_eq!(world.requests, 16);
}

#[test]
fn a_released_allocation_is_gone_on_the_server_too() {
    let mut world = World::allocated();
    world.client.release();
    world.settle();
    assert_eq!(world.client.relayed(), []);
    let password = Credential::new("wonderland".into());
    world.client = Client::new("alice", Some(&password), false, [8; 32], world.now);
    world.settle();
    assert!(
        matches!(world.take()[..], [Event::Allocated(_)]),
        "from the same address"
    );
}

/// The client's next request, answered by an error with these words.
fn refuse(client: &mut Client, code: u16, extra: impl FnOnce(&mut MessageWriteVec)) -> Vec<u8> {
    let request = client.poll_transmit().unwrap();
    let message = Message::from_bytes(&request).unwrap();
    let mut answer = Message::builder_error(&message, MessageWriteVec::new());
    answer
        .add_attribute(&ErrorCode::new(code, "words").unwrap())
        .unwrap();
    extra(&mut answer);
    client.handle(&answer.finish(), Instant::now());
    request
}

fn challenge(nonce: &str) -> impl FnOnce(&mut MessageWriteVec) {
    move |answer| {
        answer
            .add_attribute(&Realm::new("example.org").unwrap())
            .unwrap();
        answer.add_attribute(&Nonce::new(nonce).unwrap()).unwrap();
    }
}

fn alone() -> Client {
    Client::new(
        "alice",
        Some(&Credential::new("x".into())),
        false,
        [1; 32],
        Instant::now(),
    )
}

#[test]
fn an_alternate_server_is_handed_on() {
    let mut client = alone();
    refuse(&mut client, 401, challenge("a"));
    refuse(&mut client, 300, |answer| {
        answer
            .add_attribute(&AlternateServer::new(address("192.0.2.9:3479")))
            .unwrap();
    });
    let failure = Event::Failed(Failure::Alternate(address("192.0.2.9:3479")));
    assert_eq!(client.poll_event(), Some(failure));
}

#[test]
fn a_stale_nonce_is_taken_up_but_not_for_ever() {
    let mut client = alone();
    refuse(&mut client, 401, challenge("a"));
    for round in 0..20 {
        if let Some(Event::Failed(Failure::Refused(refusal))) = client.poll_event() {
            assert_eq!((refusal.code, round < 10), (438, true));
            return;
        }
        let request = refuse(&mut client, 438, challenge(&format!("b{round}")));
        let message = Message::from_bytes(&request).unwrap();
        assert!(message.has_method(ALLOCATE) && !message.has_method(REFRESH));
    }
    panic!("it never ends");
}

#[test]
fn a_server_of_one_family_gives_one_address() {
    let mut client = alone();
    refuse(&mut client, 401, challenge("a"));
    let both = refuse(&mut client, 440, |_| {});
    let ipv4 = refuse(&mut client, 440, |_| {});
    let ipv6 = client.poll_transmit().unwrap();
    let families = [both, ipv4, ipv6].map(|bytes| {
        let message = Message::from_bytes(&bytes).unwrap();
        let has = |number| message.has_attribute(AttributeType::new(number));
        (has(0x8000), has(0x0017))
    });
    assert_eq!(families, [(true, false), (false, false), (false, true)]);
}

#[test]
fn a_success_that_the_server_did_not_sign_is_no_success() {
    let mut client = alone();
    refuse(&mut client, 401, challenge("a"));
    let request = client.poll_transmit().unwrap();
    let message = Message::from_bytes(&request).unwrap();
    let mut forged = Message::builder_success(&message, MessageWriteVec::new());
    let relayed = turn_types::attribute::XorRelayedAddress::new(
        address("203.0.113.6:6"),
        message.transaction_id(),
    );
    forged.add_attribute(&relayed).unwrap();
    client.handle(&forged.finish(), Instant::now());
    assert_eq!((client.poll_event(), client.relayed().len()), (None, 0));
}

#[test]
fn a_permission_that_is_refused_takes_no_other_with_it() {
    let mut world = World::allocated();
    let peers = ["198.51.100.1", "198.51.100.2"].map(|text| text.parse::<IpAddr>().unwrap());
    world.client.permit(&BTreeSet::from(peers), world.now);
    refuse(&mut world.client, 403, |_| {});
    // Each is asked for by itself then: the first is refused again.
    refuse(&mut world.client, 403, |_| {});
    world.settle();
    let events = world.take();
    assert!(
        matches!(&events[..], [Event::NotPermitted { peer, refusal }] if *peer == peers[0] && refusal.code == 403),
        "{events:?}"
    );
    for peer in peers {
        world.client.send(SocketAddr::new(peer, 9), b"x");
    }
    world.settle();
    assert_eq!(world.sent, [(SocketAddr::new(peers[1], 9), b"x".to_vec())]);
}

#[test]
fn refusals_say_what_to_do_and_print_no_control_characters() {
    let refusal = super::Refusal {
        code: 486,
        reason: "Allocation Quota Reached".into(),
    };
    assert!(refusal.to_string().contains("quota"), "{refusal}");
    let code = ErrorCode::new(400, "bad\x1b[31m").unwrap();
    assert!(!super::Refusal::new(&code).to_string().contains('\x1b'));
}

#[test]
fn whatever_arrives_changes_nothing_unless_it_is_an_answer() {
    let mut world = World::allocated();
    for bytes in [
        &[][..],
        &[0; 3],
        &[0x40, 0, 0, 9, 1],
        &[0xff; 64],
        &[0x40, 0, 0, 1, 1],
    ] {
        world.client.handle(bytes, world.now);
    }
    world.settle();
    assert_eq!(world.take(), []);
}
