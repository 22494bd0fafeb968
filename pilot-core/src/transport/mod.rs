//! One tunnel's packets: frames, streams, recovery and congestion control over several paths (spec/streams.md).

mod audit;
mod config;
mod event;

use bytes::Bytes;

pub use self::audit::{Audit, PathAudit, StreamAudit, TimerKind, Violation};
#[cfg(feature = "sabotage")]
pub use self::config::Sabotage;
pub use self::config::{PeerLimits, TransportConfig};
pub use self::event::{
    DatagramError, OpenStreamError, PathFrame, PathParams, PathStats, Read, ReadError, TransportError, TransportEvent, WriteError,
};
use crate::id::{PacketNumber, PathId, ServicePort, StreamId};
use crate::time::Mono;
pub use crate::wire::frame::{Candidate, CandidateKind, Code};
use crate::wire::stream_header::StreamHeader;

/// Bytes that a data packet has beside its frames: header and tag (spec/wire.md §3).
pub const PACKET_OVERHEAD: usize = 13 + 16;

/// One tunnel's packet-number space with its paths and streams.
#[derive(Debug)]
pub struct Transport {}

#[expect(unused_variables, missing_docs, reason = "signatures first; the bodies follow in the next commits")]
impl Transport {
    pub fn new(config: &TransportConfig, opens_even: bool, peer: PeerLimits, now: Mono) -> Self {
        todo!()
    }
    pub fn set_peer_limits(&mut self, peer: PeerLimits) {
        todo!()
    }
    pub fn add_path(&mut self, path: PathId, params: PathParams) {
        todo!()
    }
    pub fn remove_path(&mut self, path: PathId) {
        todo!()
    }
    pub fn set_active_path(&mut self, path: PathId) {
        todo!()
    }
    pub fn active_path(&self) -> Option<PathId> {
        todo!()
    }
    pub fn path_stats(&self, path: PathId) -> Option<PathStats> {
        todo!()
    }
    pub fn handle_packet(
        &mut self,
        now: Mono,
        path: PathId,
        pn: PacketNumber,
        congestion_experienced: bool,
        payload: &[u8],
    ) -> Result<(), TransportError> {
        todo!()
    }
    pub fn next_path(&mut self, now: Mono) -> Option<PathId> {
        todo!()
    }
    pub fn poll_packet(&mut self, now: Mono, path: PathId, buf: &mut Vec<u8>) -> Option<PacketNumber> {
        todo!()
    }
    pub fn packet_sealed(&mut self, pn: PacketNumber, tag8: u64) {
        todo!()
    }
    pub fn is_in_flight(&self, pn: PacketNumber, tag8: u64) -> bool {
        todo!()
    }
    pub fn segment_len(&self, path: PathId) -> usize {
        todo!()
    }
    pub fn burst_len(&self, now: Mono, path: PathId) -> usize {
        todo!()
    }
    pub fn handle_timeout(&mut self, now: Mono) {
        todo!()
    }
    pub fn poll_timeout(&self) -> Option<Mono> {
        todo!()
    }
    pub fn poll_event(&mut self) -> Option<TransportEvent> {
        todo!()
    }
    pub fn queue_frame(&mut self, path: PathId, frame: PathFrame) {
        todo!()
    }
    pub fn queue_datagram(&mut self, port: ServicePort, data: Bytes) -> Result<(), DatagramError> {
        todo!()
    }
    pub fn ping(&mut self, path: PathId) {
        todo!()
    }
    pub fn close(&mut self, code: Code, reason: &str) {
        todo!()
    }
    pub fn open_stream(&mut self, header: &StreamHeader) -> Result<StreamId, OpenStreamError> {
        todo!()
    }
    pub fn write(&mut self, stream: StreamId, data: &mut Bytes) -> Result<usize, WriteError> {
        todo!()
    }
    pub fn finish(&mut self, stream: StreamId) -> Result<(), WriteError> {
        todo!()
    }
    pub fn reset(&mut self, stream: StreamId, code: Code, reason: &str) {
        todo!()
    }
    pub fn stop_sending(&mut self, stream: StreamId, code: Code, reason: &str) {
        todo!()
    }
    pub fn read(&mut self, stream: StreamId, max: usize) -> Result<Read, ReadError> {
        todo!()
    }
    pub fn open_stream_count(&self) -> usize {
        todo!()
    }
    /// Ids of all open streams, in no particular order.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        std::iter::empty()
    }
    pub fn has_unfinished_work(&self) -> bool {
        todo!()
    }
    pub fn audit(&self) -> Audit {
        todo!()
    }
}
