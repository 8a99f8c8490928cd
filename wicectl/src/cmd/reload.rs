//! `wicectl reload`.

use wice_bus::ManagerProxy;
use zbus::proxy::CacheProperties;

use crate::agent;
use crate::failure::Failure;

/// Makes the agent read its configuration again; what is wrong with it becomes the failure.
pub(crate) async fn run() -> Result<(), Failure> {
    let connection = agent::connect_patiently().await?;
    let manager = ManagerProxy::builder(&connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    Ok(manager.reload().await?)
}
