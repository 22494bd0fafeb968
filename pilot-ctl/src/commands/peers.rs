//! `pilotctl peers` (spec/cli.md §5.2).

use std::time::Duration;

use clap::Args;
use pilot_daemon::api::types::Peer;

use crate::context::Context;
use crate::duration;
use crate::hint::Result;
use crate::output::{Table, byte_count, milliseconds};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl peers
  pilotctl peers --json | jq '.peers[] | select(.path == \"relay\")'

`direct` means that packets go straight to the agent, `relay` that a backbone node forwards them,
sealed as they are; VIA is the address that they are sent to. LOSS is the part of the packets on
this path that got lost, SINCE how long the path has been in use.")]
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
    let mut table =
        Table::new(["HOSTNAME", "ADDRESS", "PATH", "VIA", "RTT", "LOSS", "SINCE", "SENT", "RECEIVED", "STREAMS"]);
    for peer in peers.iter().filter(|peer| peer.connected) {
        table.row([
            name(peer),
            peer.address.clone().unwrap_or_default(),
            peer.path.map(|path| path.to_string()).unwrap_or_default(),
            peer.remote.or(peer.relay_remote).map(|via| via.to_string()).unwrap_or_default(),
            peer.rtt_ms.map(milliseconds).unwrap_or_default(),
            loss(peer),
            peer.path_s.map(since).unwrap_or_default(),
            byte_count(peer.bytes_sent),
            byte_count(peer.bytes_received),
            peer.streams.to_string(),
        ]);
    }
    table.render()
}

/// `0%`, `0.4%`, `12%` of the packets on the path in use.
fn loss(peer: &Peer) -> String {
    if peer.sent_packets == 0 {
        return String::new();
    }
    let percent = peer.lost_packets as f64 * 100.0 / peer.sent_packets as f64;
    if peer.lost_packets == 0 || percent >= 9.95 {
        format!("{percent:.0}%")
    } else {
        format!("{:.1}%", percent.max(0.1))
    }
}

fn since(seconds: f64) -> String {
    duration::display(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_however_small_is_no_zero() {
        let lost = |lost_packets, sent_packets| loss(&Peer { lost_packets, sent_packets, ..Peer::default() });
        assert_eq!([lost(0, 9), lost(1, 90_000), lost(1, 40), lost(1, 8)], ["0%", "0.1%", "2.5%", "12%"]);
        assert_eq!(lost(0, 0), "", "of nothing, nothing was lost");
    }
}
