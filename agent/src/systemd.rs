//! Tells the service manager how the agent is (sd_notify(3)); does nothing where there is none.

use std::time::Duration;

use sd_notify::NotifyState;

/// The agent serves.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The agent reads its configuration again; [`ready`] follows.
pub(crate) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    notify(&states);
}

/// The agent leaves.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub(crate) fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// How often [`alive`] is due, when the service manager watches: half of what it allows.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// The main loop turns.
pub(crate) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot notify the service manager: {error}");
    }
}
