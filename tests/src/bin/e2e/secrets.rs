//! What an agent must never tell, however much it logs: keys, ICE passwords and tokens.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use wice_core::key::PublicKey;
use wice_tests::agent::{Agent, Settings, Status, wicectl};
use wice_tests::bus;
use wice_tests::coturn::{Relay, Transport};
use wice_tests::process::Process;
use wice_tests::relayed::{RelayScene, SYMMETRIC, Whose};
use wice_tests::scene::{PATIENCE, Scene, Side};
use wice_tests::server::program;
use wice_tests::topology::Host;
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

use crate::{Case, case, mailbox};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "secrets-are-in-no-log-argument-or-property-of-an-agent-that-traces",
            traced_connection,
        ),
        case(
            "secrets-of-turn-servers-are-told-by-no-agent-that-traces",
            traced_relay,
        ),
    ]
}

const TOKEN: &str = "aVerySecretTokenOfTheLab";

/// A secret and the words that a failure uses for it.
struct Secret {
    what: &'static str,
    text: String,
}

fn traced_connection(engine: Engine) -> Result<()> {
    let scene = Scene::at_home(engine)?;
    let machine = &scene.a.host.machine;
    let preshared = machine.run("wg genpsk")?;
    for (side, other) in [(&scene.a, &scene.b), (&scene.b, &scene.a)] {
        side.host.machine.run_with_input(
            &format!(
                "wg set wg0 peer {} preshared-key /dev/stdin",
                other.tunnel.key
            ),
            &preshared,
        )?;
    }
    machine.write("/run/lab/token", TOKEN)?;
    machine.write(
        "/run/lab/wice.toml",
        &format!(
            "[signaling]\nbackends = [{:?}, {:?}]\ntoken-file = \"/run/lab/token\"\n[ice]\nservers = [{:?}]\n",
            scene.server.websocket(),
            scene.server.http(),
            scene.server.stun()
        ),
    )?;
    let agent = trace(&scene.a.host)?;
    let _b = Agent::start(&scene.b.host, &Settings::websocket(&scene.server))?;
    connected(&scene)?;
    scene.a.reaches(&scene.b)?;

    let mut secrets = secrets(&scene, &preshared)?;
    wicectl(&scene.a.host, &format!("restart {}", scene.b.tunnel.key))?;
    agent.signal(Signal::SIGHUP)?;
    until("the reload", PATIENCE, || {
        Ok(agent.output().contains("was read again").then_some(()))
    })?;
    secrets.extend(passwords(&scene)?);

    nothing_is_told(&scene.a.host, &scene.b, agent, &secrets)
}

/// By coturn with a password, and by our own server with the credentials that it hands out.
fn traced_relay(engine: Engine) -> Result<()> {
    for whose in [Whose::Coturn, Whose::Own] {
        let relayed = RelayScene::new(engine, whose, Transport::Udp, SYMMETRIC)?;
        let scene = &relayed.scene;
        relayed.settings[0].write(&scene.a.host.machine)?;
        let agent = trace(&scene.a.host)?;
        let _b = Agent::start(&scene.b.host, &relayed.settings[1])?;
        connected(scene)?;
        scene.a.reaches(&scene.b)?;
        let mut secrets = passwords(scene)?;
        for relay in &relayed.settings[0].relays {
            secrets.extend(turn_secrets(scene, relay)?);
        }
        nothing_is_told(&scene.a.host, &scene.b, agent, &secrets)?;
        for (machine, log) in [
            (&scene.a.host.machine, "tracing-agent"),
            (scene.lab.wan(), "wice-signal"),
        ] {
            let text = machine.read(&format!("/run/lab/{log}.log"))?;
            let line = text.lines().find(|line| tells_temporary(line));
            ensure!(line.is_none(), "{log} tells a TURN password: {line:?}");
        }
    }
    Ok(())
}

/// Tells whether a line has a word of the shape of a temporary TURN password, which is a SHA-1 in base64. A WebSocket's
/// handshake has one, which is no secret.
fn tells_temporary(line: &str) -> bool {
    let of_base64 = |letter: char| letter.is_ascii_alphanumeric() || "+/=".contains(letter);
    let mut words = line.split(|letter| !of_base64(letter));
    words.any(|word| word.len() == 28 && word.trim_end_matches('=').len() == 27)
        && !line.to_ascii_lowercase().contains("websocket-accept")
}

/// Starts the agent of a host, with the configuration that is there, and has it log everything that it can.
fn trace(host: &Host) -> Result<Process> {
    let mut command = host.machine.command(program("wice-agent")?);
    command
        .args(["--log-level", "trace", "--config", "/run/lab/wice.toml"])
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus::ADDRESS)
        .env("RUST_LOG", "trace");
    Process::start(&host.machine, "tracing-agent", &mut command)
}

fn connected(scene: &Scene) -> Result<()> {
    until("A to be connected", PATIENCE, || {
        let status: Status = serde_json::from_str(&wicectl(&scene.a.host, "status --json")?)?;
        let mut peers = status.interfaces.iter().flat_map(|one| &one.peers);
        Ok(peers.any(|peer| peer.state == "connected").then_some(()))
    })
}

/// Looks for the secrets wherever somebody else could read, and ends the agent.
fn nothing_is_told(host: &Host, peer: &Side, mut agent: Process, secrets: &[Secret]) -> Result<()> {
    let machine = &host.machine;
    let objects = machine.run(&format!(
        "dbus-send --bus={} --print-reply --dest=org.wice.Wice1 /org/wice/Wice1 \
         org.freedesktop.DBus.ObjectManager.GetManagedObjects",
        bus::ADDRESS
    ))?;
    ensure!(
        objects.contains(&peer.tunnel.key),
        "no peer on D-Bus: {objects}"
    );
    let process = |file| {
        fs::read(format!("/proc/{}/{file}", agent.id()))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .with_context(|| format!("cannot read the {file} of the agent"))
    };
    let (arguments, environment) = (process("cmdline")?, process("environ")?);
    let explained = wicectl(host, "status")?;
    let status = agent.stop()?;
    ensure!(status.success(), "ended with {status}");
    let log = agent.output();
    println!(
        "{} lines of log, {} secrets",
        log.lines().count(),
        secrets.len()
    );
    ensure!(
        log.contains("DEBUG"),
        "the log was not asked for everything"
    );
    for (place, text) in [
        ("the log", &log),
        ("the arguments", &arguments),
        ("the environment", &environment),
        ("D-Bus", &objects),
        ("the status", &explained),
    ] {
        for secret in secrets {
            let line = text.lines().find(|line| line.contains(&secret.text));
            ensure!(line.is_none(), "{place} tells {}: {line:?}", secret.what);
        }
    }
    Ok(())
}

/// The token and every key, in the shapes in which programs print them.
fn secrets(scene: &Scene, preshared: &str) -> Result<Vec<Secret>> {
    let own = scene.a.host.machine.run("wg show wg0 private-key")?;
    let mut secrets = vec![Secret {
        what: "the token",
        text: TOKEN.to_owned(),
    }];
    for (what, base64) in [
        ("the private key", &own),
        ("the preshared key", &preshared.to_owned()),
    ] {
        let base64 = base64.trim();
        // Only the shape of a key matters here: any 32 bytes have it.
        let key: PublicKey = base64.parse().context("not a key")?;
        let bytes = key.as_bytes();
        let list = format!("{bytes:?}");
        let hex_list = format!("{bytes:x?}");
        for text in [
            base64.to_owned(),
            key.to_hex(),
            list[1..list.len() - 1].to_owned(),
            hex_list[1..hex_list.len() - 1].to_owned(),
        ] {
            secrets.push(Secret { what, text });
        }
    }
    Ok(secrets)
}

/// The ICE passwords of both sides: whoever has a private key can read them in the mailboxes.
fn passwords(scene: &Scene) -> Result<Vec<Secret>> {
    let mut secrets = Vec::new();
    for (reader, writer) in [(&scene.a, &scene.b), (&scene.b, &scene.a)] {
        let pair = mailbox::secrets(reader, writer)?;
        let sealed = mailbox::read(scene, pair.incoming())?.context("an empty mailbox")?;
        let offer = pair.open(&sealed).ok().context("an offer does not open")?;
        let offer: Value = serde_json::from_str(&offer)?;
        let password = offer["pwd"].as_str().context("no password")?.to_owned();
        secrets.push(Secret {
            what: "an ICE password",
            text: password,
        });
    }
    Ok(secrets)
}

/// What opens a TURN server: the password, and the key that is made of it and the user's name (RFC 8489 §9.2.2).
fn turn_secrets(scene: &Scene, relay: &Relay) -> Result<Vec<Secret>> {
    let realm = "lab.wice.test";
    let input = format!("{}:{realm}:{}", relay.username, relay.credential);
    let digest = scene
        .lab
        .wan()
        .run_with_input("openssl dgst -md5 -r", &input)?;
    let key = digest.split_whitespace().next().context("no digest")?;
    Ok(vec![
        Secret {
            what: "a TURN password",
            text: relay.credential.clone(),
        },
        Secret {
            what: "the key of a TURN password",
            text: key.to_owned(),
        },
    ])
}
