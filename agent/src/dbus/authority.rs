//! Who may change something: root, the user that the agent runs as, and whomever polkit allows it.
//!
//! The caller is asked for by the name that the bus gave it; nothing that the message says about itself counts.

use wice_bus::Error;
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::{Flags, Header};
use zbus::names::BusName;

use super::polkit::{self, Verdict};

/// Something that not everybody may ask for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action<'a> {
    /// Start a peer's session anew.
    Restart {
        /// Name of the interface.
        interface: &'a str,
        /// Public key in base64.
        peer: &'a str,
    },
    /// Read the configuration again.
    Reload,
}

impl Action<'_> {
    /// The action's name in `org.wice.Wice1.policy`.
    const fn id(self) -> &'static str {
        match self {
            Self::Restart { .. } => "org.wice.Wice1.restart",
            Self::Reload => "org.wice.Wice1.reload",
        }
    }

    /// What a rule may decide by (`action.lookup` in it).
    fn details(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Restart { interface, peer } => {
                vec![
                    ("interface", interface.to_owned()),
                    ("peer", peer.to_owned()),
                ]
            }
            Self::Reload => Vec::new(),
        }
    }

    /// Completes "may not …".
    const fn words(self) -> &'static str {
        match self {
            Self::Restart { .. } => "restart a peer",
            Self::Reload => "reload the configuration",
        }
    }
}

/// Refuses unless the message's sender is root or the agent's own user, or polkit allows it.
pub(super) async fn require(
    connection: &Connection,
    header: &Header<'_>,
    action: Action<'_>,
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
    let interactive = header
        .primary()
        .flags()
        .contains(Flags::ALLOW_INTERACTIVE_AUTH);
    let subject = polkit::Subject {
        sender,
        interactive,
    };
    let verdict = polkit::check(connection, &subject, action.id(), &action.details()).await;
    let (what, id) = (action.words(), action.id());
    let refusal = match verdict {
        Verdict::Allowed => return Ok(()),
        Verdict::Refused => {
            format!("user {uid} may not {what}: polkit does not allow {id}; try it with sudo")
        }
        Verdict::PasswordNeeded => format!(
            "user {uid} may not {what} without a password for {id}, and there is nobody to ask for it (no polkit \
             authentication agent runs in this session); try it with sudo"
        ),
        Verdict::Dismissed => {
            format!("user {uid} may not {what}: nobody gave the password for {id}")
        }
        Verdict::Unavailable(cause) => {
            tracing::debug!(cause, "polkit cannot be asked");
            format!(
                "user {uid} may not {what}: only root may, because there is no polkit to ask (install and start polkitd); \
                 try it with sudo"
            )
        }
        Verdict::Unknown(cause) => {
            format!(
                "user {uid} may not {what}: polkit does not decide about {id} ({cause}); is org.wice.Wice1.policy \
                 installed in /usr/share/polkit-1/actions? Try it with sudo"
            )
        }
    };
    tracing::debug!(uid, id, "refused");
    Err(Error::NotAuthorized(refusal))
}
