//! Anything in any order into a mesh: it never panics, never spins, and its outputs are bounded.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::{device, key};
use proptest::prelude::{Just, Strategy, any, prop_assert, proptest};
use proptest::{collection, prop_oneof, sample};
use wice_core::device::{Device, Peer};
use wice_core::io::{Input, LocalAddress, Now, Output, Packet};
use wice_core::key::PublicKey;
use wice_core::mailbox::{Mailbox, Sealed};
use wice_core::mesh::Mesh;
use wice_core::relay::{RelayOrder, Relayed};
use wice_core::server::Transport;
use wice_core::settings::{CandidateKinds, Policy, Settings};

const PEERS: usize = 3;

const LOOPBACK: &str = "127.128.0.1:4000";
const RELAYED: [&str; 4] = [
    "203.0.113.10:50000",
    "203.0.113.10:50001",
    "203.0.113.20:50000",
    "[2001:db8::20]:50000",
];

/// What happens to the mesh under test.
#[derive(Debug, Clone)]
enum Event {
    Input(Box<Input>),
    /// A message that a peer's own agent has published, as it is or with one byte changed.
    Offer {
        age: usize,
        damage: Option<u8>,
    },
    /// A STUN packet that the mesh has sent, turned into something else and sent back.
    Echo {
        age: usize,
        class: u8,
        flip: usize,
    },
    /// The agents of the peers do what is due.
    Peers,
    Pass(Duration),
    ClockStep(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let input = prop_oneof![
        4 => dump().prop_map(Input::Device),
        1 => sample::select(vec!["wg0", "wg1", "other"]).prop_map(|name| Input::Gone(name.into())),
        2 => addresses().prop_map(Input::Addresses),
        1 => collection::vec(server(), 0..4).prop_map(Input::StunServers),
        1 => (any::<[bool; 4]>(), policy()).prop_map(settings).prop_map(Input::Settings),
        3 => (7..9_u32, collection::vec(relayed(), 0..6), any::<bool>()).prop_map(
            |(interface, addresses, finished)| Input::Relayed { interface, addresses, finished },
        ),
        2 => (7..9_u32, 0..PEERS, proptest::option::of(Just(LOOPBACK))).prop_map(|(interface, peer, endpoint)| {
            let endpoint = endpoint.map(|it| it.parse().expect("an address"));
            Input::RelayRoute { interface, peer: peer_key(peer), endpoint }
        }),
        1 => prop_oneof![Just(Input::BackendUp), Just(Input::BackendDown), Just(Input::Stop)],
        2 => (0..PEERS).prop_map(|peer| Input::Restart { interface: "wg0".into(), peer: peer_key(peer) }),
        2 => (server(), collection::vec(any::<u8>(), 0..60)).prop_map(|(source, tail)| {
            let mut payload = vec![0, 1, 0, tail.len() as u8, 0x21, 0x12, 0xa4, 0x42];
            payload.extend(tail);
            let destination = SocketAddr::from(([198, 51, 100, 1], 51820));
            Input::Packet(Packet { source, destination, payload })
        }),
        1 => Just(Input::Timeout),
    ];
    prop_oneof![
        6 => input.prop_map(Box::new).prop_map(Event::Input),
        6 => (0..6_usize, prop_oneof![3 => Just(None), 1 => any::<u8>().prop_map(Some)])
            .prop_map(|(age, damage)| Event::Offer { age, damage }),
        3 => (0..6_usize, any::<u8>(), 0..40_usize)
            .prop_map(|(age, class, flip)| Event::Echo { age, class, flip }),
        4 => Just(Event::Peers),
        6 => prop_oneof![3 => 0..2_000_u64, 1 => 0..100_000_u64]
            .prop_map(|time| Event::Pass(Duration::from_millis(time))),
        1 => (-86_400..86_400_i64).prop_map(Event::ClockStep),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    sample::select(vec![
        Policy::All,
        Policy::All,
        Policy::All,
        Policy::Direct,
        Policy::Relay,
    ])
}

fn relayed() -> impl Strategy<Value = Relayed> {
    let transport = sample::select(vec![Transport::Udp, Transport::Tls]);
    (sample::select(RELAYED.to_vec()), server(), transport).prop_map(
        |(address, server, transport)| Relayed {
            address: address.parse().expect("an address"),
            server,
            transport,
        },
    )
}

fn dump() -> impl Strategy<Value = Device> {
    let peer = (
        any::<bool>(),
        proptest::option::of(server()),
        0..5_u64,
        0..5_u64,
    );
    (
        any::<bool>(),
        0..4_u8,
        0..3_u16,
        collection::vec(peer, PEERS),
    )
        .prop_map(|(second, own, port, peers)| {
            let mut device = device(&key(1), 51820 * u16::from(port > 0) + port / 2, &[]);
            if second {
                device.name = "wg1".into();
                device.index = 8;
            }
            if own == 0 {
                device.private_key = None;
            } else if own == 1 {
                device.private_key = Some(key(99));
            }
            for (index, (present, endpoint, rx, handshake)) in peers.into_iter().enumerate() {
                if present {
                    let peer = Peer {
                        endpoint,
                        rx_bytes: rx,
                        latest_handshake: Duration::from_secs(handshake),
                        ..Peer::default()
                    };
                    device.peers.insert(peer_key(index), peer);
                }
            }
            device
        })
}

fn addresses() -> impl Strategy<Value = Vec<LocalAddress>> {
    let address = sample::select(vec![
        "198.51.100.1",
        "192.168.1.2",
        "2001:db8::1",
        "fe80::1",
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
    ]);
    let link = sample::select(vec!["eth0", "wlan0", "wg0", "wg1"]);
    let local =
        (link, address, any::<bool>()).prop_map(|(link, address, deprecated)| LocalAddress {
            link: link.into(),
            address: address.parse().expect("an address"),
            deprecated,
        });
    collection::vec(local, 0..12)
}

fn server() -> impl Strategy<Value = SocketAddr> {
    sample::select(vec![
        "203.0.113.1:3478",
        "203.0.113.2:3478",
        "[2001:db8::99]:3478",
        "127.0.0.1:9",
    ])
    .prop_map(|text| text.parse().expect("an address"))
}

fn settings(
    ([host, server_reflexive, allow_loopback, manage], policy): ([bool; 4], Policy),
) -> Settings {
    let mut settings = Settings {
        candidates: CandidateKinds {
            host,
            server_reflexive,
            relay: host || server_reflexive,
            tcp: host,
        },
        policy,
        allow_loopback,
        ..Settings::default()
    };
    settings.peers.entry(peer_key(0)).or_default().manage = Some(manage);
    settings
}

fn peer_key(peer: usize) -> PublicKey {
    key(2 + peer as u8).public()
}

/// A mesh and the real agents of its peers, whose messages it gets in any order.
struct Chaos {
    mesh: Mesh,
    peers: Vec<Mesh>,
    now: Instant,
    start: Instant,
    clock: i64,
    offers: Vec<(Mailbox, Sealed)>,
    answers: Vec<(Mailbox, Sealed)>,
    sent: Vec<Packet>,
    outputs: usize,
    /// A route was opened.
    open: bool,
}

impl Chaos {
    fn new() -> Self {
        let start = Instant::now();
        let mesh = |seed| Mesh::new(Settings::default(), [seed; 32]);
        let mut chaos = Self {
            mesh: mesh(0),
            peers: (1..=PEERS as u8).map(mesh).collect(),
            now: start,
            start,
            clock: 1_700_000_000,
            offers: Vec::new(),
            answers: Vec::new(),
            sent: Vec::new(),
            outputs: 0,
            open: false,
        };
        let now = chaos.time();
        for (index, peer) in chaos.peers.iter_mut().enumerate() {
            let local = LocalAddress {
                link: "eth0".into(),
                address: IpAddr::from([198, 51, 100, 2 + index as u8]),
                deprecated: false,
            };
            peer.handle(Input::BackendUp, now);
            peer.handle(Input::Addresses(vec![local]), now);
            let device = device(&key(2 + index as u8), 51820, &[key(1).public()]);
            peer.handle(Input::Device(device), now);
            if index == 0 {
                let relayed = Relayed {
                    address: "203.0.113.30:50000".parse().expect("an address"),
                    server: "203.0.113.30:3478".parse().expect("an address"),
                    transport: Transport::Udp,
                };
                peer.handle(
                    Input::Relayed {
                        interface: 7,
                        addresses: vec![relayed],
                        finished: true,
                    },
                    now,
                );
            }
        }
        let start = device(&key(1), 51820, &[peer_key(0), peer_key(1), peer_key(2)]);
        chaos.input(Input::Device(start));
        chaos.run_peers();
        chaos
    }

    fn time(&self) -> Now {
        let passed = (self.now - self.start).as_secs() as i64;
        Now {
            instant: self.now,
            unix: Duration::from_secs((self.clock + passed).max(0) as u64),
        }
    }

    fn input(&mut self, input: Input) {
        let now = self.time();
        self.mesh.handle(input, now);
        while let Some(output) = self.mesh.poll() {
            self.outputs += 1;
            match output {
                Output::Publish {
                    mailbox, sealed, ..
                } => self.answers.push((mailbox, sealed)),
                Output::Transmit(transmit) => self.sent.push(Packet {
                    source: transmit.destination,
                    destination: transmit.source,
                    payload: transmit.payload,
                }),
                Output::Relay(RelayOrder::Transmit {
                    relayed,
                    destination,
                    payload,
                    ..
                }) => self.sent.push(Packet {
                    source: destination,
                    destination: relayed,
                    payload,
                }),
                Output::Relay(RelayOrder::Open { .. }) => self.open = true,
                Output::Relay(RelayOrder::HandOver { .. } | RelayOrder::Close { .. }) => {
                    assert!(self.open, "no route was ever opened");
                }
                _ => {}
            }
        }
    }

    fn run_peers(&mut self) {
        let now = self.time();
        for peer in &mut self.peers {
            for (mailbox, sealed) in self.answers.iter().cloned() {
                peer.handle(Input::Message { mailbox, sealed }, now);
            }
            peer.handle(Input::Timeout, now);
            while let Some(output) = peer.poll() {
                if let Output::Publish {
                    mailbox, sealed, ..
                } = output
                {
                    self.offers.push((mailbox, sealed));
                }
            }
        }
        self.answers.clear();
    }

    /// Lets time pass; the most wake-ups at one instant and altogether.
    fn pass(&mut self, time: Duration) -> (usize, usize) {
        let end = self.now + time;
        let (mut at_once, mut most, mut all) = (0, 0, 0);
        while let Some(at) = self.mesh.poll_timeout().filter(|at| *at <= end) {
            at_once = if at > self.now { 1 } else { at_once + 1 };
            most = most.max(at_once);
            all += 1;
            if at_once > 100 {
                break;
            }
            self.now = self.now.max(at);
            self.input(Input::Timeout);
        }
        self.now = end;
        (most, all)
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.input(*input),
            Event::Offer { age, damage } => {
                let Some((mailbox, sealed)) = nth_newest(&self.offers, age).cloned() else {
                    return;
                };
                let mut text = sealed.as_str().to_owned();
                if let Some(at) = damage {
                    text.truncate(usize::from(at));
                }
                let sealed = Sealed::new(&text).expect("not longer than before");
                self.input(Input::Message { mailbox, sealed });
            }
            Event::Echo { age, class, flip } => {
                if let Some(mut packet) = nth_newest(&self.sent, age).cloned() {
                    packet.payload[0] = class & 1;
                    if let Some(byte) = packet.payload.get_mut(flip) {
                        *byte ^= class;
                    }
                    self.input(Input::Packet(packet));
                }
            }
            Event::Peers => self.run_peers(),
            Event::ClockStep(step) => self.clock += step,
            Event::Pass(_) => {}
        }
    }
}

fn nth_newest<T>(all: &[T], age: usize) -> Option<&T> {
    all.len()
        .checked_sub(age + 1)
        .and_then(|index| all.get(index))
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(96))]

    #[test]
    fn anything_in_any_order_neither_panics_nor_spins(events in collection::vec(event(), 1..60)) {
        let mut chaos = Chaos::new();
        for event in events {
            if let Event::Pass(time) = event {
                let before = chaos.outputs;
                let (at_once, all) = chaos.pass(time);
                let outputs = chaos.outputs - before;
                prop_assert!(at_once <= 4, "{at_once} wake-ups at one instant");
                let seconds = time.as_secs() as usize + 1;
                prop_assert!(all <= 2_000 + 200 * seconds, "{all} wake-ups in {seconds} s");
                prop_assert!(outputs <= 2_000 + 100 * seconds, "{outputs} outputs in {seconds} s");
            } else {
                let before = chaos.outputs;
                chaos.apply(event.clone());
                let outputs = chaos.outputs - before;
                prop_assert!(outputs <= 400, "{outputs} outputs from {event:?}");
            }
        }
        // Whatever happened: nobody who answers nothing keeps it busy.
        chaos.pass(Duration::from_secs(1_800));
        let before = chaos.outputs;
        let (_, all) = chaos.pass(Duration::from_secs(600));
        let outputs = chaos.outputs - before;
        prop_assert!(all <= 10 * 400 && outputs <= 10 * 200, "idle: {all} wake-ups, {outputs} outputs");
    }
}
