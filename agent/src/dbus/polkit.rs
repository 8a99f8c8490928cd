//! Asks polkit whether a program on the bus may do something.
//!
//! Knows polkit's interface; knows none of the agent's actions. The question is about the program that called, by its unique
//! name: polkit finds out itself who that is and in which session.

use std::collections::HashMap;
use std::time::Duration;

use zbus::names::UniqueName;
use zbus::proxy::CacheProperties;
use zbus::{Connection, Variant, fdo, proxy};

/// Who asked for it.
pub(super) struct Subject<'a> {
    /// The sender of the message, as the bus names it.
    pub(super) sender: &'a UniqueName<'a>,
    /// Whether it said that it would wait for a person to give a password.
    pub(super) interactive: bool,
}

/// What polkit says.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
    /// It may not without a password, for which nobody could be asked.
    PasswordNeeded,
    /// Somebody was asked for a password and gave none.
    Dismissed,
    /// Nobody answers for polkit.
    Unavailable(String),
    /// polkit answered with an error: an action that is not installed, or an agent that polkit does not trust to ask.
    Unknown(String),
}

/// polkit may have to be started by the bus first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A person needs time to type a password.
const PERSON_TIMEOUT: Duration = Duration::from_secs(120);
/// `POLKIT_CHECK_AUTHORIZATION_FLAGS_ALLOW_USER_INTERACTION`.
const ALLOW_USER_INTERACTION: u32 = 1;
/// In the details of an answer: the dialog was closed.
const DISMISSED: &str = "polkit.dismissed";

/// polkit's `org.freedesktop.PolicyKit1.Authority`.
#[proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    /// Is authorized, could be after a challenge, details.
    fn check_authorization(
        &self,
        subject: &(&str, HashMap<&str, Variant<'_>>),
        action_id: &str,
        details: &HashMap<&str, &str>,
        flags: u32,
        cancellation_id: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
}

/// Asks about `subject`; what cannot be answered is no permission.
pub(super) async fn check(
    connection: &Connection,
    subject: &Subject<'_>,
    action: &str,
    details: &[(&str, String)],
) -> Verdict {
    let time = if subject.interactive {
        PERSON_TIMEOUT
    } else {
        ANSWER_TIMEOUT
    };
    match tokio::time::timeout(time, ask(connection, subject, action, details)).await {
        Ok(Ok((true, _, _))) => Verdict::Allowed,
        Ok(Ok((false, _, answer))) if answer.contains_key(DISMISSED) => Verdict::Dismissed,
        Ok(Ok((false, true, _))) => Verdict::PasswordNeeded,
        Ok(Ok((false, false, _))) => Verdict::Refused,
        Ok(Err(error)) if is_absence(&error) => Verdict::Unavailable(error.to_string()),
        Ok(Err(error)) => Verdict::Unknown(error.to_string()),
        Err(_) if subject.interactive => Verdict::Dismissed,
        Err(_) => Verdict::Unavailable(format!("no answer within {} s", time.as_secs())),
    }
}

async fn ask(
    connection: &Connection,
    subject: &Subject<'_>,
    action: &str,
    details: &[(&str, String)],
) -> zbus::Result<(bool, bool, HashMap<String, String>)> {
    let authority = AuthorityProxy::builder(connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let name = HashMap::from([("name", Variant::from(subject.sender.as_str()))]);
    let details = details
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let flags = if subject.interactive {
        ALLOW_USER_INTERACTION
    } else {
        0
    };
    authority
        .check_authorization(&("system-bus-name", name), action, &details, flags, "")
        .await
}

/// Tells whether nobody owns polkit's name, or the bus failed to start its owner.
fn is_absence(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::FDO(error) => matches!(
            **error,
            fdo::Error::ServiceUnknown(_)
                | fdo::Error::NameHasNoOwner(_)
                | fdo::Error::NoReply(_)
                | fdo::Error::TimedOut(_)
                | fdo::Error::Disconnected(_)
                | fdo::Error::SpawnExecFailed(_)
                | fdo::Error::SpawnForkFailed(_)
                | fdo::Error::SpawnChildExited(_)
                | fdo::Error::SpawnChildSignaled(_)
                | fdo::Error::SpawnFailed(_)
                | fdo::Error::SpawnServiceNotFound(_)
        ),
        // systemd, when it is asked to start a unit that it does not have or that is masked.
        zbus::Error::MethodError(name, _, _) => name.starts_with("org.freedesktop.systemd1."),
        _ => false,
    }
}
