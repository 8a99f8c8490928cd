use serde_json::{Value, json};

use super::{MAX_INTEGER, Offer, Rejection, canonical};
use crate::key::{PrivateKey, PublicKey};
use crate::mailbox::Sealed;
use crate::seal::PairSecrets;
use crate::sign::sign_detached;

const Z: [u8; 64] = [9; 64];

fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes([byte; 32]).expect("not zero")
}

/// What `from` signs, whatever it is, with the signature in it.
fn signed(from: &PrivateKey, object: &Value) -> Value {
    let payload = canonical(object.as_object().expect("an object")).expect("canonical");
    let mut signed = object.clone();
    signed["signature"] = sign_detached(from, &payload, &Z).into();
    signed
}

/// Seals a text with the secrets of `from` and `to`.
fn seal(from: &PrivateKey, to: &PublicKey, text: &Value) -> Sealed {
    let secrets = PairSecrets::derive(from, to).expect("an agreement");
    secrets.seal(&text.to_string()).expect("short")
}

fn open(to: &PrivateKey, from: &PublicKey, sealed: &Sealed) -> Result<Offer, Rejection> {
    let secrets = PairSecrets::derive(to, from).expect("an agreement");
    Offer::open(sealed, &to.public(), from, &secrets, false)
}

/// A valid offer of key 1 for key 2.
fn wire() -> Value {
    let (from, to) = (key(1).public(), key(2).public());
    json!({
        "version": 1, "type": "offer", "from": from, "to": to, "id": 5, "epoch": 0, "seen": 0, "want_ack": true,
        "implementation": "full", "role": if from < to { "controlling" } else { "controlled" },
        "candidates": [{
            "type": "host", "foundation": "1", "component": 1, "network": "udp4", "priority": 7,
            "address": "192.0.2.1", "port": 51820,
        }],
        "eoc": false, "ufrag": "abcdefgh", "pwd": "abcdefghijklmnopqrstuvwx",
    })
}

fn verdict(change: impl FnOnce(&mut Value)) -> Result<Offer, Rejection> {
    let mut object = wire();
    change(&mut object);
    open(
        &key(2),
        &key(1).public(),
        &seal(&key(1), &key(2).public(), &signed(&key(1), &object)),
    )
}

#[test]
fn an_offer_survives_sealing_and_opening() {
    let offer = verdict(|_| ()).expect("valid");
    let secrets = PairSecrets::derive(&key(1), &key(2).public()).expect("an agreement");
    let sealed = offer.seal(&key(1), &secrets, &Z).expect("short");
    assert_eq!(open(&key(2), &key(1).public(), &sealed), Ok(offer));
}

#[test]
fn canonical_json_is_that_of_rfc_8785() {
    // RFC 8785 §3.2.2 and §3.2.3.
    let input = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
        "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
    let expected = concat!(
        r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
        r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#
    );
    let object = serde_json::from_str(input).expect("JSON");
    assert_eq!(canonical(&object).expect("canonical"), expected.as_bytes());
}

#[test]
fn the_historic_spelling_of_implementation_is_read() {
    let offer = verdict(|object| {
        let object = object.as_object_mut().expect("an object");
        let value = object.remove("implementation").expect("present");
        object.insert("impelementation".into(), value);
    });
    assert!(offer.is_ok(), "{offer:?}");
}

#[test]
fn unknown_fields_are_ignored_and_yet_covered_by_the_signature() {
    assert!(verdict(|object| object["news"] = json!({"a": [1.5, "x"]})).is_ok());
    let mut object = signed(&key(1), &wire());
    object["news"] = json!(1);
    let sealed = seal(&key(1), &key(2).public(), &object);
    assert_eq!(
        open(&key(2), &key(1).public(), &sealed),
        Err(Rejection::BadSignature)
    );
}

#[test]
fn whatever_breaks_a_rule_is_refused_by_its_reason() {
    let third = key(3).public();
    let candidate = wire()["candidates"][0].clone();
    let cases: [(&str, Value, Rejection); 14] = [
        ("version", json!(2), Rejection::UnsupportedVersion),
        ("from", json!(third), Rejection::WrongSender),
        ("to", json!(third), Rejection::WrongAddressee),
        ("role", json!("leader"), Rejection::BadField),
        ("id", json!(0), Rejection::BadField),
        ("id", json!(-1), Rejection::BadField),
        ("id", json!(MAX_INTEGER + 1), Rejection::OverLimit),
        ("epoch", json!("0"), Rejection::BadField),
        ("seen", Value::Null, Rejection::BadField),
        ("rid", json!(4), Rejection::BadField),
        ("ufrag", json!("a b c d e"), Rejection::BadField),
        ("pwd", json!("short"), Rejection::BadField),
        ("ufrag", json!("x".repeat(257)), Rejection::OverLimit),
        (
            "candidates",
            json!(vec![candidate; 17]),
            Rejection::OverLimit,
        ),
    ];
    for (field, value, expected) in cases {
        let result = verdict(|object| object[field] = value.clone());
        assert_eq!(result, Err(expected), "{field} = {value}");
    }
    let swapped = if wire()["role"] == "controlling" {
        "controlled"
    } else {
        "controlling"
    };
    assert_eq!(
        verdict(|object| object["role"] = json!(swapped)),
        Err(Rejection::WrongRole)
    );
}

#[test]
fn addresses_that_no_packet_may_be_sent_to_are_dropped() {
    for address in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "fe80::1",
        "::ffff:1.2.3.4",
    ] {
        let offer = verdict(|object| {
            let candidate = &mut object["candidates"][0];
            candidate["address"] = json!(address);
            candidate["network"] = json!(if address.contains(':') {
                "udp6"
            } else {
                "udp4"
            });
        });
        assert_eq!(offer.expect("valid otherwise").candidates, [], "{address}");
    }
    let offer = verdict(|object| object["candidates"][0]["port"] = json!(0));
    assert_eq!(offer.expect("valid otherwise").candidates, []);
}

#[test]
fn a_message_of_another_key_is_never_opened() {
    let sealed = seal(&key(3), &key(2).public(), &signed(&key(3), &wire()));
    assert_eq!(
        open(&key(2), &key(1).public(), &sealed),
        Err(Rejection::CannotOpen)
    );
    // Sealed with the right key, but signed with another: what a leaked pair secret would allow.
    let sealed = seal(&key(1), &key(2).public(), &signed(&key(3), &wire()));
    assert_eq!(
        open(&key(2), &key(1).public(), &sealed),
        Err(Rejection::BadSignature)
    );
}

#[test]
fn every_altered_or_truncated_message_is_refused() {
    let sealed = seal(&key(1), &key(2).public(), &signed(&key(1), &wire()));
    let text = sealed.as_str();
    for index in (0..text.len()).step_by(7) {
        let truncated = Sealed::new(&text[..index]).expect("short");
        assert!(
            open(&key(2), &key(1).public(), &truncated).is_err(),
            "cut at {index}"
        );
        let mut altered = text.to_owned().into_bytes();
        altered[index] = if altered[index] == b'A' { b'B' } else { b'A' };
        let altered = Sealed::new(&String::from_utf8(altered).expect("ASCII")).expect("short");
        assert!(
            open(&key(2), &key(1).public(), &altered).is_err(),
            "altered at {index}"
        );
    }
}

#[test]
fn an_unsigned_message_is_refused() {
    let secrets = PairSecrets::derive(&key(1), &key(2).public()).expect("an agreement");
    for text in [wire().to_string(), "[]".into(), "x".into()] {
        let sealed = secrets.seal(&text).expect("short");
        let result = open(&key(2), &key(1).public(), &sealed);
        assert!(
            matches!(result, Err(Rejection::Unsigned | Rejection::NotJson)),
            "{result:?}"
        );
    }
}

#[test]
fn sixteen_long_candidates_fit_into_a_mailbox() {
    let mut candidate = wire()["candidates"][0].clone();
    candidate["foundation"] = json!("f".repeat(32));
    candidate["address"] = json!("2001:db8:1111:2222:3333:4444:5555:6666");
    candidate["network"] = json!("udp6");
    candidate["related_address"] = candidate["address"].clone();
    candidate["related_port"] = json!(65535);
    let offer = verdict(|object| object["candidates"] = json!(vec![candidate; 16])).expect("valid");
    let secrets = PairSecrets::derive(&key(1), &key(2).public()).expect("an agreement");
    assert!(offer.seal(&key(1), &secrets, &Z).is_some());
}

#[test]
fn nothing_secret_is_printed() {
    let offer = verdict(|_| ()).expect("valid");
    assert!(!format!("{offer:?}").contains("abcdefghijklmnopqrstuvwx"));
}
