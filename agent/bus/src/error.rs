//! The errors that the agent's methods answer with.

use zbus::DBusError;

/// An error of `org.wice.Wice1.Error.*`; each carries a sentence for the person who asked.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.wice.Wice1.Error")]
pub enum Error {
    /// Something of D-Bus itself failed.
    #[zbus(error)]
    Bus(zbus::Error),
    /// The agent knows no WireGuard interface of this name.
    UnknownInterface(String),
    /// The interface has no such peer.
    UnknownPeer(String),
    /// The caller may not do this.
    NotAuthorized(String),
    /// An argument is malformed.
    InvalidArgument(String),
    /// The agent did not get to it in time; the request may still take effect.
    Busy(String),
}
