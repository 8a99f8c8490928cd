//! Tunnels whose agents meet at the API server of a Kubernetes cluster, with the Role that is shipped and no more.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wice_tests::agent::{Agent, Settings, wicectl};
use wice_tests::cluster::Cluster;
use wice_tests::ping::Pinger;
use wice_tests::wait::{steadily, until};
use wice_tests::wireguard::Engine;

use crate::Case;
use wice_tests::scene::{PATIENCE, Scene, Side};

/// What the names of the cases begin with that need an API server.
pub(crate) const PREFIX: &str = "kubernetes-";

const BACKEND: &str = "k8s:?namespace=wice";
const OFFERS: &str = "/apis/wice.org/v1/namespaces/wice/offers";

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, run| Case {
        name,
        deadline: Duration::from_secs(180),
        run,
    };
    vec![
        case(
            "kubernetes-a-path-through-two-nats-is-found-by-the-cluster-alone",
            two_nats,
        ),
        case(
            "kubernetes-a-killed-api-server-is-not-noticed-by-a-path",
            killed_server,
        ),
        case(
            "kubernetes-an-attacker-with-write-access-takes-no-path-down",
            attacker,
        ),
        case(
            "kubernetes-a-missing-role-is-named-and-another-backend-serves",
            missing_role,
        ),
    ]
}

/// The agents are told of no STUN server: the cluster's Secret tells them.
fn start(scene: &Scene, backends: &[&str]) -> Result<(Cluster, Agent, Agent)> {
    let cluster = Cluster::start(&scene.lab)?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: wice-ice-servers\n  namespace: wice\n\
         stringData:\n  servers.json: '[{{\"urls\": [\"{}\"]}}]'\n",
        scene.server.stun()
    ))?;
    let settings = Settings {
        backends: backends.iter().map(|&url| url.to_owned()).collect(),
        servers: Vec::new(),
        relays: Vec::new(),
        policy: None,
        authority: None,
        metrics: None,
    };
    let agent = |host| {
        cluster.admit(host)?;
        Agent::start(host, &settings)
    };
    let (a, b) = (agent(&scene.a.host)?, agent(&scene.b.host)?);
    Ok((cluster, a, b))
}

fn two_nats(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let (cluster, mut a, mut b) = start(&scene, &[BACKEND])?;
    scene.converge(&a, &b)?;
    a.backends_up(PATIENCE)?;
    let peer = scene.a.tunnel.handshake(&scene.b.tunnel, PATIENCE)?;
    ensure!(
        peer.endpoint.map(|one| one.ip()) == Some(scene.routers[1].address),
        "the endpoint is not B's NAT"
    );
    let offers = offers(&cluster)?;
    ensure!(offers.len() == 2, "{} offers", offers.len());
    let text = cluster.ask("GET", OFFERS)?.to_string();
    for secret in [&scene.a.tunnel.key, &scene.b.tunnel.key] {
        ensure!(!text.contains(secret.as_str()), "a key in an offer");
    }
    for address in ["192.168.", "10.0.0."] {
        ensure!(!text.contains(address), "an address in an offer");
    }
    // Leaving takes the offers along.
    a.process.stop()?;
    b.process.stop()?;
    until("the offers to be withdrawn", PATIENCE, || {
        Ok(self::offers(&cluster)?.is_empty().then_some(()))
    })
}

fn killed_server(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let (cluster, a, b) = start(&scene, &[BACKEND])?;
    scene.converge(&a, &b)?;
    let pings = Pinger::new(&scene.a.host, scene.b.tunnel.address)?.run(Duration::from_millis(20));
    cluster.kill()?;
    until("the agents to notice", PATIENCE, || {
        let backends = a.status()?.agent.backends;
        Ok(backends.iter().all(|one| one.state == "down").then_some(()))
    })?;
    // New sessions, whose offers nobody takes.
    for (side, other) in [(&scene.a, &scene.b), (&scene.b, &scene.a)] {
        wicectl(&side.host, &format!("restart {}", other.tunnel.key))?;
    }
    cluster.resume()?;
    let ready = Instant::now();
    for (agent, side, other) in [(&a, &scene.a, &scene.b), (&b, &scene.b, &scene.a)] {
        agent.backends_up(PATIENCE)?;
        wicectl(
            &side.host,
            &format!("restart {} --wait 40", other.tunnel.key),
        )?;
    }
    println!(
        "both connected anew {:?} after the API server is ready",
        ready.elapsed()
    );
    let tally = pings.stop()?;
    println!("{} pings, {} lost", tally.sent, tally.lost.len());
    ensure!(tally.sent > 50 && tally.lost.is_empty(), "lost pings");
    Ok(())
}

fn attacker(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let (cluster, a, b) = start(&scene, &[BACKEND])?;
    scene.converge(&a, &b)?;
    let before = offers(&cluster)?;
    ensure!(before.len() == 2, "{} offers", before.len());
    let (first, second) = (&before[0], &before[1]);
    let forge = |of: &Offer, message: &str| {
        cluster.apply(&format!(
            "apiVersion: wice.org/v1\nkind: Offer\nmetadata:\n  name: {}\n  namespace: wice\n  labels:\n    \
             wice.org/recipient: {}\nspec:\n  message: {message}\n  expires: \"2099-01-01T00:00:00Z\"\n",
            of.name, of.recipient
        ))
    };
    // Garbage, the other direction's message, and a message with one letter changed.
    let mut changed = first.message.clone();
    let last = changed.pop().context("a message")?;
    changed.push(if last == 'A' { 'B' } else { 'A' });
    for message in ["forged", &second.message, &changed] {
        forge(first, message)?;
        steadily(
            "the state of both",
            Duration::from_millis(500),
            &(true, true),
            || {
                let connected = |agent: &Agent, side: &Side, other: &Side| {
                    let peer = agent.peer(&side.tunnel, &other.tunnel)?;
                    Ok::<_, anyhow::Error>(
                        peer.is_some_and(|one| one.state == "connected" && one.restarts == 0),
                    )
                };
                Ok((
                    connected(&a, &scene.a, &scene.b)?,
                    connected(&b, &scene.b, &scene.a)?,
                ))
            },
        )?;
    }
    scene.a.reaches(&scene.b)?;
    // A new session takes the mailbox back, whoever owns its fields.
    wicectl(
        &scene.a.host,
        &format!("restart {} --wait 20", scene.b.tunnel.key),
    )?;
    wicectl(
        &scene.b.host,
        &format!("restart {} --wait 20", scene.a.tunnel.key),
    )?;
    scene.converge(&a, &b)
}

fn missing_role(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let server = scene.server.websocket();
    let (_cluster, a, b) = start(&scene, &["k8s://nobody?namespace=wice", &server])?;
    scene.converge(&a, &b)?;
    let shown = until("the status to show the failure", PATIENCE, || {
        let shown = wicectl(&scene.a.host, "status --json")?;
        Ok(shown.contains("rbac.yaml").then_some(shown))
    })?;
    // Which right it misses first depends on what it asks first.
    let named = ["list", "watch", "create and patch"]
        .iter()
        .any(|verb| shown.contains(&format!("may not {verb} offers.wice.org in namespace wice")));
    ensure!(named, "{shown}");
    println!("{}", wicectl(&scene.a.host, "status")?);
    Ok(())
}

/// An offer, as the administrator sees it.
struct Offer {
    name: String,
    recipient: String,
    message: String,
}

fn offers(cluster: &Cluster) -> Result<Vec<Offer>> {
    let list = cluster.ask("GET", OFFERS)?;
    let items = list["items"].as_array().context("a list of offers")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let offer = |item: &serde_json::Value| Offer {
        name: text(&item["metadata"]["name"]),
        recipient: text(&item["metadata"]["labels"]["wice.org/recipient"]),
        message: text(&item["spec"]["message"]),
    };
    Ok(items.iter().map(offer).collect())
}
