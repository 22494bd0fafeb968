//! Two nodes on a wire on which everything can happen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use pilot_core::config::{Config, Role};
use pilot_core::event::{Event, StreamHandle};
use pilot_core::id::{IdentityKey, ServicePort};
use pilot_core::node::{Node, PeerInfo};
use pilot_core::route::{Ecn, Route};
use pilot_core::time::{Mono, Now};
use pilot_core::transport::{Code, Read};
use pilot_core::wire::stream_header::StreamHeader;

use crate::keys::{START, keys};

/// Steps of one input: more would only make runs slow.
const STEPS_MAX: usize = 128;
/// Datagrams on the wire at once: a full one loses what comes.
const WIRE_MAX: usize = 256;
/// Trains and events of one turn. A correct node stays far below.
const TURN_OUTPUT_MAX: usize = 10_000;
/// Timers handled within one wait: a tunnel that is in use probes every second.
const TIMERS_PER_WAIT_MAX: usize = 1_000;
/// One way over the wire once it works again.
const ONE_WAY: Duration = Duration::from_millis(5);
/// Once nothing is lost any more, a request arrives within this: what can stand in its way is the longest pause between two messages of a
/// handshake, and then a rest after UNKNOWN.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// Certificates end after seven days; renewing them is the driver's part.
const CERTIFICATES_GOOD_FOR: Duration = Duration::from_hours(6 * 24);
/// The service of the request that shows it.
const LAST_PORT: ServicePort = ServicePort(4_242);
/// Where each host is to be found; it may roam to the others.
const HOME: u8 = 1;

/// What happens. A host is 0 or 1; a datagram, a stream is counted modulo how many there are.
#[derive(Arbitrary, Debug)]
enum Step {
    Connect {
        host: bool,
    },
    Open {
        host: bool,
        urgency: u8,
    },
    Write {
        host: bool,
        stream: u8,
        len: u16,
    },
    Finish {
        host: bool,
        stream: u8,
    },
    Reset {
        host: bool,
        stream: u8,
    },
    StopSending {
        host: bool,
        stream: u8,
    },
    Read {
        host: bool,
        stream: u8,
        len: u16,
    },
    Datagram {
        host: bool,
        len: u16,
    },
    Close {
        host: bool,
    },
    Restart {
        host: bool,
    },
    AllowDirect {
        host: bool,
        allowed: bool,
    },
    Roam {
        host: bool,
        last: u8,
    },
    Deliver {
        which: u8,
    },
    DeliverAll,
    Drop {
        which: u8,
    },
    DropAll,
    Duplicate {
        which: u8,
    },
    Flip {
        which: u8,
        bit: u16,
    },
    Cut {
        which: u8,
        len: u16,
    },
    Redirect {
        which: u8,
        last: u8,
    },
    Wait {
        ms: u16,
    },
    WaitLong {
        secs: u8,
    },
    /// Time passes and no timer is handled.
    Suspend {
        secs: u16,
    },
    SetClock {
        host: bool,
        secs: i16,
    },
    Junk {
        host: bool,
        bytes: [u8; 24],
    },
}

/// Plays the steps that the bytes stand for, then a wire that works.
///
/// # Panics
/// If the books of a tunnel are wrong after any step, a stream delivers what was not written, a node does not come to rest, or a request
/// does not arrive once the wire works.
pub fn node(data: &[u8]) {
    let mut play = Play::new();
    let mut input = Unstructured::new(data);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else { break };
        play.step(step);
        play.settle();
    }
    play.heal();
}

struct Play {
    now: Mono,
    hosts: [Host; 2],
    wire: Vec<Packet>,
    /// Whether a wall clock was set: what then is refused as old is refused for good reason.
    is_clock_stepped: bool,
}

struct Host {
    position: usize,
    node: Node,
    address: SocketAddr,
    clock_step: i64,
    boots: u8,
    /// The streams that are not over, with the bytes written and read.
    streams: BTreeMap<StreamHandle, (u64, u64)>,
    has_heard_last: bool,
}

struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    datagram: Vec<u8>,
}

fn address(position: usize, last: u8) -> SocketAddr {
    ([192, 0, position as u8, last], 4_000).into()
}

fn key(position: usize) -> IdentityKey {
    keys(position).certificate.identity
}

/// The byte at this place of what the host at `position` writes.
fn pattern(position: usize, stream: StreamHandle, at: u64) -> u8 {
    (at as u8).wrapping_mul(31) ^ (stream.stream_id().0 as u8) ^ position as u8
}

impl Host {
    fn new(position: usize, boots: u8, now: Mono, clock_step: i64) -> Self {
        let now = clock(now, clock_step);
        let seed = [boots.wrapping_mul(2).wrapping_add(position as u8 + 1); 32];
        let mut node = Node::new(Config::new(Role::Agent).replay_safe(&[ServicePort::ECHO]), keys(position), seed, now);
        let addresses = vec![address(1 - position, HOME)];
        node.learn_peer(now, PeerInfo { key: key(1 - position), certificate: None, addresses, homes: Vec::new() });
        let (address, streams) = (address(position, HOME), BTreeMap::new());
        Self { position, node, address, clock_step, boots, streams, has_heard_last: false }
    }

    fn clock(&self, now: Mono) -> Now {
        clock(now, self.clock_step)
    }

    fn stream(&self, which: u8) -> Option<StreamHandle> {
        let place = usize::from(which).checked_rem(self.streams.len())?;
        self.streams.keys().nth(place).copied()
    }

    fn open(&mut self, now: Mono, port: ServicePort, urgency: u8) -> Option<StreamHandle> {
        let mut header = StreamHeader::new(port);
        header.replay_safe = urgency & 0x80 != 0;
        header.urgency = urgency % (StreamHeader::URGENCY_MAX + 1);
        let stream = self.node.open_stream(self.clock(now), &key(1 - self.position), &header).ok()?;
        self.streams.insert(stream, (0, 0));
        Some(stream)
    }

    fn write(&mut self, now: Mono, stream: StreamHandle, len: usize) {
        let (now, position) = (self.clock(now), self.position);
        let Some((written, _)) = self.streams.get_mut(&stream) else { return };
        let mut data: Bytes = (*written..).take(len).map(|at| pattern(position, stream, at)).collect();
        // A stream that is over refuses: nothing was written then.
        if let Ok(taken) = self.node.write(now, stream, &mut data) {
            assert_eq!(data.len() + taken, len);
            *written += taken as u64;
        }
    }

    /// Reads and compares. Returns whether there was anything.
    fn read(&mut self, now: Mono, stream: StreamHandle, len_max: usize) -> bool {
        let Ok(Read::Data(data)) = self.node.read(self.clock(now), stream, len_max) else { return false };
        assert!(!data.is_empty() && data.len() <= len_max);
        let writer = 1 - self.position;
        let (_, read) = self.streams.get_mut(&stream).expect("a stream that has data is not over");
        for (at, byte) in (*read..).zip(&data) {
            assert_eq!(*byte, pattern(writer, stream, at), "byte {at} of {stream:?}");
        }
        *read += data.len() as u64;
        true
    }

    /// Takes an event, and notes which streams there are.
    fn handle(&mut self, event: Event) {
        if let Event::StreamOpened { stream, peer, header, .. } = event {
            assert_eq!(peer, key(1 - self.position));
            assert!(self.streams.insert(stream, (0, 0)).is_none(), "a stream opens once");
            self.has_heard_last |= header.port == LAST_PORT;
        } else if let Event::StreamClosed(stream) = event {
            assert!(self.streams.remove(&stream).is_some(), "a stream closes once");
        }
    }

    /// Handles what is due, takes all output, and looks at the books.
    fn turn(&mut self, now: Mono, wire: &mut Vec<Packet>) {
        self.node.handle_timeout(self.clock(now));
        self.drain(now, wire);
        // Sending may have armed a timer for this very moment; a second time there is no reason to.
        if self.node.poll_timeout().is_some_and(|due| due <= now) {
            self.node.handle_timeout(self.clock(now));
            self.drain(now, wire);
        }
        let due = self.node.poll_timeout();
        assert!(due.is_none_or(|due| due > now), "a timer is due after it was handled");
        for (_, audit) in self.node.audit(now) {
            if let Err(violation) = audit.check(now) {
                panic!("host {}: {violation}", self.position);
            }
        }
    }

    fn drain(&mut self, now: Mono, wire: &mut Vec<Packet>) {
        let mut buf = Vec::new();
        for _ in 0..TURN_OUTPUT_MAX {
            if let Some(event) = self.node.poll_event() {
                self.handle(event);
                continue;
            }
            buf.clear();
            let Some(transmit) = self.node.poll_transmit(self.clock(now), &mut buf) else { return };
            assert_eq!(buf.len(), transmit.len);
            for datagram in buf.chunks(transmit.segment_size.unwrap_or(transmit.len)) {
                if wire.len() < WIRE_MAX {
                    wire.push(Packet { from: self.address, to: transmit.route.remote, datagram: datagram.to_vec() });
                }
            }
        }
        panic!("no end of output");
    }
}

/// Both clocks of a host whose wall clock was set by so many seconds.
fn clock(mono: Mono, step: i64) -> Now {
    let (unix, by) = (START.unix + mono.since(START.mono), Duration::from_secs(step.unsigned_abs()));
    Now { mono, unix: if step < 0 { unix - by } else { unix + by } }
}

impl Play {
    fn new() -> Self {
        let hosts = [0, 1].map(|position| Host::new(position, 0, START.mono, 0));
        Self { now: START.mono, hosts, wire: Vec::new(), is_clock_stepped: false }
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Connect { host } => {
                let host = self.host(host);
                host.node.connect(host.clock(now), &key(1 - host.position)).expect("a known peer");
            }
            Step::Open { host, urgency } => {
                self.host(host).open(now, ServicePort::ECHO, urgency);
            }
            Step::Write { host, stream, len } => {
                self.with_stream(host, stream, |host, stream| host.write(now, stream, usize::from(len)));
            }
            Step::Finish { host, stream } => self.with_stream(host, stream, |host, stream| {
                let _was_open = host.node.finish(host.clock(now), stream);
            }),
            Step::Reset { host, stream } => self.with_stream(host, stream, |host, stream| {
                host.node.reset(host.clock(now), stream, Code::CANCELLED, "enough");
            }),
            Step::StopSending { host, stream } => self.with_stream(host, stream, |host, stream| {
                host.node.stop_sending(host.clock(now), stream, Code::CANCELLED, "enough");
            }),
            Step::Read { host, stream, len } => self.with_stream(host, stream, |host, stream| {
                host.read(now, stream, usize::from(len) + 1);
            }),
            Step::Datagram { host, len } => {
                let host = self.host(host);
                let data = Bytes::from(vec![7; usize::from(len)]);
                let _taken = host.node.send_datagram(&key(1 - host.position), ServicePort::ECHO, data);
            }
            Step::Close { host } => {
                let host = self.host(host);
                host.node.close_peer(host.clock(now), &key(1 - host.position), Code::SHUTDOWN, "closed");
            }
            Step::Restart { host } => {
                let host = self.host(host);
                *host = Host::new(host.position, host.boots.wrapping_add(1), now, host.clock_step);
            }
            Step::AllowDirect { host, allowed } => {
                let host = self.host(host);
                host.node.set_direct(host.clock(now), allowed);
            }
            Step::Roam { host, last } => {
                let host = self.host(host);
                host.address = address(host.position, last % 4);
                host.node.set_local_addresses(clock(now, host.clock_step), &[host.address]);
            }
            Step::SetClock { host, secs } => {
                self.host(host).clock_step = secs.into();
                self.is_clock_stepped = true;
            }
            Step::Junk { host, bytes } => {
                let host = self.host(host);
                host.node.handle_datagram(host.clock(now), Route::to(address(7, 7)), Ecn::NotEct, &mut bytes.clone());
            }
            Step::Wait { ms } => self.wait(Duration::from_millis(ms.into())),
            Step::WaitLong { secs } => self.wait(Duration::from_secs(secs.into())),
            Step::Suspend { secs } => self.now = now + Duration::from_secs(secs.into()),
            Step::DeliverAll => self.deliver_all(),
            Step::DropAll => self.wire.clear(),
            Step::Deliver { which } => {
                if let Some(at) = self.packet(which) {
                    let packet = self.wire.remove(at);
                    self.deliver(packet);
                }
            }
            Step::Drop { which } => {
                self.packet(which).map(|at| self.wire.swap_remove(at));
            }
            Step::Duplicate { which } => {
                if let Some(Packet { from, to, datagram }) = self.packet(which).map(|at| &self.wire[at]) {
                    let copy = Packet { from: *from, to: *to, datagram: datagram.clone() };
                    self.wire.push(copy);
                }
            }
            Step::Flip { which, bit } => {
                if let Some(at) = self.packet(which) {
                    let datagram = &mut self.wire[at].datagram;
                    let bit = usize::from(bit) % (datagram.len() * 8);
                    datagram[bit / 8] ^= 1 << (bit % 8);
                }
            }
            Step::Cut { which, len } => {
                if let Some(at) = self.packet(which) {
                    let datagram = &mut self.wire[at].datagram;
                    datagram.truncate(usize::from(len).max(1));
                }
            }
            Step::Redirect { which, last } => {
                if let Some(at) = self.packet(which) {
                    let position = usize::from(self.wire[at].from.ip() != self.hosts[0].address.ip());
                    self.wire[at].from = address(position, last);
                }
            }
        }
    }

    fn host(&mut self, which: bool) -> &mut Host {
        &mut self.hosts[usize::from(which)]
    }

    fn with_stream(&mut self, host: bool, stream: u8, act: impl FnOnce(&mut Host, StreamHandle)) {
        let host = self.host(host);
        if let Some(stream) = host.stream(stream) {
            act(host, stream);
        }
    }

    fn packet(&self, which: u8) -> Option<usize> {
        usize::from(which).checked_rem(self.wire.len())
    }

    /// Hands a datagram to whoever is at its address.
    fn deliver(&mut self, Packet { from, to, mut datagram }: Packet) {
        let now = self.now;
        if let Some(host) = self.hosts.iter_mut().find(|host| host.address == to) {
            host.node.handle_datagram(host.clock(now), Route::to(from), Ecn::NotEct, &mut datagram);
        }
    }

    fn deliver_all(&mut self) {
        for packet in std::mem::take(&mut self.wire) {
            self.deliver(packet);
            self.settle();
        }
    }

    fn settle(&mut self) {
        for host in &mut self.hosts {
            host.turn(self.now, &mut self.wire);
        }
    }

    /// Time passes, from timer to timer.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..TIMERS_PER_WAIT_MAX {
            let next = self.hosts.iter().filter_map(|host| host.node.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next < until) else { break };
            self.now = next.max(self.now);
            self.settle();
        }
        self.now = self.now.max(until);
    }

    /// From now on both hosts are at home, everything arrives and everything is read: so must a last request.
    fn heal(&mut self) {
        let now = self.now;
        for host in &mut self.hosts {
            host.address = address(host.position, HOME);
            host.node.set_direct(clock(now, host.clock_step), true);
            host.node.set_local_addresses(clock(now, host.clock_step), &[host.address]);
        }
        self.settle();
        let until = self.now + HEALED_WITHIN;
        let mut last = None;
        while self.now < until && !self.hosts[1].has_heard_last {
            // A tunnel may end under the request: it is made again, as a program would.
            if last.is_none_or(|stream| !self.hosts[0].streams.contains_key(&stream)) {
                last = self.hosts[0].open(self.now, LAST_PORT, 0);
            }
            self.now = self.now + ONE_WAY;
            self.deliver_all();
            self.read_everything();
            self.settle();
            if self.wire.is_empty() {
                let next = self.hosts.iter().filter_map(|host| host.node.poll_timeout()).min();
                self.now = next.unwrap_or(until).clamp(self.now, until);
                self.settle();
            }
        }
        let is_excused = self.is_clock_stepped || now.since(START.mono) > CERTIFICATES_GOOD_FOR;
        assert!(is_excused || self.hosts[1].has_heard_last, "a request does not arrive over a wire that works");
    }

    fn read_everything(&mut self) {
        for host in &mut self.hosts {
            for stream in host.streams.keys().copied().collect::<Vec<_>>() {
                while host.read(self.now, stream, usize::MAX) {}
            }
        }
    }
}
