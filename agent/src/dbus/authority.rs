//! Who may change something: root, and the user that the agent runs as.
//!
//! The caller is asked for by the name that the bus gave it; nothing that the message says about itself counts.

use wice_bus::Error;
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::names::BusName;

/// Refuses unless the message's sender is root or the agent's own user; `what` completes "may not …".
pub(super) async fn require(
    connection: &Connection,
    header: &Header<'_>,
    what: &str,
) -> Result<(), Error> {
    let sender = header
        .sender()
        .ok_or_else(|| Error::NotAuthorized("the message has no sender".to_owned()))?;
    let uid = DBusProxy::new(connection)
        .await?
        .get_connection_unix_user(BusName::from(sender.to_owned()))
        .await
        .map_err(|_| Error::NotAuthorized("the bus does not say who is asking".to_owned()))?;
    if uid == 0 || uid == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    tracing::debug!(uid, what, "refused");
    Err(Error::NotAuthorized(format!(
        "user {uid} may not {what}: only root may; try it with sudo"
    )))
}
