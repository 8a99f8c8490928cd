//! How a server ends, as a library and as a program.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{ONE, Running, free_port, soon, upgrade};
use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use wice_signal::Options;

/// What an operator is willing to wait.
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test]
async fn long_polls_are_answered_and_websockets_closed() {
    let server = Running::start(Options::default()).await;
    let poll = server
        .client
        .post(server.url("/v1/poll"))
        .json(&json!({"wait": 60, "mailboxes": {ONE: null}}));
    let poll = tokio::spawn(poll.send());
    let (mut socket, _) = connect_async(upgrade(server.http)).await.unwrap();
    // A client that never says anything must not hold the server up.
    let _silent = TcpStream::connect(server.http).await.unwrap();
    // Answered on a third connection: the server has met the ones before.
    server.get(server.url("/healthz")).await;

    let start = Instant::now();
    let goodbye = tokio::spawn(async move {
        let close = socket.next().await.unwrap().unwrap();
        assert!(matches!(close, Message::Close(Some(frame)) if u16::from(frame.code) == 1001));
        while socket.next().await.is_some() {}
    });
    server.stop().await;
    assert!(start.elapsed() < BOUND);
    soon(goodbye).await.unwrap();
    let answer = soon(poll).await.unwrap().unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer, json!({"mailboxes": {}}));
}

#[tokio::test]
async fn a_second_signal_ends_the_program_at_once() {
    let mut program = common::program::Program::start(&["--drain", "3600"]).await;
    let (mut socket, _) = connect_async(upgrade(program.address())).await.unwrap();
    // A request that never gets to its end keeps the program waiting.
    let mut slow = TcpStream::connect(program.address()).await.unwrap();
    let head = format!(
        "PUT /v1/mailboxes/{ONE} HTTP/1.1\r\nhost: x\r\ncontent-type: application/jose\r\n"
    );
    let head = head + "content-length: 9\r\nexpect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    soon(slow.read_u8()).await.unwrap();

    let pid = Pid::from_raw(i32::try_from(program.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let close = soon(socket.next()).await.unwrap().unwrap();
    assert!(matches!(close, Message::Close(Some(_))), "{close:?}");
    assert!(program.is_running());
    kill(pid, Signal::SIGTERM).unwrap();
    soon(slow.read_to_end(&mut Vec::new())).await.ok();
    assert_eq!(program.wait(), Some(0));
}

#[tokio::test]
async fn a_socket_that_systemd_hands_over_is_served() {
    let address = format!("127.0.0.1:{}", free_port());
    let activate = |arguments: &[&str]| {
        let mut command = Command::new("systemd-socket-activate");
        command.arg(format!("--listen={address}")).args(arguments);
        command.arg(env!("CARGO_BIN_EXE_wice-signal"));
        command.env_remove("JOURNAL_STREAM").stderr(Stdio::piped());
        command
    };
    // It starts the program with the first connection.
    let mut program = Program(activate(&[]).spawn().unwrap());
    let lines = BufReader::new(program.0.stderr.take().unwrap()).lines();
    let (listens, mut listening) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = listens.send(line);
        }
    });
    let get = common::client().get(format!("http://{address}/healthz"));
    let health = soon(async {
        loop {
            if let Ok(answer) = get.try_clone().unwrap().send().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(health.await.status(), 200);
    let said = soon(async {
        loop {
            let line = listening.recv().await.unwrap();
            if line.contains("listening on http") {
                return line;
            }
        }
    });
    let said = said.await;
    assert!(said.ends_with(&address), "{said}");

    // A datagram socket is not what it serves.
    let wrong = activate(&["--datagram"]).spawn().unwrap();
    let mut wrong = Program(wrong);
    let knock = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    knock.connect(&address).unwrap();
    let status = soon(async {
        loop {
            let _ = knock.send(b"knock");
            if let Ok(Some(status)) = wrong.0.try_wait() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(status.await.code(), Some(1));
}

/// A running program, killed when the test fails.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wice-signal"));
    command.args(arguments).env_remove("JOURNAL_STREAM");
    command
}

#[tokio::test]
async fn the_program_says_where_it_listens_and_ends_cleanly_on_both_signals() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let arguments = ["--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0"];
        let mut program = Program(program(&arguments).stderr(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(program.0.stderr.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let (_, url) = line.split_once("listening on ").unwrap();
        assert!(
            lines
                .next()
                .unwrap()
                .unwrap()
                .contains("listening on stun:127.0.0.1:")
        );
        let health = common::client().get(format!("{url}/healthz")).send();
        assert_eq!(soon(health).await.unwrap().status().as_u16(), 200);

        let start = Instant::now();
        let pid = i32::try_from(program.0.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        assert_eq!(program.0.wait().unwrap().code(), Some(0));
        assert!(start.elapsed() < BOUND);
    }
}

#[test]
fn wrong_usage_and_failures_have_their_own_exit_status() {
    let usage = program(&["--listen", "nowhere"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    let usage = program(&["--tls-cert", "/nonexistent"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));

    let usage = program(&["--store", "nats://fleet:hunter2@nats"])
        .output()
        .unwrap();
    assert_eq!(usage.status.code(), Some(2));
    let said = String::from_utf8(usage.stderr).unwrap();
    assert!(
        said.contains("--store-user-file") && !said.contains("hunter2"),
        "{said}"
    );

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let failure = program(&["--listen", &address]).output().unwrap();
    assert_eq!(failure.status.code(), Some(1));
    let said = String::from_utf8(failure.stderr).unwrap();
    assert!(said.contains(&address) && said.contains("in use"), "{said}");

    let failure = program(&["--token-file", "/nonexistent"]).output().unwrap();
    assert_eq!(failure.status.code(), Some(1));
    let said = String::from_utf8(failure.stderr).unwrap();
    assert!(said.contains("/nonexistent"), "{said}");
}
