//! `pilotctl peers` (spec/cli.md §5.2).

use clap::Args;
use pilot_daemon::api::types::Peer;

use crate::context::Context;
use crate::hint::Result;
use crate::output::{Table, byte_count, milliseconds};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl peers
  pilotctl peers --json | jq '.peers[] | select(.path == \"relay\")'

`direct` means that packets go straight to the agent, `relay` that a backbone node forwards them, sealed as they are.")]
pub(crate) struct PeersArgs {}

pub(crate) async fn run(_args: &PeersArgs, context: &Context) -> Result<()> {
    let reply = context.daemon().await?.peers().await?;
    if !reply.peers.iter().any(|peer| peer.connected) && !context.output.is_json() {
        context.output.talk("no tunnels yet: `pilotctl ping NAME` makes one");
        return Ok(());
    }
    context.output.result(&reply, || table(&reply.peers))
}

fn name(peer: &Peer) -> String {
    let unnamed = if peer.backbone { "(backbone)" } else { "" };
    peer.name.clone().unwrap_or_else(|| unnamed.to_owned())
}

fn table(peers: &[Peer]) -> String {
    let mut table = Table::new(["HOSTNAME", "ADDRESS", "PATH", "RTT", "SENT", "RECEIVED", "STREAMS"]);
    for peer in peers.iter().filter(|peer| peer.connected) {
        table.row([
            name(peer),
            peer.address.clone().unwrap_or_default(),
            peer.path.map(|path| path.to_string()).unwrap_or_default(),
            peer.rtt_ms.map(milliseconds).unwrap_or_default(),
            byte_count(peer.bytes_sent),
            byte_count(peer.bytes_received),
            peer.streams.to_string(),
        ]);
    }
    table.render()
}
