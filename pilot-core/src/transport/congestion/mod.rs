//! Congestion control of one path, behind a small interface; pacing is apart (`pacing.rs`).

mod new_reno;

use std::fmt::Debug;

pub(super) use self::new_reno::NewReno;
use super::rtt::RttEstimator;
use crate::time::Mono;

/// Packets of the initial window: RFC 9002 §7.2 without its upper bound in bytes, which is for packets larger than we start with.
pub(super) const INITIAL_WINDOW_PACKETS: u64 = 10;

/// Packets of the smallest window (RFC 9002 §7.2).
pub(super) const MINIMUM_WINDOW_PACKETS: u64 = 2;

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

/// Decides how many bytes may be in flight.
pub(super) trait Controller: Debug + Send {
    /// A packet was sent; `bytes_in_flight` includes it.
    fn on_packet_sent(&mut self, now: Mono, bytes: u64, bytes_in_flight: u64);

    /// A packet was acknowledged; `delivered` counts all bytes acknowledged so far, it included.
    fn on_packet_acked(&mut self, now: Mono, packet: AckedPacket, delivered: u64, rtt: &RttEstimator);

    /// Packets were lost, or marked "congestion experienced"; the latest of them was sent at `sent_at`.
    fn on_congestion_event(&mut self, now: Mono, sent_at: Mono);

    /// Everything sent over a long period was lost (RFC 9002 §7.6).
    fn on_persistent_congestion(&mut self);

    /// The path carries packets of another size now.
    fn on_mtu_update(&mut self, mtu: u64);

    /// Bytes that may be in flight.
    fn window(&self) -> u64;

    /// Bytes per second to pace at, where the window and the round trip time do not say it.
    fn pacing_rate(&self, rtt: &RttEstimator) -> u64;
}
