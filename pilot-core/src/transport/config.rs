//! What may be chosen about a transport, and what the peer has chosen.

use std::time::Duration;

use super::congestion::Congestion;
use super::early::{EARLY_CREDIT, EARLY_STREAMS};

/// Limits that one side sets for the other in the handshake's parameters (spec/streams.md §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// Bytes of stream data that may be sent in all.
    pub max_data: u64,
    /// Bytes that may be sent on each stream at first.
    pub max_stream_data: u64,
    /// Streams that may be opened in all, at first.
    pub max_streams: u64,
}

impl PeerLimits {
    /// Before the handshake: streams may be opened and written to, nothing is sent.
    pub const UNKNOWN: Self = Self { max_data: 0, max_stream_data: 0, max_streams: 0 };
}

/// One rule to break on purpose, so that the simulator can show that its invariants notice.
#[cfg(feature = "sabotage")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Acknowledged bytes leave the count of bytes in flight twice.
    DoubleCountAck,
    /// Data is sent whether or not the peer has granted credit.
    IgnoreCredit,
    /// Data is handed out as it arrives, gaps or not.
    DeliverOutOfOrder,
    /// Writes are taken above the bound of the send buffer.
    UnboundedBuffer,
    /// An expired acknowledgement timer stays armed.
    TimerInThePast,
    /// Data that is sent is not counted against the credit of the tunnel.
    MiscountData,
    /// A PING that was sent is queued again.
    EndlessPing,
}

/// Window of a tunnel that nothing has been read from: a whole request of most kinds, little enough for a stranger.
const FIRST_WINDOW: u64 = 64 << 10;

/// Settings of a [`Transport`](super::Transport). The defaults suit an agent on the Internet.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    pub(super) stream_window: u64,
    pub(super) tunnel_window: u64,
    pub(super) send_buffer: usize,
    pub(super) max_streams: u64,
    pub(super) idle_timeout: Duration,
    pub(super) stalled_after: Duration,
    pub(super) packet_len_max: usize,
    pub(super) congestion: Congestion,
    #[cfg(feature = "sabotage")]
    sabotage: Option<Sabotage>,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            stream_window: 24 << 20,
            tunnel_window: 32 << 20,
            send_buffer: 16 << 20,
            max_streams: 1024,
            idle_timeout: Duration::from_secs(180),
            stalled_after: Duration::from_secs(5),
            packet_len_max: usize::MAX,
            congestion: Congestion::default(),
            #[cfg(feature = "sabotage")]
            sabotage: None,
        }
    }
}

impl TransportConfig {
    /// Most credit for one stream: bytes that the peer may send ahead of the reader. Default 24 MiB: 1 Gbit/s at 40 ms with what is
    /// sent again. Larger costs memory where readers are slow.
    #[must_use]
    pub fn stream_window(mut self, bytes: u64) -> Self {
        self.stream_window = bytes;
        self
    }

    /// Most credit for all streams of the tunnel together, once it is earned. Default 32 MiB, so that one stalled stream does not stop
    /// the others.
    #[must_use]
    pub fn tunnel_window(mut self, bytes: u64) -> Self {
        self.tunnel_window = bytes;
        self
    }

    /// Bytes that a stream takes from its writer before the peer has acknowledged them, 4 MiB where the peer has not granted
    /// more. Default 16 MiB; smaller bounds memory, larger fills longer paths.
    #[must_use]
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// Streams that the peer may have open at once. Default 1024.
    #[must_use]
    pub fn max_streams(mut self, streams: u64) -> Self {
        self.max_streams = streams;
        self
    }

    /// Time without any answer after which the tunnel is given up. Default 3 min: long enough for a lid to be opened again.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Time without any answer after which streams report that they stall. Default 5 s.
    #[must_use]
    pub fn stalled_after(mut self, time: Duration) -> Self {
        self.stalled_after = time;
        self
    }

    /// Largest packet that the search for a path's packet size tries. Default: whatever the path is asked to try. A lower bound suits
    /// links that lose large datagrams more often than small ones; it costs throughput on every other.
    #[must_use]
    pub fn packet_len_max(mut self, len: usize) -> Self {
        self.packet_len_max = len;
        self
    }

    /// How this side decides what a path can carry. The peer need not choose the same. Default: [`Congestion::Bbr`].
    #[must_use]
    pub fn congestion(mut self, congestion: Congestion) -> Self {
        self.congestion = congestion;
        self
    }

    /// Breaks one rule on purpose.
    #[cfg(feature = "sabotage")]
    #[must_use]
    pub fn sabotage(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = Some(sabotage);
        self
    }

    /// These settings, with room for the early data that every peer may send.
    #[must_use]
    pub(crate) fn with_first_grants(mut self) -> Self {
        self.stream_window = self.stream_window.max(EARLY_CREDIT);
        self.tunnel_window = self.tunnel_window.max(2 * EARLY_CREDIT);
        self.max_streams = self.max_streams.max(EARLY_STREAMS);
        self
    }

    /// The limits to announce to the peer in the handshake's parameters.
    pub fn local_limits(&self) -> PeerLimits {
        let max_data = self.first_window();
        PeerLimits { max_data, max_stream_data: self.stream_window_in(max_data), max_streams: self.max_streams }
    }

    /// The tunnel's window before anything is earned.
    pub(super) fn first_window(&self) -> u64 {
        self.tunnel_window.min(FIRST_WINDOW)
    }

    /// A stream's window in a tunnel with this one: it leaves an eighth to the others.
    pub(super) fn stream_window_in(&self, tunnel_window: u64) -> u64 {
        self.stream_window.min(tunnel_window - tunnel_window / 8)
    }

    /// Whether this rule is to be broken.
    #[cfg(feature = "sabotage")]
    pub(super) fn breaks(&self, rule: Sabotage) -> bool {
        self.sabotage == Some(rule)
    }
}
