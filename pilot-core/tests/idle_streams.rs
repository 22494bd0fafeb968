//! What an idle stream costs, and the transport of an idle tunnel, counted by the allocator (spec/streams.md §9).
#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pilot_core::id::{PacketNumber, PathId, ServicePort, StreamId};
use pilot_core::time::Mono;
use pilot_core::transport::{PACKET_LEN_MIN, PathParams, Read, Transport, TransportConfig, TransportEvent};
use pilot_core::wire::stream_header::StreamHeader;

/// What a stream may cost that is open and has nothing to do, on either side, with its part of every table.
const IDLE_STREAM_BYTES_MAX: usize = 200;
/// What the transport of a tunnel may keep beside itself that has one path and nothing to do.
const IDLE_TRANSPORT_BYTES_MAX: usize = 2_048;
/// One more than seven eighths of a power of two: the table of ids has just doubled.
const STREAMS: usize = 3_585;
const MESSAGE: &[u8] = &[7; 300];
const PATH: PathId = PathId(1);
const ONE_WAY: Duration = Duration::from_millis(5);

/// Counts the bytes in use.
struct Counting;

/// Held by the test whose bytes are counted.
static COUNTED: Mutex<()> = Mutex::new(());
static IN_USE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes on to the system's allocator as it came; only sizes are noted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Two transports, and a wire that loses nothing.
struct Pair {
    now: Mono,
    sides: [Transport; 2],
    /// By arrival, with the side that they are for.
    wire: Vec<(usize, PacketNumber, Vec<u8>)>,
}

impl Pair {
    fn new() -> Self {
        let config = TransportConfig::default().max_streams(2 * STREAMS as u64);
        let now = Mono(1_000_000_000);
        let path = PathParams { max_packet: PACKET_LEN_MIN, probe_mtu_to: None, initial_rtt: None, is_proved: true };
        let side = |opens_even| {
            let mut transport = Transport::new(&config, opens_even, config.local_limits(), now);
            transport.add_path(PATH, path);
            transport.set_active_path(PATH);
            transport
        };
        Self { now, sides: [side(true), side(false)], wire: Vec::new() }
    }

    /// Lets everything happen until nothing more does. Whoever is told something on a stream says `MESSAGE` once, and reads.
    fn run(&mut self) {
        loop {
            for side in 0..2 {
                self.work(side);
                self.send(side);
                self.sides[side].audit().check(self.now).unwrap();
            }
            let timers = self.sides.iter().filter_map(Transport::poll_timeout).min();
            let arrivals = (!self.wire.is_empty()).then(|| self.now + ONE_WAY);
            let Some(next) = timers.into_iter().chain(arrivals).min() else { return };
            self.now = self.now.max(next);
            if arrivals.is_some_and(|at| at <= self.now) {
                for (to, pn, payload) in std::mem::take(&mut self.wire) {
                    self.sides[to].handle_packet(self.now, PATH, pn, false, &payload).unwrap();
                }
            }
            self.sides.iter_mut().for_each(|side| side.handle_timeout(self.now));
        }
    }

    fn work(&mut self, side: usize) {
        let transport = &mut self.sides[side];
        while let Some(event) = transport.poll_event() {
            if let TransportEvent::StreamOpened { stream, .. } = event {
                say(transport, stream);
            }
            if let TransportEvent::Readable(stream) = event {
                while let Read::Data(_) = transport.read(stream, 1 << 20).unwrap() {}
            }
        }
    }

    fn send(&mut self, side: usize) {
        while self.sides[side].next_path(self.now).is_some() {
            let mut payload = Vec::new();
            let pn = self.sides[side].poll_packet(self.now, PATH, &mut payload).unwrap();
            self.wire.push((1 - side, pn, payload));
        }
    }
}

fn say(transport: &mut Transport, stream: StreamId) {
    assert_eq!(transport.write(stream, &mut Bytes::from_static(MESSAGE)), Ok(MESSAGE.len()));
}

#[test]
fn thousands_of_idle_streams_take_less_than_200_bytes_each() {
    let _counted = COUNTED.lock();
    let mut pair = Pair::new();
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let stream = pair.sides[0].open_stream(&StreamHeader::new(ServicePort::QUERY)).unwrap();
        say(&mut pair.sides[0], stream);
        streams.push(stream);
    }
    pair.run();
    assert!(pair.sides.iter().all(|side| side.open_stream_count() == STREAMS));
    let [opener, other] = pair.sides;
    for (name, transport) in [("opener", opener), ("other", other)] {
        let audit = transport.audit();
        assert!(audit.streams.iter().all(|stream| stream.received >= 300 && stream.send_buffered == 0), "{name}");
        drop(audit);
        let before = IN_USE.load(Ordering::Relaxed);
        drop(transport);
        let bytes = (before - IN_USE.load(Ordering::Relaxed)) / STREAMS;
        println!("{name}: {bytes} bytes a stream");
        assert!(bytes < IDLE_STREAM_BYTES_MAX, "{name}: {bytes} bytes a stream");
    }
}

#[test]
fn the_transport_of_an_idle_tunnel_keeps_no_room_for_what_it_has_sent() {
    let _counted = COUNTED.lock();
    let mut pair = Pair::new();
    for _ in 0..100 {
        let stream = pair.sides[0].open_stream(&StreamHeader::new(ServicePort::QUERY)).unwrap();
        say(&mut pair.sides[0], stream);
        pair.run();
        pair.sides.iter_mut().for_each(|side| side.finish(stream).unwrap());
        pair.run();
    }
    assert!(pair.sides.iter().all(|side| side.open_stream_count() == 0));
    let [opener, other] = pair.sides;
    for (name, transport) in [("opener", opener), ("other", other)] {
        let before = IN_USE.load(Ordering::Relaxed);
        drop(transport);
        let bytes = before - IN_USE.load(Ordering::Relaxed);
        println!("{name}: {bytes} bytes beside {}", size_of::<Transport>());
        assert!(bytes < IDLE_TRANSPORT_BYTES_MAX, "{name}: {bytes} bytes");
    }
}
