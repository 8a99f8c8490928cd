//! XEdDSA and JWS against published vectors, and against another Ed25519 implementation.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use curve25519_dalek::edwards::CompressedEdwardsY;
use openssl::pkey::{Id, PKey};
use openssl::sign::Verifier;
use wice_core::key::{PrivateKey, PublicKey};
use wice_core::sign::{ed25519_key, sign_detached, verify_detached, xeddsa_sign};

fn openssl_accepts(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    let key = ed25519_key(key).expect("on the curve");
    let key = PKey::public_key_from_raw_bytes(key.as_bytes(), Id::ED25519).expect("a key");
    let mut verifier = Verifier::new_without_digest(&key).expect("a verifier");
    verifier.verify_oneshot(signature, message).unwrap_or(false)
}

#[test]
fn xeddsa_yields_the_vector_of_signals_own_tests() {
    // Signal's curve25519 library, `xeddsa_fast_test`: 200 zero bytes, 64 zero bytes of randomness.
    let mut scalar = [0; 32];
    scalar[8] = 189;
    scalar[31] = 64;
    let key = PrivateKey::from_bytes(scalar).expect("not zero");
    let expected = hex::decode(concat!(
        "11c7f3e6c4df9e8a5150e1db3b30f92de3a3b3aa438656545fa7390f4bcc7bb2",
        "6c431d9e90643e4f0eaa0e9c557766fa69ada576d63dcaf2ac326c11d0b97702"
    ));
    let signature = xeddsa_sign(&key, &[0; 200], &[0; 64]);
    assert_eq!(signature.to_vec(), expected.expect("hex"));
}

#[test]
fn the_signature_of_rfc_8037_verifies() {
    // RFC 8037 appendix A.4: header, payload and key are exactly what a signer with this key would use here.
    let edwards: [u8; 32] = URL_SAFE_NO_PAD
        .decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
        .expect("base64url")
        .try_into()
        .expect("32 bytes");
    let point = CompressedEdwardsY(edwards)
        .decompress()
        .expect("on the curve");
    let key = PublicKey::from_bytes(point.to_montgomery().to_bytes());
    let signature = concat!(
        "eyJhbGciOiJFZERTQSJ9..",
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
    assert!(verify_detached(&key, b"Example of Ed25519 signing", signature).is_ok());
    assert!(verify_detached(&key, b"Example of Ed25519 Signing", signature).is_err());
}

#[test]
fn another_ed25519_implementation_accepts_what_any_key_signs() {
    for byte in 1..=64_u8 {
        let key = PrivateKey::from_bytes([byte.wrapping_mul(37).max(1); 32]).expect("not zero");
        let message = [byte; 50];
        let signature = xeddsa_sign(&key, &message, &[byte; 64]);
        assert!(
            openssl_accepts(&key.public(), &message, &signature),
            "key {byte}"
        );
        assert!(!openssl_accepts(&key.public(), &message[1..], &signature));
    }
}

#[test]
fn only_the_one_header_and_only_canonical_signatures_are_accepted() {
    let key = PrivateKey::from_bytes([7; 32]).expect("not zero");
    let good = sign_detached(&key, b"text", &[1; 64]);
    assert!(verify_detached(&key.public(), b"text", &good).is_ok());
    let (_, signature) = good.rsplit_once('.').expect("two dots");
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"EdDSA","b64":false}"#,
        r#"{"alg":"HS256"}"#,
    ] {
        let other = format!("{}..{signature}", URL_SAFE_NO_PAD.encode(header));
        assert!(
            verify_detached(&key.public(), b"text", &other).is_err(),
            "{header}"
        );
    }
    // S + L says the same and is refused (RFC 8032 §8.4).
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut carry = 0_u16;
    for (byte, add) in bytes[32..].iter_mut().zip(order.expect("hex")) {
        carry += u16::from(*byte) + u16::from(add);
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
    let malleable = format!("eyJhbGciOiJFZERTQSJ9..{}", URL_SAFE_NO_PAD.encode(bytes));
    assert!(verify_detached(&key.public(), b"text", &malleable).is_err());
}

#[test]
fn keys_of_small_order_or_off_the_curve_verify_nothing() {
    assert!(ed25519_key(&PublicKey::from_bytes([0; 32])).is_none());
    let mut one = [0; 32];
    one[0] = 1;
    assert!(ed25519_key(&PublicKey::from_bytes(one)).is_none());
}
