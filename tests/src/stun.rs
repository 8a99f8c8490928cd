//! Just enough STUN (RFC 8489) to measure a NAT without any of WICE's own code: a server that tells the source address, and
//! a client that asks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::namespace::Namespace;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// Answers binding requests on `address` inside `machine`, for as long as this process lives.
pub fn serve(machine: &Namespace, address: SocketAddr) -> Result<()> {
    let socket = bind(machine, address)?;
    thread::spawn(move || {
        let mut buffer = [0_u8; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let (true, IpAddr::V4(ip)) = (length >= 20 && buffer[..2] == [0, 1], from.ip()) {
                // An answer that is lost is asked for again.
                let _ = socket.send_to(&answer(&buffer[8..20], ip, from.port()), from);
            }
        }
    });
    Ok(())
}

/// Opens a UDP socket inside `machine`.
pub fn bind(machine: &Namespace, address: SocketAddr) -> Result<UdpSocket> {
    machine.enter(|| UdpSocket::bind(address).with_context(|| format!("cannot bind {address}")))
}

/// Asks a server for the address that it sees, up to five times.
pub fn ask(socket: &UdpSocket, server: SocketAddr) -> Result<SocketAddr> {
    let mut request = [0_u8; 20];
    request[1] = 1;
    request[4..8].copy_from_slice(&COOKIE);
    request[8..20].copy_from_slice(b"lab-question");
    socket.set_read_timeout(Some(Duration::from_millis(400)))?;
    let mut buffer = [0_u8; 1500];
    for _ in 0..5 {
        socket.send_to(&request, server)?;
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            ensure!(
                from == server && length == 32,
                "an answer from {from} of {length} bytes"
            );
            let port = u16::from_be_bytes([buffer[26], buffer[27]]) ^ 0x2112;
            let ip = u32::from_be_bytes([buffer[28], buffer[29], buffer[30], buffer[31]])
                ^ u32::from_be_bytes(COOKIE);
            return Ok((Ipv4Addr::from(ip), port).into());
        }
    }
    anyhow::bail!("no answer from {server}")
}

fn answer(transaction: &[u8], ip: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut message = vec![1, 1, 0, 12];
    message.extend(COOKIE);
    message.extend(transaction);
    message.extend([0, 0x20, 0, 8, 0, 1]);
    message.extend((port ^ 0x2112).to_be_bytes());
    message.extend((u32::from(ip) ^ u32::from_be_bytes(COOKIE)).to_be_bytes());
    message
}
