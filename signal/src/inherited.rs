//! Sockets that systemd has bound already (sd_listen_fds(3)): it keeps them while the server is restarted, so that clients
//! wait instead of being refused.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::sys::socket::{SockType, getsockopt, sockopt};

/// Why the sockets cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InheritedError {
    #[error("cannot take the sockets that systemd hands over: {0}")]
    Environment(#[source] io::Error),
    #[error(
        "systemd hands over a descriptor that is no TCP socket: leave ListenDatagram= and ListenFIFO= out of the socket \
         unit; STUN and TURN bind their own ports"
    )]
    Kind,
}

/// Takes what was handed over; to be called once.
pub(crate) fn listeners() -> Result<Vec<TcpListener>, InheritedError> {
    let descriptors = sd_notify::listen_fds().map_err(InheritedError::Environment)?;
    let mut listeners = Vec::new();
    for descriptor in descriptors {
        // SAFETY: the descriptor was handed to this process, and nothing else in it knows of it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let is_tcp = getsockopt(&descriptor.as_fd(), sockopt::SockType) == Ok(SockType::Stream)
            && getsockopt(&descriptor.as_fd(), sockopt::AcceptConn) == Ok(true);
        if !is_tcp {
            return Err(InheritedError::Kind);
        }
        listeners.push(TcpListener::from(descriptor));
    }
    Ok(listeners)
}
