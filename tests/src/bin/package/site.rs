//! The machines: a server on the WAN, two more behind NATs, each a booted system; and a tunnel between the two.

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use wice_tests::booted::Booted;
use wice_tests::nat::Nat;
use wice_tests::ping::{Pinger, Running};
use wice_tests::topology::{self, Family, Host};
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

/// Everything that the steps work on.
pub(crate) struct Lab {
    /// What moves the packets.
    pub(crate) engine: Engine,
    /// The machine of wice-signal.
    pub(crate) server: Booted,
    /// The machine that is looked at.
    pub(crate) a: Site,
    /// The machine at the other end.
    pub(crate) b: Site,
    /// Whether older packages are installed first.
    pub(crate) old: bool,
    _map: topology::Lab,
}

/// One end of the tunnel.
pub(crate) struct Site {
    /// The system.
    pub(crate) machine: Booted,
    /// The address inside the tunnel.
    pub(crate) address: Ipv4Addr,
    host: Host,
}

/// The time between two pings of a run.
const PING: Duration = Duration::from_millis(20);

impl Lab {
    /// Lays the cables and boots the machines.
    pub(crate) fn boot(engine: Engine, root: &Path, packages: &Path, short: bool) -> Result<Self> {
        let mut map = topology::Lab::new(Family::V4)?;
        let mut left = map.router(Nat::PortRestricted)?;
        let mut right = map.router(Nat::PortRestricted)?;
        let (a, b) = (map.host("a", &mut left)?, map.host("b", &mut right)?);
        let boot = |home| Booted::start(home, root, packages);
        // One after the other: a machine dies with the thread that started it.
        let (server, one, two) = (boot(map.wan())?, boot(&a.machine)?, boot(&b.machine)?);
        Ok(Self {
            engine,
            server,
            a: Site {
                machine: one,
                address: Ipv4Addr::new(10, 99, 0, 1),
                host: a,
            },
            b: Site {
                machine: two,
                address: Ipv4Addr::new(10, 99, 0, 2),
                host: b,
            },
            old: !short,
            _map: map,
        })
    }

    /// Runs the same work for both ends at the same time.
    pub(crate) fn both<T: Send>(&self, work: impl Fn(&Site) -> Result<T> + Sync) -> Result<(T, T)> {
        thread::scope(|scope| {
            let other = scope.spawn(|| work(&self.b));
            let one = work(&self.a);
            let other = other.join().map_err(|_| anyhow!("a thread panicked"))?;
            Ok((one?, other?))
        })
    }

    /// Pings B from A through the tunnel until the first reply.
    pub(crate) fn first_reply(&self, deadline: Duration) -> Result<()> {
        Pinger::new(&self.a.host, self.b.address)?
            .first_reply(PING, deadline)
            .map(drop)
    }

    /// Pings B from A through the tunnel while `work` goes on, and fails when a packet was lost.
    pub(crate) fn without_loss(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let running: Running = Pinger::new(&self.a.host, self.b.address)?.run(PING);
        let outcome = work();
        let tally = running.stop()?;
        outcome?;
        println!("{} pings, {} lost", tally.sent, tally.lost.len());
        ensure!(tally.lost.is_empty(), "lost pings, at {:?}", tally.lost);
        Ok(())
    }

    /// Prints what the machines say of themselves.
    pub(crate) fn tell(&self) {
        for machine in [&self.server, &self.a.machine, &self.b.machine] {
            let journal = machine.run(
                "journalctl --boot --no-pager --lines=25 --unit=wice-agent --unit=wice-signal --unit=dbus --unit=polkit; wicectl status || true; wg show || true",
            );
            let text = journal.unwrap_or_else(|error| format!("{error:#}"));
            for line in text.lines() {
                println!("{}: {line}", machine.name());
            }
        }
    }
}

impl Site {
    /// Makes `wg0` with a new key, and returns the public key.
    pub(crate) fn tunnel(&self, engine: Engine) -> Result<String> {
        let machine = &self.machine;
        machine.run(match engine {
            Engine::Kernel => "ip link add wg0 type wireguard",
            Engine::Userspace => {
                "cp /usr/share/doc/wice/examples/wireguard-go@.service /etc/systemd/system/
                 systemctl daemon-reload
                 systemctl start wireguard-go@wg0"
            }
        })?;
        machine.run("umask 077; wg genkey >/root/key")?;
        // The process in the background may need a moment more.
        until("wg0 to take a key", Duration::from_secs(5), || {
            machine
                .run("wg set wg0 private-key /root/key listen-port 51820")
                .map(Some)
        })?;
        let address = self.address;
        let key = machine.run(&format!(
            "ip address add {address}/24 dev wg0; ip link set wg0 up; wg show wg0 public-key"
        ))?;
        Ok(key.trim().to_owned())
    }

    /// Returns the process id of a unit's main process.
    pub(crate) fn main_process(&self, unit: &str) -> Result<u32> {
        main_process(&self.machine, unit)
    }
}

/// Returns the process id of a unit's main process on a machine.
pub(crate) fn main_process(machine: &Booted, unit: &str) -> Result<u32> {
    let id = machine.run(&format!("systemctl show --property=MainPID --value {unit}"))?;
    let id = id.trim().parse().context("no process id")?;
    ensure!(id != 0, "{}: {unit} does not run", machine.name());
    Ok(id)
}
