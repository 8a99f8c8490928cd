//! One machine of the lab: a network namespace, and a mount namespace with a `/run` of its own. It knows nothing of what
//! the machine is for.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// A machine of the lab. Gone when the last clone of it is dropped and the last process in it has ended.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    net: Arc<OwnedFd>,
    mnt: Arc<OwnedFd>,
}

impl Namespace {
    /// Makes a machine with a loopback interface that is up and an empty `/run`. Needs root.
    pub fn create(name: &str) -> Result<Self> {
        let made = thread::spawn(isolate)
            .join()
            .map_err(|_| anyhow!("the thread that makes a namespace panicked"))?;
        let (net, mnt) = made.with_context(|| {
            format!("cannot make the namespaces of {name}: the lab needs root, and CAP_SYS_ADMIN in a container")
        })?;
        let made = Self {
            name: name.to_owned(),
            net: Arc::new(net),
            mnt: Arc::new(mnt),
        };
        made.ip("link set lo up")?;
        Ok(made)
    }

    /// Returns the name that messages use for this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a command that will run in this machine and die with the calling thread.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let (net, mnt) = (Arc::clone(&self.net), Arc::clone(&self.mnt));
        // SAFETY: between fork and exec only system calls are made, nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(move || {
                set_pdeathsig(Signal::SIGKILL)?;
                setns(&*net, CloneFlags::CLONE_NEWNET)?;
                setns(&*mnt, CloneFlags::CLONE_NEWNS)?;
                Ok(())
            });
        }
        command
    }

    /// Runs a command line, split at white space, to its end and returns what it printed.
    pub fn run(&self, line: &str) -> Result<String> {
        self.run_with_input(line, "")
    }

    /// As [`Namespace::run`], with `input` as the command's standard input: the way for keys, which belong in no argument.
    pub fn run_with_input(&self, line: &str, input: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        let mut child = self
            .command(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!(
                    "{}: cannot start {program}; tests/setup installs what the lab needs",
                    self.name
                )
            })?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that needs no input may have closed it: its exit status tells.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{}: `{line}` failed ({}): {}{}",
                self.name,
                output.status,
                String::from_utf8_lossy(&output.stderr).trim(),
                String::from_utf8_lossy(&output.stdout).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs lines of `ip` commands, without the word `ip`, in one process.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.run_with_input("ip -batch -", &format!("{lines}\n"))
            .with_context(|| format!("ip commands:\n{lines}"))
            .map(drop)
    }

    /// Runs `work` on a thread inside this machine; a socket that it returns stays in this machine.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // A thread may change its mounts only when it shares no file-system attributes with others.
                unshare(CloneFlags::CLONE_FS)?;
                setns(&*self.net, CloneFlags::CLONE_NEWNET)?;
                setns(&*self.mnt, CloneFlags::CLONE_NEWNS)?;
                work()
            });
            inside
                .join()
                .map_err(|_| anyhow!("{}: a thread inside panicked", self.name))?
        })
    }

    /// Writes a file as this machine sees it.
    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        self.enter(|| fs::write(path, content).with_context(|| format!("cannot write {path}")))
    }

    /// Reads a file as this machine sees it.
    pub fn read(&self, path: &str) -> Result<String> {
        self.enter(|| fs::read_to_string(path).with_context(|| format!("cannot read {path}")))
    }

    /// Tells whether a path exists in this machine.
    pub fn has(&self, path: &str) -> bool {
        self.enter(|| Ok(Path::new(path).exists())).unwrap_or(false)
    }

    /// Opens a file of this machine for appending, for a process's output.
    pub fn append(&self, path: &str) -> Result<File> {
        self.enter(|| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("cannot open {path}"))
        })
    }

    /// Returns the path by which `ip` of another machine reaches this network namespace.
    pub fn net_path(&self) -> String {
        use std::os::fd::AsRawFd as _;
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }
}

/// Moves the calling thread into new namespaces and returns what holds them. The thread must end afterwards.
fn isolate() -> Result<(OwnedFd, OwnedFd)> {
    const NOTHING: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    mount(
        NOTHING,
        "/",
        NOTHING,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        NOTHING,
    )?;
    // WireGuard's control sockets, the bus and the agent's lock are all found by a path in /run.
    mount(
        Some("run"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )?;
    for directory in ["/run/wireguard", "/run/dbus", "/run/lab"] {
        fs::create_dir_all(directory)?;
    }
    // A link-local address that is still being tried for duplicates delays every neighbour solicitation by a second.
    for scope in ["all", "default"] {
        let file = format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad");
        if Path::new(&file).exists() {
            fs::write(file, "0")?;
        }
    }
    let open = |kind: &str| -> io::Result<OwnedFd> {
        Ok(File::open(format!("/proc/thread-self/ns/{kind}"))?.into())
    };
    Ok((open("net")?, open("mnt")?))
}
