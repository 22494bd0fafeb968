//! What a node that runs for long renews: its keys, from its home, and its entropy, from the system (spec/address.md §4). The drivers of
//! agent and backbone node use it.
//!
//! The clock that dates certificates can jump: a machine wakes up after a week, or learns the date only after its start. So it is looked
//! at every minute, and no timer runs for long.

use std::time::Duration;

use pilot_core::config::Keys;
use pilot_core::id::InstanceId;
use pilot_core::identity::Identity;
use pilot_core::time::{ClockWatch, Mono, Now, UnixTime};

use crate::clock;
use crate::home::{AgentHome, HomeError, entropy};

/// Keys are renewed this often: the transport key rotates daily, and the certificate always has most of its seven days before it.
const KEYS_INTERVAL: Duration = Duration::from_secs(3_600);
/// How often it is looked whether that is due, and tried again after a failure, for example on a full disk.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// A machine that sleeps does so for longer than this.
const SLEEP_MIN: Duration = Duration::from_secs(1);
/// Entropy is mixed in this often while anything happens (spec/handshake.md §8).
const ENTROPY_INTERVAL: Duration = Duration::from_secs(60);

/// Renews the keys of a running node.
#[derive(Debug)]
pub struct KeyRenewal {
    home: AgentHome,
    identity: Identity,
    instance: InstanceId,
    renewed: UnixTime,
}

/// Tells when a running node wants entropy, and when its machine has slept.
#[derive(Debug)]
pub struct EntropyFeed {
    fed: Mono,
    looked: Mono,
    slept: Duration,
    clocks: ClockWatch,
}

/// Entropy for a running node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// To be mixed in.
    Entropy([u8; 32]),
    /// The machine has slept meanwhile: a copy of this process may have run elsewhere.
    Resumed([u8; 32]),
}

impl KeyRenewal {
    /// Renews these keys, which were taken from `home` at `now`.
    pub fn new(home: AgentHome, keys: &Keys, now: UnixTime) -> Self {
        Self { home, identity: keys.identity.clone(), instance: keys.certificate.instance, renewed: now }
    }

    /// Waits until renewal is due.
    pub async fn due(&self) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            if self.is_due(clock::now().unix) {
                return;
            }
        }
    }

    /// Renews the keys, off the threads that must not wait for a disk.
    ///
    /// # Errors
    /// If the home does not give them. The keys in use stay good for days, and renewal stays due.
    pub async fn renew(&mut self, now: UnixTime) -> Result<Keys, HomeError> {
        let (home, identity, instance) = (self.home.clone(), self.identity.clone(), self.instance);
        let renewing = tokio::task::spawn_blocking(move || home.renewed_keys(identity, instance, now));
        let keys = renewing.await.expect("reading and writing a file does not panic")?;
        self.renewed = now;
        Ok(keys)
    }

    /// A clock that was set back makes it due as well: the certificate may lie in the future now.
    fn is_due(&self, now: UnixTime) -> bool {
        Duration::from_nanos(now.0.abs_diff(self.renewed.0)) >= KEYS_INTERVAL
    }
}

impl EntropyFeed {
    /// A node was seeded at `now`.
    pub fn new(now: Mono) -> Self {
        Self { fed: now, looked: now, slept: clock::slept(), clocks: ClockWatch::default() }
    }

    /// Fresh entropy, if it is time. The boot-time clock goes on during suspend, so it is on resume; and when the clocks have parted, the node
    /// is about to make new keys (spec/handshake.md §12).
    pub fn take(&mut self, now: Now) -> Option<Fresh> {
        // The boot-time clock goes on during sleep: without a gap in it there was none.
        let was_away = now.mono.since(self.looked) >= SLEEP_MIN;
        self.looked = now.mono;
        let slept = if was_away { clock::slept() } else { self.slept };
        self.take_after(now, slept)
    }

    fn take_after(&mut self, now: Now, slept: Duration) -> Option<Fresh> {
        let has_slept = slept.saturating_sub(self.slept) >= SLEEP_MIN;
        self.slept = slept;
        let have_parted = self.clocks.have_parted(now);
        if now.mono.since(self.fed) < ENTROPY_INTERVAL && !have_parted && !has_slept {
            return None;
        }
        self.fed = now.mono;
        let entropy = entropy().inspect_err(|error| tracing::warn!(%error, "no fresh entropy")).ok()?;
        Some(if has_slept { Fresh::Resumed(entropy) } else { Fresh::Entropy(entropy) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;

    const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn renewal(root: &tempfile::TempDir) -> (KeyRenewal, Keys) {
        let home = Home::at(root.path()).agent("agent-alpha").unwrap();
        std::fs::create_dir_all(home.path()).unwrap();
        let keys = home.keys(NOW).unwrap();
        (KeyRenewal::new(home, &keys, NOW), keys)
    }

    #[tokio::test]
    async fn renewal_is_due_every_hour_and_whenever_the_date_jumps() {
        let root = tempfile::tempdir().unwrap();
        let (mut renewal, _) = renewal(&root);
        let second = Duration::from_secs(1);
        assert!(!renewal.is_due(NOW) && !renewal.is_due(NOW + KEYS_INTERVAL - second));
        for now in [NOW + KEYS_INTERVAL, NOW + DAY * 30, NOW - DAY * 30] {
            assert!(renewal.is_due(now));
        }
        renewal.renew(NOW + DAY * 30).await.unwrap();
        assert!(!renewal.is_due(NOW + DAY * 30) && renewal.is_due(NOW));
    }

    #[tokio::test]
    async fn certificates_of_a_month_are_renewed_long_before_they_end_and_the_key_rotates_daily() {
        let root = tempfile::tempdir().unwrap();
        let (mut renewal, mut keys) = renewal(&root);
        let (mut now, mut rotations) = (NOW, 0);
        while now < NOW + DAY * 30 {
            now = now + KEYS_INTERVAL;
            assert!(keys.certificate.not_after > now + DAY * 6);
            let renewed = renewal.renew(now).await.unwrap();
            assert_eq!(renewed.certificate.key_id, renewed.transport[0].id());
            assert_eq!(renewed.certificate.instance, keys.certificate.instance);
            if renewed.certificate.key_id != keys.certificate.key_id {
                rotations += 1;
                assert_eq!(renewed.transport[1].id(), keys.certificate.key_id, "the old one is honoured");
            }
            keys = renewed;
        }
        assert_eq!((rotations, keys.transport.len()), (30, 9), "no key is kept for ever");
    }

    #[tokio::test]
    async fn a_renewal_that_fails_stays_due() {
        let root = tempfile::tempdir().unwrap();
        let (mut renewal, keys) = renewal(&root);
        renewal.home.write("transport.keys", b"junk", 0o600).unwrap();
        let later = NOW + KEYS_INTERVAL;
        assert!(matches!(renewal.renew(later).await, Err(HomeError::Damaged { .. })));
        assert!(renewal.is_due(later));
        std::fs::remove_file(renewal.home.path().join("transport.keys")).unwrap();
        assert_ne!(renewal.renew(later).await.unwrap().certificate.key_id, keys.certificate.key_id);
    }

    #[test]
    fn entropy_comes_once_a_minute_and_after_a_long_sleep() {
        let start = Mono(1_000_000_000);
        let after = |time: Duration| Now { mono: start + time, unix: NOW + time };
        let mut feed = EntropyFeed::new(start);
        assert_eq!(feed.take(after(ENTROPY_INTERVAL - Duration::from_nanos(1))), None);
        let first = feed.take(after(ENTROPY_INTERVAL));
        assert_eq!(feed.take(after(ENTROPY_INTERVAL)), None);
        let second = feed.take(after(DAY));
        assert!(first.is_some() && second.is_some() && first != second);
        assert_eq!(feed.take(after(DAY)), None);
        let restored = Now { unix: NOW + DAY * 2, ..after(DAY) };
        assert!(feed.take(restored).is_some(), "at once, when the clocks have parted");
    }

    #[test]
    fn a_machine_that_has_slept_is_told_from_one_that_was_idle() {
        let start = Mono(1_000_000_000);
        let after = |time: Duration| Now { mono: start + time, unix: NOW + time };
        let mut feed = EntropyFeed::new(start);
        let before = feed.slept;
        assert!(matches!(feed.take_after(after(DAY), before), Some(Fresh::Entropy(_))));
        let second = Duration::from_secs(1);
        assert!(matches!(feed.take_after(after(DAY + second), before + second), Some(Fresh::Resumed(_))));
        assert_eq!(feed.take_after(after(DAY + second), before + second), None, "once for each sleep");
        assert!(clock::slept() < clock::slept() + second && clock::slept().saturating_sub(before) < SLEEP_MIN);
    }
}
