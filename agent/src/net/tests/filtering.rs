//! The filter programs, run by the kernel on exactly the bytes of a table: a local datagram socket filters what it is sent.

use std::collections::BTreeSet;
use std::io::{self, Read};

use socket2::{Domain, Socket, Type};

use super::super::datagram;
use super::super::filter::{Start, program};
use super::stun;

const PORT: u16 = 51820;

#[test]
fn stun_to_a_listened_port_passes() {
    for payload in [stun(1, 20), stun(1, 21), stun(1, 1200)] {
        assert!(ipv6_passes(&[PORT], &udp(PORT, &payload)));
        for words in [5, 6, 15] {
            assert!(
                ipv4_passes(&[PORT], &ipv4(words, &udp(PORT, &payload))),
                "a header of {words} words"
            );
        }
    }
}

#[test]
fn the_first_fragment_passes_and_later_ones_do_not() {
    let mut packet = ipv4(5, &udp(PORT, &stun(1, 20)));
    packet[6] = 0x20;
    assert!(ipv4_passes(&[PORT], &packet));
    packet[7] = 1;
    assert!(!ipv4_passes(&[PORT], &packet));
    packet[6] = 0x1f;
    packet[7] = 0;
    assert!(!ipv4_passes(&[PORT], &packet));
}

#[test]
fn everything_else_is_rejected() {
    let mut to_another_port = udp(PORT + 1, &stun(1, 20));
    to_another_port[..2].copy_from_slice(&PORT.to_be_bytes());
    let changed = |at: usize, value: u8| {
        let mut message = stun(1, 20);
        message[at] = value;
        udp(PORT, &message)
    };
    let mut initiation = vec![0; 148];
    initiation[0] = 1;
    let mut late_cookie = vec![0; 4];
    late_cookie.extend(stun(1, 20));
    let table = [
        ("another port", to_another_port),
        ("no cookie", changed(4, 0)),
        ("a cookie with a wrong end", changed(7, 0x43)),
        ("TURN channel data", changed(0, 0x40)),
        ("DTLS or RTP", changed(0, 0x80)),
        ("a cookie in the wrong place", udp(PORT, &late_cookie)),
        (
            "one byte less than a STUN header",
            udp(PORT, &stun(1, 20)[..19]),
        ),
        (
            "a payload that ends with the cookie",
            udp(PORT, &stun(1, 20)[..8]),
        ),
        ("an empty payload", udp(PORT, &[])),
        (
            "a handshake initiation of WireGuard",
            udp(PORT, &initiation),
        ),
        ("half a UDP header", udp(PORT, &[])[..4].to_vec()),
        ("nothing", Vec::new()),
    ];
    for (name, datagram) in table {
        assert!(!ipv6_passes(&[PORT], &datagram), "{name} over IPv6");
        assert!(
            !ipv4_passes(&[PORT], &ipv4(5, &datagram)),
            "{name} over IPv4"
        );
        assert!(
            !ipv4_passes(&[PORT], &ipv4(6, &datagram)),
            "{name} behind IP options"
        );
    }
    assert!(!ipv4_passes(&[PORT], &[]));
}

#[test]
fn an_empty_set_of_ports_accepts_nothing() {
    let datagram = udp(PORT, &stun(1, 20));
    assert!(!ipv6_passes(&[], &datagram));
    assert!(!ipv4_passes(&[], &ipv4(5, &datagram)));
}

#[test]
fn each_of_many_ports_passes_and_none_between_them() {
    for count in [1, 2, 127, 128, 129, 200, 256, 257, 1000] {
        let ports: Vec<u16> = (0..count).map(|index| 1024 + 2 * index).collect();
        let receiver = Filtered::new(Start::Ipv4Header, &ports);
        for port in &ports {
            assert!(
                receiver.passes(&ipv4(5, &udp(*port, &stun(1, 20)))),
                "{port} of {count} ports"
            );
            assert!(
                !receiver.passes(&ipv4(5, &udp(port + 1, &stun(1, 20)))),
                "beside {port} of {count} ports"
            );
        }
    }
}

#[test]
fn thousands_of_ports_make_a_program_and_all_ports_do_not() {
    assert!(program(Start::Ipv4Header, &BTreeSet::from_iter(1..=3900)).is_some());
    assert!(program(Start::Ipv4Header, &BTreeSet::from_iter(1..=u16::MAX)).is_none());
}

#[test]
fn the_filter_passes_whatever_one_flipped_bit_leaves_well_formed() {
    let packet = ipv4(6, &udp(PORT, &stun(1, 24)));
    let receiver = Filtered::new(Start::Ipv4Header, &[PORT]);
    let mut well_formed = 0;
    for bit in 0..packet.len() * 8 {
        let mut packet = packet.clone();
        packet[bit / 8] ^= 1 << (bit % 8);
        let parsed = datagram::from_ipv4(&packet);
        if parsed.is_some_and(|parsed| parsed.destination.port() == PORT) {
            well_formed += 1;
            assert!(receiver.passes(&packet), "bit {bit} flipped");
        }
    }
    assert!(well_formed > 200, "{well_formed} packets are a thin proof");
}

/// A pair of local sockets, one of which filters.
struct Filtered {
    sender: Socket,
    receiver: Socket,
}

impl Filtered {
    fn new(start: Start, ports: &[u16]) -> Self {
        let (sender, receiver) =
            Socket::pair(Domain::UNIX, Type::DGRAM, None).expect("a pair of sockets");
        let program =
            program(start, &BTreeSet::from_iter(ports.iter().copied())).expect("a program");
        receiver
            .attach_filter(&program)
            .expect("the kernel takes the program");
        receiver.set_nonblocking(true).expect("a socket");
        Self { sender, receiver }
    }

    fn passes(&self, bytes: &[u8]) -> bool {
        self.sender.send(bytes).expect("local sockets send");
        let mut buffer = [0; 2048];
        match (&self.receiver).read(&mut buffer) {
            Ok(length) => {
                assert_eq!(&buffer[..length], bytes, "a packet passes whole");
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        }
    }
}

fn ipv4_passes(ports: &[u16], packet: &[u8]) -> bool {
    Filtered::new(Start::Ipv4Header, ports).passes(packet)
}

fn ipv6_passes(ports: &[u16], datagram: &[u8]) -> bool {
    Filtered::new(Start::UdpHeader, ports).passes(datagram)
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = datagram::header(40000, port, payload)
        .expect("a short payload")
        .to_vec();
    datagram.extend(payload);
    datagram
}

/// An IPv4 packet whose header has `words` words of 32 bits; the options are no-operations.
pub(super) fn ipv4(words: u8, datagram: &[u8]) -> Vec<u8> {
    let mut packet = vec![1; usize::from(words) * 4];
    let total = u16::try_from(packet.len() + datagram.len()).expect("a short packet");
    packet[..20].fill(0);
    packet[0] = 0x40 | words;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&[127, 0, 0, 1]);
    packet[16..20].copy_from_slice(&[127, 0, 0, 1]);
    packet.extend(datagram);
    packet
}
