//! What Prometheus reads of the server, judged by promtool; the documentation against what is served.

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use common::{ONE, Running, TWO};
use wice_signal::{Limits, Options};

const DOCUMENTATION: &str = include_str!("../../docs/metrics.md");

/// A server that serves metrics at a free port.
fn options() -> Options {
    Options {
        metrics: Some("127.0.0.1:0".parse().expect("an address")),
        ..Options::default()
    }
}

async fn scrape(server: &Running) -> String {
    let address = server.metrics.expect("metrics are served");
    let url = format!("http://{address}/metrics");
    let answer = server.client.get(url).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.text().await.expect("text")
}

async fn put(server: &Running, mailbox: &str) -> u16 {
    let url = format!("http://{}/v1/mailboxes/{mailbox}", server.http);
    let request = server.client.put(url).body("sealed");
    let request = request.header("Content-Type", "application/jose");
    request.send().await.expect("an answer").status().as_u16()
}

async fn get(server: &Running, path: &str) -> u16 {
    let url = format!("http://{}{path}", server.http);
    let answer = server.client.get(url).send().await.expect("an answer");
    answer.status().as_u16()
}

#[tokio::test]
async fn requests_messages_and_refusals_are_counted_and_nobody_is_named() {
    let server = Running::start(Options {
        limits: Limits {
            mailboxes_per_address: 1,
            ..Limits::default()
        },
        ..options()
    })
    .await;
    assert_eq!(put(&server, ONE).await, 204);
    assert_eq!(put(&server, TWO).await, 429);
    assert_eq!(get(&server, &format!("/v1/mailboxes/{ONE}")).await, 200);
    assert_eq!(get(&server, &format!("/{ONE}")).await, 404);
    let text = scrape(&server).await;
    let route = "route=\"/v1/mailboxes/{mailbox}\"";
    for line in [
        format!("wice_signal_requests_total{{{route},method=\"PUT\",status=\"204\"}} 1"),
        format!("wice_signal_requests_total{{{route},method=\"PUT\",status=\"429\"}} 1"),
        format!("wice_signal_requests_total{{{route},method=\"GET\",status=\"200\"}} 1"),
        "wice_signal_requests_total{route=\"other\",method=\"GET\",status=\"404\"} 1".into(),
        format!("wice_signal_request_duration_seconds_count{{{route}}} 3"),
        "wice_signal_messages_total{direction=\"in\"} 1".into(),
        "wice_signal_messages_total{direction=\"out\"} 1".into(),
        "wice_signal_refused_total{limit=\"too-many-mailboxes\"} 1".into(),
        "wice_signal_mailboxes 1".into(),
        "wice_signal_stored_bytes 6".into(),
        "wice_signal_store_ready 1".into(),
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
    for secret in [ONE, TWO, "127.0.0.1"] {
        assert!(!text.contains(secret), "{text}");
    }
    // Clients do not see them.
    assert_eq!(get(&server, "/metrics").await, 404);
}

#[tokio::test]
async fn promtool_finds_no_fault_and_the_documentation_names_exactly_what_is_served() {
    let server = Running::start(options()).await;
    assert_eq!(put(&server, ONE).await, 204);
    let text = scrape(&server).await;
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which tests/setup installs");
    let mut stdin = tool.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = tool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");

    let served = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.replacen(' ', " | ", 1));
    let (_, section) = DOCUMENTATION
        .split_once("\n## wice-signal\n")
        .expect("a section");
    let documented = section.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some(format!("{name} | {}", rest.split(" | ").next()?))
    });
    let documented: BTreeSet<String> = documented.collect();
    assert_eq!(documented, served.collect());
}
