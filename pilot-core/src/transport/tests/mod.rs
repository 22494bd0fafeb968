//! Two transports on virtual time, joined by links with delay, loss, reordering and duplication from a seed. The books are checked
//! after every step.

use std::collections::BTreeMap;
use std::ops::Range;

use super::*;

mod frames;
mod lives;
mod paths;
mod recovery;
mod scale;
mod streams;

const MS: Duration = Duration::from_millis(1);
const RELAY: PathId = PathId(1);
const DIRECT: PathId = PathId(2);

/// One path between the two, the same in both directions.
#[derive(Clone, Debug)]
struct Link {
    delay: Duration,
    /// Each packet is up to this much later.
    jitter: Duration,
    /// Of 1000 packets.
    lost: u64,
    duplicated: u64,
    /// Longer packets get lost, with header and tag.
    len_max: usize,
    /// Sides (0, 1) whose packets all get lost.
    blocked: [bool; 2],
}

#[derive(Debug)]
struct Side {
    transport: Transport,
    events: Vec<TransportEvent>,
    received: BTreeMap<StreamId, Vec<u8>>,
    finished: Vec<StreamId>,
    /// Data still to be written.
    to_write: BTreeMap<StreamId, Bytes>,
    /// What is read is written back.
    echoes: bool,
    reads: bool,
}

struct Packet {
    to: usize,
    path: PathId,
    pn: PacketNumber,
    payload: Vec<u8>,
}

struct Pair {
    now: Mono,
    sides: [Side; 2],
    links: BTreeMap<PathId, Link>,
    packets: BTreeMap<(Mono, u64), Packet>,
    sent_count: u64,
    /// Packets to lose, by the order in which they were sent.
    lose: Range<u64>,
    random: u64,
    largest_sent: usize,
    error: Option<TransportError>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: 20 * MS,
            jitter: Duration::ZERO,
            lost: 0,
            duplicated: 0,
            len_max: usize::MAX,
            blocked: [false; 2],
        }
    }
}

fn params() -> PathParams {
    PathParams { max_packet: PACKET_LEN_MIN, probe_mtu_to: None, initial_rtt: None, is_proved: true }
}

/// What every stream carries at this offset.
fn pattern_at(offset: usize) -> u8 {
    (offset * 7 % 253) as u8
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(pattern_at).collect()
}

impl Pair {
    fn new(seed: u64, link: Link) -> Self {
        Self::with_config(seed, link, &TransportConfig::default(), params())
    }

    fn with_config(seed: u64, link: Link, config: &TransportConfig, params: PathParams) -> Self {
        let now = Mono(1_000_000_000);
        let side = |opens_even| {
            let mut transport = Transport::new(config, opens_even, config.local_limits(), now);
            transport.add_path(RELAY, params);
            transport.set_active_path(RELAY);
            Side {
                transport,
                events: Vec::new(),
                received: BTreeMap::new(),
                finished: Vec::new(),
                to_write: BTreeMap::new(),
                echoes: false,
                reads: true,
            }
        };
        Self {
            now,
            sides: [side(true), side(false)],
            links: BTreeMap::from([(RELAY, link)]),
            packets: BTreeMap::new(),
            sent_count: 0,
            lose: 0..0,
            random: seed,
            largest_sent: 0,
            error: None,
        }
    }

    fn link(&mut self, path: PathId) -> &mut Link {
        self.links.get_mut(&path).unwrap()
    }

    fn random(&mut self, below: u64) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.random ^ self.random >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % below.max(1)
    }

    fn open(&mut self, side: usize) -> StreamId {
        self.sides[side].transport.open_stream(&StreamHeader::new(ServicePort::ECHO)).unwrap()
    }

    /// Opens a stream on side 0, writes `len` bytes to it and ends it.
    fn send(&mut self, len: usize) -> StreamId {
        let stream = self.open(0);
        self.sides[0].to_write.insert(stream, pattern(len));
        stream
    }

    /// Lets both applications work and both transports send, then goes on to the next moment at which something happens.
    fn step(&mut self) -> bool {
        self.settle();
        let timers = self.sides.iter().filter_map(|side| side.transport.poll_timeout());
        let Some(next) = timers.chain(self.packets.keys().next().map(|(at, _)| *at)).min() else { return false };
        self.now = self.now.max(next);
        while let Some(entry) = self.packets.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let packet = entry.remove();
            let result =
                self.sides[packet.to].transport.handle_packet(self.now, packet.path, packet.pn, false, &packet.payload);
            self.error = self.error.or(result.err());
        }
        self.sides.iter_mut().for_each(|side| side.transport.handle_timeout(self.now));
        true
    }

    fn settle(&mut self) {
        for index in 0..2 {
            self.sides[index].work();
            self.drain(index);
            self.sides[index].work();
            self.drain(index);
            let transport = &mut self.sides[index].transport;
            let wanted = transport.credit_wanted(self.now);
            transport.grant_credit(wanted);
        }
        for side in &self.sides {
            side.transport.audit().check(self.now).unwrap_or_else(|violation| panic!("{violation}"));
        }
    }

    fn drain(&mut self, from: usize) {
        while let Some(path) = self.sides[from].transport.next_path(self.now) {
            let transport = &mut self.sides[from].transport;
            let (segment_len, burst_len) = (transport.segment_len(path), transport.burst_len(self.now, path));
            let mut batch = 0;
            while batch < burst_len {
                let mut payload = Vec::new();
                let Some(pn) = self.sides[from].transport.poll_packet(self.now, path, &mut payload) else { break };
                let len = payload.len() + PACKET_OVERHEAD;
                assert!(len <= segment_len, "{len} bytes in a train of {segment_len}");
                batch += len;
                self.carry(from, path, pn, payload);
                if len < segment_len {
                    break;
                }
            }
            assert!(batch > 0, "a path was named that had nothing to send");
        }
    }

    fn carry(&mut self, from: usize, path: PathId, pn: PacketNumber, payload: Vec<u8>) {
        let link = self.links[&path].clone();
        let len = payload.len() + PACKET_OVERHEAD;
        let is_chosen = self.lose.contains(&self.sent_count);
        self.sent_count += 1;
        self.largest_sent = self.largest_sent.max(len);
        if is_chosen || link.blocked[from] || len > link.len_max || self.random(1_000) < link.lost {
            return;
        }
        let copies = if self.random(1_000) < link.duplicated { 2 } else { 1 };
        for copy in 0..copies {
            let late = Duration::from_nanos(self.random(u64::try_from(link.jitter.as_nanos()).unwrap()));
            let packet = Packet { to: 1 - from, path, pn, payload: payload.clone() };
            self.packets.insert((self.now + link.delay + late, self.sent_count * 2 + copy), packet);
        }
    }

    fn run(&mut self, what: &str, mut until: impl FnMut(&Self) -> bool) -> Duration {
        let start = self.now;
        for _ in 0..2_000_000 {
            self.settle();
            if until(self) {
                return self.now.since(start);
            }
            assert!(self.step(), "everything is silent before {what}");
            assert_eq!(self.error, None);
        }
        panic!("{what} does not happen");
    }

    fn run_until_finished(&mut self, stream: StreamId, len: usize) -> Duration {
        let time = self.run("the end of the stream", |pair| pair.sides[1].finished.contains(&stream));
        assert_eq!(self.sides[1].received.get(&stream).map_or(0, Vec::len), len);
        time
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next_at().is_some_and(|next| next <= end) {
            self.step();
        }
        self.now = end;
    }

    fn next_at(&mut self) -> Option<Mono> {
        self.settle();
        let timers = self.sides.iter().filter_map(|side| side.transport.poll_timeout());
        timers.chain(self.packets.keys().next().map(|(at, _)| *at)).min()
    }

    fn run_until_silent(&mut self) {
        let end = self.now + Duration::from_secs(60);
        while self.step() {
            assert!(self.now < end, "never silent");
        }
        assert!(self.sides.iter().all(|side| side.transport.poll_timeout().is_none()));
    }

    fn stats(&self, side: usize, path: PathId) -> PathStats {
        self.sides[side].transport.path_stats(path).unwrap()
    }
}

impl Side {
    /// The application: writes what it has, reads what there is, and answers an end with its own.
    fn work(&mut self) {
        while let Some(event) = self.transport.poll_event() {
            self.events.push(event);
        }
        for (stream, data) in &mut self.to_write {
            while !data.is_empty() {
                match self.transport.write(*stream, data) {
                    Ok(0) => break,
                    Ok(_) => {}
                    // Nobody wants it any more.
                    Err(_) => data.clear(),
                }
            }
            if data.is_empty() && (!self.echoes || self.finished.contains(stream)) {
                let _already_finished = self.transport.finish(*stream);
            }
        }
        let streams: Vec<_> = self.transport.streams().filter(|_| self.reads).collect();
        streams.into_iter().for_each(|stream| self.read(stream));
    }

    fn read(&mut self, stream: StreamId) {
        loop {
            let is_full = self.echoes && self.to_write.get(&stream).is_some_and(|data| !data.is_empty());
            match self.transport.read(stream, if is_full { 0 } else { 64 * 1024 }) {
                Ok(Read::Data(data)) => {
                    let received = self.received.entry(stream).or_default();
                    let is_prefix = (received.len()..).zip(&data).all(|(offset, byte)| *byte == pattern_at(offset));
                    assert!(is_prefix, "the bytes differ");
                    received.extend_from_slice(&data);
                    if self.echoes {
                        self.to_write.insert(stream, data);
                        return;
                    }
                }
                Ok(Read::Finished) => {
                    self.finished.push(stream);
                    self.to_write.entry(stream).or_default();
                    return;
                }
                Ok(Read::Blocked) | Err(_) => return,
            }
        }
    }

    fn has(&self, wanted: &TransportEvent) -> bool {
        self.events.contains(wanted)
    }
}
