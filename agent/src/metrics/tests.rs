//! The endpoint over real connections, judged by promtool; the documentation against what is served.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wice_core::key::PublicKey;
use wice_core::status::State;

use super::endpoint::CONNECTIONS;
use super::{BackendFigures, Figures, Metrics};

const DOCUMENTATION: &str = include_str!("../../../docs/metrics.md");
const DEADLINE: Duration = Duration::from_secs(60);

/// Figures with something in each of them.
fn figures() -> Figures {
    Figures {
        interfaces: BTreeMap::from([(true, 1)]),
        peers: BTreeMap::from([("connected", 2), ("waiting", 1)]),
        paths: BTreeMap::from([(("direct", "udp4"), 2), (("none", ""), 1)]),
        restarts: BTreeMap::from([("consent-lost", 3)]),
        dropped: BTreeMap::from([("bad-signature", 4)]),
        backends: vec![BackendFigures {
            url: "wss://signal.example/\"quoted\"".into(),
            up: true,
            failures: 5,
            messages: [("sent", 6), ("refused", 7), ("received", 8), ("ignored", 9)],
        }],
        relays: BTreeMap::from([("up", 1)]),
        relay_sent: 10,
        relay_received: 11,
    }
}

/// Metrics at a free port, with one connection that was observed.
fn metrics() -> (Metrics, SocketAddr) {
    let mut metrics = Metrics::new();
    metrics.listen(Some("127.0.0.1:0".parse().unwrap()));
    let address = metrics.address().unwrap();
    let key = PublicKey::from_bytes([1; 32]);
    metrics.state_changed("wg0", &key, State::Checking);
    metrics.state_changed("wg0", &key, State::Connected);
    (metrics, address)
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Answers whoever asks while something else happens.
async fn while_answering<T>(metrics: &mut Metrics, other: impl Future<Output = T>) -> T {
    let answering = async {
        loop {
            metrics.next().await.answer(&figures());
        }
    };
    tokio::select! {
        () = answering => unreachable!("it answers for ever"),
        result = tokio::time::timeout(DEADLINE, other) => result.expect("an answer in time"),
    }
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n";

async fn scrape() -> String {
    let (mut metrics, address) = metrics();
    let answer = while_answering(&mut metrics, ask(address, GET)).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

#[tokio::test]
async fn promtool_finds_no_fault() {
    let text = scrape().await;
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut tool = tool.expect("promtool, which tests/setup installs");
    let mut stdin = tool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = tool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[tokio::test]
async fn each_figure_is_served() {
    let text = scrape().await;
    for line in [
        "wice_interfaces{managed=\"true\"} 1",
        "wice_peers{state=\"connected\"} 2",
        "wice_paths{path=\"direct\",network=\"udp4\"} 2",
        "wice_connect_duration_seconds_count 1",
        "wice_session_restarts_total{reason=\"consent-lost\"} 3",
        "wice_input_dropped_total{reason=\"bad-signature\"} 4",
        "wice_signaling_up{backend=\"wss://signal.example/\\\"quoted\\\"\"} 1",
        "wice_relays{state=\"up\"} 1",
        "wice_relay_bytes_total{direction=\"sent\"} 10",
        "wice_relay_bytes_total{direction=\"received\"} 11",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn the_documentation_names_exactly_what_is_served() {
    let text = scrape().await;
    let served = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            (name.to_owned(), kind.to_owned())
        });
    // Rows of the agent's table: | `name` | type | labels | meaning |
    let (_, rest) = DOCUMENTATION.split_once("## wice-agent").unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let documented = section.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let kind = rest.split(" | ").next()?;
        Some((name.to_owned(), kind.to_owned()))
    });
    assert_eq!(
        documented.collect::<BTreeSet<_>>(),
        served.collect::<BTreeSet<_>>()
    );
}

#[tokio::test]
async fn only_reading_metrics_is_answered() {
    let (mut metrics, address) = metrics();
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: agent\r\n\r\n", "404"),
        (
            "POST /metrics HTTP/1.1\r\nHost: agent\r\nContent-Length: 0\r\n\r\n",
            "405",
        ),
        ("HEAD /metrics HTTP/1.1\r\nHost: agent\r\n\r\n", "200"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = while_answering(&mut metrics, ask(address, request)).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{request:?}: {answer}");
    }
}

#[tokio::test]
async fn readers_that_say_nothing_are_sent_away_and_others_get_their_turn() {
    let (mut metrics, address) = metrics();
    let mut idle = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let answer = while_answering(&mut metrics, ask(address, GET)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // The first of them has been closed by the endpoint, with or without an answer.
    let mut rest = Vec::new();
    idle[0].read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_leaves_the_agent_without_metrics_until_it_is_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut metrics = Metrics::new();
    metrics.listen(Some(address));
    assert_eq!(metrics.address(), None);
    drop(taken);
    metrics.listen(Some(address));
    assert_eq!(metrics.address(), Some(address));
    metrics.listen(None);
    assert_eq!(metrics.address(), None);
}

#[test]
fn the_alert_rules_are_valid_and_use_what_is_served() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../packaging/prometheus/wice.rules.yml"
    );
    let output = Command::new("promtool")
        .args(["check", "rules", path])
        .output()
        .expect("promtool, which tests/setup installs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    let dashboard = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../packaging/prometheus/wice-dashboard.json"
    );
    let dashboard = std::fs::read_to_string(dashboard).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
    let rules = std::fs::read_to_string(path).unwrap();
    let mut names = 0;
    for text in [&rules, &dashboard] {
        let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
        for name in words.filter(|word| word.starts_with("wice_")) {
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            let row = format!("| `{name}` |");
            assert!(DOCUMENTATION.contains(&row), "{name} is not documented");
            names += 1;
        }
    }
    assert!(names > 0);
}
