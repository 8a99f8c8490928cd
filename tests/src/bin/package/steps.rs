//! What a user does, in this order. Each step says what must be seen, and leaves the machines ready for the next.

use std::time::Duration;

use anyhow::{Result, ensure};
use wice_tests::booted::Booted;
use wice_tests::wait::until;

use crate::site::{Lab, Site, main_process};

/// Where wice-signal serves: a name that only these machines know.
const SERVER: &str = "signal.test";
/// When two agents should long have found each other.
const CONNECTED: Duration = Duration::from_secs(20);
/// What the journal may warn of: the container's own limits, and nothing of ours.
const ELSEWHERE: [&str; 2] = [
    // dbus-daemon, which may not raise its own limits here.
    "Failed to set fd limit",
    // Nothing says how large this machine is.
    "Failed to determine",
];

fn apt(machine: &Booted, packages: &str) -> Result<String> {
    machine.run(&format!(
        "apt-get install --yes --quiet -o Dpkg::Use-Pty=0 {packages} </dev/null 2>&1"
    ))
}

pub(crate) fn install(lab: &mut Lab) -> Result<()> {
    let directory = if lab.old {
        "/packages/old"
    } else {
        "/packages"
    };
    apt(&lab.server, "/packages/wice-signal_*.deb")?;
    lab.both(|site| {
        let machine = &site.machine;
        for tool in ["cc", "make", "cargo", "pkg-config"] {
            ensure!(
                machine.status(&format!("command -v {tool}"))? != 0,
                "{tool} is there"
            );
        }
        apt(machine, &format!("{directory}/wice_*.deb"))?;
        let active = machine.status("systemctl is-active wice-agent")?;
        ensure!(active != 0, "the agent runs before anybody enabled it");
        let said = machine.run("runuser -u nobody -- wicectl status 2>&1 || echo status $?")?;
        ensure!(
            said.contains("not running") && said.contains("status 8"),
            "{said}"
        );
        ensure!(
            machine.status("systemctl is-active wice-agent")? != 0,
            "the bus started an agent that is not enabled"
        );
        println!("{}", machine.run("wice-agent --version")?.trim());
        machine.run("wice-agent --check")
    })?;
    Ok(())
}

/// A certificate of an authority of its own, and a token: both as credentials, because neither belongs into an argument.
const SECRETS: &str = "
    cd /root
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=test 2>&1
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out request -subj /CN=signal.test 2>&1
    printf 'subjectAltName=DNS:signal.test\\n' >extensions
    openssl x509 -req -in request -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out certificate 2>&1
    mkdir -p /etc/credstore
    chmod 0700 /etc/credstore
    umask 077
    cp certificate /etc/credstore/wice-signal.tls-cert
    cp key /etc/credstore/wice-signal.tls-key
    openssl rand -hex 16 >/etc/credstore/wice-signal.token
    systemctl enable --now wice-signal 2>&1";

pub(crate) fn connect(lab: &mut Lab) -> Result<()> {
    lab.server.run(SECRETS)?;
    println!(
        "{}",
        lab.server.run("systemctl status --no-pager wice-signal")?
    );
    let authority = lab.server.run("cat /root/ca.crt")?;
    let token = lab.server.run("cat /etc/credstore/wice-signal.token")?;
    let engine = lab.engine;
    let (key_a, key_b) = lab.both(|site| {
        site.machine.run(&format!(
            "echo '10.0.0.1 {SERVER}' >>/etc/hosts
             mkdir -p /etc/credstore
             echo '{authority}' >/usr/local/share/ca-certificates/test.crt
             update-ca-certificates 2>&1
             (umask 077; echo '{token}' >/etc/credstore/wice.signaling-token)
             sed -i -e 's|^#backends = .*|backends = [\"wss://{SERVER}:8080\"]|' \
                    -e 's|^#servers = .*|servers = [\"stun:{SERVER}\"]|' /etc/wice/wice.toml"
        ))?;
        site.tunnel(engine)
    })?;
    let peer = |site: &Site, key: &str, other: &Site| {
        site.machine.run(&format!(
            "wg set wg0 peer {key} allowed-ips {}/32
             systemctl enable --now wice-agent 2>&1",
            other.address
        ))
    };
    peer(&lab.a, &key_b, &lab.b)?;
    peer(&lab.b, &key_a, &lab.a)?;
    settled(lab)?;
    lab.first_reply(CONNECTED)?;
    println!(
        "{}",
        lab.a.machine.run("wicectl status; wg show wg0 endpoints")?
    );
    Ok(())
}

/// Waits until both ends call the path direct.
fn settled(lab: &Lab) -> Result<()> {
    lab.both(|site| {
        until("the path to be direct", CONNECTED, || {
            let key = site.machine.run("wg show wg0 peers")?;
            site.machine
                .run(&format!(
                    "wicectl wait {} --direct --timeout 20",
                    key.trim()
                ))
                .map(Some)
        })
    })?;
    Ok(())
}

pub(crate) fn look(lab: &mut Lab) -> Result<()> {
    let machine = &lab.a.machine;
    let status = machine.run("runuser -u nobody -- wicectl status")?;
    ensure!(
        status.contains("direct"),
        "no direct path for nobody: {status}"
    );
    let refused =
        machine.run("runuser -u nobody -- wicectl restart --all 2>&1 || echo status $?")?;
    ensure!(
        refused.contains("status 4"),
        "nobody's restart was not refused: {refused}"
    );
    // What polkit is told about an action, it believes from its owner alone; the agent is not root.
    machine.run(
        "mkdir -p /etc/polkit-1/rules.d
         echo 'polkit.addRule(function(action, subject) {
             if (action.id == \"org.wice.Wice1.restart\" && action.lookup(\"interface\") == \"wg0\" && subject.user == \"nobody\")
                 return polkit.Result.YES; });' >/etc/polkit-1/rules.d/50-test.rules
         systemctl try-restart polkit",
    )?;
    until("nobody to be allowed a restart", CONNECTED, || {
        machine
            .run("runuser -u nobody -- wicectl restart --all --wait 10")
            .map(Some)
    })?;
    settled(lab)
}

pub(crate) fn sandbox(lab: &mut Lab) -> Result<()> {
    let exposure = |machine: &Booted, unit: &str, limit: u32| {
        let command = format!(
            "systemd-analyze security --offline=yes --no-pager --threshold={limit} /lib/systemd/system/{unit}.service"
        );
        let told = machine.run(&command)?;
        println!("{unit}: {}", told.lines().last().unwrap_or_default());
        anyhow::Ok(())
    };
    exposure(&lab.a.machine, "wice-agent", 15)?;
    exposure(&lab.server, "wice-signal", 12)?;
    let shown = |machine: &Booted, unit: &str| {
        let id = main_process(machine, unit)?;
        machine.run(&format!("cat /proc/{id}/status"))
    };
    let agent = shown(&lab.a.machine, "wice-agent")?;
    for line in [
        "CapEff:\t0000000000003000",
        "CapBnd:\t0000000000003000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        ensure!(
            agent.contains(line),
            "the agent's process has not {line}: {agent}"
        );
    }
    ensure!(!agent.contains("Uid:\t0"), "the agent is root");
    let signal = shown(&lab.server, "wice-signal")?;
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        ensure!(
            signal.contains(line),
            "wice-signal's process has not {line}: {signal}"
        );
    }
    ensure!(!signal.contains("Uid:\t0"), "wice-signal is root");
    Ok(())
}

pub(crate) fn reload(lab: &mut Lab) -> Result<()> {
    let agent = lab.a.main_process("wice-agent")?;
    lab.without_loss(|| lab.a.machine.run("systemctl reload wice-agent").map(drop))?;
    ensure!(
        lab.a.main_process("wice-agent")? == agent,
        "a reload was a restart"
    );
    let server = main_process(&lab.server, "wice-signal")?;
    lab.server.run("systemctl reload wice-signal")?;
    until(
        "wice-signal to read its certificate again",
        CONNECTED,
        || {
            let told = lab.server.run("journalctl --no-pager --unit wice-signal")?;
            Ok(told.contains("read again").then_some(()))
        },
    )?;
    ensure!(
        main_process(&lab.server, "wice-signal")? == server,
        "a reload was a restart"
    );
    settled(lab)
}

pub(crate) fn restart(lab: &mut Lab) -> Result<()> {
    lab.without_loss(|| {
        lab.a.machine.run("systemctl restart wice-agent")?;
        settled(lab)?;
        lab.a.machine.run("systemctl stop wice-agent")?;
        lab.a.machine.run("systemctl start wice-agent")?;
        settled(lab)
    })
}

pub(crate) fn upgrade(lab: &mut Lab) -> Result<()> {
    let machine = &lab.a.machine;
    let edited = machine.run("cat /etc/wice/wice.toml")?;
    let version = || machine.run("dpkg-query --show --showformat='${Version}' wice");
    let (old, before) = (version()?, lab.a.main_process("wice-agent")?);
    lab.without_loss(|| {
        apt(machine, "/packages/wice_*.deb")?;
        settled(lab)
    })?;
    println!("{old} → {}", version()?);
    ensure!(version()? != old, "still the old version");
    ensure!(
        lab.a.main_process("wice-agent")? != before,
        "the old agent still runs"
    );
    ensure!(
        machine.run("cat /etc/wice/wice.toml")? == edited,
        "the configuration changed"
    );
    ensure!(
        machine.status("systemctl is-enabled wice-agent")? == 0,
        "no longer enabled"
    );
    Ok(())
}

pub(crate) fn journals(lab: &mut Lab) -> Result<()> {
    for machine in [&lab.server, &lab.a.machine, &lab.b.machine] {
        let warnings =
            machine.run("journalctl --boot --no-pager --quiet --priority=warning --output=cat")?;
        let ours: Vec<&str> = warnings
            .lines()
            .filter(|line| !ELSEWHERE.iter().any(|known| line.contains(known)))
            .collect();
        ensure!(
            ours.is_empty(),
            "{}: the journal warns:\n{}",
            machine.name(),
            ours.join("\n")
        );
    }
    Ok(())
}

pub(crate) fn mishaps(lab: &mut Lab) -> Result<()> {
    let machine = &lab.a.machine;
    let before = lab.a.main_process("wice-agent")?;
    lab.without_loss(|| {
        machine.run("mkdir /etc/wice/wice.toml.d; echo '[ice' >/etc/wice/wice.toml.d/bad.toml")?;
        ensure!(
            machine.status("systemctl reload wice-agent")? != 0,
            "a bad configuration was taken"
        );
        let told = machine.run("systemctl status --no-pager wice-agent")?;
        ensure!(
            told.contains("bad.toml, line 1"),
            "nobody is told what is wrong: {told}"
        );
        machine.run("rm /etc/wice/wice.toml.d/bad.toml; systemctl reload wice-agent")?;
        ensure!(
            lab.a.main_process("wice-agent")? == before,
            "the agent did not live through a bad configuration"
        );
        lab.server.run("systemctl restart wice-signal")?;
        machine.run(&format!("kill -KILL {before}"))?;
        until("systemd to start the agent again", CONNECTED, || {
            let now = lab.a.main_process("wice-agent").ok();
            Ok(now.filter(|id| *id != before))
        })?;
        settled(lab)
    })
}

/// The programs relay inside the sandbox of their units: loopback addresses, large buffers, many ports.
pub(crate) fn relay(lab: &mut Lab) -> Result<()> {
    lab.server.run(
        "echo 'WICE_SIGNAL_OPTIONS=--turn [::]:3478 --turn-allow-private' >/etc/wice/signal.env
         systemctl restart wice-signal",
    )?;
    lab.both(|site| {
        site.machine.run(
            "mkdir -p /etc/wice/wice.toml.d
             printf '[ice]\\npolicy = \"relay\"\\n' >/etc/wice/wice.toml.d/relay.toml
             systemctl reload wice-agent",
        )
    })?;
    lab.both(|site| {
        until("the path to go by the relay", CONNECTED, || {
            let status = site.machine.run("wicectl status --json")?.replace(' ', "");
            let relayed =
                status.contains("\"path\":\"relay\"") && status.contains("\"state\":\"connected\"");
            Ok(relayed.then_some(()))
        })
    })?;
    lab.first_reply(CONNECTED)?;
    println!(
        "{}",
        lab.a.machine.run("wicectl status; wg show wg0 endpoints")?
    );
    lab.both(|site| {
        site.machine
            .run("rm /etc/wice/wice.toml.d/relay.toml; systemctl reload wice-agent")
    })?;
    settled(lab)
}

pub(crate) fn remove(lab: &mut Lab) -> Result<()> {
    let machine = &lab.a.machine;
    let gone = |machine: &Booted, package: &str, how: &str| {
        machine.run(&format!(
            "apt-get {how} --yes --quiet -o Dpkg::Use-Pty=0 {package} </dev/null 2>&1"
        ))
    };
    lab.without_loss(|| {
        gone(machine, "wice", "remove")?;
        ensure!(
            machine.status("test -e /etc/wice/wice.toml")? == 0,
            "remove took the configuration"
        );
        ensure!(
            machine.status("pidof wice-agent || systemctl is-active wice-agent")? != 0,
            "the agent still runs"
        );
        gone(machine, "wice", "purge")?;
        gone(&lab.server, "wice-signal", "purge")?;
        Ok(())
    })?;
    for (machine, known) in [
        // The example that this test copied there.
        (machine, "-not -path '/etc/systemd/system/wireguard-go*'"),
        (&lab.server, ""),
    ] {
        let left = machine.run(&format!(
            "find / -xdev -iname '*wice*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/packages*' -not -path '*/etc/credstore/*' {known}"
        ))?;
        ensure!(
            left.trim().is_empty(),
            "{}: purge left\n{left}",
            machine.name()
        );
    }
    Ok(())
}
