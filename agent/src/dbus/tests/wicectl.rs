//! The real wicectl against the real service on a real bus.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use wice_core::status::{PeerStatus, Reason, State};

use super::fixture::{connected, interface, key, peers, read, serve, waiting};
use super::private_bus::{PrivateBus, eventually};
use crate::dbus::Command;

#[tokio::test]
async fn status_shows_the_peers_and_json_their_fields() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", connected(1));
    service.peer("wg0", waiting(2));
    read(&bus, |s| peers(s) == 2).await;

    let text = stdout(&run(&bus, &["status", "--color", "always"]).await);
    assert!(text.contains("laptop"), "{text}");
    assert!(
        text.contains("\u{1b}[32mconnected\u{1b}[0m (direct)"),
        "{text}"
    );
    assert!(text.contains("none is configured"), "{text}");
    let plain = stdout(&run(&bus, &[]).await);
    assert!(!plain.contains('\u{1b}'), "{plain}");
    let json = stdout(&run(&bus, &["status", "wg0", "laptop", "--json"]).await);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["version"], 1);
    let shown = &json["interfaces"][0]["peers"];
    assert_eq!(shown.as_array().map(Vec::len), Some(1));
    assert_eq!(shown[0]["remote_candidate"]["type"], "srflx");
    assert_eq!(shown[0]["state"], "connected");
}

#[tokio::test]
async fn what_does_not_exist_has_an_exit_status_of_its_own() {
    let mut bus = PrivateBus::absent();
    fails(&run(&bus, &["status"]).await, 8, "there is no system bus");
    bus.start().await;
    fails(
        &run(&bus, &["status"]).await,
        8,
        "systemctl start wice-agent",
    );
    fails(
        &run(&bus, &["monitor"]).await,
        8,
        "systemctl start wice-agent",
    );
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    service.peer("wg0", waiting(2));
    read(&bus, |s| peers(s) == 2).await;

    fails(
        &run(&bus, &["status", "wg9"]).await,
        10,
        "no interface or peer \"wg9\"",
    );
    fails(
        &run(&bus, &["restart", "nobody"]).await,
        10,
        "no peer \"nobody\"",
    );
    fails(&run(&bus, &["restart", "A"]).await, 2, "fits 2 peers");
    fails(&run(&bus, &["restart"]).await, 2, "<PEER>");
}

#[tokio::test]
async fn restart_waits_until_the_peer_is_connected_anew() {
    let bus = PrivateBus::started().await;
    let (service, mut commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", connected(1));
    read(&bus, |s| peers(s) == 1).await;
    let driver = async {
        let Some(Command::Restart { reply, .. }) = commands.recv().await else {
            panic!("no restart arrived");
        };
        reply.send(true).expect("wicectl waits");
        let restarts = connected(1).restarts + 1;
        let reason = Reason::RestartRequested;
        service.peer(
            "wg0",
            PeerStatus {
                state: State::Waiting,
                reason,
                restarts,
                ..connected(1)
            },
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        service.peer(
            "wg0",
            PeerStatus {
                restarts,
                ..connected(1)
            },
        );
    };

    let (output, ()) = tokio::join!(run(&bus, &["restart", "laptop", "--wait", "20"]), driver);

    stdout(&output);
    let driver = async {
        let Some(Command::Restart { reply, .. }) = commands.recv().await else {
            panic!("no second restart arrived");
        };
        reply.send(true).expect("wicectl waits");
    };
    let (output, ()) = tokio::join!(run(&bus, &["restart", "--all", "--wait", "0.2"]), driver);
    fails(&output, 3, "not connected again in time: wg0 laptop");
}

#[tokio::test]
async fn restarting_all_waits_only_for_those_that_were_connected() {
    let bus = PrivateBus::started().await;
    let (service, mut commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", connected(1));
    service.peer("wg0", waiting(2));
    read(&bus, |s| peers(s) == 2).await;
    let driver = async {
        for _ in 0..2 {
            let Some(Command::Restart { peer, reply, .. }) = commands.recv().await else {
                panic!("no restart arrived");
            };
            reply.send(true).expect("wicectl waits");
            if peer == key(1) {
                let restarts = connected(1).restarts + 1;
                service.peer(
                    "wg0",
                    PeerStatus {
                        restarts,
                        ..connected(1)
                    },
                );
            }
        }
    };

    let (output, ()) = tokio::join!(run(&bus, &["restart", "--all", "--wait", "20"]), driver);

    stdout(&output);
}

#[tokio::test]
async fn another_user_may_look_but_not_restart() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", connected(1));
    read(&bus, |s| peers(s) == 1).await;

    stdout(&run_as_nobody(&bus, &["status"]).await);
    fails(
        &run_as_nobody(&bus, &["restart", "laptop"]).await,
        4,
        "user 65534 may not restart a peer: only root may, because there is no polkit to ask",
    );
    fails(&run_as_nobody(&bus, &["reload"]).await, 4, "may not reload");
}

#[tokio::test]
async fn monitor_prints_each_change_and_survives_the_agent() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    read(&bus, |s| peers(s) == 1).await;
    let monitor = Follower::start(&bus, &["monitor", "--json"]);
    // Subscribed when it prints the first of these.
    let mut probes = 0;
    while monitor.line(Duration::from_millis(100)).is_none() {
        probes += 1;
        service.interface(interface(&format!("probe{probes}")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    service.peer("wg0", connected(1));
    service.state_changed(
        "wg0",
        &key(1),
        State::Connected,
        State::Waiting,
        Reason::PairNominated,
    );
    let state = monitor.event("state").await;
    assert_eq!(
        (&state["new"], &state["old"]),
        (&"connected".into(), &"waiting".into())
    );
    assert_eq!(
        (&state["interface"], &state["name"]),
        (&"wg0".into(), &"laptop".into())
    );
    assert_eq!(state["reason"], "pair-nominated");
    assert_eq!(state["peer"], key(1).to_string());
    service.stop().await;
    monitor.event("agent-stopped").await;
    let (service, _commands) = serve(&bus);
    monitor.event("agent-started").await;
    service.backends(vec![("wss://a".to_owned(), 20, String::new())]);
    assert_eq!(monitor.event("backend").await["state"], "up");
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    assert_eq!(
        monitor.event("peer-added").await["peer"],
        key(1).to_string()
    );
    service.peer_gone("wg0", &key(1));
    monitor.event("peer-removed").await;
}

#[tokio::test]
async fn watching_shows_a_change_at_once() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    read(&bus, |s| peers(s) == 1).await;
    let watch = Follower::start(&bus, &["status", "--watch", "--json"]);
    assert_eq!(
        watch.json().await["interfaces"][0]["peers"][0]["state"],
        "waiting"
    );

    service.peer("wg0", connected(1));

    assert_eq!(
        watch.json().await["interfaces"][0]["peers"][0]["state"],
        "connected"
    );
}

#[tokio::test]
async fn a_closed_pipe_ends_it_quietly() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    read(&bus, |s| !s.interfaces.is_empty()).await;
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);

    let mut process = Process::new(&*WICECTL);
    process.arg("status").stdout(writer).stderr(Stdio::piped());
    let ended = spawned(&bus, process).await;

    assert!(ended.status.success());
    assert!(
        ended.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
}

pub(super) static WICECTL: LazyLock<PathBuf> =
    LazyLock::new(|| build(&["--package", "wicectl"]).join("wicectl"));

/// Builds something from this tree, where it is not built yet: the tests of one package do not build another's. Answers the
/// directory that programs are built into.
pub(super) fn build(what: &[&str]) -> PathBuf {
    let own = std::env::current_exe().expect("the test has a path");
    let profile = own
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let built = Process::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--profile", name])
        .args(what)
        .arg("--target-dir")
        .arg(profile.parent().expect("target/PROFILE"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "{what:?} does not build");
    profile.to_owned()
}

pub(super) async fn run(bus: &PrivateBus, arguments: &[&str]) -> Output {
    let mut process = Process::new(&*WICECTL);
    process.args(arguments);
    output(bus, process).await
}

/// The same as a user without any right of its own.
pub(super) async fn run_as_nobody(bus: &PrivateBus, arguments: &[&str]) -> Output {
    run_as(bus, 65534, arguments).await
}

/// The same as the user with this number, and no group but one of that number.
pub(super) async fn run_as(bus: &PrivateBus, user: u32, arguments: &[&str]) -> Output {
    // The build directory may be closed to others.
    let copy = bus.directory().join("wicectl");
    if !copy.exists() {
        std::fs::copy(&*WICECTL, &copy).expect("wicectl is copied");
    }
    let mut process = Process::new("setpriv");
    process.args([format!("--reuid={user}"), format!("--regid={user}")]);
    process.arg("--clear-groups").arg(&copy).args(arguments);
    output(bus, process).await
}

/// Runs a process that is told of the bus.
pub(super) async fn output(bus: &PrivateBus, mut process: Process) -> Output {
    process.stdout(Stdio::piped()).stderr(Stdio::piped());
    spawned(bus, process).await
}

/// Runs a process to its end beside the service, which shares this thread's runtime.
async fn spawned(bus: &PrivateBus, mut process: Process) -> Output {
    process.env("DBUS_SYSTEM_BUS_ADDRESS", bus.address());
    let ended = tokio::task::spawn_blocking(move || {
        let child = process.spawn()?;
        drop(process);
        child.wait_with_output()
    });
    tokio::time::timeout(Duration::from_secs(60), ended)
        .await
        .expect("it ends")
        .expect("the thread ends")
        .expect("it runs")
}

pub(super) fn stdout(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {error}", output.status);
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub(super) fn fails(output: &Output, status: i32, message: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{error}");
    assert!(error.contains(message), "{error}");
}

/// A wicectl that runs on, and its lines; ended when dropped.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(bus: &PrivateBus, arguments: &[&str]) -> Self {
        let mut child = Process::new(&*WICECTL)
            .args(arguments)
            .env("DBUS_SYSTEM_BUS_ADDRESS", bus.address())
            .stdout(Stdio::piped())
            .spawn()
            .expect("wicectl runs");
        let stdout: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.for_each(|line| drop(sender.send(line)));
        });
        Self { child, lines }
    }

    /// A line that is there, or comes within the time; blocks the runtime, so keep it short.
    fn line(&self, within: Duration) -> Option<String> {
        self.lines.recv_timeout(within).ok()
    }

    async fn json(&self) -> serde_json::Value {
        let line = eventually("a line", async || self.line(Duration::ZERO)).await;
        serde_json::from_str(&line).expect("a line is JSON")
    }

    /// The next event of this kind.
    async fn event(&self, kind: &str) -> serde_json::Value {
        eventually(kind, async || {
            let line = self.line(Duration::ZERO)?;
            let event: serde_json::Value = serde_json::from_str(&line).expect("a line is JSON");
            (event["event"] == kind).then_some(event)
        })
        .await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
