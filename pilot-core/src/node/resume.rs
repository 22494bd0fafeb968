//! A process that may be a copy of another one: after a suspend, a fork or the restore of a snapshot nothing is sealed under the keys that
//! there are (spec/handshake.md §12).

use super::Node;
use crate::limits::ABSENT_AFTER;
use crate::time::Now;

impl Node {
    /// Tells that this process may have been copied or stored since the last call: all sessions are renewed before anything is sent, with
    /// keys that depend on `entropy`, fresh from the operating system. The node notices by itself when the two clocks have parted; nothing
    /// shows it when both were stored.
    pub fn resume(&mut self, now: Now, entropy: &[u8]) {
        self.clocks.have_parted(now);
        self.rng.reseed(entropy);
        self.renew_all_keys(now);
    }

    /// Notices that the clocks have parted since the last call, or that it is far too long ago.
    pub(super) fn look_at_clocks(&mut self, now: Now) {
        self.note_absence(now);
        if self.clocks.have_parted(now) {
            tracing::warn!("the clocks have parted: sessions are renewed");
            // The driver mixes entropy in as well. If it does not, two copies still part ways here, unless it is the same moment for both.
            self.rng.reseed(&[now.mono.0.to_be_bytes(), now.unix.0.to_be_bytes()].concat());
            self.renew_all_keys(now);
        }
    }

    /// Notices that nobody was here for a while, as when the process was stopped: where the network is, and whether routers still know us, is
    /// to be found out.
    fn note_absence(&mut self, now: Now) {
        let is_late = |due| now.mono.since(due) > ABSENT_AFTER;
        // The first of the two is all that a busy node looks at.
        if is_late(self.clocks.looked_at()) && self.next_timer().is_some_and(is_late) {
            self.network_since = now.mono;
            for index in 0..self.peers.len() as u32 {
                let peer = &mut self.peers[index as usize];
                if (peer.is_backbone || peer.is_in_use()) && peer.suspect_move(now.mono, true) {
                    self.touch(index);
                }
            }
        }
    }

    /// Distrusts every key that another copy of this process may hold, and begins to make new ones where they are in use.
    fn renew_all_keys(&mut self, now: Now) {
        self.freshness.forget(now.unix);
        for index in 0..self.peers.len() as u32 {
            self.drop_unconfirmed(index);
            let is_home = self.home == Some(index);
            let peer = &mut self.peers[index as usize];
            peer.answered = None;
            if let Some(tunnel) = &mut peer.tunnel {
                tunnel.distrust_keys();
            }
            if peer.dial.is_some() {
                self.dial_again(now, index, None);
            } else if peer.is_in_use() || (is_home && peer.is_connected()) {
                self.start_dial(now, index);
            }
        }
    }
}
