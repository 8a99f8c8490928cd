//! TURN servers that refuse, lie, hang or forget: each costs nobody else anything, and the status says why it is of no use.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wice_tests::agent::{Agent, RelayStatus, wicectl};
use wice_tests::coturn::{Coturn, Login, Relay, Transport};
use wice_tests::namespace::Namespace;
use wice_tests::ping::Pinger;
use wice_tests::relayed::{AT_HOME, RelayScene, SYMMETRIC, Whose};
use wice_tests::scene::PATIENCE;
use wice_tests::stun;
use wice_tests::wait::{patience, steadily, until};
use wice_tests::wireguard::Engine;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "trouble-bad-turn-servers-delay-no-direct-path-and-are-told-of",
            delay_no_direct,
        ),
        case("trouble-bad-turn-servers-delay-no-good-one", delay_no_relay),
        case("trouble-a-turn-name-that-expired-is-told-of", expired),
        case("trouble-a-nonce-that-gets-stale-is-replaced", stale_nonce),
    ]
}

/// What neither path may take longer than; without bad servers it is a fifth of a second.
const SOON: Duration = Duration::from_secs(2);

/// Of the allocations of [`stale_nonce`].
const LIFETIME: Duration = Duration::from_secs(10);
const RATE: Duration = Duration::from_millis(20);

/// A server of which no use can be, and words of the reason that the status must give.
struct Bad {
    relay: Relay,
    reasons: &'static [&'static str],
}

/// Every kind of bad server at once: nothing answers, nothing listens, something else answers, nobody knows the password.
fn bad(machine: &Namespace, good: &Relay) -> Result<Vec<Bad>> {
    let at = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
    // Open, and nobody reads from either.
    let silent = stun::bind(machine, at(9101))?;
    let deaf = machine.enter(|| Ok(TcpListener::bind(at(9102))?))?;
    thread::spawn(move || {
        let _silent = silent;
        let open: Vec<_> = deaf.incoming().collect();
        drop(open);
    });
    let chatty = machine.enter(|| Ok(TcpListener::bind(at(9103))?))?;
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in chatty.incoming().flatten() {
            // Who has gone already does not hear it.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            open.push(stream);
        }
    });
    let relay = |url: &str| Relay {
        url: url.to_owned(),
        ..good.clone()
    };
    let wrong = Relay {
        credential: "guessed".to_owned(),
        ..good.clone()
    };
    let bad = |relay, reasons| Bad { relay, reasons };
    Ok(vec![
        bad(
            relay("turn:10.0.0.1:9101?transport=udp"),
            &["answer", "time"],
        ),
        bad(
            relay("turn:10.0.0.1:9102?transport=tcp"),
            &["answer", "time"],
        ),
        bad(
            relay("turn:10.0.0.1:9103?transport=tcp"),
            &["TURN", "STUN", "answer"],
        ),
        bad(relay("turn:10.0.0.1:9104?transport=udp"), &["refused"]),
        bad(relay("turn:10.0.0.1:9105?transport=tcp"), &["refused"]),
        bad(
            relay("turn:10.0.0.222:3478?transport=tcp"),
            &["answer", "time", "route", "reach"],
        ),
        bad(
            relay("turn:nobody.invalid:3478?transport=udp"),
            &["resolve", "lookup", "name", "address"],
        ),
        bad(wrong, &["401", "credential", "password"]),
    ])
}

/// Waits until the agent's status names the reason for each bad server.
fn told(agent: &Agent, bad: &[Bad]) -> Result<()> {
    let mut seen: Vec<RelayStatus> = Vec::new();
    let outcome = until("the status to name each bad server", PATIENCE, || {
        seen = agent.status()?.agent.relays;
        let named = |one: &Bad| {
            let mut relays = seen.iter().filter(|relay| relay.url == one.relay.url);
            relays.any(|relay| {
                let error = relay.error.as_deref().unwrap_or_default();
                one.reasons.iter().any(|reason| error.contains(reason))
            })
        };
        Ok(bad.iter().all(named).then_some(()))
    });
    for relay in &seen {
        println!(
            "{}: {}: {}",
            relay.url,
            relay.state,
            relay.error.as_deref().unwrap_or_default()
        );
    }
    outcome
}

fn delay_no_direct(engine: Engine) -> Result<()> {
    let mut relayed = RelayScene::new(engine, Whose::Coturn, Transport::Udp, AT_HOME)?;
    let good = relayed.settings[0].relays.remove(0);
    let bad = bad(relayed.scene.lab.wan(), &good)?;
    for settings in &mut relayed.settings {
        settings.relays = bad.iter().map(|one| one.relay.clone()).collect();
    }
    let start = Instant::now();
    let [a, b] = relayed.start()?;
    relayed.scene.by("direct", &a, &b, PATIENCE)?;
    relayed.scene.a.reaches(&relayed.scene.b)?;
    println!("direct after {:?}", start.elapsed());
    ensure!(
        start.elapsed() < SOON * patience(),
        "took {:?}",
        start.elapsed()
    );
    told(&a, &bad)?;
    println!("{}", wicectl(&relayed.scene.a.host, "status")?);
    Ok(())
}

fn delay_no_relay(engine: Engine) -> Result<()> {
    let mut relayed = RelayScene::new(engine, Whose::Coturn, Transport::Udp, SYMMETRIC)?;
    let good = relayed.settings[0].relays[0].clone();
    let bad = bad(relayed.scene.lab.wan(), &good)?;
    for settings in &mut relayed.settings {
        // The same server with a wrong password is another entry; one of each URL is enough to tell them apart.
        let others = bad.iter().filter(|one| one.relay.url != good.url);
        settings
            .relays
            .splice(0..0, others.map(|one| one.relay.clone()));
    }
    let start = Instant::now();
    let agents = relayed.connect()?;
    println!("relayed after {:?}", start.elapsed());
    ensure!(
        start.elapsed() < SOON * patience(),
        "took {:?}",
        start.elapsed()
    );
    let relays = agents[0].status()?.agent.relays;
    let used = relays.iter().find(|relay| relay.url == good.url);
    let used = used.context("the good server is not in the status")?;
    ensure!(
        used.error.as_deref().unwrap_or_default().is_empty(),
        "the good server has an error: {used:?}"
    );
    Ok(())
}

fn expired(engine: Engine) -> Result<()> {
    let mut relayed = RelayScene::new(engine, Whose::Coturn, Transport::Udp, AT_HOME)?;
    relayed.coturn()?.crash()?;
    let coturn = Coturn::start(&relayed.scene.lab, Login::Secret, None, "")?;
    let (username, credential) = coturn.temporary(-60)?;
    let relay = Relay {
        username,
        credential,
        ..coturn.relay(Transport::Udp)?
    };
    let bad = [Bad {
        relay: relay.clone(),
        reasons: &["401", "credential", "password", "expired"],
    }];
    for settings in &mut relayed.settings {
        settings.relays = vec![relay.clone()];
    }
    let [a, b] = relayed.start()?;
    relayed.scene.by("direct", &a, &b, PATIENCE)?;
    told(&a, &bad)
}

/// A nonce that lasts two seconds, and allocations that last ten: everything that keeps one alive is refused at first.
fn stale_nonce(engine: Engine) -> Result<()> {
    let more = "stale-nonce=2\nmax-allocate-lifetime=10";
    let relayed = RelayScene::with(engine, Whose::Coturn, Transport::Udp, SYMMETRIC, more)?;
    let agents = relayed.connect()?;
    let coturn = relayed.coturn.as_ref().context("no coturn")?;
    let pings = Pinger::new(&relayed.scene.a.host, relayed.scene.b.tunnel.address)?.run(RATE);
    steadily("A's path", LIFETIME * 2, &"relay".to_owned(), || {
        let peer = agents[0].peer(&relayed.scene.a.tunnel, &relayed.scene.b.tunnel)?;
        Ok(peer.context("A forgot B")?.path)
    })?;
    let tally = pings.stop()?;
    ensure!(
        coturn.log().contains("438"),
        "coturn found no nonce too old"
    );
    println!("{tally}");
    tally.none_lost()
}
