//! A system bus of one's own: the real dbus-daemon with the policy that the packages ship.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use zbus::Connection;
use zbus::connection::Builder;

const DEADLINE: Duration = Duration::from_secs(20);

/// A directory with a bus in it, or none yet; both are gone when this is dropped.
pub(super) struct PrivateBus {
    directory: PathBuf,
    daemon: Option<Child>,
}

impl PrivateBus {
    /// Prepares an address at which nobody listens yet.
    pub(super) fn absent() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wice-bus-{}-{count}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).expect("a fresh directory");
        Self {
            directory,
            daemon: None,
        }
    }

    /// Starts a bus.
    pub(super) async fn started() -> Self {
        let mut bus = Self::absent();
        bus.start().await;
        bus
    }

    pub(super) fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    /// A directory that anybody may enter, gone with the bus.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts the daemon and waits until it answers.
    pub(super) async fn start(&mut self) {
        let config = self.directory.join("system.conf");
        std::fs::write(&config, self.config()).expect("the configuration is written");
        let daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile"])
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon starts (Debian: apt-get install dbus)");
        self.daemon = Some(daemon);
        let deadline = Instant::now() + DEADLINE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "dbus-daemon does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the daemon as a crash would.
    pub(super) fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = std::fs::remove_file(self.socket());
    }

    /// A client of the bus.
    pub(super) async fn client(&self) -> Connection {
        Builder::address(self.address().as_str())
            .build()
            .await
            .expect("the bus takes a client")
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("bus")
    }

    /// The rules of a distribution's system bus, our own policy, and leave for whoever runs the tests to be the agent.
    fn config(&self) -> String {
        format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>{address}</listen>
  <servicedir>{services}</servicedir>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <policy user="{uid}"><allow own="org.wice.Wice1"/></policy>
  <include>{policy}</include>
  <include ignore_missing="yes">/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf</include>
</busconfig>"#,
            address = self.address(),
            services = self.directory.join("services").display(),
            uid = nix::unistd::geteuid(),
            policy = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../packaging/org.wice.Wice1.conf"
            ),
        )
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Polls until the condition yields something.
pub(super) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
