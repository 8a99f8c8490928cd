//! What can go wrong between the agent and WireGuard.

use std::io;

use wice_core::key::PublicKey;

/// Why WireGuard, a link or an address could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum KernelError {
    /// No netlink socket can be had.
    #[error("cannot open a {protocol} socket ({source}): allow the agent AF_NETLINK")]
    Open {
        /// The netlink protocol.
        protocol: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Links or addresses could not be listed.
    #[error("cannot list this machine's {what} over rtnetlink")]
    List {
        /// What was asked for.
        what: &'static str,
        /// What came back.
        source: Box<rtnetlink::Error>,
    },
    /// There is a kernel interface, but no way to talk to it.
    #[error(
        "interface {interface} is the kernel's, but the generic netlink family `wireguard` is missing: \
         load the module wireguard"
    )]
    NoFamily {
        /// Name of the interface.
        interface: String,
    },
    /// The agent may not do this.
    #[error("not permitted to {action} interface {interface}: the agent needs CAP_NET_ADMIN")]
    Denied {
        /// Name of the interface.
        interface: String,
        /// What was tried.
        action: &'static str,
    },
    /// WireGuard, or the way to it, answered with an error.
    #[error("cannot {action} interface {interface}")]
    Refused {
        /// Name of the interface.
        interface: String,
        /// What was tried.
        action: &'static str,
        /// What came back.
        source: io::Error,
    },
    /// The answer cannot be understood.
    #[error("cannot {action} interface {interface}: the answer is malformed ({what})")]
    Malformed {
        /// Name of the interface.
        interface: String,
        /// What was tried.
        action: &'static str,
        /// What is wrong with the answer.
        what: String,
    },
    /// The interface changed while it was read, each time that it was tried.
    #[error("cannot read interface {interface}: it changes faster than it can be read; try again")]
    Unsettled {
        /// Name of the interface.
        interface: String,
    },
    /// The process behind a UAPI socket does not answer.
    #[error(
        "cannot {action} interface {interface}: the process behind {socket} does not answer; restart it"
    )]
    Stuck {
        /// Name of the interface.
        interface: String,
        /// What was tried.
        action: &'static str,
        /// Path of the UAPI socket.
        socket: String,
    },
    /// The interface vanished.
    #[error("there is no WireGuard interface {interface} any more")]
    InterfaceGone {
        /// Name of the interface.
        interface: String,
    },
    /// The peer vanished.
    #[error("interface {interface} has no peer {peer} any more")]
    PeerGone {
        /// Name of the interface.
        interface: String,
        /// The peer.
        peer: PublicKey,
    },
}

impl KernelError {
    /// Sorts an error of the system or of the process behind a UAPI socket.
    pub(super) fn refused(interface: &str, action: &'static str, source: io::Error) -> Self {
        let interface = interface.to_owned();
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::Denied { interface, action }
        } else {
            Self::Refused {
                interface,
                action,
                source,
            }
        }
    }
}
