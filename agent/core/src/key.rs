//! WireGuard's X25519 keys: the only identity that a peer has.
//!
//! Knows nothing of signatures, sealing or sessions.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A peer's X25519 public key; ordered as a big-endian integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Wraps 32 raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Borrows the 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Formats the key as 64 lower-case hex digits, as D-Bus object paths carry it.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    /// Parses standard base64 of exactly 32 bytes, as `wg` prints it.
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let bytes = STANDARD.decode(text).map_err(|_| InvalidKey)?;
        Ok(Self(bytes.try_into().map_err(|_| InvalidKey)?))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// An interface's X25519 private key; zeroized when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// Wraps 32 raw bytes; an all-zero key, which the kernel uses for "none", is refused.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        (bytes != [0; 32]).then_some(Self(bytes))
    }

    /// Computes the public key.
    pub fn public(&self) -> PublicKey {
        let secret = StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// Computes the shared secret X25519(self, theirs); `None` when it is all zero (RFC 7748 §6.1).
    pub fn diffie_hellman(&self, theirs: &PublicKey) -> Option<SharedSecret> {
        let secret = StaticSecret::from(self.0);
        let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(theirs.0));
        shared
            .was_contributory()
            .then(|| SharedSecret(shared.to_bytes()))
    }

    /// Borrows the raw bytes; for signing and key agreement inside this crate only.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

/// What two peers alone can compute: the X25519 shared secret; zeroized when dropped, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret([u8; 32]);

impl SharedSecret {
    /// Borrows the raw bytes; input keying material for the pair's secrets.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(hidden)")
    }
}

/// Text that is not a WireGuard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a WireGuard key: expected 44 characters of base64 (32 bytes), as `wg show` prints them"
)]
pub struct InvalidKey;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_prints_no_secret() {
        let key = PrivateKey::from_bytes([7; 32]).expect("not zero");
        assert_eq!(format!("{key:?}"), "PrivateKey(hidden)");
    }

    #[test]
    fn an_all_zero_private_key_is_no_key() {
        assert_eq!(PrivateKey::from_bytes([0; 32]), None);
    }

    #[test]
    fn a_low_order_public_key_yields_no_secret() {
        let key = PrivateKey::from_bytes([7; 32]).expect("not zero");
        assert!(
            key.diffie_hellman(&PublicKey::from_bytes([0; 32]))
                .is_none()
        );
    }

    #[test]
    fn base64_survives_a_round_trip_and_rejects_other_lengths() {
        let key = PublicKey::from_bytes([0xfe; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(InvalidKey));
        assert_eq!("".parse::<PublicKey>(), Err(InvalidKey));
    }
}
