//! The program on an agent: jobs, each one stream on which both ends know every byte.
//!
//! Whoever opens the stream says in its header, in the place of the trace context, what shall travel on it; from then on both ends write
//! and check [`crate::pattern`] without further agreement. A job is complete when both directions have ended with the right length.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::event::{Event, StreamHandle};
use pilot_core::id::{IdentityKey, ServicePort};
use pilot_core::node::{Node, OpenStreamError};
use pilot_core::time::{Mono, Now};
use pilot_core::transport::{Code, Read, ReadError, WriteError};
use pilot_core::wire::stream_header::StreamHeader;

use crate::pattern::{self, Direction};

/// Where the jobs are served. The port means nothing to the node.
const JOB_PORT: ServicePort = ServicePort(4_000);
/// Bytes written or read in one call: what a program with an ordinary buffer does.
const CHUNK_LEN: usize = 64 * 1024;
/// An echo that cannot write reads no further than this ahead: back-pressure instead of memory.
const ECHO_AHEAD_MAX: u64 = 256 * 1024;

/// Names a job in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// When the server of a job writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At once, whatever arrives.
    Parallel,
    /// When the request has arrived, end included.
    Reply,
    /// What arrives, as it arrives.
    Echo,
}

/// What travels on a job's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes from the opener.
    pub upload: u64,
    /// Bytes to the opener.
    pub download: u64,
    /// When the server writes.
    pub answer: Answer,
}

impl Plan {
    /// So many bytes up and down at the same time.
    pub fn transfer(upload: u64, download: u64) -> Self {
        Self { upload, download, answer: Answer::Parallel }
    }

    /// A request and a reply to it.
    pub fn request(upload: u64, download: u64) -> Self {
        Self { upload, download, answer: Answer::Reply }
    }

    /// So many bytes up, and the same bytes back.
    pub fn echo(len: u64) -> Self {
        Self { upload: len, download: len, answer: Answer::Echo }
    }

    fn encode(self, job: JobId) -> [u8; 25] {
        let mut bytes = [0; 25];
        bytes[..8].copy_from_slice(&job.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.upload.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.download.to_be_bytes());
        bytes[24] = self.answer as u8;
        bytes
    }

    fn decode(bytes: &[u8; 25]) -> Option<(JobId, Self)> {
        let (words, answer) = (bytes[..24].chunks_exact(8), bytes[24]);
        let mut words = words.map(|word| word.iter().fold(0, |value, &byte| (value << 8) | u64::from(byte)));
        let job = JobId(words.next()?);
        let (upload, download) = (words.next()?, words.next()?);
        let answer =
            [Answer::Parallel, Answer::Reply, Answer::Echo].into_iter().find(|known| *known as u8 == answer)?;
        Some((job, Self { upload, download, answer }))
    }
}

/// What became of a job, as its opener sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobReport {
    /// When the stream was opened.
    pub started: Mono,
    /// When the last byte and the end of the answer had arrived.
    pub answered: Option<Mono>,
    /// When and how it ended.
    pub ended: Option<(Mono, Ending)>,
    /// Bytes of the answer so far.
    pub received: u64,
    /// How often the stream was reported as stalled.
    pub stalls: u32,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every byte arrived, and was acknowledged.
    Complete,
    /// The stream was cut short with this code.
    Reset(Code),
}

impl JobReport {
    /// Time from the opening of the stream to the last byte of the answer.
    pub fn answer_time(&self) -> Option<Duration> {
        self.answered.map(|at| at.since(self.started))
    }

    /// Whether every byte went both ways.
    pub fn is_complete(&self) -> bool {
        matches!(self.ended, Some((_, Ending::Complete)))
    }
}

/// What was wrong on a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// A delivered byte is not the one that was sent there.
    #[error("wrong byte at offset {offset} of the {direction:?}")]
    WrongByte {
        /// Which way it travelled.
        direction: Direction,
        /// Where.
        offset: u64,
    },
    /// The end came too early, or data after it.
    #[error("{direction:?} ended at {len} of {planned} bytes")]
    WrongLength {
        /// Which way it travelled.
        direction: Direction,
        /// Bytes delivered.
        len: u64,
        /// Bytes that were to be sent.
        planned: u64,
    },
    /// The stream closed although nobody cut it and it was not over.
    #[error("closed before both directions were over")]
    ClosedEarly,
    /// The header of the stream arrived changed.
    #[error("the stream header is not the one that was sent")]
    Header,
}

/// One end of a job's stream.
#[derive(Debug)]
struct Task {
    job: JobId,
    plan: Plan,
    is_opener: bool,
    sent: u64,
    received: u64,
    is_send_over: bool,
    is_receive_over: bool,
    is_send_acknowledged: bool,
    cut: Option<Code>,
}

/// The program of one agent.
#[derive(Debug)]
pub struct Application {
    tasks: BTreeMap<StreamHandle, Task>,
    reports: BTreeMap<JobId, JobReport>,
    milestones: Vec<(Mono, Event)>,
    is_reading: bool,
}

impl Default for Application {
    fn default() -> Self {
        Self { tasks: BTreeMap::new(), reports: BTreeMap::new(), milestones: Vec::new(), is_reading: true }
    }
}

impl Application {
    /// Opens the stream of a new job and writes what it takes.
    pub(crate) fn start(
        &mut self,
        node: &mut Node,
        now: Now,
        peer: &IdentityKey,
        job: JobId,
        plan: Plan,
    ) -> Result<(), JobFault> {
        let header = StreamHeader { trace: Some(plan.encode(job)), ..StreamHeader::new(JOB_PORT) };
        let stream = node.open_stream(now, peer, &header)?;
        let report = JobReport { started: now.mono, answered: None, ended: None, received: 0, stalls: 0 };
        self.reports.insert(job, report);
        self.tasks.insert(stream, Task::new(job, plan, true));
        self.advance(node, now, stream)
    }

    /// Takes the reader's hands off every stream, or puts them back.
    pub(crate) fn set_reading(&mut self, node: &mut Node, now: Now, is_reading: bool) -> Result<(), JobFault> {
        self.is_reading = is_reading;
        let streams: Vec<_> = self.tasks.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| self.advance(node, now, stream))
    }

    /// Does what an event asks for.
    pub(crate) fn handle(&mut self, node: &mut Node, now: Now, event: &Event) -> Result<(), JobFault> {
        match event {
            Event::StreamOpened { stream, header, .. } => self.accept(node, now, *stream, header),
            Event::Readable(stream) | Event::Writable(stream) => self.advance(node, now, *stream),
            Event::SendFinished(stream) => {
                self.with_task(*stream, |task| task.is_send_acknowledged = true);
                Ok(())
            }
            Event::Reset { stream, code, .. } => {
                self.with_task(*stream, |task| task.cut = Some(*code));
                node.reset(now, *stream, Code::CANCELLED, "the other direction was reset");
                Ok(())
            }
            Event::StopSending { stream, code, .. } => {
                self.with_task(*stream, |task| task.cut = Some(*code));
                Ok(())
            }
            Event::StreamClosed(stream) => self.close(now, *stream),
            Event::Stalled(stream) => {
                let job = self.tasks.get(stream).map(|task| task.job);
                if let Some(report) = job.and_then(|job| self.reports.get_mut(&job)) {
                    report.stalls += 1;
                }
                Ok(())
            }
            Event::PeerConnected { .. }
            | Event::PeerClosed { .. }
            | Event::ConnectFailed { .. }
            | Event::PathChanged { .. }
            | Event::HomeConnected
            | Event::HomeLost
            | Event::ObservedAddress(_) => {
                self.milestones.push((now.mono, event.clone()));
                Ok(())
            }
            // The host does it.
            Event::OpenSockets(_) | Event::CloseSockets(_) => Ok(()),
            Event::Resumed(_) | Event::Datagram { .. } => Ok(()),
        }
    }

    /// What became of the jobs that were started here.
    pub fn report(&self, job: JobId) -> Option<&JobReport> {
        self.reports.get(&job)
    }

    /// Streams that are not over yet, on either side.
    pub fn open_streams(&self) -> usize {
        self.tasks.len()
    }

    /// What the node has told about tunnels and paths, with the time.
    pub fn milestones(&self) -> &[(Mono, Event)] {
        &self.milestones
    }

    fn with_task(&mut self, stream: StreamHandle, change: impl FnOnce(&mut Task)) {
        if let Some(task) = self.tasks.get_mut(&stream) {
            change(task);
        }
    }

    fn accept(
        &mut self,
        node: &mut Node,
        now: Now,
        stream: StreamHandle,
        header: &StreamHeader,
    ) -> Result<(), JobFault> {
        let planned = header.trace.as_ref().filter(|_| header.port == JOB_PORT).and_then(Plan::decode);
        let (job, plan) = planned.ok_or(JobFault::Stream(JobId(0), StreamFault::Header))?;
        self.tasks.insert(stream, Task::new(job, plan, false));
        self.advance(node, now, stream)
    }

    /// Reads and writes as far as it goes.
    fn advance(&mut self, node: &mut Node, now: Now, stream: StreamHandle) -> Result<(), JobFault> {
        let Some(task) = self.tasks.get_mut(&stream) else { return Ok(()) };
        loop {
            let before = (task.sent, task.received);
            if self.is_reading {
                task.read(node, now, stream).map_err(|fault| JobFault::Stream(task.job, fault))?;
            }
            task.write(node, now, stream);
            if before == (task.sent, task.received) {
                break;
            }
        }
        if let Some(report) = self.reports.get_mut(&task.job).filter(|_| task.is_opener) {
            report.received = task.received;
            if task.is_receive_over && report.answered.is_none() {
                report.answered = Some(now.mono);
            }
        }
        Ok(())
    }

    fn close(&mut self, now: Now, stream: StreamHandle) -> Result<(), JobFault> {
        let Some(task) = self.tasks.remove(&stream) else { return Ok(()) };
        let ending = match task.cut {
            Some(code) => Ending::Reset(code),
            None if task.is_over() => Ending::Complete,
            None => return Err(JobFault::Stream(task.job, StreamFault::ClosedEarly)),
        };
        if let Some(report) = self.reports.get_mut(&task.job).filter(|_| task.is_opener) {
            report.ended = Some((now.mono, ending));
        }
        Ok(())
    }
}

impl Task {
    fn new(job: JobId, plan: Plan, is_opener: bool) -> Self {
        Self {
            job,
            plan,
            is_opener,
            sent: 0,
            received: 0,
            is_send_over: false,
            is_receive_over: false,
            is_send_acknowledged: false,
            cut: None,
        }
    }

    fn is_over(&self) -> bool {
        self.is_send_acknowledged && self.is_receive_over
    }

    /// Direction and length of what this end writes.
    fn outbound(&self) -> (Direction, u64) {
        if self.is_opener { (Direction::Upload, self.plan.upload) } else { (Direction::Download, self.plan.download) }
    }

    /// Direction and length of what this end reads.
    fn inbound(&self) -> (Direction, u64) {
        if self.is_opener { (Direction::Download, self.plan.download) } else { (Direction::Upload, self.plan.upload) }
    }

    /// Offset up to which this end may write now.
    fn sendable(&self) -> u64 {
        match self.plan.answer {
            Answer::Reply if !self.is_opener && !self.is_receive_over => 0,
            Answer::Echo if !self.is_opener => self.received,
            Answer::Parallel | Answer::Reply | Answer::Echo => self.outbound().1,
        }
    }

    /// Whether this end takes data now.
    fn wants_data(&self) -> bool {
        let is_echo = self.plan.answer == Answer::Echo && !self.is_opener;
        !self.is_receive_over && (!is_echo || self.received - self.sent < ECHO_AHEAD_MAX)
    }

    fn read(&mut self, node: &mut Node, now: Now, stream: StreamHandle) -> Result<(), StreamFault> {
        while self.wants_data() {
            match node.read(now, stream, CHUNK_LEN) {
                Ok(Read::Data(data)) => self.check(&data)?,
                Ok(Read::Blocked) => break,
                Ok(Read::Finished) => {
                    self.is_receive_over = true;
                    self.check_length()?;
                }
                Err(ReadError::Reset { code, .. }) => {
                    self.cut = Some(code);
                    break;
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn write(&mut self, node: &mut Node, now: Now, stream: StreamHandle) {
        while self.cut.is_none() && self.sent < self.sendable() {
            let mut chunk = self.next_chunk();
            match node.write(now, stream, &mut chunk) {
                Ok(0) => break,
                Ok(taken) => self.sent += taken as u64,
                Err(WriteError::Stopped { code, .. }) => self.cut = Some(code),
                Err(_) => break,
            }
        }
        let may_end = self.is_opener || self.plan.answer == Answer::Parallel || self.is_receive_over;
        if !self.is_send_over && may_end && self.sent == self.outbound().1 {
            self.is_send_over = node.finish(now, stream).is_ok();
        }
    }

    fn next_chunk(&self) -> Bytes {
        let len = (self.sendable() - self.sent).min(CHUNK_LEN as u64) as usize;
        let mut chunk = Vec::new();
        pattern::extend(&mut chunk, self.job.0, self.content(self.outbound().0), self.sent, len);
        chunk.into()
    }

    /// Whose pattern travels in a direction: an echo's answer is its request.
    fn content(&self, direction: Direction) -> Direction {
        if self.plan.answer == Answer::Echo { Direction::Upload } else { direction }
    }

    fn check(&mut self, data: &[u8]) -> Result<(), StreamFault> {
        let (direction, planned) = self.inbound();
        let content = self.content(direction);
        if let Some(offset) = pattern::first_difference(self.job.0, content, self.received, data) {
            return Err(StreamFault::WrongByte { direction, offset });
        }
        self.received += data.len() as u64;
        if self.received > planned { self.check_length() } else { Ok(()) }
    }

    fn check_length(&self) -> Result<(), StreamFault> {
        let (direction, planned) = self.inbound();
        if self.received == planned {
            Ok(())
        } else {
            Err(StreamFault::WrongLength { direction, len: self.received, planned })
        }
    }
}

/// Why a job failed, apart from what the network did.
#[derive(Debug, thiserror::Error)]
pub enum JobFault {
    /// The stream could not be opened.
    #[error(transparent)]
    Open(#[from] OpenStreamError),
    /// Something was wrong on it.
    #[error("{0}: {1}")]
    Stream(JobId, StreamFault),
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_its_header() {
        for plan in [Plan::transfer(1, u64::MAX), Plan::request(0, 7), Plan::echo(1 << 40)] {
            assert_eq!(Plan::decode(&plan.encode(JobId(99))), Some((JobId(99), plan)));
        }
        assert_eq!(Plan::decode(&[255; 25]), None);
    }
}
