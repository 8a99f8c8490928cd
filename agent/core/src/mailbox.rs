//! What leaves the machine: a mailbox's name and the sealed message in it.
//!
//! Knows nothing of what is sealed, nor of any backend.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::key::PublicKey;

/// Longest sealed message in bytes (protocol §2).
pub const MAX_SEALED: usize = 16 * 1024;

/// The name of one direction's mailbox: 20 bytes that only the two peers can compute (protocol §1).
///
/// The name is a capability: it is printed only where a backend needs it, so `Debug` shortens it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mailbox([u8; 20]);

impl Mailbox {
    /// Wraps the 20 raw bytes.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mailbox({}…)", hex::encode(&self.0[..3]))
    }
}

impl FromStr for Mailbox {
    type Err = InvalidMailbox;

    fn from_str(text: &str) -> Result<Self, InvalidMailbox> {
        let mut bytes = [0; 20];
        let lower_case = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if lower_case => Ok(Self(bytes)),
            _ => Err(InvalidMailbox),
        }
    }
}

/// Text that names no mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a mailbox: expected 40 lower-case hex digits")]
pub struct InvalidMailbox;

/// Who reads a mailbox: the first 16 bytes of SHA-256 of the reader's public key (protocol §6).
///
/// For backends that find all mailboxes of one reader by a mark on them; it tells a key only to who knows the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient([u8; 16]);

impl Recipient {
    /// The mark of the mailboxes that the holder of this key reads.
    pub fn of(key: &PublicKey) -> Self {
        let hash = Sha256::digest(key.as_bytes());
        let mut mark = [0; 16];
        mark.copy_from_slice(&hash[..16]);
        Self(mark)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

/// A sealed offer: a compact JWE, opaque to everyone but the two peers (protocol §4).
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Arc<str>);

impl Sealed {
    /// Wraps text as a backend delivered it; `None` when it is longer than [`MAX_SEALED`].
    pub fn new(text: &str) -> Option<Self> {
        (text.len() <= MAX_SEALED).then(|| Self(text.into()))
    }

    /// Borrows the text to put on a wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_is_the_first_half_of_the_hash_of_its_key() {
        // printf '\1%.0s' {1..32} | sha256sum
        let recipient = Recipient::of(&PublicKey::from_bytes([1; 32]));
        assert_eq!(recipient.to_string(), "72cd6e8422c407fb6d098690f1130b7d");
    }
}
