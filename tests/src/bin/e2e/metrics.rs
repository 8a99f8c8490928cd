//! What Prometheus reads of an agent, while two of them connect.

use anyhow::{Context as _, Result, ensure};
use wice_tests::agent::{Agent, Settings, wicectl};
use wice_tests::scene::{PATIENCE, Scene};
use wice_tests::topology::Host;
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case(
        "metrics-tell-of-a-connection-and-of-its-restart",
        told,
    )]
}

const LISTEN: &str = "127.0.0.1:9586";

fn told(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let settings = Settings {
        metrics: Some(LISTEN),
        ..Settings::websocket(&scene.server)
    };
    let a = Agent::start(&scene.a.host, &settings)?;
    let host = &scene.a.host;
    until("A to wait for B's offer", PATIENCE, || {
        let waiting = value(host, "wice_peers{state=\"waiting\"}").ok();
        Ok((waiting == Some(1.0)).then_some(()))
    })?;
    let b = Agent::start(&scene.b.host, &settings)?;
    scene.converge(&a, &b)?;
    for (series, expected) in [
        ("wice_interfaces{managed=\"true\"}", 1.0),
        ("wice_peers{state=\"connected\"}", 1.0),
        ("wice_peers{state=\"waiting\"}", 0.0),
        ("wice_paths{path=\"direct\",network=\"udp4\"}", 1.0),
        ("wice_connect_duration_seconds_count", 1.0),
    ] {
        let seen = value(host, series)?;
        ensure!(seen == expected, "{series} is {seen}, not {expected}");
    }
    let backend = settings.backends.first().context("a backend")?;
    let backend = format!("backend=\"{}/\"", backend.trim_end_matches('/'));
    let up = value(host, &format!("wice_signaling_up{{{backend}}}"))?;
    ensure!(up == 1.0, "the backend is not up");
    for result in ["sent", "received"] {
        let series = format!("wice_signaling_messages_total{{{backend},result=\"{result}\"}}");
        ensure!(value(host, &series)? >= 1.0, "{series} counts nothing");
    }
    wicectl(host, &format!("restart {}", scene.b.tunnel.key))?;
    until("the restart to be counted", PATIENCE, || {
        let series = "wice_session_restarts_total{reason=\"restart-requested\"}";
        Ok((value(host, series).ok() == Some(1.0)).then_some(()))
    })
}

/// Reads one series of the agent in a host.
fn value(host: &Host, series: &str) -> Result<f64> {
    let url = format!("http://{LISTEN}/metrics");
    let text = host
        .machine
        .run(&format!("curl --silent --show-error --fail {url}"))?;
    let row = text.lines().find_map(|line| line.strip_prefix(series));
    let row = row.with_context(|| format!("no {series} among\n{text}"))?;
    Ok(row.trim().parse()?)
}
