//! Why a TURN server gives no allocation, in words that say what to do.

use std::fmt;
use std::net::SocketAddr;

use stun_types::attribute::ErrorCode;
use thiserror::Error;

/// Why there is no allocation, or not any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// No answer.
    #[error("the server does not answer: is it running, and does a firewall let it through?")]
    Silent,
    /// The server said no.
    #[error("{0}")]
    Refused(Refusal),
    /// Another server is to be asked.
    #[error("the server sends us on to {0}")]
    Alternate(SocketAddr),
    /// The server has forgotten the allocation: it was restarted, or sees us at another address.
    #[error(
        "the server has forgotten the allocation: it was restarted, or a NAT gave us another address"
    )]
    Gone,
    /// The user name cannot be sent.
    #[error("the user name does not fit into a message: correct it")]
    Unusable,
}

/// What a server says when it says no (RFC 8489 §14.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error code; 0 when it gave none.
    pub code: u16,
    /// The server's own words.
    pub reason: String,
}

/// Longer words are no help, and come from a stranger.
const REASON: usize = 80;

impl Refusal {
    pub(super) fn new(code: &ErrorCode) -> Self {
        let reason = code.reason().chars().filter(|letter| !letter.is_control());
        Self {
            code: code.code(),
            reason: reason.take(REASON).collect(),
        }
    }

    pub(super) const fn unexplained() -> Self {
        Self {
            code: 0,
            reason: String::new(),
        }
    }

    /// Says whether other address families may be granted: unknown attribute, unsupported family, or a server that does not
    /// understand how both are asked for.
    pub(super) const fn is_of_families(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::BAD_REQUEST
                | ErrorCode::UNKNOWN_ATTRIBUTE
                | ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED
        )
    }

    const fn advice(&self) -> &'static str {
        match self.code {
            ErrorCode::UNAUTHORIZED | ErrorCode::WRONG_CREDENTIALS => {
                "the user name or the password is wrong, or has expired: correct it in the configuration, or on the \
                 backend that hands it out"
            }
            ErrorCode::FORBIDDEN => {
                "the server does not serve this: ask who runs it what it allows"
            }
            ErrorCode::STALE_NONCE => {
                "the server takes no nonce that it gives out: look at its log"
            }
            ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED => {
                "the server relays neither IPv4 nor IPv6 for us"
            }
            ErrorCode::ALLOCATION_QUOTA_REACHED => {
                "this user has as many allocations as the server grants: raise its quota, or wait up to ten minutes \
                 until those of programs that are gone expire"
            }
            ErrorCode::INSUFFICIENT_CAPACITY => {
                "the server is full: give it more relay ports, or name another one"
            }
            ErrorCode::TRY_ALTERNATE => "the server sends us on, and does not say where to",
            _ => "look at the server's log",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.reason.as_str()) {
            (0, _) => f.write_str("the server refuses and gives no reason: ")?,
            (code, "") => write!(f, "the server refuses with {code}: ")?,
            (code, reason) => write!(f, "the server refuses with {code} ({reason}): ")?,
        }
        f.write_str(self.advice())
    }
}
