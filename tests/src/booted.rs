//! A machine of the lab that booted a whole system: systemd as its first process, packages installed by their own
//! tools. It knows a root directory and a network namespace, not what is installed there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::until;

/// A booted system. Gone when dropped: its first process is killed with everything below it, and what it wrote is forgotten.
#[derive(Debug)]
pub struct Booted {
    name: String,
    process: Process,
    groups: Vec<PathBuf>,
    first: u32,
}

/// A boot takes a second, and some twenty on an emulated processor.
const BOOT: Duration = Duration::from_secs(60);

impl Booted {
    /// Boots a copy of `root` in the network of `home`, with `packages` readable at `/packages`. Nothing is written to `root`.
    pub fn start(home: &Namespace, root: &Path, packages: &Path) -> Result<Self> {
        let groups = control_groups(home.name())?;
        let mut command = home.command("sh");
        // Each needs control groups of its own, or they take each other's. As the first process of a namespace, nspawn
        // takes everything with it, however it ends; and it is killed when unshare is.
        command.args(["-c", SCRIPT, "sh"]);
        command.args(
            groups
                .iter()
                .map(|group| format!("{}/cgroup.procs", group.display())),
        );
        command
            .env("ROOT", root)
            .env("PACKAGES", packages)
            .env("NAME", home.name());
        let process = Process::start(home, &format!("nspawn-{}", home.name()), &mut command)?;
        let mut booted = Self {
            name: home.name().to_owned(),
            process,
            groups,
            first: 0,
        };
        let what = format!("{} to boot", booted.name);
        let outer = booted.process.id();
        booted.first = until(&what, BOOT, || {
            Ok(child(outer).and_then(child).filter(|id| is_init(*id)))
        })?;
        until(&what, BOOT, || {
            let state = booted.output("systemctl is-system-running")?;
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            match state.as_str() {
                "running" => Ok(Some(())),
                "degraded" => bail!("a unit failed: {}", booted.run("systemctl --failed")?),
                _ => Ok(None),
            }
        })?;
        Ok(booted)
    }

    /// Returns the name that messages use for this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell script in the machine, as root, and returns what it printed.
    pub fn run(&self, script: &str) -> Result<String> {
        let output = self.output(script)?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "{}: `{script}` failed ({}): {}{printed}",
                self.name,
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(printed)
    }

    /// Runs a shell script in the machine, as root, and returns its exit status.
    pub fn status(&self, script: &str) -> Result<i32> {
        let code = self.output(script)?.status.code();
        code.with_context(|| format!("{}: `{script}` was killed", self.name))
    }

    fn output(&self, script: &str) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command
            .args(["--all", "--target", &self.first.to_string(), "--"])
            .args([
                "/usr/bin/env",
                "-i",
                "-C",
                "/",
                "HOME=/root",
                "LC_ALL=C.UTF-8",
            ])
            .args([
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND=noninteractive",
            ])
            .args(["sh", "-euc", script])
            .stdin(Stdio::null());
        command.output().context("cannot run nsenter")
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // Fails only when it has already ended.
        let _ = self.process.signal(Signal::SIGKILL);
        let _ = self.process.wait(Duration::from_secs(10));
        for group in &self.groups {
            // The kernel empties a group a moment after it has ended the last process in it.
            let _ = until("a control group to empty", Duration::from_secs(5), || {
                remove(group);
                Ok((!group.exists()).then_some(()))
            });
        }
    }
}

/// Joins the control groups that are its arguments, and boots.
const SCRIPT: &str = r#"
for group; do echo $$ >"$group"; done
exec unshare --pid --fork --kill-child --mount-proc systemd-nspawn --quiet --directory="$ROOT" --volatile=overlay --boot \
    --register=no --keep-unit --machine="$NAME" --hostname="$NAME" --link-journal=no --console=read-only --resolv-conf=off \
    --bind-ro="$PACKAGES":/packages --bind=/dev/net/tun --capability=CAP_NET_ADMIN,CAP_NET_RAW
"#;

/// Makes the groups that systemd needs, below the one that this process is in; removes what a killed run has left.
fn control_groups(name: &str) -> Result<Vec<PathBuf>> {
    const PREFIX: &str = "wice-lab-";
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controller), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let hierarchy = match controller {
            "name=systemd" => "/sys/fs/cgroup/systemd",
            "" if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() => "/sys/fs/cgroup",
            "" if Path::new("/sys/fs/cgroup/unified").exists() => "/sys/fs/cgroup/unified",
            _ => continue,
        };
        let parent = Path::new(hierarchy).join(path.trim_start_matches('/'));
        for entry in fs::read_dir(&parent)?.flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let owner = file
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
                remove(&entry.path());
            }
        }
        let group = parent.join(format!("{PREFIX}{}-{name}", std::process::id()));
        fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
        groups.push(group);
    }
    if groups.is_empty() {
        bail!("this machine has no control groups, and systemd needs them");
    }
    Ok(groups)
}

/// Removes a control group with all below it, as far as they are empty.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

fn child(parent: u32) -> Option<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(path).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Tells whether nspawn's child has become the system's first process: before, its namespaces are not complete.
fn is_init(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() == "systemd")
}
