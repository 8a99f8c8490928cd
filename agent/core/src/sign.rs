//! Signatures with the WireGuard key itself: XEdDSA (Signal, revision 1) as a detached JWS (RFC 7515 Appendix F).
//!
//! Knows bytes and keys, not what an offer is.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use ed25519_dalek::{Signature, VerifyingKey};
use josekit::JoseError;
use josekit::jws::{JwsAlgorithm, JwsHeader, JwsSigner, JwsVerifier};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::key::{PrivateKey, PublicKey};

/// The only header that is written or accepted: `{"alg":"EdDSA"}`.
const HEADER: &str = "eyJhbGciOiJFZERTQSJ9";

/// Signs `payload`; returns `BASE64URL(header) ".." BASE64URL(signature)`.
///
/// `z` is 64 bytes of fresh randomness (XEdDSA §2.2).
pub fn sign_detached(key: &PrivateKey, payload: &[u8], z: &[u8; 64]) -> String {
    let signer = Signer {
        key: key.clone(),
        z: Zeroizing::new(*z),
    };
    let compact = josekit::jws::serialize_compact(payload, &JwsHeader::new(), &signer)
        .expect("signing with a fixed-size key into memory does not fail");
    let signature = compact.rsplit('.').next().unwrap_or_default();
    format!("{HEADER}..{signature}")
}

/// Verifies a detached signature over `payload` by the WireGuard key `signer`.
///
/// # Errors
/// [`InvalidSignature`] when the header is another one, the form is off, or the signature does not hold strictly
/// (canonical S, no small-order point).
pub fn verify_detached(
    signer: &PublicKey,
    payload: &[u8],
    signature: &str,
) -> Result<(), InvalidSignature> {
    let encoded = signature
        .strip_prefix(HEADER)
        .and_then(|rest| rest.strip_prefix(".."))
        .ok_or(InvalidSignature)?;
    let compact = format!("{HEADER}.{}.{encoded}", URL_SAFE_NO_PAD.encode(payload));
    let verifier = Verifier(*signer);
    josekit::jws::deserialize_compact(compact, &verifier)
        .map(drop)
        .map_err(|_| InvalidSignature)
}

/// Maps a WireGuard public key to the Ed25519 key that verifies its signatures: y = (u−1)/(u+1), sign 0.
///
/// `None` for a point on the twist or of small order.
pub fn ed25519_key(key: &PublicKey) -> Option<VerifyingKey> {
    let point = MontgomeryPoint(*key.as_bytes()).to_edwards(0)?;
    let key = VerifyingKey::from_bytes(&point.compress().to_bytes()).ok()?;
    (!key.is_weak()).then_some(key)
}

/// A signature that does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct InvalidSignature;

/// XEdDSA's `calculate_key_pair` and `xeddsa_sign` (Signal, revision 1, §2.3 and §2.2).
pub fn xeddsa_sign(key: &PrivateKey, message: &[u8], z: &[u8; 64]) -> [u8; 64] {
    let k = Zeroizing::new(clamp_integer(*key.expose()));
    let scalar = Zeroizing::new(Scalar::from_bytes_mod_order(*k));
    let public = EdwardsPoint::mul_base(&scalar).compress().to_bytes();
    let negative = public[31] & 0x80 != 0;
    let a = Zeroizing::new(if negative { -*scalar } else { *scalar });
    let mut public = public;
    public[31] &= 0x7f;

    // hash_1: the domain separation of XEdDSA, 2^256 − 1 − 1 in little-endian order.
    let mut prefix = [0xff; 32];
    prefix[0] = 0xfe;
    let r = Zeroizing::new(wide(&[&prefix, a.as_bytes(), message, z]));
    let commitment = EdwardsPoint::mul_base(&r).compress().to_bytes();
    let h = wide(&[&commitment, &public, message]);
    let s = *r + h * *a;

    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&commitment);
    signature[32..].copy_from_slice(s.as_bytes());
    signature
}

fn wide(parts: &[&[u8]]) -> Scalar {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(part);
    }
    Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
}

#[derive(Debug, Clone)]
struct EdDsa;

impl JwsAlgorithm for EdDsa {
    fn name(&self) -> &str {
        "EdDSA"
    }

    fn box_clone(&self) -> Box<dyn JwsAlgorithm> {
        Box::new(self.clone())
    }
}

#[derive(Clone)]
struct Signer {
    key: PrivateKey,
    z: Zeroizing<[u8; 64]>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(hidden)")
    }
}

impl JwsSigner for Signer {
    fn algorithm(&self) -> &dyn JwsAlgorithm {
        &EdDsa
    }

    fn key_id(&self) -> Option<&str> {
        None
    }

    fn signature_len(&self) -> usize {
        64
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, JoseError> {
        Ok(xeddsa_sign(&self.key, message, &self.z).to_vec())
    }

    fn box_clone(&self) -> Box<dyn JwsSigner> {
        Box::new(self.clone())
    }
}

#[derive(Debug, Clone)]
struct Verifier(PublicKey);

impl JwsVerifier for Verifier {
    fn algorithm(&self) -> &dyn JwsAlgorithm {
        &EdDsa
    }

    fn key_id(&self) -> Option<&str> {
        None
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), JoseError> {
        let refused =
            |reason: &'static str| JoseError::InvalidSignature(anyhow::Error::msg(reason));
        let key = ed25519_key(&self.0).ok_or_else(|| refused("unusable key"))?;
        let signature = Signature::from_slice(signature).map_err(|_| refused("wrong length"))?;
        key.verify_strict(message, &signature)
            .map_err(|_| refused("does not hold"))
    }

    fn box_clone(&self) -> Box<dyn JwsVerifier> {
        Box::new(self.clone())
    }
}
