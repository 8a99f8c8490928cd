//! A network and a mount namespace for one test; both end with its thread.

use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tokio::time::timeout;
use wice_core::key::PublicKey;

use crate::kernel::{Change, Kernel};

/// Longest time that anything here may take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a test in namespaces of its own, with an empty /run; says so when it cannot.
pub(super) fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("skipped: only root may make namespaces");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may unshare");
        sh("mount --make-rprivate / && mount -t tmpfs none /run && ip link set lo up");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(async {
                timeout(DEADLINE, test())
                    .await
                    .expect("within the deadline");
            });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a shell command here and returns what it prints.
pub(super) fn sh(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", command])
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Waits until a change is reported after which `condition` holds; returns all that was reported.
pub(super) async fn changes_until(
    kernel: &mut Kernel,
    mut condition: impl AsyncFnMut(&Kernel) -> bool,
) -> Vec<Change> {
    let mut seen = Vec::new();
    loop {
        seen.push(kernel.changed().await);
        if condition(kernel).await {
            return seen;
        }
    }
}

/// Names of the WireGuard interfaces that are present.
pub(super) async fn names(kernel: &Kernel) -> Vec<String> {
    let interfaces = kernel.interfaces().await.expect("links can be listed");
    interfaces.into_iter().map(|found| found.name).collect()
}

/// The public key of a new key pair.
pub(super) fn some_key() -> PublicKey {
    sh("wg genkey | wg pubkey").parse().expect("wg prints keys")
}

/// A userspace WireGuard that ends with the value, or with the test's thread.
pub(super) struct Userspace(Child);

impl Userspace {
    pub(super) fn start(interface: &str) -> Self {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "wireguard-go", interface])
            .env("WG_PROCESS_FOREGROUND", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("wireguard-go is installed");
        Self(child)
    }
}

impl Drop for Userspace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
