//! `wicectl monitor`: what it prints for signals in a known order.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;
use wice_bus::{BackendState, Reason, State};
use zbus::Connection;
use zbus::Variant;

use crate::model::{self, Model};
use crate::run::{Scene, compare};

const DEADLINE: Duration = Duration::from_secs(60);
/// How many lines the signals below make.
const LINES: usize = 6;

#[tokio::test]
async fn lines_for_people() {
    follow("monitor", &["--color", "never", "monitor"]).await;
}

#[tokio::test]
async fn lines_in_colour() {
    follow("monitor.color", &["--color", "always", "monitor"]).await;
}

#[tokio::test]
async fn lines_for_programs() {
    follow("monitor-json", &["monitor", "--json"]).await;
}

async fn follow(name: &str, arguments: &[&str]) {
    let mut scene = Scene::new(Model::hostile(model::THEN)).await;
    let agent = scene.agent.take().expect("an agent");
    let mut monitor = scene
        .command(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("wicectl runs");
    let output = BufReader::new(monitor.stdout.take().expect("piped"));
    let (tell, mut told) = unbounded_channel();
    std::thread::spawn(move || {
        output
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| tell.send(line))
    });
    // It listens before it reads, so no signal is lost from here on.
    let listening = tokio::time::timeout(DEADLINE, scene.read.notified()).await;
    listening.expect("wicectl reads the agent");
    signals(&agent).await.expect("the bus takes signals");
    let mut text = String::new();
    for number in 1..=LINES {
        let line = tokio::time::timeout(DEADLINE, told.recv()).await;
        let line = line.expect("all lines in time").expect("wicectl goes on");
        text += &(timeless(&line) + "\n");
        // Not before all has been read: without an agent nothing can be.
        if number == LINES - 1 {
            let released = agent.release_name(wice_bus::SERVICE).await;
            released.expect("the bus takes the name back");
        }
    }
    monitor.kill().expect("it runs until interrupted");
    monitor.wait().expect("it ends");
    compare(name, &(text, 0));
}

async fn signals(agent: &Connection) -> zbus::Result<()> {
    let model = Model::hostile(model::THEN);
    let peer = &model.snapshot.interfaces[0].peers[0];
    let path = peer.path.as_str();
    let emit = async |path: &str, interface: &str, member: &str, body: &Body| match body {
        Body::State(it) => {
            agent
                .emit_signal(None::<&str>, path, interface, member, it)
                .await
        }
        Body::Path(it) => {
            agent
                .emit_signal(None::<&str>, path, interface, member, it)
                .await
        }
    };
    let state = (
        State::Connected.number(),
        State::Checking.number(),
        Reason::PairNominated.number(),
    );
    emit(path, wice_bus::PEER, "StateChanged", &Body::State(state)).await?;
    let way = ("relay".to_owned(), model::HOSTILE.to_owned());
    emit(path, wice_bus::PEER, "PathChanged", &Body::Path(way)).await?;
    let endpoint = Variant::from(model::HOSTILE);
    changed(agent, path, wice_bus::PEER, "Endpoint", endpoint).await?;
    let backend = vec![(
        "wss://signal.example".to_owned(),
        BackendState::Down.number(),
        model::HOSTILE.to_owned(),
    )];
    let root = wice_bus::path::ROOT;
    changed(agent, root, wice_bus::MANAGER, "Backends", backend.into()).await?;
    let gone = zbus::ObjectPath::try_from(path).map(|path| (path, vec![wice_bus::PEER]))?;
    agent
        .emit_signal(
            None::<&str>,
            root,
            "org.freedesktop.DBus.ObjectManager",
            "InterfacesRemoved",
            &gone,
        )
        .await?;
    Ok(())
}

enum Body {
    State((u32, u32, u32)),
    Path((String, String)),
}

async fn changed(
    agent: &Connection,
    path: &str,
    interface: &str,
    property: &str,
    value: Variant<'_>,
) -> zbus::Result<()> {
    let changed = std::collections::HashMap::from([(property, value)]);
    let body = (interface, changed, Vec::<&str>::new());
    let properties = "org.freedesktop.DBus.Properties";
    agent
        .emit_signal(None::<&str>, path, properties, "PropertiesChanged", &body)
        .await
}

/// The line with its moment replaced, which alone differs from run to run.
fn timeless(line: &str) -> String {
    let clock = |at: usize| {
        let digits = line.get(at..at + 12)?.char_indices().all(|(i, c)| match i {
            2 | 5 => c == ':',
            8 => c == '.',
            _ => c.is_ascii_digit(),
        });
        digits.then(|| format!("{}HH:MM:SS.mmm{}", &line[..at], &line[at + 12..]))
    };
    let json = || {
        let (before, rest) = line.split_once("\"time_ms\":")?;
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        (after.len() < rest.len()).then(|| format!("{before}\"time_ms\":0{after}"))
    };
    clock(0)
        .or_else(|| clock("\u{1b}[2m".len()))
        .or_else(json)
        .unwrap_or_else(|| panic!("no time in {line:?}"))
}
