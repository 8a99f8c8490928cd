//! Why a TURN server cannot be used.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use wice_core::turn::Failure;

/// What went wrong between us and a server.
#[derive(Debug, Error)]
pub(super) enum Problem {
    /// Its name means nothing.
    #[error("cannot resolve its name: {0}; is it spelled right, and is there a resolver?")]
    Name(io::Error),
    /// The resolver takes too long.
    #[error("cannot resolve its name: no resolver answered within {} s", .0.as_secs())]
    Resolver(Duration),
    /// No packet comes through.
    #[error(
        "cannot reach {server}: {source}; is the server running, and does a firewall let it through?"
    )]
    Unreachable {
        /// Its address.
        server: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A connection is not made in time.
    #[error("cannot connect to {server}: no answer within {} s; does a firewall let it through?", .patience.as_secs())]
    Timeout {
        /// Its address.
        server: SocketAddr,
        /// How long we waited.
        patience: Duration,
    },
    /// A connection ended.
    #[error("{server} closed the connection")]
    Closed {
        /// Its address.
        server: SocketAddr,
    },
    /// What came is no TURN.
    #[error("{server} sends what is not TURN: is this the right port?")]
    Foreign {
        /// Its address.
        server: SocketAddr,
    },
    /// No secure connection.
    #[error(
        "cannot speak TLS with {server}: {source}. The certificate must be valid for the name in the URL and come from an authority that this system trusts (or that SSL_CERT_FILE holds)"
    )]
    Tls {
        /// Its address.
        server: SocketAddr,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// No certificate can be checked.
    #[error(
        "cannot check certificates: this system has none of any authority; install ca-certificates, or set SSL_CERT_FILE"
    )]
    NoRoots,
    /// The host of a `turns:` URL can be in no certificate.
    #[error("its name can stand in no certificate: correct it")]
    NoServerName,
    /// The way to the server leads into the tunnel that it is to carry.
    #[error(
        "the way to {server} leads through the WireGuard interface itself: set its fwmark, or leave the server out of its allowed IPs"
    )]
    OwnTunnel {
        /// Its address.
        server: SocketAddr,
    },
    /// The server, or its silence, said no.
    #[error("{0}")]
    Turn(#[from] Failure),
}
