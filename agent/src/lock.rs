//! One agent per network namespace: two would undo each other's work.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Held as long as the agent runs; the kernel releases it, however the agent ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

/// The directory of the lock; of root or of the agent's user, so that nobody else can keep an agent from starting.
const DIRECTORY: &str = "/run/wice";

impl Lock {
    /// Takes the lock of this network namespace.
    pub(crate) fn acquire() -> Result<Self, LockError> {
        let namespace = std::fs::metadata("/proc/self/ns/net")
            .map_err(|source| LockError::Io("/proc/self/ns/net".into(), source))?
            .ino();
        let path = Path::new(DIRECTORY).join(format!("agent-{namespace}.lock"));
        let failed = |source| LockError::Io(path.clone(), source);
        match DirBuilder::new().mode(0o755).create(DIRECTORY) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let file = open(&path).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // Only to tell a second agent who holds it.
                let _ = file.set_len(0);
                let _ = write!(&*file, "{}", std::process::id());
                let _ = file.flush();
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                Err(LockError::Held(holder.trim().to_owned()))
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// A file that an agent of another user left can be locked all the same, though not written.
fn open(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o644)
        .open(path);
    match file {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => File::open(path),
        other => other,
    }
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error(
        "another wice-agent (process {0}) already serves this network namespace; stop it first, or talk to it with wicectl"
    )]
    Held(String),
    #[error(
        "cannot lock {0}: {1}; /run/wice must be writable: run the agent as root, or let its unit make the directory (RuntimeDirectory=wice)"
    )]
    Io(PathBuf, #[source] std::io::Error),
}
