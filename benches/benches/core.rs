//! What the parts of `pilot-core` cost by themselves: `cargo bench -p pilot-bench`, under a minute.
//!
//! For watching one part change. What a user gets is measured by `pilot-bench figures`.
#![expect(clippy::unwrap_used, reason = "what fails here is the bench")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pilot_core::crypto::{AeadKey, KEY_LEN, TAG_LEN, nonce};
use pilot_core::handshake::{Acquaintances, Incoming, Initiator, Local, NO_PSK, Parameters};
use pilot_core::id::{InstanceId, PacketNumber, PathId, ServicePort, SessionIndex, TunnelId};
use pilot_core::identity::{Certificate, Identity, TransportKey};
use pilot_core::rng::Rng;
use pilot_core::time::{Mono, UnixTime};
use pilot_core::transport::{Congestion, PathParams, Read, Transport, TransportConfig};
use pilot_core::wire::codec::Reader;
use pilot_core::wire::frame::{self, Frame};
use pilot_core::wire::stream_header::StreamHeader;

/// Identities as (seed, modifier), worked out beforehand: deriving an address takes a million hashes.
const IDENTITIES: [([u8; 32], u64); 2] = [([1; 32], 1_459_568), ([2; 32], 115_065)];
const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);
const START: Mono = Mono(1_000_000_000);
const PATH: PathId = PathId(1);
/// Frames of a packet on an Ethernet.
const FRAMES_LEN: usize = 1_400;
/// Bytes of a transfer.
const TRANSFER_LEN: usize = 1 << 20;
/// Requests at once, and the bytes of each.
const REQUESTS: usize = 64;
const REQUEST_LEN: usize = 100;
/// Packets that one acknowledgement answers.
const FLIGHT_PACKETS: usize = 256;
const TICK: Duration = Duration::from_millis(1);

fn codec(criterion: &mut Criterion) {
    let mut frames = Vec::with_capacity(FRAMES_LEN);
    let encode = |frames: &mut Vec<u8>| {
        frames.clear();
        frame::put_ack(frames, 64, &[0..900, 902..950], 25, 0).unwrap();
        frame::put_stream_header(frames, 4, 1 << 20, FRAMES_LEN / 2, false, false);
        frames.resize(frames.len() + FRAMES_LEN / 2, 7);
        frame::put_max_data(frames, 1 << 30);
    };
    criterion.bench_function("codec/encode", |bencher| bencher.iter(|| encode(black_box(&mut frames))));
    encode(&mut frames);
    criterion.bench_function("codec/decode", |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::new(black_box(&frames));
            while !reader.is_empty() {
                black_box(Frame::decode(&mut reader).unwrap());
            }
        });
    });
}

fn aead(criterion: &mut Criterion) {
    let key = AeadKey::new(&[7; KEY_LEN]);
    let mut group = criterion.benchmark_group("aead");
    for len in [64, FRAMES_LEN, 16_000] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut buffer = vec![9; len];
        group.bench_function(format!("seal/{len}"), |bencher| {
            bencher.iter(|| key.seal_in_place(nonce(1), &[0; 13], &mut buffer));
        });
        let mut sealed = vec![9; len];
        let tag: [u8; TAG_LEN] = key.seal_in_place(nonce(1), &[0; 13], &mut sealed);
        sealed.extend_from_slice(&tag);
        group.bench_function(format!("copy and open/{len}"), |bencher| {
            bencher.iter_batched_ref(
                || sealed.clone(),
                |sealed| key.open_in_place(nonce(1), &[0; 13], sealed).unwrap().len(),
                BatchSize::SmallInput,
            );
        });
    }
}

struct Party {
    identity: Identity,
    transport: TransportKey,
    certificate: Certificate,
}

impl Party {
    fn new(which: usize) -> Self {
        let (seed, modifier) = IDENTITIES[which];
        let identity = Identity::restore(seed, modifier).unwrap();
        let transport = TransportKey::from_secret([which as u8 + 10; 32]);
        let certificate = Certificate::issue(&identity, &transport, InstanceId([which as u8; 8]), 1, NOW);
        Self { identity, transport, certificate }
    }

    fn local(&self) -> Local<'_> {
        Local { identity: &self.identity, certificate: &self.certificate, transport: &self.transport }
    }
}

fn handshake(criterion: &mut Criterion) {
    let (alice, bob) = (Party::new(0), Party::new(1));
    let (mut alice_rng, mut bob_rng) = (Rng::new([1; 32]), Rng::new([2; 32]));
    let (own, tunnel, parameters) = (SessionIndex(1), TunnelId([3; 16]), Parameters::default());
    criterion.bench_function("handshake/both sides", |bencher| {
        bencher.iter(|| {
            let (initiator, init) = Initiator::start(
                &alice.local(),
                &mut Acquaintances::default(),
                &bob.certificate,
                own,
                tunnel,
                &parameters,
                &[],
                NOW,
                &mut alice_rng,
            )
            .unwrap();
            let transports = std::slice::from_ref(&bob.transport);
            let incoming =
                Incoming::open(bob.identity.key(), transports, &mut Acquaintances::default(), &init, NOW).unwrap();
            let (_, resp) = incoming.respond(&bob.local(), SessionIndex(2), &NO_PSK, &parameters, &mut bob_rng);
            initiator.finish(&resp, &[NO_PSK], NOW).unwrap()
        });
    });
}

/// Two transports and the time between them; every packet arrives at the next tick.
struct Pair {
    now: Mono,
    sender: Transport,
    taker: Transport,
}

type Packets = Vec<(PacketNumber, Vec<u8>)>;

impl Pair {
    fn new() -> Self {
        Self::with(Congestion::default())
    }

    fn with(congestion: Congestion) -> Self {
        let config = TransportConfig::default().congestion(congestion);
        let [sender, taker] = [true, false].map(|opens_even| {
            let mut transport = Transport::new(&config, opens_even, config.local_limits(), START);
            let params = PathParams { max_packet: FRAMES_LEN, probe_mtu_to: None, initial_rtt: None, is_proved: true };
            transport.add_path(PATH, params);
            transport.set_active_path(PATH);
            transport
        });
        Self { now: START, sender, taker }
    }

    /// Opens a stream, writes to it and finishes it. What does not fit the send buffer is an error of the bench.
    fn send(&mut self, len: usize) {
        let stream = self.sender.open_stream(&StreamHeader::new(ServicePort::ECHO)).unwrap();
        assert_eq!(self.sender.write(stream, &mut Bytes::from(vec![7; len])), Ok(len));
        self.sender.finish(stream).unwrap();
    }

    /// Lets packets go both ways until no stream is open.
    fn complete(&mut self) {
        while self.sender.open_stream_count() + self.taker.open_stream_count() > 0 {
            self.now = self.now + TICK;
            let (to_taker, to_sender) = (packets(self.now, &mut self.sender), packets(self.now, &mut self.taker));
            deliver(self.now, &mut self.taker, to_taker);
            deliver(self.now, &mut self.sender, to_sender);
            self.taker.handle_timeout(self.now);
            self.sender.handle_timeout(self.now);
            answer(&mut self.taker);
            answer(&mut self.sender);
        }
    }

    /// An open flight, and the acknowledgement of every packet in it but each third.
    fn with_acknowledgement(congestion: Congestion) -> (Self, Packets) {
        let mut pair = Self::with(congestion);
        // The window opens.
        pair.send(TRANSFER_LEN);
        pair.complete();
        pair.send(2 * TRANSFER_LEN);
        let mut flight = Packets::new();
        while flight.len() < FLIGHT_PACKETS {
            pair.now = pair.now + TICK;
            flight.extend(packets(pair.now, &mut pair.sender));
        }
        let mut place = 0;
        flight.retain(|_| {
            place += 1;
            place % 3 != 0
        });
        deliver(pair.now, &mut pair.taker, flight);
        let acknowledgement = packets(pair.now, &mut pair.taker);
        (pair, acknowledgement)
    }
}

fn packets(now: Mono, from: &mut Transport) -> Packets {
    let mut packets = Packets::new();
    while let Some(path) = from.next_path(now) {
        let mut frames = Vec::with_capacity(FRAMES_LEN);
        while let Some(number) = from.poll_packet(now, path, &mut frames) {
            packets.push((number, std::mem::take(&mut frames)));
        }
    }
    packets
}

fn deliver(now: Mono, to: &mut Transport, packets: Packets) {
    for (number, frames) in packets {
        to.handle_packet(now, PATH, number, false, &frames).unwrap();
    }
    let wanted = to.credit_wanted(now);
    to.grant_credit(wanted);
}

/// Reads what has come, and finishes each stream of which the end was read.
fn answer(transport: &mut Transport) {
    while transport.poll_event().is_some() {}
    for stream in transport.streams().collect::<Vec<_>>() {
        loop {
            match transport.read(stream, usize::MAX) {
                Ok(Read::Data(data)) => drop(black_box(data)),
                Ok(Read::Finished) => {
                    // The side that opened the stream has finished it before.
                    _ = transport.finish(stream);
                    break;
                }
                Ok(Read::Blocked) | Err(_) => break,
            }
        }
    }
}

/// What an acknowledgement costs, the controller's part included.
fn acknowledgements(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ack/256 packets, each third lost");
    group.throughput(Throughput::Elements(FLIGHT_PACKETS as u64));
    for congestion in [Congestion::Bbr, Congestion::Cubic, Congestion::NewReno] {
        group.bench_function(format!("{congestion:?}"), |bencher| {
            bencher.iter_batched_ref(
                || Pair::with_acknowledgement(congestion),
                |(pair, acknowledgement)| deliver(pair.now, &mut pair.sender, std::mem::take(acknowledgement)),
                BatchSize::LargeInput,
            );
        });
    }
}

fn streams(criterion: &mut Criterion) {
    let mut pair = Pair::new();
    let mut group = criterion.benchmark_group("streams");
    group.throughput(Throughput::Bytes(TRANSFER_LEN as u64));
    group.bench_function("1 MiB over one", |bencher| {
        bencher.iter(|| {
            pair.send(TRANSFER_LEN);
            pair.complete();
        });
    });
    group.throughput(Throughput::Elements(REQUESTS as u64));
    group.bench_function("64 of 100 B", |bencher| {
        bencher.iter(|| {
            (0..REQUESTS).for_each(|_| pair.send(REQUEST_LEN));
            pair.complete();
        });
    });
}

criterion_group! {
    name = core;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = codec, aead, handshake, acknowledgements, streams
}
criterion_main!(core);
