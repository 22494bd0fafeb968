//! Congestion control of one path, behind a small interface (spec/congestion.md); pacing is apart (`pacing.rs`).
//!
//! ```text
//! new_reno        the reference of the spec: a window that loss halves
//! cubic           what most of TCP does (RFC 9438): a window that loss cuts, and that grows by time
//! bbr             a model of the path out of delivery rate and round trip time; the default
//! delivery_rate   the samples that the model is made of
//! ```
//!
//! For each ACK, and for each path whose packets it names, a controller is told of every packet, then of those found lost, then of the
//! delivery as a whole.

mod bbr;
mod cubic;
mod delivery_rate;
mod new_reno;

use std::fmt::Debug;

pub(super) use self::delivery_rate::{DeliveryRate, DeliverySample, Departure};
use self::{bbr::Bbr, cubic::Cubic, new_reno::NewReno};
use super::rtt::RttEstimator;
use crate::time::Mono;

/// Packets that may be in flight before anything is known: as much as is common among content networks, but paced, so that a narrow
/// link sees [`super::pacing::BURST_PACKETS`] of them at once.
pub(super) const INITIAL_WINDOW_PACKETS: u64 = 32;

/// Packets of the smallest window (RFC 9002 §7.2).
pub(super) const MINIMUM_WINDOW_PACKETS: u64 = 2;

/// How a transport decides what a path can carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Congestion {
    /// By delivery rate and round trip time: loss that has nothing to do with load costs no throughput.
    #[default]
    Bbr,
    /// As most of TCP does.
    Cubic,
    /// As the spec's reference, RFC 9002 §7.
    NewReno,
}

/// One packet that the peer has acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct AckedPacket {
    /// When it was sent.
    pub(super) sent_at: Mono,
    /// Its size.
    pub(super) bytes: u64,
    /// Whether the sender had less to send than the window allowed: such an acknowledgement proves no more capacity.
    pub(super) app_limited: bool,
}

/// Decides how many bytes may be in flight, and how fast they go.
pub(super) trait Controller: Debug + Send {
    /// A packet is about to be sent; `bytes_in_flight` does not include it.
    fn on_packet_sent(&mut self, _now: Mono, _bytes_in_flight: u64) {}

    /// A packet was acknowledged.
    fn on_packet_acked(&mut self, _now: Mono, _packet: AckedPacket, _rtt: &RttEstimator) {}

    /// A packet that was sent at `sent_at` was lost.
    fn on_packet_lost(&mut self, _now: Mono, _sent_at: Mono) {}

    /// An ACK has been taken in: what it tells about delivery.
    fn on_delivery(&mut self, _now: Mono, _sample: &DeliverySample) {}

    /// Packets were marked "congestion experienced"; one of them was sent at `sent_at`.
    fn on_congestion_experienced(&mut self, now: Mono, sent_at: Mono);

    /// Everything sent over a long period was lost (RFC 9002 §7.6).
    fn on_persistent_congestion(&mut self);

    /// The path carries packets of another size now.
    fn on_mtu_update(&mut self, mtu: u64);

    /// Bytes that may be in flight.
    fn window(&self) -> u64;

    /// Bytes per second to pace at.
    fn pacing_rate(&self, rtt: &RttEstimator) -> u64;
}

impl Congestion {
    /// A controller for a path that nothing is known of, with packets of this size.
    pub(super) fn controller(self, mtu: u64) -> Box<dyn Controller> {
        match self {
            Self::Bbr => Box::new(Bbr::new(mtu)),
            Self::Cubic => Box::new(Cubic::new(mtu)),
            Self::NewReno => Box::new(NewReno::new(mtu)),
        }
    }
}

/// The rate of a window that is spread over the round trip: twice it in slow start, that it may double; 5/4 later (RFC 9002 §7.7).
fn rate_of_window(window: u64, is_slow_start: bool, rtt: &RttEstimator) -> u64 {
    let (numerator, denominator) = if is_slow_start { (2, 1) } else { (5, 4) };
    let nanos = rtt.for_pacing().as_nanos().max(1);
    let rate = u128::from(window) * numerator * 1_000_000_000 / denominator / nanos;
    u64::try_from(rate).unwrap_or(u64::MAX)
}
