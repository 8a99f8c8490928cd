//! `wicectl explain`.

use clap::Args;
use wice_bus::{Explanation, PeerProxy};
use zbus::proxy::CacheProperties;

use crate::failure::Failure;
use crate::print::style::Style;
use crate::print::{explain, out};
use crate::{agent, select};

/// Whom to explain, and how.
#[derive(Args)]
pub(crate) struct Options {
    /// Its name, its key, or the beginning of its key.
    peer: String,
    /// Only peers of this interface.
    #[arg(long, short, value_name = "NAME")]
    interface: Option<String>,
    /// JSON for programs.
    #[arg(long)]
    json: bool,
}

/// Shows both sides' candidates, every pair of them, and what would help.
pub(crate) async fn run(options: &Options, style: Style) -> Result<(), Failure> {
    let connection = agent::connect().await?;
    let snapshot = agent::read(&connection).await?;
    let found = select::peer(&snapshot, options.interface.as_deref(), &options.peer)?;
    let peer = PeerProxy::builder(&connection)
        .path(found.peer.path.as_str())
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let explanation = Explanation::from_dictionary(peer.explain().await?);
    let (interface, peer) = (found.interface, found.peer);
    out(&if options.json {
        explain::json(interface, peer, &explanation)
    } else {
        explain::render(interface, peer, &explanation, style)
    })
}
