//! The one account from which all tunnels earn credit (spec/streams.md §4).

use super::Node;
use crate::limits::CREDIT_SHARE;
use crate::time::Mono;
use crate::transport::Violation;

/// What tunnels have earned of the cap.
pub(super) struct CreditAccount {
    cap: u64,
    granted: u64,
}

impl CreditAccount {
    pub(super) fn new(cap: u64) -> Self {
        Self { cap, granted: 0 }
    }

    /// What all tunnels have earned.
    pub(super) fn granted(&self) -> u64 {
        self.granted
    }

    /// Gives a tunnel that has earned `held` up to `wanted` more. With it no tunnel has more than its share of what is left.
    fn grant(&mut self, held: u64, wanted: u64) -> u64 {
        let share = (self.cap - self.granted) / CREDIT_SHARE;
        let granted = wanted.min(share.saturating_sub(held));
        self.granted += granted;
        granted
    }

    pub(super) fn give_back(&mut self, earned: u64) {
        self.granted -= earned;
    }
}

impl Node {
    /// Lets the window of a peer's tunnel grow if it has become too small.
    pub(super) fn grant_credit(&mut self, now: Mono, index: u32) {
        let Some(tunnel) = &mut self.peers[index as usize].tunnel else { return };
        let wanted = tunnel.transport.credit_wanted(now);
        if wanted > 0 {
            let granted = self.credit.grant(tunnel.transport.earned_credit(), wanted);
            tunnel.transport.grant_credit(granted);
        }
    }

    /// Checks the account for the simulator.
    ///
    /// # Errors
    /// If it is overdrawn, or differs from what the tunnels have earned.
    pub fn audit_credit(&self) -> Result<(), Violation> {
        let tunnels = self.peers.iter().filter_map(|peer| peer.tunnel.as_ref());
        let recounted = tunnels.map(|tunnel| tunnel.transport.earned_credit()).sum();
        let (cap, counted) = (self.credit.cap, self.credit.granted());
        if counted > cap {
            return Err(Violation::Credit { what: "earned by all tunnels", used: counted, granted: cap });
        }
        if counted != recounted {
            return Err(Violation::Count { what: "earned by all tunnels", counted, recounted });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CREDIT_CAP;

    const MAX: u64 = 16 << 20;

    #[test]
    fn no_tunnel_takes_all_that_is_left() {
        let mut account = CreditAccount::new(CREDIT_CAP);
        let earned: Vec<_> = (0..1_000).map(|_| account.grant(0, MAX)).collect();
        assert_eq!(earned[..8], [MAX; 8]);
        assert!(earned.windows(2).all(|pair| pair[1] <= pair[0]));
        assert!(account.granted <= CREDIT_CAP);
        assert_eq!(account.grant(MAX, MAX), 0, "who has its share gets no more");
        account.give_back(earned[0]);
        assert!(account.grant(0, MAX) >= MAX / CREDIT_SHARE, "what was given back is there for the next");
    }
}
