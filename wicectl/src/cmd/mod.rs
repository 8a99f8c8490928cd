//! One file for each thing that wicectl does.

pub(crate) mod monitor;
pub(crate) mod reload;
pub(crate) mod restart;
pub(crate) mod status;
pub(crate) mod version;
