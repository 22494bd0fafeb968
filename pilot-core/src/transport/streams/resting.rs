//! Streams at rest: of thousands that are open, most have nothing to say for now, and each of them takes a few words of the table
//! instead of two state machines with their buffers (spec/streams.md §9).
//!
//! ```text
//! Free -> Awake       opened, by either side
//! Awake -> Resting    idle: all data acknowledged and read, nothing to be told; and enough others were idle since
//! Resting -> Awake    whatever concerns it
//! Awake -> Free       both directions are over
//! ```
//!
//! What rests is woken by [`Streams::stream_mut`], so that the rest of the code knows streams only awake. A stream that becomes idle first
//! dozes: one that has much to do is idle for a moment after every batch, and is to find its buffers again.

use super::receive::{ReceiveStream, RestingReceive};
use super::send::{RestingSend, SendStream};
use super::{Stream, Streams};
use crate::transport::config::TransportConfig;

/// Idle streams that keep their buffers: more than take turns at full speed, few enough to weigh nothing beside thousands. Tests have few
/// streams, and are to see them rest.
const DOZING_MAX: usize = if cfg!(test) { 1 } else { 16 };

/// A place in the table of streams.
#[derive(Debug, Default)]
pub(super) enum Slot {
    #[default]
    Free,
    Resting(RestingStream),
    Awake(Box<Stream>),
}

/// All that is worth knowing about an idle stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct RestingStream {
    pub(super) id: u64,
    send: RestingSend,
    receive: RestingReceive,
    urgency: u8,
    is_replay_safe: bool,
    pub(super) is_stalled: bool,
}

impl Slot {
    pub(super) fn awake(&self) -> Option<&Stream> {
        match self {
            Self::Awake(stream) => Some(stream),
            Self::Free | Self::Resting(_) => None,
        }
    }

    pub(super) fn awake_mut(&mut self) -> Option<&mut Stream> {
        match self {
            Self::Awake(stream) => Some(stream),
            Self::Free | Self::Resting(_) => None,
        }
    }

    /// The stream that is here, as if it were awake.
    pub(super) fn into_stream(self, config: &TransportConfig) -> Option<Box<Stream>> {
        match self {
            Self::Free => None,
            Self::Resting(resting) => Some(Box::new(resting.wake(config))),
            Self::Awake(stream) => Some(stream),
        }
    }

    /// Raises the credit that the peer grants.
    pub(super) fn set_max_data(&mut self, max: u64) {
        match self {
            Self::Free => {}
            Self::Resting(resting) => resting.send.max_data = resting.send.max_data.max(max),
            Self::Awake(stream) => {
                stream.send.set_max_data(max);
            }
        }
    }
}

impl RestingStream {
    /// None if the stream is not idle.
    fn of(stream: &Stream) -> Option<Self> {
        let is_waited_for = stream.is_queued || stream.is_credit_blocked || stream.has_control;
        if is_waited_for || stream.awaits_header {
            return None;
        }
        Some(Self {
            id: stream.id,
            send: stream.send.at_rest()?,
            receive: stream.receive.at_rest()?,
            urgency: stream.urgency,
            is_replay_safe: stream.is_replay_safe,
            is_stalled: stream.is_stalled,
        })
    }

    pub(super) fn wake(self, config: &TransportConfig) -> Stream {
        Stream {
            urgency: self.urgency,
            is_replay_safe: self.is_replay_safe,
            is_stalled: self.is_stalled,
            ..Stream::new(self.id, SendStream::wake(self.send, config), ReceiveStream::wake(self.receive))
        }
    }
}

impl Streams {
    /// The stream in this place, woken if it rests.
    pub(super) fn stream_mut(&mut self, slot: u32) -> Option<&mut Stream> {
        let place = self.slots.get_mut(slot as usize)?;
        if let Slot::Resting(resting) = place {
            *place = Slot::Awake(Box::new(resting.wake(&self.config)));
            self.doze(slot);
        }
        self.awake_mut(slot)
    }

    /// The stream in this place, for those to whom it matters only if it is awake: one at rest has nothing to send.
    pub(super) fn awake_mut(&mut self, slot: u32) -> Option<&mut Stream> {
        self.slots.get_mut(slot as usize)?.awake_mut()
    }

    /// A stream has done something, and may be idle now.
    pub(super) fn doze(&mut self, slot: u32) {
        let Some(stream) = self.awake_mut(slot).filter(|stream| !stream.is_dozing) else { return };
        if RestingStream::of(stream).is_none() {
            return;
        }
        stream.is_dozing = true;
        self.dozing.push_back(slot);
        if self.dozing.len() > DOZING_MAX
            && let Some(first) = self.dozing.pop_front()
        {
            self.rest(first);
        }
    }

    /// Whether every idle stream rests or dozes.
    pub(super) fn idle_streams_doze(&self) -> bool {
        let mut awake = self.slots.iter().filter_map(Slot::awake);
        awake.all(|stream| stream.is_dozing || RestingStream::of(stream).is_none())
    }

    fn rest(&mut self, slot: u32) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        let Slot::Awake(stream) = place else { return };
        stream.is_dozing = false;
        if let Some(resting) = RestingStream::of(stream) {
            *place = Slot::Resting(resting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_table_stays_small() {
        // With this, a table that has just grown, and that of the ids, an idle stream stays below 200 bytes.
        assert!(size_of::<Slot>() <= 64, "{}", size_of::<Slot>());
    }
}
