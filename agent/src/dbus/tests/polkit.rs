//! The service, a real polkitd beside it, and callers who are neither root nor the agent.

use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use zbus::fdo::DBusProxy;

use super::fixture::{connected, interface, key, peers, read, serve};
use super::private_bus::{PrivateBus, eventually};
use super::wicectl::{fails, run_as, run_as_nobody, stdout};
use crate::dbus::Command;

/// A user that every Debian has.
const DAEMON: u32 = 1;
/// For wicectl to start, and polkit to answer.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn polkit_refuses_a_restart_until_a_rule_allows_it() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can start polkitd and become another user");
        return;
    }
    let bus = PrivateBus::started().await;
    let (service, mut commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.interface(interface("wg1"));
    service.peer("wg0", connected(1));
    service.peer("wg1", connected(2));
    read(&bus, |s| peers(s) == 2).await;

    {
        let _polkit = Polkit::started(&bus, "").await;
        let status = stdout(&run_as_nobody(&bus, &["status", "wg0"]).await);
        assert!(status.contains("laptop"), "{status}");
        let refused = run_as_nobody(&bus, &["restart", "-i", "wg0", "laptop"]).await;
        fails(
            &refused,
            4,
            "user 65534 may not restart a peer without a password for org.wice.Wice1.restart",
        );
        let refused = run_as_nobody(&bus, &["reload"]).await;
        fails(&refused, 4, "org.wice.Wice1.reload");
        assert!(commands.try_recv().is_err(), "the driver was asked");
    }

    let rule = r#"polkit.addRule(function(action, subject) {
        if (action.id == "org.wice.Wice1.restart" && action.lookup("interface") == "wg0" && subject.user == "nobody")
            return polkit.Result.YES;
        if (action.id == "org.wice.Wice1.reload")
            return polkit.Result.NO;
    });"#;
    let _polkit = Polkit::started(&bus, rule).await;
    let driver = async {
        let Some(Command::Restart {
            interface,
            peer,
            reply,
        }) = tokio::time::timeout(DEADLINE, commands.recv())
            .await
            .ok()
            .flatten()
        else {
            panic!("no restart arrived");
        };
        reply.send(true).expect("somebody waits");
        (interface, peer)
    };
    let arguments = ["restart", "-i", "wg0", "laptop"];
    let (allowed, asked) = tokio::join!(run_as_nobody(&bus, &arguments), driver);
    stdout(&allowed);
    assert_eq!(asked, ("wg0".to_owned(), key(1)));
    // The very same question by somebody else has another answer: who asks is not the agent, and not whoever asked before.
    let other = run_as(&bus, DAEMON, &arguments).await;
    fails(
        &other,
        4,
        "user 1 may not restart a peer without a password",
    );
    let refused = run_as_nobody(&bus, &["restart", "-i", "wg1", "laptop"]).await;
    fails(&refused, 4, "without a password");
    let refused = run_as_nobody(&bus, &["reload"]).await;
    fails(&refused, 4, "polkit does not allow org.wice.Wice1.reload");
    assert!(commands.try_recv().is_err(), "the driver was asked");
}

/// A polkitd that knows our actions and one rule only; ended when dropped.
struct Polkit(Child);

impl Polkit {
    async fn started(bus: &PrivateBus, rule: &str) -> Self {
        let directory = bus.directory().join("polkit");
        let (actions, rules) = (directory.join("actions"), directory.join("rules.d"));
        for directory in [&actions, &rules] {
            std::fs::create_dir_all(directory).expect("a directory");
        }
        let policy =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/org.wice.Wice1.policy");
        std::fs::copy(policy, actions.join("org.wice.Wice1.policy")).expect("our actions");
        std::fs::write(rules.join("10-test.rules"), rule).expect("a rule");
        // In a mount namespace of its own, so that the machine's polkit does not see them.
        let script = "mount --bind \"$1\" /usr/share/polkit-1/actions && mount --bind \"$2\" /etc/polkit-1/rules.d && \
                      exec /usr/lib/polkit-1/polkitd --no-debug";
        let mut process = Process::new("unshare");
        process.args(["--mount", "sh", "-c", script, "sh"]);
        process.args([&actions, &rules]);
        process
            .env("DBUS_SYSTEM_BUS_ADDRESS", bus.address())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut polkit = Self(process.spawn().expect("unshare runs"));
        let client = bus.client().await;
        let names = DBusProxy::new(&client).await.expect("a proxy");
        let name =
            zbus::names::BusName::from_static_str("org.freedesktop.PolicyKit1").expect("valid");
        eventually("polkitd on the bus", async || {
            let ended = polkit.0.try_wait().expect("it is our child");
            assert!(
                ended.is_none(),
                "polkitd does not run (Debian: apt-get install polkitd): {ended:?}"
            );
            let owned = names.name_has_owner(name.clone()).await;
            owned.ok().filter(|owned| *owned)
        })
        .await;
        polkit
    }
}

impl Drop for Polkit {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
