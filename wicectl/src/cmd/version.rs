//! `wicectl version`.

use wice_bus::ManagerProxy;
use zbus::proxy::CacheProperties;

use crate::agent;
use crate::failure::Failure;
use crate::print::{escape, out};

/// Prints both versions; ours even when the agent is not running.
pub(crate) async fn run() -> Result<(), Failure> {
    out(&format!("wicectl {}\n", env!("WICE_VERSION")))?;
    let connection = agent::connect().await?;
    let manager = ManagerProxy::builder(&connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let version = manager.version().await?;
    out(&format!("wice-agent {}\n", escape(&version)))
}
