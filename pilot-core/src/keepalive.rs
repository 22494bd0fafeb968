//! How long a mapping of our NAT lasts without use, by trial, and how rarely the home tunnel needs a keepalive then (spec/paths.md §6).
//!
//! As in RFC 5780 §4.6: a socket of its own makes a mapping to the home node's STUN server, as the tunnel has one, and falls silent. Then the
//! main socket asks the server to answer to that mapping's port (RESPONSE-PORT). What arrives shows that the mapping has lasted so long.
//!
//! ```text
//! Rest      -> Opening    when it is time
//! Opening   -> Talking    the socket is open
//! Talking   -> Silent     two answers, some seconds apart, have shown one address
//! Silent    -> Knocking   the silence is over
//! Knocking  -> Talking    the answer has arrived: the next silence is longer
//! any       -> Rest       no socket, no answer, the longest silence was outlived, or the network is another
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use crate::limits::{
    HOME_KEEPALIVE, HOME_KEEPALIVE_MAX, MAPPING_MEASURED_AFTER, MAPPING_REMEASURE_MAX, MAPPING_REMEASURE_MIN,
    MAPPING_RETRY, MAPPING_SETTLES_AFTER, MAPPING_TRUSTED_AFTER, STUN_TRIES,
};
use crate::route::SocketId;
use crate::time::Mono;

/// Silences that are tried. The first shows that the server answers where it is asked to, and that the way there is open; the last is as
/// long as the rarest keepalive needs. Steps are small enough that little more than a third of what a NAT would bear is lost.
const SILENCES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(45),
    Duration::from_secs(70),
    Duration::from_secs(110),
    Duration::from_secs(150),
];
/// Of the silence that a mapping has outlived, so much is used: the rest is for the keepalive that is lost, and for what is late.
const SAFE_SHARE: (u32, u32) = (4, 5);

/// What is known of the mapping's life, and the trial under way.
#[derive(Debug)]
pub(crate) struct Keepalive {
    /// The longest silence that a mapping has outlived here, and since when that is known.
    outlived: Option<(Duration, Mono)>,
    stage: Stage,
    /// Position in [`SILENCES`].
    step: usize,
    /// How long to wait before the next trial, if this one shows less than there is to show.
    pause: Duration,
}

/// How far the trial has got.
#[derive(Debug)]
enum Stage {
    /// Until then, or until the home node has told how it sees us.
    Rest(Option<Mono>),
    /// A socket is asked for. Who cannot open it does not tell: there is none then.
    Opening { socket: SocketId, until: Mono },
    /// The mapping is being made, as old and as used as that of the tunnel.
    Talking { socket: SocketId, mapped: Option<SocketAddr>, tries: u32, next: Mono },
    /// Nothing is sent.
    Silent { socket: SocketId, mapped: SocketAddr, until: Mono },
    /// The server was asked to answer to the mapping.
    Knocking { socket: SocketId, mapped: SocketAddr, tries: u32, next: Mono },
}

/// What the node has to do for the trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Open a socket and name it by [`Keepalive::opening`].
    Open,
    /// Ask the home node's STUN server from this socket.
    Ask(SocketId),
    /// Ask it from the main socket to answer to this port, where `socket` hears it.
    Knock { socket: SocketId, port: u16 },
    /// Close the socket.
    Close(SocketId),
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { outlived: None, stage: Stage::Rest(None), step: 0, pause: MAPPING_REMEASURE_MIN }
    }
}

impl Keepalive {
    /// How much silence the home tunnel may have.
    pub(crate) fn interval(&self) -> Duration {
        let safe = self.outlived.map(|(outlived, _)| outlived * SAFE_SHARE.0 / SAFE_SHARE.1);
        safe.map_or(HOME_KEEPALIVE, |safe| safe.clamp(HOME_KEEPALIVE, HOME_KEEPALIVE_MAX))
    }

    /// The longest silence that a mapping has outlived here.
    pub(crate) fn outlived(&self) -> Option<Duration> {
        self.outlived.map(|(outlived, _)| outlived)
    }

    /// When [`Keepalive::timeout_expired`] is to be called.
    pub(crate) fn timeout(&self) -> Option<Mono> {
        match self.stage {
            Stage::Rest(at) => at,
            Stage::Talking { next, .. } | Stage::Knocking { next, .. } => Some(next),
            Stage::Opening { until, .. } | Stage::Silent { until, .. } => Some(until),
        }
    }

    /// This is another network, or another home node: what is known is of the one before. Closes the socket that is of no use any more.
    pub(crate) fn network_changed(&mut self, now: Mono) -> Option<Step> {
        self.pause = MAPPING_REMEASURE_MIN;
        self.begin_anew(now + MAPPING_MEASURED_AFTER)
    }

    /// The home tunnel was lost, or its mapping is another one. If that came soon after the keepalive had become rarer, it may be why, and the
    /// next trial is later.
    pub(crate) fn mapping_lost(&mut self, now: Mono) -> Option<Step> {
        let Some((_, since)) = self.outlived else {
            // A loss that was noticed before may have put the next trial off already.
            let put_off = if let Stage::Rest(at) = self.stage { at } else { None };
            return self.begin_anew((now + MAPPING_MEASURED_AFTER).max(put_off.unwrap_or(now)));
        };
        if now.since(since) >= MAPPING_TRUSTED_AFTER {
            self.pause = MAPPING_REMEASURE_MIN;
        }
        let at = now + self.next_pause();
        self.begin_anew(at)
    }

    /// Does what is due.
    pub(crate) fn timeout_expired(&mut self, now: Mono) -> Option<Step> {
        if self.timeout().is_none_or(|due| now < due) {
            return None;
        }
        match &mut self.stage {
            Stage::Rest(_) => Some(Step::Open),
            Stage::Opening { .. } => self.give_up(now),
            Stage::Talking { tries, .. } | Stage::Knocking { tries, .. } if *tries >= STUN_TRIES => self.give_up(now),
            &mut Stage::Talking { socket, ref mut tries, ref mut next, .. } => {
                (*tries, *next) = (*tries + 1, now + MAPPING_RETRY);
                Some(Step::Ask(socket))
            }
            &mut Stage::Silent { socket, mapped, .. } => {
                self.stage = Stage::Knocking { socket, mapped, tries: 1, next: now + MAPPING_RETRY };
                Some(Step::Knock { socket, port: mapped.port() })
            }
            &mut Stage::Knocking { socket, mapped, ref mut tries, ref mut next } => {
                (*tries, *next) = (*tries + 1, now + MAPPING_RETRY);
                Some(Step::Knock { socket, port: mapped.port() })
            }
        }
    }

    /// The home node is not reached by UDP: there is nothing to try.
    pub(crate) fn postpone(&mut self, now: Mono) {
        self.stage = Stage::Rest(Some(now + MAPPING_REMEASURE_MIN));
    }

    /// The socket that was asked for, or that there is none to be had.
    pub(crate) fn opening(&mut self, now: Mono, socket: Option<SocketId>) {
        self.step = 0;
        self.stage = match socket {
            Some(socket) => Stage::Opening { socket, until: now + MAPPING_RETRY },
            None => Stage::Rest(Some(now + self.next_pause())),
        };
    }

    /// The socket is open.
    pub(crate) fn opened(&mut self, now: Mono, socket: SocketId) -> Option<Step> {
        if !matches!(self.stage, Stage::Opening { socket: wanted, .. } if wanted == socket) {
            return None;
        }
        self.stage = Stage::Talking { socket, mapped: None, tries: 0, next: now };
        self.timeout_expired(now)
    }

    /// The server has answered a question of `socket`, or a knock, there. `observed`: where the home node sees the main socket.
    pub(crate) fn answered(
        &mut self,
        now: Mono,
        socket: SocketId,
        seen: SocketAddr,
        observed: Option<SocketAddr>,
    ) -> Option<Step> {
        match self.stage {
            Stage::Talking { socket: ours, mapped, .. } if ours == socket => {
                // An answer can only be sent to the address that the main socket asks from.
                if observed.is_none_or(|observed| observed.ip() != seen.ip()) || mapped.is_some_and(|m| m != seen) {
                    return self.give_up(now);
                }
                self.stage = match mapped {
                    None => Stage::Talking { socket, mapped: Some(seen), tries: 0, next: now + MAPPING_SETTLES_AFTER },
                    Some(mapped) => Stage::Silent { socket, mapped, until: now + SILENCES[self.step] },
                };
                self.timeout_expired(now)
            }
            Stage::Knocking { socket: ours, .. } if ours == socket => self.has_outlived(now, socket),
            Stage::Rest(_)
            | Stage::Opening { .. }
            | Stage::Talking { .. }
            | Stage::Silent { .. }
            | Stage::Knocking { .. } => None,
        }
    }

    /// The mapping has lasted through the silence: the next one is longer.
    fn has_outlived(&mut self, now: Mono, socket: SocketId) -> Option<Step> {
        let shown = SILENCES[self.step];
        if shown > self.outlived().unwrap_or_default() {
            self.outlived = Some((shown, now));
        }
        self.step += 1;
        if self.step == SILENCES.len() {
            // Nothing more is wanted; but a NAT that has more to do may forget sooner.
            self.stage = Stage::Rest(Some(now + MAPPING_REMEASURE_MAX));
            return Some(Step::Close(socket));
        }
        self.stage = Stage::Talking { socket, mapped: None, tries: 0, next: now };
        self.timeout_expired(now)
    }

    /// Nobody has answered: what was shown before is what is known. Perhaps packets were lost; it is tried again, ever more rarely.
    fn give_up(&mut self, now: Mono) -> Option<Step> {
        let shown = self.step.checked_sub(1).map_or(Duration::ZERO, |before| SILENCES[before]);
        if matches!(self.stage, Stage::Knocking { .. }) {
            self.outlived = self.outlived.map(|(outlived, since)| (outlived.min(shown), since));
            self.outlived = self.outlived.filter(|(outlived, _)| !outlived.is_zero());
        }
        let at = now + self.next_pause();
        let socket = self.socket();
        self.stage = Stage::Rest(Some(at));
        socket.map(Step::Close)
    }

    fn begin_anew(&mut self, at: Mono) -> Option<Step> {
        let socket = self.socket();
        *self = Self { outlived: None, stage: Stage::Rest(Some(at)), step: 0, pause: self.pause };
        socket.map(Step::Close)
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(MAPPING_REMEASURE_MAX);
        pause
    }

    fn socket(&self) -> Option<SocketId> {
        match self.stage {
            Stage::Rest(_) => None,
            Stage::Opening { socket, .. }
            | Stage::Talking { socket, .. }
            | Stage::Silent { socket, .. }
            | Stage::Knocking { socket, .. } => Some(socket),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Mono = Mono(1_000_000_000_000);
    const SOCKET: SocketId = SocketId(7);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// A trial whose mapping lasts so long, with a server that answers at once or not at all. Returns when it rests.
    fn run(keepalive: &mut Keepalive, mut now: Mono, lifetime: Duration, has_response_port: bool) -> Mono {
        let mut last_heard = now;
        for _ in 0..100 {
            now = now.max(keepalive.timeout().expect("under way"));
            let mut step = keepalive.timeout_expired(now);
            while let Some(next) = step {
                step = match next {
                    Step::Open => {
                        keepalive.opening(now, Some(SOCKET));
                        now = now + Duration::from_millis(1);
                        keepalive.opened(now, SOCKET)
                    }
                    Step::Ask(socket) => {
                        last_heard = now;
                        keepalive.answered(now, socket, address(7), Some(address(4)))
                    }
                    Step::Knock { socket, port: 7 } if has_response_port && now.since(last_heard) < lifetime => {
                        keepalive.answered(now, socket, address(4), Some(address(4)))
                    }
                    Step::Knock { .. } | Step::Close(_) => None,
                };
            }
            if matches!(keepalive.stage, Stage::Rest(_)) {
                return now;
            }
        }
        panic!("it never rests");
    }

    fn measured(lifetime_s: u64) -> Keepalive {
        let mut keepalive = Keepalive::default();
        assert_eq!(keepalive.network_changed(START), None);
        run(&mut keepalive, START, Duration::from_secs(lifetime_s), true);
        keepalive
    }

    #[test]
    fn the_interval_is_a_safe_share_of_what_was_shown_and_never_more_than_the_mapping_lasts() {
        for (lifetime_s, interval_s) in [(20, 25), (30, 25), (45, 25), (60, 36), (120, 88), (180, 120), (3_600, 120)] {
            let keepalive = measured(lifetime_s);
            assert_eq!(keepalive.interval(), Duration::from_secs(interval_s), "{lifetime_s} s");
            assert!(keepalive.interval() <= Duration::from_secs(lifetime_s.max(25)));
        }
    }

    #[test]
    fn a_server_that_does_not_answer_where_it_is_asked_to_shows_nothing_and_is_asked_ever_more_rarely() {
        let mut keepalive = Keepalive::default();
        keepalive.network_changed(START);
        let (mut now, mut pauses) = (START, Vec::new());
        for _ in 0..12 {
            now = run(&mut keepalive, now, Duration::MAX, false);
            assert_eq!((keepalive.interval(), keepalive.outlived()), (HOME_KEEPALIVE, None));
            let next = keepalive.timeout().expect("another time");
            pauses.push(next.since(now));
            now = next;
        }
        assert_eq!(pauses[..2], [MAPPING_REMEASURE_MIN, MAPPING_REMEASURE_MIN * 2]);
        assert_eq!(pauses.last(), Some(&MAPPING_REMEASURE_MAX));
    }

    #[test]
    fn another_network_is_measured_anew_and_until_then_nothing_is_believed() {
        let mut keepalive = measured(3_600);
        let later = START + Duration::from_secs(1_000);
        keepalive.network_changed(later);
        assert_eq!(keepalive.interval(), HOME_KEEPALIVE);
        assert_eq!(keepalive.timeout(), Some(later + MAPPING_MEASURED_AFTER));
    }

    #[test]
    fn a_tunnel_lost_soon_after_makes_the_next_trial_late_and_one_that_has_held_does_not() {
        let mut keepalive = measured(3_600);
        let since = keepalive.outlived.expect("measured").1;
        let soon = since + Duration::from_secs(300);
        keepalive.mapping_lost(soon);
        assert_eq!((keepalive.interval(), keepalive.timeout()), (HOME_KEEPALIVE, Some(soon + MAPPING_REMEASURE_MIN)));
        keepalive.mapping_lost(soon + MAPPING_RETRY);
        assert_eq!(keepalive.timeout(), Some(soon + MAPPING_REMEASURE_MIN), "it is one loss");
        let resumed = run(&mut keepalive, soon, Duration::MAX, true);
        assert_eq!(keepalive.interval(), HOME_KEEPALIVE_MAX);
        keepalive.mapping_lost(resumed);
        assert_eq!(keepalive.timeout(), Some(resumed + MAPPING_REMEASURE_MIN * 2));
        let held = run(&mut keepalive, resumed, Duration::MAX, true) + MAPPING_TRUSTED_AFTER;
        keepalive.mapping_lost(held);
        assert_eq!(keepalive.timeout(), Some(held + MAPPING_REMEASURE_MIN));
    }

    #[test]
    fn a_trial_that_shows_less_than_the_one_before_is_believed() {
        let mut keepalive = measured(120);
        assert_eq!(keepalive.outlived(), Some(Duration::from_secs(110)));
        let again = keepalive.timeout().expect("it has not shown all");
        run(&mut keepalive, again, Duration::from_secs(60), true);
        assert_eq!(keepalive.outlived(), Some(Duration::from_secs(45)));
    }

    #[test]
    fn a_mapping_at_another_address_than_the_tunnels_cannot_be_tried() {
        let mut keepalive = Keepalive::default();
        keepalive.network_changed(START);
        let now = START + MAPPING_MEASURED_AFTER;
        assert_eq!(keepalive.timeout_expired(now), Some(Step::Open));
        keepalive.opening(now, Some(SOCKET));
        assert_eq!(keepalive.opened(now, SOCKET), Some(Step::Ask(SOCKET)));
        let elsewhere = SocketAddr::from(([192, 0, 2, 9], 7));
        assert_eq!(keepalive.answered(now, SOCKET, elsewhere, Some(address(4))), Some(Step::Close(SOCKET)));
        assert_eq!(keepalive.interval(), HOME_KEEPALIVE);
    }

    /// The system has no socket to give: nobody tells.
    #[test]
    fn a_socket_that_is_never_opened_puts_the_trial_off_and_no_more() {
        let mut keepalive = Keepalive::default();
        keepalive.network_changed(START);
        let now = START + MAPPING_MEASURED_AFTER;
        assert_eq!(keepalive.timeout_expired(now), Some(Step::Open));
        keepalive.opening(now, Some(SOCKET));
        let waited = keepalive.timeout().expect("it does not wait for ever");
        assert_eq!(keepalive.timeout_expired(waited), Some(Step::Close(SOCKET)));
        assert_eq!(keepalive.timeout(), Some(waited + MAPPING_REMEASURE_MIN));
        assert_eq!(keepalive.opened(waited, SOCKET), None, "it comes too late");
    }
}
