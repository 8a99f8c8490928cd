//! What only the two peers of a pair can compute: mailbox names, and the keys that seal messages (protocol §1, §4).
//!
//! Knows text and keys, not what an offer is.

use std::fmt;

use hkdf::Hkdf;
use josekit::jwe::{Dir, JweHeader};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::key::{PrivateKey, PublicKey};
use crate::mailbox::{Mailbox, Sealed};

/// `{"alg":"dir","enc":"A256GCM"}` in base64url: the only header that is written or accepted.
///
/// Comparing text keeps compression (`zip`) and every other option out before anything is decrypted.
const HEADERS: [&str; 2] = [
    "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0",
    "eyJlbmMiOiJBMjU2R0NNIiwiYWxnIjoiZGlyIn0",
];

/// The secrets of one pair of peers; zeroized when dropped, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct PairSecrets {
    #[zeroize(skip)]
    outgoing: Mailbox,
    #[zeroize(skip)]
    incoming: Mailbox,
    seal: [u8; 32],
    open: [u8; 32],
}

impl PairSecrets {
    /// Derives the secrets that `key` shares with `peer`.
    ///
    /// `None` when the peer's key admits no agreement: the X25519 result is all zero (RFC 7748 §6.1).
    pub fn derive(key: &PrivateKey, peer: &PublicKey) -> Option<Self> {
        let shared = key.diffie_hellman(peer)?;
        let prk = Hkdf::<Sha256>::new(Some(b"wice/1"), shared.expose());
        let own = key.public();
        Some(Self {
            outgoing: Mailbox::from_bytes(expand(&prk, "mailbox", &own, peer)),
            incoming: Mailbox::from_bytes(expand(&prk, "mailbox", peer, &own)),
            seal: expand(&prk, "seal", &own, peer),
            open: expand(&prk, "seal", peer, &own),
        })
    }

    /// The mailbox from us to the peer.
    pub const fn outgoing(&self) -> Mailbox {
        self.outgoing
    }

    /// The mailbox from the peer to us.
    pub const fn incoming(&self) -> Mailbox {
        self.incoming
    }

    /// Seals text for the peer as a compact JWE; `None` when the result is longer than a mailbox takes.
    pub fn seal(&self, plaintext: &str) -> Option<Sealed> {
        let mut header = JweHeader::new();
        header.set_algorithm("dir");
        header.set_content_encryption("A256GCM");
        let encrypter = Dir.encrypter_from_bytes(self.seal).ok()?;
        let text =
            josekit::jwe::serialize_compact(plaintext.as_bytes(), &header, &encrypter).ok()?;
        Sealed::new(&text)
    }

    /// Opens what the peer sealed.
    ///
    /// # Errors
    /// [`CannotOpen`] when it is no JWE of the only accepted form, or was not sealed by the peer for us.
    pub fn open(&self, sealed: &Sealed) -> Result<String, CannotOpen> {
        let parts: Vec<&str> = sealed.as_str().splitn(6, '.').collect();
        let [header, "", iv, _, tag] = parts[..] else {
            return Err(CannotOpen::Form);
        };
        // josekit takes a shortened tag for the whole one; RFC 7518 §5.3 asks for 96 and 128 bits.
        if !HEADERS.contains(&header) || iv.len() != 16 || tag.len() != 22 {
            return Err(CannotOpen::Form);
        }
        let decrypter = Dir
            .decrypter_from_bytes(self.open)
            .map_err(|_| CannotOpen::Form)?;
        let (plaintext, _) = josekit::jwe::deserialize_compact(sealed.as_str(), &decrypter)
            .map_err(|_| CannotOpen::Key)?;
        String::from_utf8(plaintext).map_err(|_| CannotOpen::Form)
    }
}

impl fmt::Debug for PairSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairSecrets(hidden)")
    }
}

/// `K(label, from, to, N)` of the protocol's §1.
fn expand<const N: usize>(
    prk: &Hkdf<Sha256>,
    label: &str,
    from: &PublicKey,
    to: &PublicKey,
) -> [u8; N] {
    let mut okm = [0; N];
    prk.expand_multi_info(
        &[label.as_bytes(), from.as_bytes(), to.as_bytes()],
        &mut okm,
    )
    .expect("HKDF-SHA-256 yields up to 8160 bytes");
    okm
}

/// A message that cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotOpen {
    /// Not a compact JWE with `dir` and `A256GCM`.
    #[error("not a compact JWE with dir and A256GCM")]
    Form,
    /// Sealed with another key, or altered.
    #[error("sealed with another key, or altered")]
    Key,
}
