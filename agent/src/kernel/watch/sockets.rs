//! Tells when a UAPI socket appears or vanishes, by inotify(7).
//!
//! The socket directory may not exist yet, and may vanish: its parent is watched for it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::kernel::uapi::{SOCKET_DIRECTORY, SOCKET_SUFFIX};

/// An inotify instance on the socket directory and its parent.
pub(super) struct Sockets {
    inotify: AsyncFd<Descriptor>,
    directory: Option<WatchDescriptor>,
}

/// An inotify instance that tokio can wait for.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Sockets {
    /// Starts to watch.
    pub(super) fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let parent = Path::new(SOCKET_DIRECTORY)
            .parent()
            .expect("the socket directory is not the root");
        inotify.add_watch(parent, entries())?;
        // SAFETY: the descriptor is owned by what is registered, which keeps it open and hands out no other.
        let inotify =
            unsafe { AsyncFd::register_with_interest(Descriptor(inotify), Interest::READABLE) }?;
        let mut sockets = Self {
            inotify,
            directory: None,
        };
        sockets.arm();
        Ok(sockets)
    }

    /// Waits for a socket to appear or vanish; cancel-safe.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let events = match ready.get_inner().0.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(errno) => return Err(errno.into()),
            };
            drop(ready);
            // Each event has its effect, also after one that matters.
            let mut any = false;
            for event in &events {
                any |= self.matters(event);
            }
            if any {
                return Ok(());
            }
        }
    }

    fn matters(&mut self, event: &InotifyEvent) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.arm();
            return true;
        }
        if Some(event.wd) == self.directory {
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.directory = None;
                self.arm();
                return true;
            }
            return event.name.as_deref().is_some_and(is_socket);
        }
        // The directory itself came; sockets may lie in it already.
        event.name.as_deref() == Path::new(SOCKET_DIRECTORY).file_name() && self.arm()
    }

    /// Watches the socket directory, if there is one; watching it twice is watching it once.
    fn arm(&mut self) -> bool {
        let flags = entries() | AddWatchFlags::IN_ONLYDIR;
        self.directory = self
            .inotify
            .get_ref()
            .0
            .add_watch(SOCKET_DIRECTORY, flags)
            .ok();
        self.directory.is_some()
    }
}

fn entries() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
}

fn is_socket(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.ends_with(SOCKET_SUFFIX))
}
