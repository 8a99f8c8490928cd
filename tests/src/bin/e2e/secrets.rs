//! What an agent must never tell, however much it logs: keys, ICE passwords and tokens.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use wice_core::key::PublicKey;
use wice_tests::agent::{Agent, Settings, Status, wicectl};
use wice_tests::bus;
use wice_tests::process::Process;
use wice_tests::server::program;
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

use crate::scene::{PATIENCE, Scene};
use crate::{Case, case, mailbox};

pub(crate) fn cases() -> Vec<Case> {
    vec![case(
        "secrets-are-in-no-log-argument-or-property-of-an-agent-that-traces",
        traced_connection,
    )]
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
    let mut command = machine.command(program("wice-agent")?);
    command
        .args(["--log-level", "trace", "--config", "/run/lab/wice.toml"])
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus::ADDRESS)
        .env("RUST_LOG", "trace");
    let mut agent = Process::start(machine, "tracing-agent", &mut command)?;
    let _b = Agent::start(&scene.b.host, &Settings::websocket(&scene.server))?;
    until("A to be connected", PATIENCE, || {
        let status: Status = serde_json::from_str(&wicectl(&scene.a.host, "status --json")?)?;
        let mut peers = status.interfaces.iter().flat_map(|one| &one.peers);
        Ok(peers.any(|peer| peer.state == "connected").then_some(()))
    })?;
    scene.a.reaches(&scene.b)?;

    let mut secrets = secrets(&scene, &preshared)?;
    wicectl(&scene.a.host, &format!("restart {}", scene.b.tunnel.key))?;
    agent.signal(Signal::SIGHUP)?;
    until("the reload", PATIENCE, || {
        Ok(agent.output().contains("was read again").then_some(()))
    })?;
    secrets.extend(passwords(&scene)?);

    let objects = machine.run(&format!(
        "dbus-send --bus={} --print-reply --dest=org.wice.Wice1 /org/wice/Wice1 \
         org.freedesktop.DBus.ObjectManager.GetManagedObjects",
        bus::ADDRESS
    ))?;
    ensure!(
        objects.contains(&scene.b.tunnel.key),
        "no peer on D-Bus: {objects}"
    );
    let process = |file| {
        fs::read(format!("/proc/{}/{file}", agent.id()))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .with_context(|| format!("cannot read the {file} of the agent"))
    };
    let (arguments, environment) = (process("cmdline")?, process("environ")?);
    let explained = wicectl(&scene.a.host, "status")?;
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
        for secret in &secrets {
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
