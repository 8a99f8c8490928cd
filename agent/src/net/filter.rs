//! The classic BPF programs that pick STUN out of all UDP traffic, so that WireGuard's own packets never wake the agent.
//!
//! Knows packet layouts only; that a program sits on a raw socket is its caller's business.

use std::collections::BTreeSet;

use nix::libc;
use socket2::SockFilter;

use super::datagram::{MAGIC_COOKIE, STUN_HEADER, UDP_HEADER};

/// Ports compared between two accepting instructions; a classic BPF jump reaches at most 255 instructions.
const PORTS_PER_BLOCK: usize = 128;

/// Longest program that the kernel takes (BPF_MAXINSNS, linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;

const ACCEPT: u32 = u32::MAX;
const REJECT: u32 = 0;

/// Where the filtered bytes begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// At the IPv4 header, options included: raw IPv4 sockets.
    Ipv4Header,
    /// At the UDP header: raw IPv6 sockets.
    UdpHeader,
}

/// Builds the program that accepts STUN for one of `ports`, or nothing when the program would be too long.
///
/// STUN means (RFC 8489 §5): a whole header, two zero bits in front, the magic cookie. The cheap test that WireGuard's
/// data fails comes first, so the length of the port list costs only STUN packets.
pub(super) fn program(start: Start, ports: &BTreeSet<u16>) -> Option<Vec<SockFilter>> {
    if ports.is_empty() {
        return Some(vec![ret(REJECT)]);
    }
    let (mut code, load) = match start {
        Start::Ipv4Header => (ipv4_prologue(), libc::BPF_IND),
        Start::UdpHeader => (Vec::new(), libc::BPF_ABS),
    };
    code.extend(stun(load));
    for block in ports.iter().collect::<Vec<_>>().chunks(PORTS_PER_BLOCK) {
        for (index, port) in block.iter().enumerate() {
            let to_accept =
                u8::try_from(block.len() - index).expect("a block is shorter than a jump");
            code.push(jump(libc::BPF_JEQ, u32::from(**port), to_accept, 0));
        }
        code.push(always(1));
        code.push(ret(ACCEPT));
    }
    code.push(ret(REJECT));
    (code.len() <= MAX_INSTRUCTIONS).then_some(code)
}

/// Leaves the length of the IPv4 header in X; rejects all fragments but the first.
fn ipv4_prologue() -> Vec<SockFilter> {
    vec![
        // The fragment offset is the lower 13 bits of the half word at 6 (RFC 791 §3.1).
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 6),
        jump(libc::BPF_JSET, 0x1fff, 0, 1),
        ret(REJECT),
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
    ]
}

/// Rejects what is not STUN and leaves the destination port in A. A load beyond the end of the packet rejects by itself.
fn stun(load: u32) -> Vec<SockFilter> {
    let shortest = UDP_HEADER + STUN_HEADER;
    vec![
        op(libc::BPF_LD | libc::BPF_W | load, UDP_HEADER as u32 + 4),
        jump(libc::BPF_JEQ, MAGIC_COOKIE, 1, 0),
        ret(REJECT),
        op(libc::BPF_LD | libc::BPF_B | load, UDP_HEADER as u32),
        jump(libc::BPF_JSET, 0xc0, 0, 1),
        ret(REJECT),
        // The last byte of the shortest STUN message must exist.
        op(libc::BPF_LD | libc::BPF_B | load, shortest as u32 - 1),
        op(libc::BPF_LD | libc::BPF_H | load, 2),
    ]
}

const fn op(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}

const fn jump(test: u32, k: u32, if_true: u8, if_false: u8) -> SockFilter {
    let code = libc::BPF_JMP | test | libc::BPF_K;
    SockFilter::new(code as u16, if_true, if_false, k)
}

const fn always(offset: u32) -> SockFilter {
    op(libc::BPF_JMP | libc::BPF_JA, offset)
}

const fn ret(value: u32) -> SockFilter {
    op(libc::BPF_RET | libc::BPF_K, value)
}
