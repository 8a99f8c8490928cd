//! The lab of WICE: hosts, LANs and NATs in network namespaces, real WireGuard in each host, and the project's own
//! programs run as a user would run them. It must not know what is inside those programs: it sees their command lines,
//! their JSON and what WireGuard says.
//!
//! A namespace of the lab has no name. File descriptors hold it, and every child dies with the thread that started it,
//! so whichever way a test ends, nothing is left behind. Start long-lived processes from a thread that outlives them.

pub mod agent;
pub mod booted;
pub mod bus;
pub mod certificate;
pub mod cluster;
pub mod coturn;
pub mod cut;
pub mod document;
pub mod iperf;
pub mod namespace;
pub mod nat;
pub mod ping;
pub mod process;
pub mod relayed;
pub mod scene;
pub mod server;
pub mod stun;
pub mod topology;
pub mod wait;
pub mod watch;
pub mod wireguard;
