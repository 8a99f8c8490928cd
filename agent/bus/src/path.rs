//! Object paths, and how names of interfaces and keys are written into them.

use zbus::OwnedObjectPath;

/// The path of the root object, which also is the `ObjectManager`.
pub const ROOT: &str = "/org/wice/Wice1";

/// The path of a WireGuard interface's object.
pub fn interface(name: &str) -> OwnedObjectPath {
    let path = format!("{ROOT}/interface/{}", escape(name));
    OwnedObjectPath::try_from(path).expect("an escaped name is a path element")
}

/// The path of a peer's object; its last element is the public key as 64 lower-case hex digits.
pub fn peer(interface: &str, public_key: &[u8; 32]) -> OwnedObjectPath {
    let mut path = format!("{ROOT}/interface/{}/peer/", escape(interface));
    for byte in public_key {
        path.push_str(&format!("{byte:02x}"));
    }
    OwnedObjectPath::try_from(path).expect("an escaped name and hex digits are path elements")
}

/// The name of the interface that a path of an interface or of a peer belongs to.
pub fn interface_of(path: &str) -> Option<String> {
    let rest = path.strip_prefix(ROOT)?.strip_prefix("/interface/")?;
    unescape(rest.split('/').next()?)
}

/// Tells whether a path is that of a peer.
pub fn is_peer(path: &str) -> bool {
    interface_of(path).is_some() && path.contains("/peer/")
}

/// Escapes a name as systemd's `bus_label_escape` does: letters and digits stay, except a leading digit; any other byte becomes
/// `_xx`, and the empty name `_`.
pub fn escape(name: &str) -> String {
    if name.is_empty() {
        return "_".to_owned();
    }
    let mut label = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            label.push(char::from(byte));
        } else {
            label.push_str(&format!("_{byte:02x}"));
        }
    }
    label
}

/// Undoes [`escape`]; `None` for a label that it does not produce.
pub fn unescape(label: &str) -> Option<String> {
    if label == "_" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(label.len());
    let mut rest = label.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'_' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_need_no_escape_stay_readable() {
        assert_eq!(interface("wg0").as_str(), "/org/wice/Wice1/interface/wg0");
    }

    #[test]
    fn any_interface_name_survives_a_path() {
        for name in [
            "wg0", "0wg", "wg-home", "wg.1", "_", "__a", "täg", "", "wg_0", "a b",
        ] {
            let path = interface(name);
            assert_eq!(interface_of(path.as_str()).as_deref(), Some(name), "{path}");
        }
    }

    #[test]
    fn names_are_escaped_as_systemd_does() {
        assert_eq!(escape("wg-home"), "wg_2dhome");
        assert_eq!(escape("0wg"), "_30wg");
        assert_eq!(escape("a_b"), "a_5fb");
        assert_eq!(escape(""), "_");
    }

    #[test]
    fn a_peer_belongs_to_its_interface() {
        let path = peer("wg-home", &[0x0a; 32]);
        assert_eq!(
            path.as_str(),
            format!(
                "/org/wice/Wice1/interface/wg_2dhome/peer/{}",
                "0a".repeat(32)
            )
        );
        assert!(is_peer(path.as_str()));
        assert_eq!(interface_of(path.as_str()).as_deref(), Some("wg-home"));
        assert!(!is_peer(interface("wg0").as_str()));
        assert_eq!(interface_of("/org/wice/Wice1"), None);
    }
}
