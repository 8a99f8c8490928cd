//! `Explain` and `wicectl explain` on a real bus.

use wice_core::candidate::{Kind, Network};
use wice_core::explain::{Exchange, Explanation, Finding, Pair, PairState};
use wice_core::status::{CandidateStatus, Reason, State};

use super::fixture::{interface, key, peers, read, serve, waiting};
use super::private_bus::PrivateBus;
use super::wicectl::{fails, run, run_as_nobody, stdout};
use crate::dbus::Command;

fn explanation() -> Explanation {
    let candidate = |kind, host, port| CandidateStatus {
        kind,
        network: Network::Udp4,
        address: ([198, 51, 100, host], port).into(),
    };
    let (local, remote) = (
        candidate(Kind::Host, 1, 4001),
        candidate(Kind::Srflx, 2, 4002),
    );
    Explanation {
        state: State::Failed,
        reason: Reason::NoPairWorks,
        local: vec![local],
        remote: vec![remote],
        pairs: vec![Pair {
            local,
            remote,
            state: PairState::Failed,
            exchange: Exchange {
                sent: 9,
                answered: 0,
                received: 2,
            },
        }],
        findings: vec![Finding::Unanswered],
    }
}

#[tokio::test]
async fn anybody_may_ask_why_a_path_is_not_direct() {
    let bus = PrivateBus::started().await;
    let (service, mut commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", waiting(1));
    read(&bus, |s| peers(s) == 1).await;
    let name = key(1).to_string();
    let driver = tokio::spawn(async move {
        let mut asked = Vec::new();
        while let Some(Command::Explain {
            interface,
            peer,
            reply,
        }) = commands.recv().await
        {
            asked.push((interface, peer));
            // The third one finds a driver that no longer knows the peer.
            let answer = (asked.len() < 3).then(explanation);
            reply.send(answer).expect("somebody waits");
        }
        asked
    });

    let arguments = ["explain", name.as_str()];
    let text = if nix::unistd::geteuid().is_root() {
        stdout(&run_as_nobody(&bus, &arguments).await)
    } else {
        stdout(&run(&bus, &arguments).await)
    };
    assert!(
        text.contains("198.51.100.1:4001 to 198.51.100.2:4002: failed: the peer's checks arrive, but none of ours is answered (9 sent, 0 answered, 2 of"),
        "{text}"
    );
    assert!(text.contains("what would help"), "{text}");
    let json = stdout(&run(&bus, &["explain", &name, "--json"]).await);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["findings"][0], "unanswered");
    assert_eq!(json["remote_candidates"][0]["type"], "srflx");
    fails(&run(&bus, &arguments).await, 10, "has no peer");
    fails(&run(&bus, &["explain", "nobody"]).await, 10, "no peer");

    service.stop().await;
    let asked = driver.await.expect("the driver");
    assert_eq!(asked, vec![("wg0".to_owned(), key(1)); 3]);
}
