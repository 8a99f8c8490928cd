//! What the annotations in the introspection promise, against what is signalled.

use std::collections::BTreeSet;

use wice_core::status::InterfaceStatus;

use super::fixture::{
    changed, connected, interface, key, next, peers, serve, signals_after, waiting,
};
use super::packaging::packaging;
use super::private_bus::PrivateBus;

/// The properties of an interface that are signalled: those without an annotation (its default is `true`).
fn signalled(name: &str) -> BTreeSet<String> {
    let xml = std::fs::read_to_string(packaging(&format!("dbus-interfaces/{name}.xml")));
    let xml = xml.expect("it is shipped");
    let mut properties = BTreeSet::new();
    for line in xml.lines() {
        let Some(rest) = line.trim_start().strip_prefix("<property name=\"") else {
            continue;
        };
        // One with an annotation has it as a child.
        if rest.ends_with("/>") {
            properties.extend(rest.split('"').next().map(str::to_owned));
        }
    }
    properties
}

#[tokio::test]
async fn exactly_what_has_no_annotation_is_signalled() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    let mut signals = signals_after(&bus, |s| peers(s) == 1).await;

    // Every field is another one.
    service.peer("wg0", connected(1));
    let (name, values) = changed(&next(&mut signals).await);
    assert_eq!(name, wice_bus::PEER);
    let names: BTreeSet<String> = values.into_keys().collect();
    assert_eq!(names, signalled(wice_bus::PEER));
    for counted in ["RxBytes", "TxBytes", "RoundTripTime", "LatestHandshake"] {
        assert!(!names.contains(counted), "{counted} is signalled");
    }

    service.interface(InterfaceStatus {
        name: "wg0".to_owned(),
        public_key: Some(key(8)),
        listen_port: 1,
        fwmark: 8,
        managed: false,
    });
    let (name, values) = changed(&next(&mut signals).await);
    assert_eq!(name, wice_bus::INTERFACE);
    let mut names: BTreeSet<String> = values.into_keys().collect();
    // The list changes with the peers, in a signal of its own.
    names.insert("Peers".to_owned());
    assert_eq!(names, signalled(wice_bus::INTERFACE));
    assert_eq!(
        signalled(wice_bus::MANAGER),
        ["Backends", "Relays"].map(str::to_owned).into()
    );
}
