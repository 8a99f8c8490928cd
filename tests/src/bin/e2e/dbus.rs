//! The D-Bus interface as programs that are not ours use it: the examples of `docs/dbus.md`, as they stand there.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wice_tests::agent::{Agent, Settings, wicectl};
use wice_tests::bus;
use wice_tests::document::examples;
use wice_tests::process::Process;
use wice_tests::scene::Scene;
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("dbus-busctl-does-what-the-document-says", busctl),
        case("dbus-gdbus-does-what-the-document-says", gdbus),
        case("dbus-python-waits-for-a-direct-path", python),
        case("dbus-everything-comes-back-with-a-new-bus", new_bus),
    ]
}

const DOCUMENT: &str = "docs/dbus.md";
/// An interpreter has to start, and a path to be found.
const PATIENCE: Duration = Duration::from_secs(40);

fn busctl(engine: Engine) -> Result<()> {
    let shown = shell(engine, 0)?;
    for words in [
        "/org/wice/Wice1/interface/wg0/peer/",
        "org.wice.Wice1.Manager",
        ".NetCheck",
        "u 50\ns \"direct\"",
        "\"Pairs\" a((ssqs)(ssqs)uuuu)",
        "\"Verdict\" u 10",
    ] {
        ensure!(shown.contains(words), "{words} is not in:\n{shown}");
    }
    Ok(())
}

fn gdbus(engine: Engine) -> Result<()> {
    let shown = shell(engine, 1)?;
    for words in [
        "interface org.wice.Wice1.Manager {",
        "interface org.wice.Wice1.Peer {",
        "'State': <uint32 50>",
        "(objectpath '/org/wice/Wice1/interface/wg0/peer/",
        "'Verdict': <uint32 10>",
    ] {
        ensure!(shown.contains(words), "{words} is not in:\n{shown}");
    }
    Ok(())
}

/// Runs one of the examples for a shell on a connected agent, and returns what it printed.
fn shell(engine: Engine, number: usize) -> Result<String> {
    let scene = Scene::at_home(engine)?;
    let _agents = scene.connect()?;
    let all = examples(DOCUMENT, "Examples", "sh")?;
    let script = all.get(number).context("no such example")?;
    let mut command = scene.a.host.machine.command("bash");
    command
        .args(["-euo", "pipefail", "-c", script])
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus::ADDRESS)
        .env("KEY", &scene.b.tunnel.key);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{}: {}\n{text}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// Starts the example, and only then the agent of the other side.
fn python(engine: Engine) -> Result<()> {
    let all = examples(DOCUMENT, "Examples", "python")?;
    let script = all.first().context("no example")?;
    let python = environment()?;
    let scene = Scene::at_home(engine)?;
    let settings = Settings::websocket(&scene.server);
    let a = Agent::start(&scene.a.host, &settings)?;
    until("A to know of B", PATIENCE, || {
        a.peer(&scene.a.tunnel, &scene.b.tunnel)
    })?;
    let machine = &scene.a.host.machine;
    machine.write("/run/lab/wait-direct.py", script)?;
    let mut command = machine.command(&python);
    command
        .arg("/run/lab/wait-direct.py")
        .args([&scene.a.tunnel.interface, &scene.b.tunnel.key])
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus::ADDRESS);
    let mut waiting = Process::start(machine, "wait-direct", &mut command)?;
    until("it to see that there is no path", PATIENCE, || {
        Ok(waiting.output().contains("the path is none").then_some(()))
    })?;
    ensure!(waiting.is_running(), "it ended early: {}", waiting.tail(20));
    let _b = Agent::start(&scene.b.host, &settings)?;
    let status = waiting.wait(PATIENCE)?;
    let words = format!("the path to {} is direct", scene.b.tunnel.key);
    ensure!(
        status.success() && waiting.output().contains(&words),
        "{status}: {}",
        waiting.output()
    );
    Ok(())
}

fn new_bus(engine: Engine) -> Result<()> {
    let mut scene = Scene::at_home(engine)?;
    let (a, _b) = scene.connect()?;
    let before = a.peer(&scene.a.tunnel, &scene.b.tunnel)?;
    scene.a.stop_bus()?;
    ensure!(a.status().is_err(), "there still is a bus");
    scene.a.start_bus()?;
    let after = until("the agent to be on the new bus", PATIENCE, || {
        a.peer(&scene.a.tunnel, &scene.b.tunnel)
    })?;
    ensure!(
        before.as_ref().map(|one| (&one.state, one.restarts))
            == Some((&after.state, after.restarts)),
        "it was {before:?} and is {after:?}"
    );
    // Not only what was known before: what is asked there is done, and shown.
    let command = format!("wait {} --direct --timeout 30", scene.b.tunnel.key);
    wicectl(&scene.a.host, &format!("restart {}", scene.b.tunnel.key))?;
    wicectl(&scene.a.host, &command).map(drop)
}

/// A Python that has dbus-fast, installed once into the same cache as other tools of the tests.
fn environment() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    let environment = cache.join("wice/dbus-fast");
    let python = environment.join("bin/python");
    let run = |command: &mut Command| -> Result<()> {
        let output = command.output()?;
        ensure!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    if run(Command::new(&python).args(["-c", "import dbus_fast"])).is_err() {
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(&environment))?;
        let install = ["-m", "pip", "install", "--quiet", "dbus-fast>=5,<6"];
        run(Command::new(&python).args(install))?;
    }
    Ok(python)
}
