//! `daemon set`: settings that a running agent changes at once.

use clap::Args;
use pilot_daemon::api::types::Settings;

use super::Switch;
use crate::client::PUBLISH_PATIENCE;
use crate::context::Context;
use crate::hint::{Failure, Result};

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Whether packets may go directly to other agents; off means by relay only.
    #[arg(long, value_name = "ON|OFF")]
    direct: Option<Switch>,
    /// Words that it can be found by, comma separated; they replace the old ones.
    #[arg(long, value_name = "TAGS", value_delimiter = ',')]
    tags: Option<Vec<String>>,
    /// What it says about itself.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

pub(super) async fn run(args: &SetArgs, context: &Context) -> Result<()> {
    let settings = Settings {
        direct: args.direct.map(Switch::is_on),
        tags: args.tags.clone(),
        description: args.description.clone(),
    };
    if settings == Settings::default() {
        return Err(Failure::usage("nothing to set").hint("for example `pilotctl daemon set --direct off`"));
    }
    let daemon = context.daemon().await?;
    daemon.set(&settings).await?;
    daemon.wait_until_published(context.output, PUBLISH_PATIENCE).await;
    context.output.result(&settings, || "ok".to_owned())
}
