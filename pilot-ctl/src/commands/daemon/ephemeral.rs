//! Where an ephemeral agent goes if no backbone is named: a local one would stay behind (spec/install.md §6).

use super::StartArgs;
use crate::context::Context;
use crate::hint::Result;

impl StartArgs {
    /// The same, with the backbone of who invites an ephemeral agent, where none is named. If that one has none, there is none.
    pub(super) async fn with_backbone_of_invite(&self, name: &str, context: &Context) -> Result<Self> {
        let mut args = self.clone();
        let is_named = self.no_backbone || self.backbone.is_some() || context.settings_of(name)?.backbone.is_some();
        if let (true, false, Some(org)) = (self.ephemeral, is_named, self.token.org.as_ref()) {
            args.backbone = args.token.backbone_of_issuer(org, context).await?.map(|ticket| ticket.to_string());
            args.no_backbone = args.backbone.is_none();
        }
        Ok(args)
    }
}
