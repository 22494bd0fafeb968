//! The thread that writes the directory's file: a commit waits for the disk, the node's loop for nobody (spec/backbone.md §5).

use std::sync::mpsc as blocking;
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc;

use crate::journal::Batch;
use crate::store::redb::DirectoryFile;

/// Ends, and closes the file, when this is dropped.
#[derive(Debug)]
pub(crate) struct Writer {
    /// None only while this is dropped.
    batches: Option<blocking::Sender<Batch>>,
    /// How each batch came out.
    pub(crate) written: mpsc::Receiver<Result<(), String>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub(crate) fn start(mut file: DirectoryFile) -> std::io::Result<Self> {
        let (batches, inbound) = blocking::channel::<Batch>();
        let (outbound, written) = mpsc::channel(1);
        let thread = thread::Builder::new().name("directory".to_owned()).spawn(move || {
            while let Ok(batch) = inbound.recv() {
                if outbound.blocking_send(file.commit(&batch)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { batches: Some(batches), written, thread: Some(thread) })
    }

    /// Hands a batch over. One is on its way at a time, so nothing piles up.
    pub(crate) fn write(&self, batch: Batch) {
        // A thread that has ended is noticed at `written`.
        if let Some(batches) = &self.batches {
            batches.send(batch).ok();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.batches = None;
        self.written.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the directory's writer has panicked");
        }
    }
}
