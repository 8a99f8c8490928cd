//! One run of wicectl against a scene, and the comparison with what is expected.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use zbus::Connection;

use crate::bus::Bus;
use crate::model::Model;
use crate::service;

const DEADLINE: Duration = Duration::from_secs(60);

/// A bus, and the agent on it if there is one.
pub(crate) struct Scene {
    pub(crate) agent: Option<Connection>,
    pub(crate) read: Arc<Notify>,
    bus: Bus,
}

impl Scene {
    /// A bus with an agent that shows this.
    pub(crate) async fn new(model: Model) -> Self {
        let mut scene = Self::without_agent();
        let read = Arc::clone(&scene.read);
        let address = scene.bus.address();
        let serving = timeout(DEADLINE, service::serve(&address, &model, read)).await;
        scene.agent = Some(serving.expect("the bus answers"));
        scene
    }

    /// A bus on which no agent is.
    pub(crate) fn without_agent() -> Self {
        Self {
            agent: None,
            read: Arc::new(Notify::new()),
            bus: Bus::start(),
        }
    }

    /// Compares the output without colours, with them, and in a pipe, where there must be none.
    pub(crate) async fn human(&self, name: &str, arguments: &[&str]) {
        let plain = self.run(&[&["--color", "never"], arguments].concat()).await;
        let piped = self.run(arguments).await;
        assert_eq!(plain, piped, "{name}: a pipe gets what --color never gives");
        compare(name, &plain);
        let colored = [&["--color", "always"], arguments].concat();
        let colored = self.run(&colored).await;
        assert_eq!(
            uncolored(&colored.0),
            plain.0,
            "{name}: only colours differ"
        );
        compare(&format!("{name}.color"), &colored);
    }

    /// Compares the output as it is; returns the exit status.
    pub(crate) async fn plain(&self, name: &str, arguments: &[&str]) -> i32 {
        let run = self.run(arguments).await;
        compare(name, &run);
        run.1
    }

    /// wicectl as it is started in every case.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wicectl"));
        command
            .args(arguments)
            .env_clear()
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.bus.address())
            .env("COLUMNS", "80")
            .env("TERM", "xterm-256color")
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    /// The text of a run (standard output, then standard error) and its exit status.
    async fn run(&self, arguments: &[&str]) -> (String, i32) {
        let command = self.command(arguments);
        let ended = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output();
        let ended = timeout(DEADLINE, ended)
            .await
            .expect("wicectl ends in time");
        let ended = ended.expect("wicectl runs");
        let exit = ended.status.code().expect("wicectl ends by itself");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let (output, errors) = (text(ended.stdout), text(ended.stderr));
        (format!("{output}--- stderr\n{errors}"), exit)
    }
}

/// Compares with `expected/NAME.txt`, or writes it when UPDATE_GOLDEN is set.
pub(crate) fn compare(name: &str, (output, exit): &(String, i32)) {
    let safe = uncolored(output);
    let steers = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(
        !safe.contains(steers),
        "{name} steers the terminal: {safe:?}"
    );
    // The version is the build's; colours are shown, so that the files are text.
    let got = format!("{output}--- exit {exit}\n")
        .replace(&format!("wicectl {}\n", version()), "wicectl VERSION\n")
        .replace('\u{1b}', "␛");
    let file = file(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, got).expect("the file is written");
        return;
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        got == expected,
        "{}: differs (UPDATE_GOLDEN=1 writes it anew)\n=== expected\n{expected}\n=== got\n{got}",
        file.display()
    );
}

fn file(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/expected");
    here.join(format!("{name}.txt"))
}

fn version() -> String {
    let mut wicectl = Command::new(env!("CARGO_BIN_EXE_wicectl"));
    let output = wicectl.arg("--version").output().expect("wicectl runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.trim().trim_start_matches("wicectl ").to_owned()
}

/// The text without the colours that wicectl itself uses.
fn uncolored(text: &str) -> String {
    ["0", "1", "2", "31", "32", "33"]
        .iter()
        .fold(text.to_owned(), |text, code| {
            text.replace(&format!("\u{1b}[{code}m"), "")
        })
}
