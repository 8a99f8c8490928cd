//! A system bus of a host's own: `dbus-daemon` with the project's policy, on the path where the system bus always is.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::until;

/// The socket, in the host's own `/run`.
const SOCKET: &str = "/run/dbus/system_bus_socket";

/// The value of `DBUS_SYSTEM_BUS_ADDRESS` for the programs of a host.
pub const ADDRESS: &str = "unix:path=/run/dbus/system_bus_socket";

/// Where the project keeps the policy that its packages install.
const POLICY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../packaging/org.wice.Wice1.conf"
);

/// Starts the bus of a host and waits until it listens.
pub fn start(machine: &Namespace) -> Result<Process> {
    machine.write("/run/lab/bus.conf", &configuration())?;
    // A bus that was killed leaves its socket, and the next one would find the place taken.
    machine.run("rm -f /run/dbus/system_bus_socket")?;
    let mut command = machine.command("dbus-daemon");
    command.args(["--nofork", "--config-file=/run/lab/bus.conf"]);
    let process = Process::start(machine, "dbus-daemon", &mut command)?;
    until(
        &format!("{}: the bus to listen", machine.name()),
        Duration::from_secs(10),
        || Ok(machine.has(SOCKET).then_some(())),
    )?;
    Ok(process)
}

/// A system bus refuses every name that no policy allows: the project's own file must be enough, where it exists.
fn configuration() -> String {
    let policy = if Path::new(POLICY).is_file() {
        format!("<include>{POLICY}</include>")
    } else {
        "<policy user=\"root\"><allow own_prefix=\"org.wice\"/></policy>\n\
         <policy context=\"default\"><allow send_destination=\"org.wice.Wice1\"/></policy>"
            .to_owned()
    };
    format!(
        "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN\" \
         \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig>\n<type>system</type>\n\
         <listen>{ADDRESS}</listen>\n<auth>EXTERNAL</auth>\n<policy context=\"default\">\n<allow user=\"*\"/>\n\
         <deny own=\"*\"/>\n<deny send_type=\"method_call\"/>\n<allow send_type=\"signal\"/>\n\
         <allow send_requested_reply=\"true\" send_type=\"method_return\"/>\n\
         <allow send_requested_reply=\"true\" send_type=\"error\"/>\n<allow receive_type=\"method_call\"/>\n\
         <allow receive_type=\"method_return\"/>\n<allow receive_type=\"error\"/>\n<allow receive_type=\"signal\"/>\n\
         <allow send_destination=\"org.freedesktop.DBus\"/>\n</policy>\n{policy}\n</busconfig>\n"
    )
}
