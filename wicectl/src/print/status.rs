//! The status as a person reads it, in the manner of `wg show`.

use wice_bus::{
    Backend, BackendState, Candidate, Interface, Peer, Reason, Relay, RelayState, Snapshot, State,
};

use super::style::Style;
use super::{escape, units, words};

/// Renders the whole snapshot; `now` is Unix time in seconds.
pub(crate) fn render(snapshot: &Snapshot, style: Style, now: u64) -> String {
    let mut blocks = vec![agent(snapshot, style)];
    for shown in &snapshot.interfaces {
        blocks.push(interface(shown, style));
        blocks.extend(shown.peers.iter().map(|shown| peer(shown, style, now)));
    }
    if snapshot.interfaces.is_empty() {
        blocks.push(style.dim("There is no WireGuard interface; the agent waits for one.\n"));
    }
    blocks.join("\n")
}

fn agent(snapshot: &Snapshot, style: Style) -> String {
    let mut text = format!("{}: {}\n", style.bold("agent"), escape(&snapshot.version));
    for shown in &snapshot.backends {
        line(&mut text, style, "backend", &backend(shown, style));
    }
    if snapshot.backends.is_empty() {
        let advice = "none is configured, so peers cannot find each other: add one to `backends` under [signaling] \
                      in /etc/wice/wice.toml, then run wicectl reload";
        line(&mut text, style, "backend", &style.warn(advice));
    }
    for shown in &snapshot.relays {
        line(&mut text, style, "relay", &relay(shown, style));
    }
    text
}

fn relay(relay: &Relay, style: Style) -> String {
    let mut text = format!("{} ", escape(&relay.url));
    let state = relay.state.word();
    if matches!(relay.state, RelayState::Up | RelayState::Standby) {
        text.push_str(state);
    } else {
        text.push_str(&style.warn(state));
    }
    if !relay.error.is_empty() {
        text.push_str(&format!(" ({})", escape(&relay.error)));
    }
    text
}

/// A backend in half a line.
pub(crate) fn backend(backend: &Backend, style: Style) -> String {
    let mut text = format!("{} ", escape(&backend.url));
    let state = backend.state.word();
    if backend.state == BackendState::Up {
        text.push_str(state);
    } else {
        text.push_str(&style.warn(state));
    }
    if !backend.error.is_empty() {
        text.push_str(&format!(" ({})", escape(&backend.error)));
    }
    text
}

fn interface(interface: &Interface, style: Style) -> String {
    let mut text = format!("{}: {}\n", style.bold("interface"), escape(&interface.name));
    let key = if interface.public_key.is_empty() {
        style.warn("(none)")
    } else {
        escape(&interface.public_key)
    };
    line(&mut text, style, "public key", &key);
    if interface.listen_port == 0 {
        line(&mut text, style, "listening port", &style.warn("(none)"));
    } else {
        line(
            &mut text,
            style,
            "listening port",
            &interface.listen_port.to_string(),
        );
    }
    if interface.firewall_mark != 0 {
        line(
            &mut text,
            style,
            "fwmark",
            &format!("{:#x}", interface.firewall_mark),
        );
    }
    if !interface.managed {
        line(
            &mut text,
            style,
            "managed",
            "no: the configuration leaves it alone",
        );
    }
    text
}

fn peer(peer: &Peer, style: Style, now: u64) -> String {
    let mut text = if peer.name.is_empty() {
        format!("{}: {}\n", style.bold("peer"), escape(&peer.public_key))
    } else {
        let mut text = format!("{}: {}\n", style.bold("peer"), escape(&peer.name));
        line(&mut text, style, "public key", &escape(&peer.public_key));
        text
    };
    line(&mut text, style, "state", &state(peer, style, now));
    if let (Some(local), Some(remote)) = (&peer.local_candidate, &peer.remote_candidate) {
        let path = format!(
            "{}, {} to {}",
            escape(&peer.packet_path),
            candidate(local),
            candidate(remote)
        );
        line(&mut text, style, "path", &path);
    }
    if peer.rtt_us > 0 {
        line(
            &mut text,
            style,
            "round trip",
            &units::milliseconds(peer.rtt_us),
        );
    }
    if !peer.endpoint.is_empty() {
        line(&mut text, style, "endpoint", &escape(&peer.endpoint));
    }
    if !peer.allowed_ips.is_empty() {
        let allowed_ips = escape(&peer.allowed_ips.join(", "));
        line(&mut text, style, "allowed ips", &allowed_ips);
    }
    if peer.latest_handshake > 0 {
        let age = units::ago(peer.latest_handshake, now);
        line(&mut text, style, "latest handshake", &age);
    }
    if peer.rx_bytes > 0 || peer.tx_bytes > 0 {
        let (received, sent) = (units::bytes(peer.rx_bytes), units::bytes(peer.tx_bytes));
        line(
            &mut text,
            style,
            "transfer",
            &format!("{received} received, {sent} sent"),
        );
    }
    if peer.restarts > 0 {
        line(&mut text, style, "restarts", &peer.restarts.to_string());
    }
    text
}

/// `connected (direct) for 2 minutes`, or `waiting for 3 seconds: why`.
fn state(peer: &Peer, style: Style, now: u64) -> String {
    let mut text = style.state(peer.state);
    if peer.state == State::Connected {
        text.push_str(&format!(" ({})", escape(&peer.packet_path)));
    }
    // A peer whose state never changed has no time of change.
    if peer.since > 0 {
        text.push_str(&format!(
            " for {}",
            units::age_of(now.saturating_sub(peer.since))
        ));
    }
    let explained = peer.state != State::Connected
        || matches!(peer.reason, Reason::KernelAlive | Reason::DirectPathLost);
    let reason = words::reason(peer.reason);
    if explained && !reason.is_empty() {
        text.push_str(&format!(": {reason}"));
    }
    text
}

/// Address and port, and what kind of candidate it is.
pub(super) fn candidate(candidate: &Candidate) -> String {
    let kind = escape(words::candidate(&candidate.kind));
    let over = if candidate.network.starts_with("tcp") {
        ", TCP"
    } else {
        ""
    };
    format!("{} ({kind}{over})", address(candidate))
}

/// Address and port.
pub(super) fn address(candidate: &Candidate) -> String {
    let address = escape(&candidate.address);
    if address.contains(':') {
        format!("[{address}]:{}", candidate.port)
    } else {
        format!("{address}:{}", candidate.port)
    }
}

/// Adds a line of a block.
pub(crate) fn line(text: &mut String, style: Style, name: &str, value: &str) {
    text.push_str(&format!("  {}: {value}\n", style.bold(name)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::print::json;

    fn snapshot() -> Snapshot {
        let candidate = |kind: &str, address: &str, port| {
            Some(Candidate {
                kind: kind.to_owned(),
                address: address.to_owned(),
                port,
                network: "udp4".to_owned(),
            })
        };
        let connected = Peer {
            public_key: "bGFwdG9w".to_owned(),
            name: "laptop\u{7}".to_owned(),
            state: State::Connected,
            reason: Reason::PairNominated,
            packet_path: "direct".to_owned(),
            endpoint: "203.0.113.7:40213".to_owned(),
            local_candidate: candidate("host", "192.168.1.2", 51820),
            remote_candidate: candidate("srflx", "203.0.113.7", 40213),
            rtt_us: 1234,
            latest_handshake: 988,
            allowed_ips: vec!["10.0.0.2/32".to_owned()],
            rx_bytes: 92,
            tx_bytes: 1536,
            since: 880,
            restarts: 1,
            ..Peer::default()
        };
        let waiting = Peer {
            public_key: "c2VydmVy".to_owned(),
            state: State::Waiting,
            reason: Reason::NoOffer,
            packet_path: "none".to_owned(),
            since: 997,
            ..Peer::default()
        };
        Snapshot {
            version: "0.1.0".to_owned(),
            backends: vec![Backend {
                url: "wss://signal.example.net".to_owned(),
                state: BackendState::Down,
                error: "connection refused".to_owned(),
            }],
            relays: vec![
                Relay {
                    url: "turn:signal.example.net:3478?transport=udp".to_owned(),
                    state: RelayState::Up,
                    error: String::new(),
                },
                Relay {
                    url: "turns:other.example:5349".to_owned(),
                    state: RelayState::Down,
                    error: "it refuses the credentials (401)".to_owned(),
                },
            ],
            interfaces: vec![Interface {
                name: "wg0".to_owned(),
                public_key: "b3Vycw".to_owned(),
                listen_port: 51820,
                firewall_mark: 0x2a,
                managed: true,
                peers: vec![connected, waiting],
            }],
        }
    }

    #[test]
    fn a_status_reads_like_wg_show() {
        let expected = "\
agent: 0.1.0
  backend: wss://signal.example.net down (connection refused)
  relay: turn:signal.example.net:3478?transport=udp up
  relay: turns:other.example:5349 down (it refuses the credentials (401))

interface: wg0
  public key: b3Vycw
  listening port: 51820
  fwmark: 0x2a

peer: laptop\\u{7}
  public key: bGFwdG9w
  state: connected (direct) for 2 minutes
  path: direct, 192.168.1.2:51820 (own address) to 203.0.113.7:40213 (as STUN sees it)
  round trip: 1.23 ms
  endpoint: 203.0.113.7:40213
  allowed ips: 10.0.0.2/32
  latest handshake: 12 seconds ago
  transfer: 92 B received, 1.50 KiB sent
  restarts: 1

peer: c2VydmVy
  state: waiting for 3 seconds: nothing heard from the peer yet: does WICE run there, with the same backend?
";
        assert_eq!(render(&snapshot(), Style::plain(), 1000), expected);
    }

    #[test]
    fn an_agent_without_a_backend_says_what_to_do() {
        let text = render(&Snapshot::default(), Style::plain(), 0);
        assert!(text.contains("add one to `backends` under [signaling] in /etc/wice/wice.toml"));
        assert!(text.contains("There is no WireGuard interface"));
    }

    #[test]
    fn the_json_is_that_of_version_1() {
        let expected = r#"{"version":1,"agent":{"version":"0.1.0","backends":[{"url":"wss://signal.example.net","state":"down","error":"connection refused"}],"relays":[{"url":"turn:signal.example.net:3478?transport=udp","state":"up","error":null},{"url":"turns:other.example:5349","state":"down","error":"it refuses the credentials (401)"}]},"interfaces":[{"name":"wg0","public_key":"b3Vycw","listen_port":51820,"managed":true,"peers":[{"public_key":"bGFwdG9w","name":"laptop\u0007","state":"connected","reason":"pair-nominated","path":"direct","endpoint":"203.0.113.7:40213","local_candidate":{"type":"host","address":"192.168.1.2","port":51820,"network":"udp4"},"remote_candidate":{"type":"srflx","address":"203.0.113.7","port":40213,"network":"udp4"},"rtt_us":1234,"latest_handshake":988,"allowed_ips":["10.0.0.2/32"],"rx_bytes":92,"tx_bytes":1536,"since":880,"restarts":1},{"public_key":"c2VydmVy","name":"","state":"waiting","reason":"no-offer","path":"none","endpoint":null,"local_candidate":null,"remote_candidate":null,"rtt_us":null,"latest_handshake":0,"allowed_ips":[],"rx_bytes":0,"tx_bytes":0,"since":997,"restarts":0}]}]}"#;
        assert_eq!(json::status(&snapshot()), expected);
    }
}
