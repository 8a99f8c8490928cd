//! The example for Rust in `docs/dbus.md`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use tokio::sync::mpsc;
use wice_core::status::PathKind;

use super::fixture::{connected, interface, key, peers, read, serve, waiting};
use super::private_bus::{PrivateBus, eventually};
use super::wicectl::build;

const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn the_document_shows_the_example_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |path: &str| std::fs::read_to_string(root.join(path)).expect("a file");
    let document = text("../docs/dbus.md");
    let shown = document.split("```rust\n").nth(1);
    let shown = shown
        .and_then(|it| it.split_once("\n```"))
        .expect("a block");
    assert_eq!(shown.0, text("bus/examples/wait-direct.rs").trim_end());
}

#[tokio::test]
async fn the_example_waits_for_a_direct_path() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    read(&bus, |s| peers(s) == 1).await;
    let what = ["--package", "wice-bus", "--example", "wait-direct"];
    let program = tokio::task::spawn_blocking(move || build(&what).join("examples/wait-direct"));
    let mut process = Process::new(program.await.expect("it is built"));
    process
        .args(["wg0", &key(1).to_string()])
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus.address())
        .stdout(Stdio::piped());
    let mut child = Killed(process.spawn().expect("it starts"));
    let stdout = BufReader::new(child.0.stdout.take().expect("piped"));
    let (sender, mut lines) = mpsc::unbounded_channel();
    // Ends with the program.
    std::thread::spawn(move || {
        stdout
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    let mut line = async || {
        let line = tokio::time::timeout(DEADLINE, lines.recv()).await;
        line.expect("in time").expect("it goes on")
    };

    assert_eq!(line().await, "the path is none");
    // A relay is not what it waits for.
    service.path_changed("wg0", &key(1), PathKind::Relay, PathKind::None);
    service.peer("wg0", connected(1));
    service.path_changed("wg0", &key(1), PathKind::Direct, PathKind::Relay);

    assert_eq!(line().await, format!("the path to {} is direct", key(1)));
    let status = eventually("it to end", async || {
        child.0.try_wait().expect("it is ours")
    });
    assert!(status.await.success());
}

/// Does not outlive the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
