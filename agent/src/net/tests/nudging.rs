//! The packet that makes WireGuard handshake, seen at the other end of a virtual cable.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::{NetError, nudge};
use super::{DEADLINE, in_namespace, ip};

#[test]
fn a_nudge_is_one_empty_datagram_through_that_interface() {
    in_namespace(async || {
        cable();
        for (address, start) in [("10.9.0.2", 0x45), ("fd09::2", 0x60)] {
            let tap = tap();

            nudge("tunnel", address.parse().expect("an address")).expect("the cable carries it");

            let packet = next_udp(&tap, "far", start);
            let udp = &packet[packet.len() - 8..];
            assert_eq!(
                udp[2..6],
                [0, 9, 0, 8],
                "to the discard port, without payload"
            );
            let octets = match address.parse().expect("an address") {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            assert!(
                packet[..packet.len() - 8].ends_with(&octets),
                "to {address}"
            );
        }
    });
}

#[test]
fn a_nudge_goes_through_its_interface_even_where_routing_prefers_another() {
    in_namespace(async || {
        cable();
        ip("route add 10.9.0.2/32 dev lo");
        let tap = tap();

        nudge("tunnel", "10.9.0.2".parse().expect("an address")).expect("the cable carries it");

        next_udp(&tap, "far", 0x45);
    });
}

#[test]
fn an_interface_that_is_gone_or_down_is_no_tunnel() {
    in_namespace(async || {
        cable();
        ip("link set tunnel down");
        for (interface, address) in [
            ("tunnel", "10.9.0.2"),
            ("tunnel", "fd09::2"),
            ("missing", "10.9.0.2"),
            ("missing", "fd09::2"),
        ] {
            let outcome = nudge(interface, address.parse().expect("an address"));
            assert!(
                matches!(outcome, Err(NetError::NoTunnel { .. })),
                "{outcome:?}"
            );
        }
    });
}

/// A pair of interfaces, `tunnel` and `far`, and a neighbour that needs no asking.
fn cable() {
    ip("link add tunnel type veth peer name far");
    ip("link set tunnel up");
    ip("link set far up");
    ip("address add 10.9.0.1/24 dev tunnel");
    ip("-6 address add fd09::1/64 dev tunnel nodad");
    for neighbour in ["10.9.0.2", "fd09::2"] {
        ip(&format!(
            "neigh add {neighbour} lladdr 02:00:00:00:00:02 dev tunnel nud permanent"
        ));
    }
}

/// A socket that sees the network layer of everything that passes.
fn tap() -> Socket {
    let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).expect("root taps");
    socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
    socket
}

/// The next UDP packet on an interface whose first byte is `start`.
fn next_udp(tap: &Socket, interface: &str, start: u8) -> Vec<u8> {
    let index = if_nametoindex(interface).expect("the interface is there") as usize;
    let until = Instant::now() + DEADLINE;
    while Instant::now() < until {
        let mut buffer = [0; 2048];
        let (length, from) =
            recvfrom::<LinkAddr>(tap.as_raw_fd(), &mut buffer).expect("a packet passes");
        let from = from.expect("packets come from a link");
        let protocol = if start == 0x45 { buffer[9] } else { buffer[6] };
        if from.ifindex() == index && buffer[0] == start && protocol == 17 {
            return buffer[..length].to_vec();
        }
    }
    panic!("no UDP packet passed {interface}");
}
