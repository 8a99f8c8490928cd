//! What can go wrong, what the person reads of it, and the exit status that scripts see.

use std::process::ExitCode;

use crate::print::escape;

/// The exit statuses; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Failed for a reason without a status of its own.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// What was waited for did not happen in time.
    Timeout = 3,
    /// The caller may not do this.
    NotAuthorized = 4,
    /// No agent answers.
    AgentNotRunning = 8,
    /// No such interface or peer.
    Unknown = 10,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why wicectl did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no system bus.
    #[error(
        "the agent cannot be reached: there is no system bus ({}); install and start D-Bus (systemctl start dbus)",
        escape(&.0.to_string())
    )]
    NoBus(zbus::Error),
    /// Nobody owns the name.
    #[error("the agent is not running; start it with: systemctl start wice-agent")]
    NotRunning,
    /// The bus or the agent answered something unexpected.
    #[error("the agent did not answer as expected: {}", escape(&.0.to_string()))]
    Bus(zbus::Error),
    /// The agent refused.
    #[error("{0}")]
    NotAuthorized(String),
    /// No interface or peer fits.
    #[error("{0}")]
    Unknown(String),
    /// Several peers fit, or an argument is malformed.
    #[error("{0}")]
    Usage(String),
    /// The agent could not do it.
    #[error("{0}")]
    Refused(String),
    /// Waited in vain.
    #[error("{0}")]
    Timeout(String),
    /// Standard output does not take any more.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
    /// The program itself could not start.
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
}

impl Failure {
    /// The exit status that says this to a script.
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::NoBus(_) | Self::NotRunning => Exit::AgentNotRunning,
            Self::Bus(_) | Self::Refused(_) | Self::Output(_) | Self::Runtime(_) => Exit::Failed,
            Self::NotAuthorized(_) => Exit::NotAuthorized,
            Self::Unknown(_) => Exit::Unknown,
            Self::Usage(_) => Exit::Usage,
            Self::Timeout(_) => Exit::Timeout,
        }
    }
}

impl From<zbus::Error> for Failure {
    fn from(error: zbus::Error) -> Self {
        use zbus::fdo::Error as Fdo;
        match error {
            zbus::Error::FDO(fdo) => match *fdo {
                Fdo::ServiceUnknown(_) | Fdo::NameHasNoOwner(_) | Fdo::Disconnected(_) => {
                    Self::NotRunning
                }
                Fdo::AccessDenied(message) => Self::NotAuthorized(escape(&message)),
                Fdo::UnknownObject(_) => Self::Unknown("the interface or peer is gone".to_owned()),
                Fdo::NoReply(_) | Fdo::Timeout(_) | Fdo::TimedOut(_) => {
                    Self::Timeout("the agent does not answer".to_owned())
                }
                other => Self::Bus(zbus::Error::FDO(Box::new(other))),
            },
            // The bus asked systemd for the agent, in vain: its unit is not enabled, or does not start.
            zbus::Error::MethodError(ref name, ..) if name.starts_with(SYSTEMD) => Self::NotRunning,
            other => Self::Bus(other),
        }
    }
}

/// How the names of systemd's errors begin.
const SYSTEMD: &str = "org.freedesktop.systemd1.";

impl From<wice_bus::Error> for Failure {
    fn from(error: wice_bus::Error) -> Self {
        use wice_bus::Error as Agent;
        match error {
            Agent::Bus(error) => error.into(),
            Agent::UnknownInterface(message) | Agent::UnknownPeer(message) => {
                Self::Unknown(escape(&message))
            }
            Agent::NotAuthorized(message) => Self::NotAuthorized(escape(&message)),
            Agent::InvalidArgument(message) => Self::Refused(escape(&message)),
            Agent::Busy(message) => Self::Timeout(escape(&message)),
        }
    }
}
