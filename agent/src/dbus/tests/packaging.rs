//! The files that packages install for D-Bus, against the running service and a real bus.

use std::path::{Path, PathBuf};

use zbus::fdo::{DBusProxy, IntrospectableProxy};

use super::fixture::{connected, interface, peer_path, peers, read, serve};
use super::private_bus::PrivateBus;

/// Set to anything, it makes the test write what the service says instead of comparing it.
const RENEW: &str = "WICE_RENEW_INTROSPECTION";

#[tokio::test]
async fn the_shipped_introspection_is_that_of_the_running_service() {
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", connected(1));
    read(&bus, |s| peers(s) == 1).await;
    let client = bus.client().await;

    for (name, path) in [
        (wice_bus::MANAGER, wice_bus::path::ROOT.to_owned()),
        (
            wice_bus::INTERFACE,
            wice_bus::path::interface("wg0").to_string(),
        ),
        (wice_bus::PEER, peer_path("wg0", 1)),
    ] {
        let object = IntrospectableProxy::builder(&client)
            .destination(wice_bus::SERVICE)
            .path(path)
            .build()
            .await
            .expect("a proxy");
        let live = document(&object.introspect().await.expect("introspection"), name);
        let file = packaging(&format!("dbus-interfaces/{name}.xml"));
        if std::env::var_os(RENEW).is_some() {
            std::fs::write(&file, &live).expect("the file is written");
        }
        let shipped = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            shipped == live,
            "{} is not what the service says; renew it: {RENEW}=1 cargo test -p wice-agent introspection\n{live}",
            file.display()
        );
    }
}

#[tokio::test]
async fn the_bus_can_start_the_agent_by_its_name() {
    let mut bus = PrivateBus::absent();
    let services = bus.directory().join("services");
    std::fs::create_dir(&services).expect("a directory");
    let file = packaging("org.wice.Wice1.service");
    std::fs::copy(&file, services.join("org.wice.Wice1.service")).expect("copied");
    bus.start().await;
    let client = bus.client().await;

    let names = DBusProxy::new(&client)
        .await
        .expect("a proxy")
        .list_activatable_names()
        .await
        .expect("names");

    assert!(
        names.iter().any(|name| name.as_str() == wice_bus::SERVICE),
        "{names:?}"
    );
}

pub(super) fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging")
        .join(file)
}

/// One interface of an object as a document of its own, without the indentation that it has in the tree.
fn document(xml: &str, name: &str) -> String {
    let opening = format!("<interface name=\"{name}\">");
    let lines: Vec<&str> = xml
        .lines()
        .skip_while(|line| line.trim_start() != opening)
        .collect();
    let indent = lines.first().map_or(0, |line| line.len() - opening.len());
    let mut document = String::from(concat!(
        "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n",
        " \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n"
    ));
    for line in lines {
        let line = line.get(indent..).unwrap_or(line.trim_start());
        document.push_str(&format!("  {line}\n"));
        if line == "</interface>" {
            break;
        }
    }
    document.push_str("</node>\n");
    document
}
