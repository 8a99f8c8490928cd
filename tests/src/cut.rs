//! Cuts the direct path between two LANs and opens it again, while everything else, a relay above all, still reaches both.

use anyhow::Result;

use crate::namespace::Namespace;
use crate::topology::Router;

/// The cut path between two routers. Dropping this leaves it cut.
#[derive(Debug)]
#[must_use = "without it, the path cannot be opened again"]
pub struct Cut {
    routers: [Namespace; 2],
}

impl Cut {
    /// Makes both routers drop what comes from the other and what goes to it, before anything is tracked or translated: no
    /// mapping of the time before keeps the path open, and none is made meanwhile.
    pub fn between(left: &Router, right: &Router) -> Result<Self> {
        for (here, there) in [(left, right), (right, left)] {
            let family = if there.address.is_ipv4() { "ip" } else { "ip6" };
            let there = there.sources().join(", ");
            here.machine.run_with_input(
                "nft -f -",
                &format!(
                    "table inet cut {{\n\
                     chain arriving {{ type filter hook prerouting priority raw; {family} saddr {{ {there} }} drop; }}\n\
                     chain leaving {{ type filter hook forward priority -150; {family} daddr {{ {there} }} drop; }}\n}}\n"
                ),
            )?;
        }
        Ok(Self {
            routers: [left.machine.clone(), right.machine.clone()],
        })
    }

    /// Opens the path again.
    pub fn open(self) -> Result<()> {
        for router in &self.routers {
            router.run("nft delete table inet cut")?;
        }
        Ok(())
    }
}
