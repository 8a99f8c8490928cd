//! `wicectl netcheck`.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use wice_bus::{ManagerProxy, NetCheck};
use zbus::Variant;
use zbus::proxy::CacheProperties;

use crate::agent;
use crate::failure::Failure;
use crate::print::style::Style;
use crate::print::{netcheck, out};

/// How to check, and how to show it.
#[derive(Args)]
pub(crate) struct Options {
    /// How long it may take; what has not answered by then counts as silent.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=15))]
    timeout: u32,
    /// JSON for programs.
    #[arg(long)]
    json: bool,
}

/// Beyond what the agent itself allows for its own answer.
const MARGIN: Duration = Duration::from_secs(10);

/// Has the agent check the network, and shows what it found.
pub(crate) async fn run(options: &Options, style: Style) -> Result<(), Failure> {
    let time = Duration::from_secs(options.timeout.into());
    let connection = agent::connect_within(time + MARGIN).await?;
    let manager = ManagerProxy::builder(&connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let wanted = HashMap::from([("Timeout", Variant::from(options.timeout * 1000))]);
    let check = NetCheck::from_dictionary(manager.net_check(wanted).await?);
    out(&if options.json {
        netcheck::json(&check)
    } else {
        netcheck::render(&check, style)
    })
}
