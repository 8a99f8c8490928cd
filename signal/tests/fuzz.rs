//! Random and mutated frames against the program: it neither ends nor grows, and goes on to serve others.
//!
//! `WICE_FUZZ_SECONDS` says for how long; a failure names the seed that `WICE_FUZZ_SEED` repeats.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use common::program::Program;
use common::{ONE, TWO, client, soon};
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// In the unit suite.
const SECONDS: u64 = 5;
/// Sessions between two looks at the program.
const ROUND: usize = 200;
/// What the program may grow by, however many sessions there are: mailboxes that they filled, within the limit of an address.
const MEGABYTES: u64 = 64;

/// A generator that a seed repeats (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound as u64).unwrap()
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most);
        (0..length).map(|_| self.roll() as u8).collect()
    }
}

/// An operation that is right, nearly right, or not at all.
fn operation(dice: &mut Dice) -> Vec<u8> {
    let names = [
        ONE,
        TWO,
        "",
        "0123",
        "zz23456789abcdef0123456789abcdef01234567",
        "\\u0000",
        "💣",
    ];
    let (one, two) = (dice.one(&names), dice.one(&names));
    let op = dice.one(&[
        "subscribe",
        "unsubscribe",
        "publish",
        "withdraw",
        "message",
        "",
        "SUBSCRIBE",
    ]);
    let text = match dice.below(6) {
        0 => format!(r#"{{"op":"{op}","mailboxes":["{one}","{two}"]}}"#),
        1 => format!(r#"{{"op":"{op}","mailbox":"{one}","message":"{two}"}}"#),
        2 => format!(r#"{{"op":"{op}","mailbox":"{one}"}}"#),
        3 => format!(
            r#"{{"op":"publish","mailbox":"{ONE}","message":"{}"}}"#,
            "x".repeat(dice.below(40_000))
        ),
        4 => "[".repeat(dice.below(5_000)),
        _ => format!(r#"{{"op":{},"mailboxes":{{}}}}"#, dice.roll()),
    };
    let mut bytes = text.into_bytes();
    for _ in 0..dice.one(&[0, 0, 1, 4]) {
        if !bytes.is_empty() {
            let place = dice.below(bytes.len());
            bytes[place] = dice.roll() as u8;
        }
    }
    bytes
}

/// A frame (RFC 6455 §5.2), mostly well formed.
fn frame(dice: &mut Dice) -> Vec<u8> {
    if dice.below(20) == 0 {
        return dice.bytes(200);
    }
    let payload = if dice.below(5) == 0 {
        dice.bytes(70_000)
    } else {
        operation(dice)
    };
    let opcode = match dice.below(8) {
        0 => dice.roll() as u8 & 15,
        1 => dice.one(&[0, 2, 8, 9, 10]),
        _ => 1,
    };
    let (fin, reserved) = (
        dice.one(&[0x80, 0x80, 0x80, 0]),
        dice.one(&[0, 0, 0, 0, 0, 0x40, 0x10]),
    );
    let claimed = match dice.below(30) {
        0 => dice.roll(),
        1 => u64::from(dice.roll() as u32),
        _ => payload.len() as u64,
    };
    let masked = dice.below(20) != 0;
    let mut bytes = vec![fin | reserved | opcode];
    let flag = if masked { 0x80 } else { 0 };
    match claimed {
        0..=125 => bytes.push(flag | claimed as u8),
        126..=0xffff => {
            bytes.push(flag | 126);
            bytes.extend((claimed as u16).to_be_bytes());
        }
        _ => {
            bytes.push(flag | 127);
            bytes.extend(claimed.to_be_bytes());
        }
    }
    let mask = if masked {
        (dice.roll() as u32).to_be_bytes()
    } else {
        [0; 4]
    };
    if masked {
        bytes.extend(mask);
    }
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

async fn session(server: SocketAddr, dice: &mut Dice) {
    let mut stream = soon(TcpStream::connect(server)).await.unwrap();
    let version = dice.one(&["13", "13", "13", "13", "13", "13", "12", ""]);
    let key = dice.one(&["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ==", "x"]);
    let protocol = dice.one(&["wice.1", "wice.1", "wice.1", "wice.1, other", "other"]);
    let head = format!(
        "GET /v1/websocket HTTP/1.1\r\nhost: fuzz\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: {version}\r\nsec-websocket-key: {key}\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
    );
    soon(stream.write_all(head.as_bytes())).await.unwrap();
    let mut answer = [0; 1_024];
    let length = soon(stream.read(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(
        answer.starts_with("HTTP/1.1 1") || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    if !answer.starts_with("HTTP/1.1 101") {
        return;
    }
    let (mut reading, mut writing) = stream.into_split();
    let frames: Vec<u8> = (0..dice.below(12)).flat_map(|_| frame(dice)).collect();
    let cut = if dice.below(4) == 0 {
        dice.below(frames.len() + 1)
    } else {
        frames.len()
    };
    // A server that has heard enough may close before all is sent.
    let sent = async {
        let _ = writing.write_all(&frames[..cut]).await;
        // A masked close, so that the server ends the session where it still listens.
        let _ = writing.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await;
        let _ = writing.shutdown().await;
    };
    let heard = async {
        let mut bytes = vec![0; 65_536];
        while let Ok(1..) = reading.read(&mut bytes).await {}
    };
    // A frame that promises more than comes keeps the server waiting, as it should.
    let _ = timeout(Duration::from_secs(10), async { tokio::join!(sent, heard) }).await;
}

#[tokio::test]
async fn frames_of_any_kind_neither_end_the_server_nor_fill_it() {
    let setting = |name: &str| {
        env::var(name)
            .ok()
            .map(|value| value.parse::<u64>().unwrap())
    };
    let seed = setting("WICE_FUZZ_SEED").unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        u64::from_ne_bytes(bytes).max(1)
    });
    println!("WICE_FUZZ_SEED={seed}");
    let limits = [
        "--requests-per-minute",
        "4000000000",
        "--connections-per-address",
        "5000",
    ];
    let mut program = Program::start(&limits).await;
    let server = program.address();
    let mut dice = Dice(seed);
    let end = Instant::now() + Duration::from_secs(setting("WICE_FUZZ_SECONDS").unwrap_or(SECONDS));
    let (mut sessions, mut settled) = (0, None);
    while Instant::now() < end {
        for _ in 0..ROUND {
            session(server, &mut dice).await;
            sessions += 1;
        }
        assert!(program.is_running(), "the server has ended");
        let put = client().put(format!("{}/v1/mailboxes/{TWO}", program.url));
        let put = put
            .header("content-type", "application/jose")
            .body("sealed");
        assert_eq!(
            soon(put.send()).await.unwrap().status(),
            StatusCode::NO_CONTENT
        );
        let now = program.resident();
        let grown = now.saturating_sub(*settled.get_or_insert(now));
        assert!(
            grown < MEGABYTES << 20,
            "{grown} bytes more after {sessions} sessions"
        );
    }
    println!("{sessions} sessions");
}
