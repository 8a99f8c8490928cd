//! `NetCheck` and `wicectl netcheck` on a real bus.

use std::time::Duration;

use wice_bus::{FamilyCheck, Mapping, NetCheck, Udp, Verdict};

use super::fixture::{read, serve};
use super::private_bus::PrivateBus;
use super::wicectl::{fails, run, run_as_nobody, stdout};
use crate::dbus::Command;

fn checked() -> NetCheck {
    NetCheck {
        verdict: Verdict::Direct,
        families: vec![FamilyCheck {
            family: "ipv4".to_owned(),
            udp: Udp::Works,
            mapping: Mapping::EndpointIndependent,
            ..FamilyCheck::default()
        }],
        ..NetCheck::default()
    }
}

#[tokio::test]
async fn anybody_may_have_the_network_checked_but_one_at_a_time() {
    let bus = PrivateBus::started().await;
    let (service, mut commands) = serve(&bus);
    read(&bus, |_| true).await;
    let driver = tokio::spawn(async move {
        let mut asked = Vec::new();
        while let Some(Command::NetCheck { patience, reply }) = commands.recv().await {
            asked.push(patience);
            // The third one finds another one under way.
            let answer = (asked.len() < 3).then(checked);
            reply.send(answer).expect("somebody waits");
        }
        asked
    });

    let text = if nix::unistd::geteuid().is_root() {
        stdout(&run_as_nobody(&bus, &["netcheck"]).await)
    } else {
        stdout(&run(&bus, &["netcheck"]).await)
    };
    assert!(text.contains("direct path: likely"), "{text}");
    let json = stdout(&run(&bus, &["netcheck", "--json", "--timeout", "2"]).await);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["families"][0]["mapping"], "endpoint-independent");
    fails(&run(&bus, &["netcheck"]).await, 3, "another check");
    fails(&run(&bus, &["netcheck", "--timeout", "0"]).await, 2, "0");

    service.stop().await;
    let asked = driver.await.expect("the driver");
    assert_eq!(asked, [5, 2, 5].map(Duration::from_secs));
}
