//! Bulk flows that share one bottleneck, in virtual time: what a congestion controller is judged by.
//!
//! Each flow is a pair of bare [`Transport`]s: no handshake, no cipher, so that minutes of a fast link take seconds. All flows queue in
//! front of the same [`LinkConfig`], one writes without end, and their acknowledgements come back over a link of their own. Whole nodes
//! over a bad link are for [`crate::world`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::id::{PacketNumber, PathId, ServicePort, StreamId};
use pilot_core::rng::Rng;
use pilot_core::time::Mono;
use pilot_core::transport::{PACKET_OVERHEAD, PathParams, PathStats, Read, Transport, TransportConfig};
use pilot_core::wire::{BASE, stream_header::StreamHeader};

use crate::link::{Link, LinkConfig};
use crate::world::START;

/// The only path of each flow.
const PATH: PathId = PathId(1);
/// The largest packet that an Ethernet carries: the search for it is part of what is measured.
const ETHERNET_PACKET_LEN: usize = 1_452;
/// What a writer offers at once: more than a send buffer takes.
const WRITE_LEN: usize = 8 << 20;

/// Packets that are taken before anything is sent.
const BATCH: usize = 64;

/// Names a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId(usize);

/// What the bottleneck has carried of one flow since [`Dumbbell::begin_measurement`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// Bytes of the stream that the reader has got.
    pub delivered: u64,
    /// Bytes of all datagrams sent towards the reader.
    pub sent: u64,
    /// Datagrams that found the queue full.
    pub dropped_at_queue: u64,
}

/// Flows, a bottleneck and time.
pub struct Dumbbell {
    now: Mono,
    flows: Vec<Flow>,
    forward: Link,
    back: Link,
    packets: BTreeMap<(Mono, u64), Packet>,
    packets_made: u64,
    waits: Vec<Duration>,
    measured_since: Mono,
    stalls: Stalls,
}

/// When machines do nothing, as where their host has too many of them; what comes meanwhile waits.
#[derive(Clone, Debug, Default)]
pub struct Stalls {
    /// Those of the writers.
    pub writers: Vec<Stall>,
    /// Those of the readers.
    pub readers: Vec<Stall>,
    /// Those of the bottleneck, both ways.
    pub bottleneck: Vec<Stall>,
}

/// From when until when, counted from the beginning.
pub type Stall = Range<Duration>;

struct Flow {
    writer: Transport,
    reader: Transport,
    stream: StreamId,
    /// What is written again and again.
    data: Bytes,
    stats: FlowStats,
}

/// Who a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Writer,
    Reader,
}

struct Packet {
    flow: usize,
    to: End,
    pn: PacketNumber,
    frames: Vec<u8>,
}

impl Dumbbell {
    /// A bottleneck without flows, and the way back.
    pub fn new(seed: u64, bottleneck: LinkConfig, back: LinkConfig) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let rng = Rng::new(bytes);
        Self {
            now: START,
            flows: Vec::new(),
            forward: Link::new(bottleneck, rng.child("forward")),
            back: Link::new(back, rng.child("back")),
            packets: BTreeMap::new(),
            packets_made: 0,
            waits: Vec::new(),
            measured_since: START,
            stalls: Stalls::default(),
        }
    }

    /// Lets machines do nothing at these times, which are in order.
    pub fn stall(&mut self, stalls: Stalls) {
        self.stalls = stalls;
    }

    /// Starts a flow that has data to send for ever.
    ///
    /// # Panics
    /// If the peer's limits leave no room for one stream.
    pub fn add_flow(&mut self, config: &TransportConfig) -> FlowId {
        let [mut writer, reader] = [true, false].map(|opens_even| self.transport(config, opens_even));
        let stream = writer.open_stream(&StreamHeader::new(ServicePort::ECHO)).expect("room for one stream");
        let data = Bytes::from(vec![0; WRITE_LEN]);
        self.flows.push(Flow { writer, reader, stream, data, stats: FlowStats::default() });
        let flow = self.flows.len() - 1;
        self.turn(flow, End::Writer);
        FlowId(flow)
    }

    /// Lets virtual time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, flow, end_of_flow)) = self.next().filter(|next| next.0 <= end) {
            self.now = self.now.max(at);
            for _ in 0..BATCH {
                let is_next = |packet: &Packet| (packet.flow, packet.to) == (flow, end_of_flow);
                let next = self.packets.first_entry().filter(|entry| entry.key().0 == at && is_next(entry.get()));
                let Some(entry) = next else { break };
                self.flows[flow].take(self.now, entry.remove());
            }
            self.turn(flow, end_of_flow);
        }
        self.now = end;
    }

    /// Forgets how long datagrams have waited so far.
    pub fn forget_waits(&mut self) {
        self.waits.clear();
    }

    /// Forgets what was measured so far.
    pub fn begin_measurement(&mut self) {
        self.forget_waits();
        self.measured_since = self.now;
        self.flows.iter_mut().for_each(|flow| flow.stats = FlowStats::default());
    }

    /// What became of a flow since the measurement began.
    pub fn stats(&self, flow: FlowId) -> FlowStats {
        self.flows[flow.0].stats
    }

    /// What the writer of a flow knows of its path.
    pub fn path_stats(&self, flow: FlowId) -> Option<PathStats> {
        self.flows[flow.0].writer.path_stats(PATH)
    }

    /// Megabits that the reader of a flow has got each second.
    pub fn goodput_mbit(&self, flow: FlowId) -> f64 {
        self.stats(flow).delivered as f64 * 8.0 / 1e6 / self.now.since(self.measured_since).as_secs_f64()
    }

    /// How long the datagrams waited in the queue, at this percentile of them.
    pub fn queue_wait(&self, percentile: usize) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        waits.get((waits.len() * percentile / 100).min(waits.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    fn transport(&self, config: &TransportConfig, opens_even: bool) -> Transport {
        let mut transport = Transport::new(config, opens_even, config.local_limits(), self.now);
        let params = PathParams {
            max_packet: BASE,
            probe_mtu_to: Some(ETHERNET_PACKET_LEN),
            initial_rtt: None,
            is_proved: true,
        };
        transport.add_path(PATH, params);
        transport.set_active_path(PATH);
        transport
    }

    /// When something happens next, and to whom if it is a timer.
    fn next(&self) -> Option<(Mono, usize, End)> {
        let arrival = self.packets.first_key_value().map(|(&(at, _), packet)| (at, packet.flow, packet.to));
        let ends = |(index, flow): (usize, &Flow)| {
            let writer = flow.writer.poll_timeout().map(|at| (awake(&self.stalls.writers, at), index, End::Writer));
            let reader = flow.reader.poll_timeout().map(|at| (awake(&self.stalls.readers, at), index, End::Reader));
            writer.into_iter().chain(reader).min_by_key(|next| next.0)
        };
        let timer = self.flows.iter().enumerate().filter_map(ends).min_by_key(|next| next.0);
        arrival.into_iter().chain(timer).min_by_key(|next| next.0)
    }

    /// One turn of one end's loop: timers, its program, and what it then sends.
    fn turn(&mut self, index: usize, end: End) {
        let flow = &mut self.flows[index];
        flow.work(self.now, end);
        let transport = flow.transport(end);
        let mut sent = Vec::new();
        while let Some(path) = transport.next_path(self.now) {
            let (segment_len, burst_len) = (transport.segment_len(path), transport.burst_len(self.now, path));
            let mut batch = 0;
            while batch < burst_len {
                let mut frames = Vec::with_capacity(segment_len);
                let Some(pn) = transport.poll_packet(self.now, path, &mut frames) else { break };
                let len = frames.len() + PACKET_OVERHEAD;
                sent.push((pn, frames));
                batch += len;
                if len < segment_len {
                    break;
                }
            }
        }
        sent.into_iter().for_each(|(pn, frames)| self.carry(index, end, pn, frames));
    }

    fn carry(&mut self, flow: usize, from: End, pn: PacketNumber, frames: Vec<u8>) {
        let mut datagram = vec![0; frames.len() + PACKET_OVERHEAD];
        let (link, to) = match from {
            End::Writer => (&mut self.forward, End::Reader),
            End::Reader => (&mut self.back, End::Writer),
        };
        let taken_at = awake(&self.stalls.bottleneck, self.now);
        let wait = link.wait(taken_at);
        let passage = link.send(taken_at, &mut datagram);
        if from == End::Writer {
            self.flows[flow].stats.sent += datagram.len() as u64;
            self.flows[flow].stats.dropped_at_queue += u64::from(passage.is_queue_full());
            self.waits.push(wait);
        }
        if let Some(at) = passage.arrivals[0] {
            let stalls = if to == End::Writer { &self.stalls.writers } else { &self.stalls.readers };
            let at = awake(stalls, awake(&self.stalls.bottleneck, at));
            self.packets.insert((at, self.packets_made), Packet { flow, to, pn, frames });
            self.packets_made += 1;
        }
    }
}

/// When a machine gets to what is due now.
fn awake(stalls: &[Stall], at: Mono) -> Mono {
    let next = stalls.partition_point(|stall| START + stall.end <= at);
    stalls.get(next).filter(|stall| START + stall.start <= at).map_or(at, |stall| START + stall.end)
}

impl Flow {
    fn transport(&mut self, end: End) -> &mut Transport {
        match end {
            End::Writer => &mut self.writer,
            End::Reader => &mut self.reader,
        }
    }

    /// Takes a packet that has arrived.
    ///
    /// # Panics
    /// If the ends do not understand each other.
    fn take(&mut self, now: Mono, packet: Packet) {
        let Packet { to, pn, frames, .. } = packet;
        self.transport(to).handle_packet(now, PATH, pn, false, &frames).expect("both ends keep the protocol");
    }

    fn work(&mut self, now: Mono, end: End) {
        self.transport(end).handle_timeout(now);
        while self.transport(end).poll_event().is_some() {}
        match end {
            End::Writer => while self.writer.write(self.stream, &mut self.data.clone()) != Ok(0) {},
            End::Reader => self.read(now),
        }
    }

    fn read(&mut self, now: Mono) {
        while let Ok(Read::Data(data)) = self.reader.read(self.stream, usize::MAX) {
            self.stats.delivered += data.len() as u64;
        }
        let wanted = self.reader.credit_wanted(now);
        self.reader.grant_credit(wanted);
    }
}
