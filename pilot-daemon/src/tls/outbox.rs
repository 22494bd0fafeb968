//! What waits for a link: one buffer of frames, filled by the driver and emptied by the link's task.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::frame::{self, HEADER_LEN};

/// Bytes that wait for a link, beside the kernel's: a whole train. What comes beyond is dropped, and the sender slows down.
pub const OUTBOX_LEN_MAX: usize = 64 * 1024;

/// The frames that a link has to send next.
#[derive(Debug, Default)]
pub struct Outbox {
    /// A leaf, never held across an await.
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: Vec<u8>,
    is_closed: bool,
}

impl Outbox {
    /// Queues a datagram. Returns whether there was room.
    #[must_use]
    pub fn push(&self, datagram: &[u8]) -> bool {
        let mut waiting = self.lock();
        let has_room = waiting.frames.len() + HEADER_LEN + datagram.len() <= OUTBOX_LEN_MAX && !waiting.is_closed;
        let is_first = waiting.frames.is_empty();
        let is_queued = has_room && frame::push(&mut waiting.frames, datagram);
        drop(waiting);
        if is_queued && is_first {
            self.changed.notify_one();
        }
        is_queued
    }

    /// Ends the link once what waits has been sent.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits for frames and takes all of them, leaving `spare` in their place. None: the link is to end.
    pub async fn take(&self, spare: Vec<u8>) -> Option<Vec<u8>> {
        loop {
            {
                let mut waiting = self.lock();
                if !waiting.frames.is_empty() {
                    return Some(std::mem::replace(&mut waiting.frames, spare));
                }
                if waiting.is_closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_that_takes_nothing_holds_one_train_and_loses_the_tail() {
        let outbox = Outbox::default();
        let queued = (0..1_000).filter(|_| outbox.push(&[7; 1_000])).count();
        assert_eq!(queued, OUTBOX_LEN_MAX / 1_002);
        let taken = outbox.take(Vec::new()).await.expect("open");
        assert_eq!(taken.len(), queued * 1_002);
        assert!(outbox.push(&[8; 1_000]), "then there is room again");
    }

    #[tokio::test]
    async fn what_waits_when_a_link_is_closed_is_sent_and_nothing_after_that() {
        let outbox = Outbox::default();
        assert!(outbox.push(b"goodbye"));
        outbox.close();
        assert!(!outbox.push(b"too late"));
        assert_eq!(outbox.take(Vec::new()).await, Some(b"\0\x07goodbye".to_vec()));
        assert_eq!(outbox.take(Vec::new()).await, None);
    }
}
