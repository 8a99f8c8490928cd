//! What the kernel must allow this process; asked once, so that what is missing is said at the start and not found out
//! at the first tunnel.

/// Capabilities that the agent cannot do without: bit in capabilities(7), name, and what for.
const NEEDED: [(u32, &str, &str); 2] = [
    (
        12,
        "CAP_NET_ADMIN",
        "to read WireGuard's interfaces and write endpoints",
    ),
    (
        13,
        "CAP_NET_RAW",
        "to share WireGuard's port by raw sockets",
    ),
];

/// The agent may not do its work.
#[derive(Debug, thiserror::Error)]
#[error(
    "the agent lacks {missing}: run it as root, or grant what is missing (AmbientCapabilities= and \
     CapabilityBoundingSet= in a systemd unit)"
)]
pub(crate) struct Missing {
    missing: String,
}

/// Checks the effective capabilities of this process. A system that does not tell them is taken to allow everything.
pub(crate) fn check() -> Result<(), Missing> {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => check_status(&status),
        Err(_) => Ok(()),
    }
}

fn check_status(status: &str) -> Result<(), Missing> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(u64::MAX);
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(bit, ..)| effective >> bit & 1 == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Missing {
        missing: missing.join(" and "),
    })
}

#[cfg(test)]
mod tests {
    use super::check_status;

    #[test]
    fn each_missing_capability_is_named_with_its_purpose() {
        let only_raw = "Name:\twice-agent\nCapEff:\t0000000000002000\n";
        let error = check_status(only_raw).expect_err("a refusal").to_string();
        assert!(error.contains("CAP_NET_ADMIN (to read"), "{error}");
        assert!(!error.contains("CAP_NET_RAW"), "{error}");
        let none = "CapEff:\t0000000000000000\n";
        let error = check_status(none).expect_err("a refusal").to_string();
        assert!(error.contains(" and CAP_NET_RAW (to share"), "{error}");
    }

    #[test]
    fn both_capabilities_are_enough() {
        assert!(check_status("CapEff:\t0000000000003000\n").is_ok());
    }
}
