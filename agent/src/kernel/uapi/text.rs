//! The UAPI's text: `key=value` lines up to a blank one.
//!
//! No I/O, and no secret outlives the buffer that it came in, but for the private key in its own type.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;
use std::time::Duration;

use wice_core::device::{AllowedIp, Device, Peer};
use wice_core::key::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TextError {
    /// The process refused, with this errno.
    Errno(i32),
    /// Not the UAPI's text.
    Malformed(&'static str),
}

/// Composes the request that writes one endpoint and adds no peer.
pub(super) fn set_endpoint(peer: &PublicKey, endpoint: SocketAddr) -> String {
    let mut request = String::from("set=1\n");
    write!(
        request,
        "public_key={}\nupdate_only=true\nendpoint={endpoint}\n\n",
        peer.to_hex()
    )
    .expect("a String takes any text");
    request
}

/// Reads the answer to a `set`.
pub(super) fn acknowledge(answer: &[u8]) -> Result<(), TextError> {
    lines(answer).map(drop)
}

/// Reads the answer to a `get`.
pub(super) fn device(name: &str, index: u32, answer: &[u8]) -> Result<Device, TextError> {
    let mut device = Device {
        name: name.to_owned(),
        index,
        private_key: None,
        listen_port: 0,
        fwmark: 0,
        peers: BTreeMap::new(),
    };
    let mut current: Option<&mut Peer> = None;
    for line in lines(answer)? {
        let (key, value) = line;
        if key == "public_key" {
            let key = PublicKey::from_bytes(*key_bytes(value)?);
            current = Some(device.peers.entry(key).or_default());
            continue;
        }
        match (key, &mut current) {
            ("private_key", None) => {
                device.private_key = PrivateKey::from_bytes(*key_bytes(value)?);
            }
            ("listen_port", None) => device.listen_port = number(value)?,
            ("fwmark", None) => device.fwmark = number(value)?,
            (_, None) => {}
            (key, Some(peer)) => peer_line(peer, key, value)?,
        }
    }
    Ok(device)
}

fn peer_line(peer: &mut Peer, key: &str, value: &str) -> Result<(), TextError> {
    match key {
        "endpoint" => peer.endpoint = Some(endpoint(value)?),
        "last_handshake_time_sec" => {
            let seconds = number(value)?;
            peer.latest_handshake = Duration::new(seconds, peer.latest_handshake.subsec_nanos());
        }
        "last_handshake_time_nsec" => {
            let nanoseconds: u32 = number(value)?;
            if nanoseconds >= 1_000_000_000 {
                return Err(TextError::Malformed("a second of too many nanoseconds"));
            }
            peer.latest_handshake = Duration::new(peer.latest_handshake.as_secs(), nanoseconds);
        }
        "rx_bytes" => peer.rx_bytes = number(value)?,
        "tx_bytes" => peer.tx_bytes = number(value)?,
        "persistent_keepalive_interval" => {
            let seconds = number(value)?;
            peer.persistent_keepalive = (seconds != 0).then_some(seconds);
        }
        "allowed_ip" => peer.allowed_ips.push(allowed_ip(value)?),
        // The preshared key is nobody's business; what future versions add is not ours.
        _ => {}
    }
    Ok(())
}

/// Splits a whole answer into its pairs, once its errno says that it is one.
fn lines(answer: &[u8]) -> Result<impl Iterator<Item = (&str, &str)>, TextError> {
    let text = str::from_utf8(answer).map_err(|_| TextError::Malformed("not UTF-8"))?;
    let text = text
        .strip_suffix("\n\n")
        .ok_or(TextError::Malformed("it ends too early"))?;
    let mut errno = None;
    for line in text.lines() {
        let (key, value) = line
            .split_once('=')
            .ok_or(TextError::Malformed("a line without `=`"))?;
        if key == "errno" {
            errno = Some(number::<i32>(value)?);
        }
    }
    match errno {
        Some(0) => Ok(text.lines().filter_map(|line| line.split_once('='))),
        // Some processes negate it.
        Some(code) => Err(TextError::Errno(code.saturating_abs())),
        None => Err(TextError::Malformed("no errno")),
    }
}

fn number<T: FromStr>(value: &str) -> Result<T, TextError> {
    value
        .parse()
        .map_err(|_| TextError::Malformed("a number out of range"))
}

fn key_bytes(value: &str) -> Result<Zeroizing<[u8; 32]>, TextError> {
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(value, &mut *bytes)
        .map_err(|_| TextError::Malformed("a key that is not 64 hex digits"))?;
    Ok(bytes)
}

/// Reads `1.2.3.4:5`, `[2001:db8::1]:5`, and `[fe80::1%eth0]:5`, which Rust's own parser does not know.
fn endpoint(value: &str) -> Result<SocketAddr, TextError> {
    if let Ok(endpoint) = value.parse() {
        return Ok(endpoint);
    }
    let malformed = TextError::Malformed("an endpoint that is no address and port");
    let scoped = || {
        let (host, port) = value.strip_prefix('[')?.split_once("]:")?;
        let (address, zone) = host.split_once('%')?;
        let address: Ipv6Addr = address.parse().ok()?;
        // The link that it names may be gone; the address is still true.
        let scope = nix::net::if_::if_nametoindex(zone).unwrap_or(0);
        Some(SocketAddrV6::new(address, port.parse().ok()?, 0, scope).into())
    };
    scoped().ok_or(malformed)
}

fn allowed_ip(value: &str) -> Result<AllowedIp, TextError> {
    let malformed = || TextError::Malformed("an allowed IP that is no prefix");
    let (address, prefix) = value.split_once('/').ok_or_else(malformed)?;
    let address: IpAddr = address.parse().map_err(|_| malformed())?;
    let prefix = prefix.parse().map_err(|_| malformed())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    if prefix > longest {
        return Err(malformed());
    }
    Ok(AllowedIp { address, prefix })
}
