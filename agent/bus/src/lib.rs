//! The D-Bus contract of WICE: what `wice-agent` serves and `wicectl` (or anybody) reads.
//!
//! Names, numbers, errors, proxies and the snapshot that one `GetManagedObjects` call yields. Knows nothing of the agent's own
//! types: the numbers are stable, and other programs may depend on them. Described in `docs/dbus.md`.

mod error;
mod explanation;
mod netcheck;
mod number;
pub mod path;
mod proxy;
mod snapshot;

pub use error::Error;
pub use explanation::{Explanation, Pair};
pub use netcheck::{
    FamilyCheck, Filtering, Mapping, MappingMethod, NetCheck, NetFinding, ServerCheck, Udp, Verdict,
};
pub use number::{BackendState, Finding, PairState, Reason, RelayState, State};
pub use proxy::{ManagerProxy, PathChanged, PeerProxy, StateChanged};
pub use snapshot::{Backend, Candidate, Interface, Peer, Relay, Snapshot};

/// The well-known name that the agent owns on the system bus.
pub const SERVICE: &str = "org.wice.Wice1";
/// The interface of the root object.
pub const MANAGER: &str = "org.wice.Wice1.Manager";
/// The interface of a WireGuard interface's object.
pub const INTERFACE: &str = "org.wice.Wice1.Interface";
/// The interface of a peer's object.
pub const PEER: &str = "org.wice.Wice1.Peer";
