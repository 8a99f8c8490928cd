//! One file for each thing that wicectl does.

pub(crate) mod deadline;
pub(crate) mod explain;
pub(crate) mod monitor;
pub(crate) mod netcheck;
pub(crate) mod ping;
pub(crate) mod reload;
pub(crate) mod restart;
pub(crate) mod status;
pub(crate) mod version;
pub(crate) mod wait;
