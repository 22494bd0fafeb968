//! Puts packets together: which path has something to send, and what goes into its next packet (spec/streams.md §6).

use super::event::PathFrame;
use super::path::Path;
use super::sent::{SentFrame, SentPacket};
use super::{PACKET_OVERHEAD, Transport};
use crate::id::{PacketNumber, PathId};
use crate::time::Mono;
use crate::wire::frame;

/// A challenge or response without padding.
const PATH_FRAME_LEN: usize = 9;

/// A packet under construction.
struct Draft {
    path: PathId,
    /// Length of the buffer before the first frame.
    start: usize,
    /// Length that the buffer may reach.
    end: usize,
    is_ack_eliciting: bool,
    is_mtu_probe: bool,
}

impl Transport {
    /// The path that has something to send now, and is allowed to.
    pub(super) fn choose_path(&mut self, now: Mono) -> Option<PathId> {
        if !self.can_send() {
            return None;
        }
        self.streams.settle_queues();
        let has_data = self.has_data();
        if let Some(path) = self.active_mut() {
            path.refill_pacer(now);
            path.note_backlog(has_data);
        }
        if self.closing.is_some() {
            return self.active.or_else(|| self.first_proved());
        }
        let with_frames = self.paths.iter().find(|path| path.is_ping_queued || !path.frames.is_empty());
        if let Some(path) = with_frames {
            return Some(path.id);
        }
        if let Some(path) = self.ack_path().filter(|_| self.received.is_due()) {
            return Some(path);
        }
        if self.wants_active_path() {
            return self.active;
        }
        self.note_app_limit();
        None
    }

    /// Appends the frames of one packet.
    pub(super) fn build_packet(&mut self, now: Mono, id: PathId, buf: &mut Vec<u8>) -> Option<PacketNumber> {
        if !self.can_send() {
            return None;
        }
        let is_mtu_probe = std::mem::take(&mut self.may_probe_mtu) && self.is_mtu_probe_due(id);
        let path = self.path_mut(id)?;
        path.refill_pacer(now);
        let len = if is_mtu_probe { path.mtu.next_probe()? } else { path.mtu.current() };
        let start = buf.len();
        let mut draft =
            Draft { path: id, start, end: start + len - PACKET_OVERHEAD, is_ack_eliciting: false, is_mtu_probe };
        if is_mtu_probe {
            frame::put_ping(buf);
            frame::put_padding(buf, draft.end);
            draft.is_ack_eliciting = true;
        } else {
            self.write_frames(now, &mut draft, buf);
        }
        (buf.len() > start).then(|| self.note_sent(now, &draft, buf.len()))
    }

    /// When the pacer lets data go that waits for nothing else.
    pub(super) fn pacing_release(&self) -> Option<Mono> {
        let path = self.active().filter(|path| path.probes == 0 && path.has_window())?;
        if self.has_data() && self.can_send() { path.pacer.release_at() } else { None }
    }

    /// Whether the next train on a path should begin with a probe for a larger size: only while data flows and the path is well.
    pub(super) fn is_mtu_probe_due(&self, id: PathId) -> bool {
        let Some(path) = self.path(id).filter(|path| path.mtu.next_probe().is_some()) else { return false };
        let is_well = path.pto_count == 0 && path.rtt.measured().is_some();
        let is_free =
            self.closing.is_none() && path.frames.is_empty() && !path.is_ping_queued && !self.received.is_due();
        is_well && is_free && self.active == Some(id) && self.streams.open_count() > 0
    }

    /// Where acknowledgements go: the way that data came last, if it is still there and the peer is known to be.
    fn ack_path(&self) -> Option<PathId> {
        let last = self.received.path().filter(|id| self.path(*id).is_some_and(|path| path.is_proved));
        last.or(self.active).or_else(|| self.first_proved())
    }

    fn first_proved(&self) -> Option<PathId> {
        self.paths.iter().find(|path| path.is_proved).map(|path| path.id)
    }

    fn can_send(&self) -> bool {
        !self.is_closed && self.streams.peer_limits_known()
    }

    /// Nothing is left to send: if the window has room, what is delivered now says little about the path.
    fn note_app_limit(&mut self) {
        if self.has_data() {
            return;
        }
        if let Some(path) = self.active_mut().filter(|path| path.has_window()) {
            path.delivery.on_app_limited(path.bytes_in_flight);
        }
    }

    fn wants_active_path(&self) -> bool {
        let Some(path) = self.active() else { return false };
        path.probes > 0 || (self.has_data() && path.may_send_data()) || self.is_mtu_probe_due(path.id)
    }

    /// Whether anything that the window holds back is to be sent.
    fn has_data(&self) -> bool {
        self.streams.has_frames() || self.announcements.has_queued() || !self.datagrams.is_empty()
    }

    fn write_frames(&mut self, now: Mono, draft: &mut Draft, buf: &mut Vec<u8>) {
        if let Some((code, reason)) = self.closing.take() {
            frame::put_close(buf, code, &reason);
            self.is_closed = true;
            return;
        }
        let may_send_data = self.active == Some(draft.path) && self.active().is_some_and(Path::may_send_data);
        let has_data = may_send_data && self.has_data();
        let is_probing = self.path(draft.path).is_some_and(|path| path.probes > 0);
        let has_path_frames = self.path(draft.path).is_some_and(|path| path.is_ping_queued || !path.frames.is_empty());
        let carries_more = has_data || is_probing || has_path_frames;
        let is_proved = self.path(draft.path).is_some_and(|path| path.is_proved);
        let may_acknowledge = is_proved && (!self.received.has_data_waiting() || self.ack_path() == Some(draft.path));
        if may_acknowledge && (self.received.is_due() || (self.received.is_wanted() && carries_more)) {
            self.write_ack(now, draft, buf, carries_more);
        }
        if has_path_frames {
            self.write_path_frames(draft, buf);
        }
        if has_data {
            self.write_data(draft, buf);
        }
        if is_probing && !draft.is_ack_eliciting {
            frame::put_ping(buf);
            draft.is_ack_eliciting = true;
        }
    }

    fn write_ack(&mut self, now: Mono, draft: &mut Draft, buf: &mut Vec<u8>, carries_more: bool) {
        // Half the packet at most: an acknowledgement of very many ranges must not keep data back.
        let room = (draft.end - buf.len()) / 2;
        let Some(reported) = self.received.write_ack(now, buf, room) else { return };
        self.draft_frames.push(SentFrame::Ack(reported));
        if !carries_more && self.received.wants_ping() {
            frame::put_ping(buf);
            draft.is_ack_eliciting = true;
        }
    }

    fn write_path_frames(&mut self, draft: &mut Draft, buf: &mut Vec<u8>) {
        let Some(path) = self.paths.iter_mut().find(|path| path.id == draft.path) else { return };
        if std::mem::take(&mut path.is_ping_queued) {
            frame::put_ping(buf);
            #[cfg(feature = "sabotage")]
            (path.is_ping_queued = self.breaks_progress);
        }
        draft.is_ack_eliciting = true;
        let mut pads = false;
        while buf.len() + PATH_FRAME_LEN <= draft.end
            && let Some(frame) = path.frames.pop_front()
        {
            match frame {
                PathFrame::Challenge { data, pad } => {
                    frame::put_path_challenge(buf, data);
                    pads |= pad;
                }
                PathFrame::Response { data, pad } => {
                    frame::put_path_response(buf, data);
                    pads |= pad;
                }
                // Announcements wait elsewhere, for any path.
                PathFrame::Candidates(_) | PathFrame::Ports(_) | PathFrame::ObservedAddress(_) => {}
            }
        }
        if pads {
            frame::put_padding(buf, draft.end);
        }
    }

    fn write_data(&mut self, draft: &mut Draft, buf: &mut Vec<u8>) {
        let before = buf.len();
        while let Some(number) = self.announcements.write_next(buf, draft.end) {
            self.draft_frames.push(SentFrame::Announcement(number));
        }
        while let Some((port, data)) = self.datagrams.front()
            && buf.len() + frame::datagram_header_len(data.len()) + data.len() <= draft.end
        {
            frame::put_datagram(buf, *port, data);
            self.datagrams.pop_front();
        }
        self.streams.write_frames(buf, draft.end, &mut self.draft_frames);
        draft.is_ack_eliciting |= buf.len() > before;
        if draft.is_ack_eliciting && self.streams.has_data() {
            // A train needs packets of one length: what the next stream could not use is padded.
            frame::put_padding(buf, draft.end);
            if let Some(path) = self.active_mut() {
                path.mtu.on_filled();
            }
        }
    }

    fn note_sent(&mut self, now: Mono, draft: &Draft, end: usize) -> PacketNumber {
        let pn = PacketNumber(self.next_pn);
        self.next_pn += 1;
        let size = u32::try_from(end - draft.start + PACKET_OVERHEAD).unwrap_or(u32::MAX);
        if !draft.is_ack_eliciting {
            // An acknowledgement that is lost is repaired by the next one.
            self.draft_frames.clear();
        } else {
            self.track(now, pn, draft, size);
        }
        if let Some(path) = self.path_mut(draft.path) {
            path.count_sent(u64::from(size));
        }
        pn
    }

    fn track(&mut self, now: Mono, pn: PacketNumber, draft: &Draft, size: u32) {
        while let Some(too_old) = self.sent.too_old_for(pn) {
            self.remove_lost(too_old);
            self.sent.release();
        }
        let Some(path) = self.paths.iter_mut().find(|path| path.id == draft.path) else { return };
        let packet = path.depart(now, SentPacket::new(path.id, now, size, draft.is_mtu_probe));
        self.sent.insert(pn, packet, &mut path.list, &mut self.draft_frames);
        if draft.is_mtu_probe {
            path.mtu.on_probe_sent(pn);
        }
        if self.active == Some(draft.path) {
            self.unanswered_since = self.unanswered_since.or(Some(now));
        }
    }
}
