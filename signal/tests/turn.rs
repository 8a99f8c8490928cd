//! What a TURN client gets, and what it does not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::turn::{Client, Credentials, Outcome, data};
use common::{PATIENCE, Running, soon};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use wice_signal::{Options, Secret, TurnLimits, TurnOptions};

const DONE: Outcome = Outcome::Relays(Vec::new());

fn loopback() -> TurnOptions {
    TurnOptions {
        listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
        allow_loopback: true,
        ..TurnOptions::default()
    }
}

async fn start(turn: TurnOptions) -> Running {
    Running::start(Options {
        turn: Some(turn),
        ..Options::default()
    })
    .await
}

/// A peer on loopback.
async fn peer(own: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(own).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn heard(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65_536];
    let (length, from) = soon(peer.recv_from(&mut bytes)).await.unwrap();
    bytes.truncate(length);
    (bytes, from)
}

#[tokio::test]
async fn one_allocation_reaches_peers_of_both_families() {
    let server = start(loopback()).await;
    let credentials = Credentials::ask(&server).await;
    let mut client = Client::udp(server.turn[0], &credentials).await;
    let Outcome::Relays(relays) = client.allocate(true).await else {
        panic!("not allocated");
    };
    assert_eq!(relays.len(), 2);
    for (own, relay) in [("127.0.0.1:0", relays[0]), ("[::1]:0", relays[1])] {
        let (peer, address) = peer(own).await;
        assert_eq!(relay.is_ipv4(), address.is_ipv4());
        assert_eq!(client.permit(address).await, DONE);
        client.indicate(address, b"to the peer").await;
        assert_eq!(heard(&peer).await, (b"to the peer".to_vec(), relay));
        peer.send_to(b"from the peer", relay).await.unwrap();
        assert_eq!(
            data(&client.receive().await),
            (address, b"from the peer".to_vec())
        );

        let number = if address.is_ipv4() { 0x4000 } else { 0x4001 };
        assert_eq!(client.bind(number, address).await, DONE);
        client.channel(number, b"by channel").await;
        assert_eq!(heard(&peer).await, (b"by channel".to_vec(), relay));
        peer.send_to(b"back", relay).await.unwrap();
        let frame = client.receive().await;
        assert_eq!(frame[..2], number.to_be_bytes());
        assert_eq!(frame[2..], *b"\0\x04back");
    }
}

#[tokio::test]
async fn packets_of_any_size_go_through_in_order_over_udp_tcp_and_tls() {
    let folder = common::Folder::new("turn");
    let files = common::certify(&folder.0);
    let turn = TurnOptions {
        tls: vec!["127.0.0.1:0".parse().unwrap()],
        ..loopback()
    };
    let server = Running::start_tls(Options {
        tls: Some(files.clone()),
        turn: Some(turn),
        ..Options::default()
    })
    .await;
    let credentials = Credentials::ask(&server).await;
    let udp = Client::udp(server.turn[0], &credentials).await;
    let tcp = Client::tcp(server.turn[0], &credentials).await;
    let tls = Client::tls(server.turn_tls[0], &files.cert, &credentials).await;
    for mut client in [udp, tcp, tls] {
        let relay = client.relay().await;
        let (peer, address) = peer("127.0.0.1:0").await;
        assert_eq!(client.bind(0x4000, address).await, DONE);
        for length in [
            0, 1, 1_400, 1_400, 1_400, 700, 1_452, 1_500, 9_000, 60_000, 5,
        ] {
            let bytes = vec![length as u8; length];
            client.channel(0x4000, &bytes).await;
            assert_eq!(heard(&peer).await, (bytes.clone(), relay));
            peer.send_to(&bytes, relay).await.unwrap();
            assert_eq!(client.receive().await[4..][..length], bytes);
        }
        // Many at once, of one size: they are sent and received in trains.
        for round in 0..50_u8 {
            client.channel(0x4000, &[round; 1_300]).await;
        }
        for round in 0..50_u8 {
            assert_eq!(heard(&peer).await.0, [round; 1_300]);
        }
        for round in 0..50_u8 {
            peer.send_to(&[round; 1_300], relay).await.unwrap();
        }
        for round in 0..50_u8 {
            assert_eq!(client.receive().await[4..], [round; 1_300]);
        }
    }
}

#[tokio::test]
async fn two_clients_reach_each_other_by_their_relayed_addresses() {
    // Not even loopback is allowed: relayed addresses of this server are reached without a socket between.
    let turn = TurnOptions {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        external: vec!["203.0.113.7".parse().unwrap()],
        ..TurnOptions::default()
    };
    let server = start(turn).await;
    let credentials = Credentials::ask(&server).await;
    let mut ann = Client::udp(server.turn[0], &credentials).await;
    let mut bob = Client::tcp(server.turn[0], &credentials).await;
    let (at_ann, at_bob) = (ann.relay().await, bob.relay().await);
    assert_eq!(
        at_ann.ip(),
        "203.0.113.7".parse::<std::net::IpAddr>().unwrap()
    );
    assert_eq!(ann.bind(0x4000, at_bob).await, DONE);
    assert_eq!(bob.permit(at_ann).await, DONE);
    ann.channel(0x4000, b"hello").await;
    assert_eq!(data(&bob.receive().await), (at_ann, b"hello".to_vec()));
    bob.indicate(at_ann, b"good day").await;
    assert_eq!(ann.receive().await[4..], *b"good day");
}

#[tokio::test]
async fn nobody_is_relayed_without_a_permission() {
    let server = start(loopback()).await;
    let credentials = Credentials::ask(&server).await;
    let mut client = Client::udp(server.turn[0], &credentials).await;
    let relay = client.relay().await;
    let (known, address) = peer("127.0.0.1:0").await;
    let (stranger, _) = peer("127.0.0.2:0").await;
    let (_, unknown) = peer("127.0.0.3:0").await;
    client.permit(address).await;
    client.indicate(unknown, b"dropped").await;
    stranger.send_to(b"dropped", relay).await.unwrap();
    known.send_to(b"kept", relay).await.unwrap();
    assert_eq!(data(&client.receive().await), (address, b"kept".to_vec()));
}

#[tokio::test]
async fn addresses_of_the_operators_network_are_refused() {
    let server = start(TurnOptions {
        allow_loopback: false,
        ..loopback()
    })
    .await;
    let credentials = Credentials::ask(&server).await;
    let mut client = Client::udp(server.turn[0], &credentials).await;
    client.allocate(true).await;
    for forbidden in [
        "127.0.0.1:80",
        "10.0.0.1:80",
        "192.168.1.1:80",
        "169.254.169.254:80",
        "100.64.0.1:80",
        "224.0.0.1:80",
        "0.0.0.0:80",
        "[::1]:80",
        "[fd00::1]:80",
        "[fe80::1]:80",
        "[::ffff:127.0.0.1]:80",
        "[64:ff9b::7f00:1]:80",
    ] {
        let peer = forbidden.parse().unwrap();
        assert_eq!(
            client.permit(peer).await,
            Outcome::Refused(403),
            "{forbidden}"
        );
        assert_eq!(
            client.bind(0x4000, peer).await,
            Outcome::Refused(403),
            "{forbidden}"
        );
    }
    assert_eq!(client.permit("192.0.2.1:80".parse().unwrap()).await, DONE);
}

#[tokio::test]
async fn only_credentials_that_hold_open_the_relay() {
    let secret = Secret::new("0123456789abcdef0123").unwrap();
    let server = start(TurnOptions {
        secret: Some(secret),
        ..loopback()
    })
    .await;
    let right = Credentials::ask(&server).await;
    let wrong = Credentials {
        password: "wrong".into(),
        ..right.clone()
    };
    // Signed with the right secret: printf 1600000000:ann | openssl dgst -sha1 -hmac 0123456789abcdef0123 -binary | base64
    let expired = Credentials {
        username: "1600000000:ann".into(),
        password: "c3/E6HWvLiK2ZfCJndHe431nECo=".into(),
    };
    let nobody = Credentials {
        username: "ann".into(),
        password: "x".into(),
    };
    for credentials in [wrong, expired, nobody] {
        let mut client = Client::udp(server.turn[0], &credentials).await;
        assert_eq!(client.greet().await, 401);
        assert_eq!(client.allocate(false).await, Outcome::Refused(401));
    }
    let mut client = Client::udp(server.turn[0], &right).await;
    client.greet().await;
    let nonce = std::mem::replace(&mut client.nonce, "0000000000abc".into());
    assert_eq!(client.allocate(false).await, Outcome::Refused(438));
    client.nonce = nonce;
    client.relay().await;
    // Somebody else's credentials, though good, do not open this allocation.
    client.credentials = Credentials::ask(&server).await;
    assert_eq!(client.refresh(600).await, Outcome::Refused(441));
    client.credentials = right;
    assert_eq!(client.refresh(600).await, DONE);
}

#[tokio::test]
async fn servers_with_one_secret_take_each_others_credentials() {
    let options = || TurnOptions {
        secret: Some(Secret::new("0123456789abcdef0123").unwrap()),
        ..loopback()
    };
    let (one, other) = (start(options()).await, start(options()).await);
    let credentials = Credentials::ask(&one).await;
    let mut client = Client::udp(other.turn[0], &credentials).await;
    client.relay().await;
    let stranger = start(loopback()).await;
    let mut client = Client::udp(stranger.turn[0], &credentials).await;
    assert_eq!(client.allocate(false).await, Outcome::Refused(401));
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_is_answered_again() {
    let server = start(loopback()).await;
    let credentials = Credentials::ask(&server).await;
    let mut client = Client::udp(server.turn[0], &credentials).await;
    client.greet().await;
    let request = client.allocation();
    let first = client.exchange(&request).await;
    assert!(matches!(&first, Outcome::Relays(relays) if relays.len() == 1));
    assert_eq!(client.exchange(&request).await, first);
    assert_eq!(client.allocate(false).await, Outcome::Refused(437));
    assert_eq!(client.refresh(0).await, DONE);
    assert_eq!(client.refresh(600).await, Outcome::Refused(437));
}

#[tokio::test]
async fn allocations_are_counted_by_user_by_address_and_in_all() {
    let limits = TurnLimits {
        allocations: 4,
        allocations_per_user: 2,
        allocations_per_address: 3,
        ..TurnLimits::default()
    };
    let server = start(TurnOptions {
        limits,
        ..loopback()
    })
    .await;
    let ann = Credentials::ask(&server).await;
    let bob = Credentials::ask(&server).await;
    let full = Outcome::Refused(486);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Client::udp(server.turn[0], &ann).await;
        client.relay().await;
        held.push(client);
    }
    let mut client = Client::udp(server.turn[0], &ann).await;
    assert_eq!(client.allocate(false).await, full);
    let mut client = Client::udp(server.turn[0], &bob).await;
    client.relay().await;
    held.push(client);
    let mut client = Client::udp(server.turn[0], &bob).await;
    assert_eq!(client.allocate(false).await, full);
    let mut client = Client::udp_from("127.0.0.2:0", server.turn[0], &bob).await;
    client.relay().await;
    let mut last = Client::udp_from(
        "127.0.0.3:0",
        server.turn[0],
        &Credentials::ask(&server).await,
    )
    .await;
    assert_eq!(last.allocate(false).await, full);
    // What is given back can be had again.
    assert_eq!(held[0].refresh(0).await, DONE);
    last.relay().await;
}

#[tokio::test]
async fn what_is_above_the_rate_is_dropped() {
    let limits = TurnLimits {
        bits_per_second_per_allocation: 8_000,
        ..TurnLimits::default()
    };
    let server = start(TurnOptions {
        limits,
        ..loopback()
    })
    .await;
    let credentials = Credentials::ask(&server).await;
    let mut client = Client::udp(server.turn[0], &credentials).await;
    let relay = client.relay().await;
    let (peer, address) = peer("127.0.0.1:0").await;
    client.bind(0x4000, address).await;
    for _ in 0..100 {
        client.channel(0x4000, &[7; 1_000]).await;
    }
    // An answer shows that all of them were looked at.
    client.refresh(600).await;
    let mut passed = 0;
    while timeout(Duration::from_millis(200), peer.recv_from(&mut [0; 2_000]))
        .await
        .is_ok()
    {
        passed += 1;
    }
    assert!(
        (65..75).contains(&passed),
        "{passed} of 100 through {relay}"
    );
}

#[tokio::test]
async fn garbage_changes_nothing() {
    let server = start(loopback()).await;
    let credentials = Credentials::ask(&server).await;
    let mut client = Client::udp(server.turn[0], &credentials).await;
    client.greet().await;
    let good = client.allocation();
    let mut seed = 1_u64;
    for round in 0..3_000 {
        let mut bytes = good.clone();
        for _ in 0..=round % 7 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % bytes.len();
            bytes[at] ^= (seed >> 24) as u8 | 1;
        }
        bytes.truncate(bytes.len() - round % 30);
        client.send(&bytes).await;
    }
    for bytes in [
        &b""[..],
        b"\x40",
        b"\x40\0\xff\xff",
        b"\x40\0\0\0",
        &[0x40; 60_000],
        &[0xff; 60_000],
    ] {
        client.send(bytes).await;
    }
    // Another port, whose answers are not behind those of the garbage.
    let mut client = Client::udp(server.turn[0], &credentials).await;
    client.relay().await;
}

#[tokio::test]
async fn a_connection_that_is_no_clients_is_closed() {
    let limits = TurnLimits {
        patience: Duration::from_millis(400),
        ..TurnLimits::default()
    };
    let server = start(TurnOptions {
        limits,
        ..loopback()
    })
    .await;
    let credentials = Credentials::ask(&server).await;
    let closed = async |stream: &mut TcpStream| {
        let end = timeout(PATIENCE, stream.read(&mut [0; 64]))
            .await
            .expect("closed in time");
        assert!(matches!(end, Ok(0) | Err(_)));
    };
    // Says nothing; speaks something else; begins a frame and does not end it.
    for first in [&b""[..], b"\xffGET", b"\0\x03\0\x08"] {
        let mut stream = TcpStream::connect(server.turn[0]).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, first)
            .await
            .unwrap();
        closed(&mut stream).await;
    }
    // A client with an allocation may be silent for as long as that lasts, but not in the middle of a frame.
    let mut client = Client::tcp(server.turn[0], &credentials).await;
    client.relay().await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(client.refresh(600).await, DONE);
    client.send(&[0x40, 0, 0x10, 0, 1, 2, 3]).await;
    let common::turn::Wire::Tcp(stream) = &mut client.wire else {
        unreachable!("made by tcp()");
    };
    closed(stream).await;
}

#[tokio::test]
async fn an_allocation_ends_with_its_connection() {
    let limits = TurnLimits {
        allocations: 1,
        ..TurnLimits::default()
    };
    let server = start(TurnOptions {
        limits,
        ..loopback()
    })
    .await;
    let credentials = Credentials::ask(&server).await;
    let mut first = Client::tcp(server.turn[0], &credentials).await;
    first.relay().await;
    drop(first);
    let mut second = Client::tcp(server.turn[0], &credentials).await;
    soon(async {
        while second.allocate(false).await == Outcome::Refused(486) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stopped_server_leaves_no_socket_behind() {
    let server = start(loopback()).await;
    let credentials = Credentials::ask(&server).await;
    let turn = server.turn[0];
    let mut client = Client::udp(turn, &credentials).await;
    let relay = client.relay().await;
    let connection = Client::tcp(turn, &credentials).await;
    server.stop().await;
    UdpSocket::bind(turn).await.expect("the port is free");
    UdpSocket::bind(relay).await.expect("the port is free");
    drop(connection);
}

/// Runs coturn's client, two of whose allocations talk to each other; what it says at the end.
async fn uclient(server: SocketAddr, credentials: &Credentials, flags: &[&str]) -> String {
    let mut command = tokio::process::Command::new("turnutils_uclient");
    command.args(["-u", &credentials.username, "-w", &credentials.password]);
    command.args([
        "-p",
        &server.port().to_string(),
        "-c",
        "-y",
        "-n",
        "20",
        "-z",
        "5",
    ]);
    command
        .args(flags)
        .arg(server.ip().to_string())
        .kill_on_drop(true);
    let output = soon(command.output()).await.expect("coturn is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn the_client_of_coturn_loses_nothing_over_udp_and_tcp() {
    let server = start(loopback()).await;
    let credentials = Credentials::ask(&server).await;
    for (address, flags) in [
        (server.turn[0], &[][..]),
        (server.turn[0], &["-s"]),
        (server.turn[1], &["-x"]),
        (server.turn[0], &["-t"]),
    ] {
        let said = uclient(address, &credentials, flags).await;
        assert!(
            said.contains("Total lost packets 0 (0.000000%)"),
            "{flags:?}: {said}"
        );
        assert!(said.contains("tot_recv_msgs=40"), "{flags:?}: {said}");
    }
}

#[tokio::test]
async fn credentials_are_told_to_who_may_have_them_and_renewed_in_time() {
    use futures_util::StreamExt;

    let turn = TurnOptions {
        ttl: Duration::from_secs(3),
        ..loopback()
    };
    let server = Running::start(Options {
        turn: Some(turn),
        tokens: Some(wice_signal::Token::new("correct-horse").unwrap().into()),
        ..Options::default()
    })
    .await;
    let refused = server.get(server.url("/v1/ice-servers")).await;
    assert_eq!(refused.status().as_u16(), 401);
    assert!(!refused.text().await.unwrap().contains("credential"));

    let mut request = common::upgrade(server.http);
    let shown = "Bearer correct-horse".parse().unwrap();
    request.headers_mut().insert("authorization", shown);
    let (mut socket, _) = soon(tokio_tungstenite::connect_async(request))
        .await
        .unwrap();
    let mut next = async || loop {
        let text = soon(socket.next()).await.unwrap().unwrap();
        let frame: serde_json::Value =
            serde_json::from_slice(&text.into_data()).unwrap_or_default();
        if frame["op"] == "ice-servers" {
            return frame["servers"][1].clone();
        }
    };
    let (first, second) = (next().await, next().await);
    let port = server.turn[0].port();
    assert_eq!(
        first["urls"][0],
        format!("turn:127.0.0.1:{port}?transport=udp")
    );
    assert_eq!(first["ttl"], 3);
    assert_ne!(first["username"], second["username"]);
    // A renewal opens what the credentials before it made.
    let credentials = |entry: &serde_json::Value| Credentials {
        username: entry["username"].as_str().unwrap().to_owned(),
        password: entry["credential"].as_str().unwrap().to_owned(),
    };
    let mut client = Client::udp(server.turn[0], &credentials(&second)).await;
    client.relay().await;
    client.credentials = credentials(&next().await);
    assert_eq!(client.refresh(600).await, DONE);
}
