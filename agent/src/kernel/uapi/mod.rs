//! Userspace WireGuard, over the UNIX socket that such a process opens for each interface
//! (<https://www.wireguard.com/xplatform/>).
//!
//! Must not know: the kernel's WireGuard, and when to read or write.

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod text;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use wice_core::device::Device;
use wice_core::key::PublicKey;
use zeroize::Zeroizing;

use self::text::TextError;
use super::links::Link;
use super::{KernelError, Wireguard};

/// Where userspace WireGuard puts its sockets; `/var/run` is the same directory.
pub(super) const SOCKET_DIRECTORY: &str = "/run/wireguard";

/// The end of a socket's file name, after the interface's.
pub(super) const SOCKET_SUFFIX: &str = ".sock";

/// Speaks to the process behind an interface; each request is a connection of its own.
pub(super) struct Uapi;

/// A process that does not answer within this time is stuck; a live one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest answer that is read: tens of thousands of peers. More is no WireGuard.
const LONGEST_ANSWER: usize = 64 << 20;

impl Uapi {
    /// Tells whether a live process listens on the interface's socket.
    ///
    /// The file outlives a process that was killed; only a connection tells.
    pub(super) async fn serves(&self, interface: &str) -> bool {
        match UnixStream::connect(path(interface)).await {
            Ok(_) => true,
            // What else can fail (permissions, a full queue) shall be seen when the interface is read.
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ),
        }
    }

    /// Sends a request and reads the answer to its blank line.
    async fn ask(&self, interface: &str, request: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        let exchange = async {
            let mut stream = UnixStream::connect(path(interface)).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Zeroizing::new(Vec::with_capacity(64 << 10));
            while stream.read_buf(&mut *answer).await? > 0 && !answer.ends_with(b"\n\n") {
                if answer.len() > LONGEST_ANSWER {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                if answer.len() == answer.capacity() {
                    // A vector that grows by itself would leave keys behind in the memory that it gives back.
                    let mut larger = Zeroizing::new(Vec::with_capacity(2 * answer.capacity()));
                    larger.extend_from_slice(&answer);
                    answer = larger;
                }
            }
            Ok(answer)
        };
        timeout(PATIENCE, exchange).await?
    }
}

impl Wireguard for Uapi {
    async fn dump(&self, link: &Link) -> Result<Option<Device>, KernelError> {
        const ACTION: &str = "read";
        let answer = match self.ask(&link.name, "get=1\n\n").await {
            Ok(answer) => answer,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(failed(&link.name, ACTION, error)),
        };
        text::device(&link.name, link.index, &answer)
            .map(Some)
            .map_err(|error| unexpected(&link.name, ACTION, error))
    }

    async fn write_endpoint(
        &self,
        link: &Link,
        peer: &PublicKey,
        endpoint: SocketAddr,
    ) -> Result<(), KernelError> {
        const ACTION: &str = "write an endpoint of";
        let request = text::set_endpoint(peer, endpoint);
        match self.ask(&link.name, &request).await {
            Ok(answer) => {
                text::acknowledge(&answer).map_err(|error| unexpected(&link.name, ACTION, error))
            }
            Err(error) if is_gone(&error) => Err(KernelError::InterfaceGone {
                interface: link.name.clone(),
            }),
            Err(error) => Err(failed(&link.name, ACTION, error)),
        }
    }
}

fn path(interface: &str) -> String {
    format!("{SOCKET_DIRECTORY}/{interface}{SOCKET_SUFFIX}")
}

/// Tells whether the process ended, before or while it was asked.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
    )
}

fn failed(interface: &str, action: &'static str, error: io::Error) -> KernelError {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => KernelError::Stuck {
            interface: interface.to_owned(),
            action,
            socket: path(interface),
        },
        _ => KernelError::refused(interface, action, error),
    }
}

fn unexpected(interface: &str, action: &'static str, error: TextError) -> KernelError {
    match error {
        TextError::Errno(code) => {
            KernelError::refused(interface, action, io::Error::from_raw_os_error(code))
        }
        TextError::Malformed(what) => KernelError::Malformed {
            interface: interface.to_owned(),
            action,
            what: what.to_owned(),
        },
    }
}
