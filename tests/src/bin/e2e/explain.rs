//! `wicectl explain`: whether it names what really stands in the way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wice_tests::agent::{Agent, Settings, wicectl};
use wice_tests::nat::Nat;
use wice_tests::scene::Scene;
use wice_tests::stun;
use wice_tests::topology::{Family, Seat};
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case("explain-names-the-nats-of-both-sides", symmetric)]
}

/// Checks go on for a while before a session calls itself failed.
const PATIENCE: Duration = Duration::from_secs(45);

fn symmetric(engine: Engine) -> Result<()> {
    let scene = Scene::behind(engine, Family::V4, Nat::Symmetric, Nat::Symmetric)?;
    // It takes two servers to see that a NAT has another port for each destination.
    let second = scene.lab.server_addresses(Seat::Second)[0];
    stun::serve(scene.lab.wan(), (second, 3478).into())?;
    let mut settings = Settings::websocket(&scene.server);
    settings.servers.push(format!("stun:{second}:3478"));
    let _agents = (
        Agent::start(&scene.a.host, &settings)?,
        Agent::start(&scene.b.host, &settings)?,
    );
    let explain = format!("explain {}", scene.b.tunnel.key);
    let failed = until("A to give its pairs up", PATIENCE, || {
        let text = wicectl(&scene.a.host, &format!("{explain} --json"))?;
        let json: Value = serde_json::from_str(&text)?;
        Ok((json["state"] == "failed").then_some(json))
    })?;
    let findings = failed["findings"].as_array().context("no findings")?;
    for finding in ["mapping-varies", "peer-mapping-varies", "nothing-arrives"] {
        ensure!(
            findings.iter().any(|it| it == finding),
            "{finding} is not found: {failed:#}"
        );
    }
    for finding in ["stun-unanswered", "peer-only-private"] {
        ensure!(
            !findings.iter().any(|it| it == finding),
            "both sides were seen by two servers: {failed:#}"
        );
    }
    let pairs = failed["pairs"].as_array().context("no pairs")?;
    let (inside, outside) = (
        scene.b.host.address.to_string(),
        scene.routers[1].address.to_string(),
    );
    for (address, cause) in [(inside, "private-address"), (outside, "nothing-came")] {
        let pair = pairs.iter().find(|it| it["remote"]["address"] == *address);
        let pair = pair.with_context(|| format!("no pair with {address}: {failed:#}"))?;
        ensure!(
            pair["state"] == "failed" && pair["cause"] == cause,
            "{cause} is not the cause of {pair:#}"
        );
    }
    let text = wicectl(&scene.a.host, &explain)?;
    println!("{text}");
    ensure!(
        text.contains("Our NAT uses another port for each destination"),
        "no advice: {text}"
    );
    Ok(())
}
