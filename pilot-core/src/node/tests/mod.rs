//! Two nodes and nothing between them but a list of datagrams, or a backbone node. Networks that lose, delay and translate are
//! pilot-sim's.

mod attacks;
mod certificates;
mod clocks;
mod credit;
mod early;
mod hostile;
mod instances;
mod liars;
mod links;
mod load;
mod messages;
mod records;
mod relayed;
mod renewal;
mod routes;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::config::Role;
use crate::id::{InstanceId, ServicePort};
use crate::identity::{Certificate, Identity, TransportKey};
use crate::stats::DropReason;
use crate::time::UnixTime;
use crate::wire::stream_header::StreamHeader;

const START: Now = Now { mono: Mono(1_000_000_000), unix: UnixTime(1_790_000_000_000_000_000) };
const ONE_WAY: Duration = Duration::from_millis(20);

/// A node, where it is, and what it has reported.
struct Host {
    node: Node,
    address: SocketAddr,
    events: Vec<Event>,
    circuits: relayed::Circuits,
    /// Seconds by which its wall clock is ahead.
    clock_step: i64,
}

/// Two hosts on one wire with a fixed delay, and the backbone nodes that a test adds. `cut` drops everything, `cut_ways` what goes from
/// one host to another.
struct Pair {
    now: Now,
    hosts: Vec<Host>,
    wire: Vec<(Mono, usize, SocketAddr, Vec<u8>)>,
    cut: bool,
    cut_ways: BTreeSet<(usize, usize)>,
    /// Hosts from and to which no UDP goes, and the TLS links that are up.
    udp_blocked: BTreeSet<usize>,
    links: Vec<links::Link>,
    /// Datagrams to addresses at which nobody is.
    astray: Vec<(SocketAddr, Vec<u8>)>,
    sent: usize,
    /// What each host has sent.
    log: Vec<(usize, Vec<u8>)>,
}

/// Identities as (seed, modifier), worked out beforehand: deriving an address takes a million hashes.
const IDENTITIES: [([u8; 32], u64); 5] =
    [([1; 32], 1_459_568), ([2; 32], 115_065), ([3; 32], 951_517), ([4; 32], 498_379), ([5; 32], 627_237)];

fn keys(which: usize, now: Now) -> Keys {
    let identity = Identity::restore(IDENTITIES[which].0, IDENTITIES[which].1).expect("a committed identity");
    let transport = TransportKey::from_secret([which as u8 + 10; 32]);
    let certificate = Certificate::issue(&identity, &transport, InstanceId([which as u8; 8]), 1, now.unix);
    Keys { identity, transport: vec![transport], certificate }
}

fn host(which: usize, seed: u8, now: Now, config: Config) -> Host {
    let address = format!("192.0.2.{}:4000", which + 1).parse().expect("an address");
    let node = Node::new(config, keys(which, now), [seed; 32], now);
    Host { node, address, events: Vec::new(), circuits: relayed::Circuits::default(), clock_step: 0 }
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self::strangers();
        for (which, other) in [(0, 1), (1, 0)] {
            pair.introduce(which, other);
        }
        pair
    }

    /// Two hosts that do not know each other.
    fn strangers() -> Self {
        let agent = |which: usize| host(which, which as u8 + 1, START, Config::new(Role::Agent));
        Self {
            now: START,
            hosts: vec![agent(0), agent(1)],
            wire: Vec::new(),
            cut: false,
            cut_ways: BTreeSet::new(),
            udp_blocked: BTreeSet::new(),
            links: Vec::new(),
            astray: Vec::new(),
            sent: 0,
            log: Vec::new(),
        }
    }

    fn introduce(&mut self, which: usize, other: usize) {
        let info = PeerInfo {
            key: self.hosts[other].node.key(),
            certificate: None,
            addresses: vec![self.hosts[other].address],
            homes: Vec::new(),
        };
        self.hosts[which].node.learn_peer(self.now, info);
    }

    /// The clocks of a host.
    fn at(&self, which: usize) -> Now {
        let step = self.hosts[which].clock_step;
        let by = Duration::from_secs(step.unsigned_abs());
        let unix = if step < 0 { self.now.unix - by } else { self.now.unix + by };
        Now { unix, ..self.now }
    }

    fn key(&self, which: usize) -> IdentityKey {
        self.hosts[which].node.key()
    }

    fn drain(&mut self) {
        for which in 0..self.hosts.len() {
            let mut buf = Vec::new();
            while let Some(transmit) = {
                buf.clear();
                let now = self.at(which);
                self.hosts[which].node.poll_transmit(now, &mut buf)
            } {
                let size = transmit.segment_size.unwrap_or(transmit.len);
                for datagram in buf[..transmit.len].chunks(size) {
                    self.sent += 1;
                    self.log.push((which, datagram.to_vec()));
                    let from = self.source(which, &transmit.route);
                    self.carry(from, transmit.route.remote, datagram.to_vec());
                }
            }
            while let Some(event) = self.hosts[which].node.poll_event() {
                self.hosts[which].events.push(event);
            }
        }
    }

    fn carry(&mut self, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        let at = |address| self.place(address);
        let is_blocked = self.is_udp_blocked(from, to);
        let Some(host) = at(to) else { return self.astray.push((to, datagram)) };
        if !self.cut && !is_blocked && !at(from).is_some_and(|from| self.cut_ways.contains(&(from, host))) {
            self.wire.push((self.now.mono + ONE_WAY, host, from, datagram));
        }
    }

    /// Goes to the next thing that happens, or to `until`.
    fn step(&mut self, until: Mono) {
        self.drain();
        let timers = self.hosts.iter().filter_map(|host| host.node.poll_timeout());
        let next = self.wire.iter().map(|packet| packet.0).chain(timers).min().unwrap_or(until).min(until);
        let passed = next.since(self.now.mono);
        self.now = Now { mono: self.now.mono + passed, unix: self.now.unix + passed };
        let (due, later) = std::mem::take(&mut self.wire).into_iter().partition(|packet| packet.0 <= self.now.mono);
        self.wire = later;
        let due: Vec<(Mono, usize, SocketAddr, Vec<u8>)> = due;
        for (_, to, from, mut datagram) in due {
            if self.forward(to, from, &datagram) {
                continue;
            }
            let (now, route) = (self.at(to), self.route_from(from));
            self.hosts[to].node.handle_datagram(now, route, crate::route::Ecn::NotEct, &mut datagram);
        }
        for which in 0..self.hosts.len() {
            let now = self.at(which);
            self.hosts[which].node.handle_timeout(now);
        }
        self.drain();
        self.serve_circuits();
    }

    fn run_until(&mut self, limit: Duration, mut is_done: impl FnMut(&mut Self) -> bool) {
        let until = self.now.mono + limit;
        while !is_done(self) {
            assert!(
                self.now.mono < until,
                "not within {limit:?}: {:?}",
                self.hosts.iter().map(|host| &host.events).collect::<Vec<_>>()
            );
            self.step(until);
        }
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now.mono + time;
        while self.now.mono < until {
            self.step(until);
        }
    }

    /// Opens a stream with a request and its end.
    fn request(&mut self, from: usize, to: usize, data: &'static [u8]) -> StreamHandle {
        let (peer, now) = (self.key(to), self.at(from));
        let stream =
            self.hosts[from].node.open_stream(now, &peer, &StreamHeader::new(ServicePort::ECHO)).expect("a stream");
        let mut data = Bytes::from_static(data);
        self.hosts[from].node.write(self.now, stream, &mut data).expect("room");
        assert!(data.is_empty());
        self.hosts[from].node.finish(self.now, stream).expect("open");
        stream
    }

    fn incoming(&self, which: usize) -> Option<StreamHandle> {
        self.hosts[which]
            .events
            .iter()
            .find_map(|event| if let Event::StreamOpened { stream, .. } = event { Some(*stream) } else { None })
    }

    /// Hands a datagram to a host as if it came from this address.
    fn deliver(&mut self, to: usize, from: SocketAddr, datagram: &[u8]) {
        let (from, mut datagram) = (Route::to(from), datagram.to_vec());
        self.hosts[to].node.handle_datagram(self.now, from, crate::route::Ecn::NotEct, &mut datagram);
    }

    /// The slot that `which` has for `other`.
    fn slot(&self, which: usize, other: usize) -> u32 {
        self.hosts[which].node.index_of(&self.key(other)).expect("known")
    }

    fn read_all(&mut self, which: usize, stream: StreamHandle) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(Read::Data(data)) = self.hosts[which].node.read(self.now, stream, 1 << 20) {
            all.extend_from_slice(&data);
        }
        all
    }

    fn has(&self, which: usize, wanted: impl Fn(&Event) -> bool) -> bool {
        self.hosts[which].events.iter().any(wanted)
    }

    /// The process at `which` is gone and another one with the same keys is there.
    fn restart(&mut self, which: usize) {
        let config = self.hosts[which].node.config.clone();
        self.hosts[which] = host(which, 99, self.now, config);
    }
}

fn connected() -> Pair {
    let mut pair = Pair::new();
    let peer = pair.key(1);
    pair.hosts[0].node.connect(pair.now, &peer).expect("known");
    pair.run_until(Duration::from_secs(1), |pair| {
        (0..2).all(|which| pair.has(which, |event| matches!(event, Event::PeerConnected { .. })))
    });
    pair
}

#[test]
fn two_nodes_meet_with_a_key_and_an_address_only() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(1));
    for which in 0..2 {
        let status = pair.hosts[which].node.peers().next().expect("a peer");
        assert!(status.connected);
        assert_eq!(status.path, Some(PathKind::Direct(pair.hosts[1 - which].address)));
    }
    let initiator = pair.hosts[0].node.peers().next().expect("a peer");
    assert_eq!(initiator.rtt, Some(ONE_WAY * 2));
}

#[test]
fn with_the_certificate_at_hand_the_handshake_takes_one_round_trip() {
    let mut pair = Pair::new();
    let certificate = keys(1, START).certificate;
    let info = PeerInfo { key: pair.key(1), certificate: Some(certificate), addresses: Vec::new(), homes: Vec::new() };
    pair.hosts[0].node.learn_peer(START, info);
    pair.request(0, 1, b"hello");
    pair.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
    assert_eq!(pair.now.mono.since(START.mono), ONE_WAY * 3, "message 1, message 2, data");
}

#[test]
fn a_stream_opened_before_the_tunnel_is_up_carries_its_data() {
    let mut pair = Pair::new();
    pair.request(0, 1, b"early words");
    pair.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
    let stream = pair.incoming(1).expect("opened");
    assert_eq!(pair.read_all(1, stream), b"early words");
}

#[test]
fn both_sides_dialling_at_once_end_with_one_tunnel_and_lose_nothing() {
    let mut pair = Pair::new();
    pair.request(0, 1, b"from zero");
    pair.request(1, 0, b"from one");
    pair.run_until(Duration::from_secs(5), |pair| pair.incoming(0).is_some() && pair.incoming(1).is_some());
    let (zero, one) = (pair.incoming(0).expect("opened"), pair.incoming(1).expect("opened"));
    assert_eq!(pair.read_all(1, one), b"from zero");
    assert_eq!(pair.read_all(0, zero), b"from one");
    assert!(!pair.has(0, |event| matches!(event, Event::Reset { .. })));
}

#[test]
fn the_streams_of_a_restarted_peer_end_and_the_next_request_is_answered() {
    let mut pair = connected();
    let stream = pair.request(0, 1, b"never answered");
    pair.run_for(Duration::from_millis(100));
    pair.restart(1);
    pair.run_until(Duration::from_secs(3), |pair| {
        pair.has(
            0,
            |event| matches!(event, Event::Reset { stream: which, code: Code::PEER_RESTARTED, .. } if *which == stream),
        )
    });
    assert!(pair.has(0, |event| matches!(event, Event::PeerConnected { restarted: true, .. })));
    pair.request(0, 1, b"again");
    pair.run_until(Duration::from_secs(1), |pair| pair.incoming(1).is_some());
}

#[test]
fn a_restart_is_noticed_within_two_round_trips_of_the_next_packet() {
    let mut pair = connected();
    pair.restart(1);
    let before = pair.now.mono;
    pair.request(0, 1, b"to whom");
    pair.run_until(Duration::from_secs(1), |pair| {
        pair.has(0, |event| matches!(event, Event::PeerConnected { restarted: true, .. }))
    });
    assert!(pair.now.mono.since(before) <= ONE_WAY * 4, "UNKNOWN, then one round trip");
}

#[test]
fn keys_are_renewed_under_a_running_exchange_without_a_lost_request() {
    let mut pair = connected();
    for _ in 0..100 {
        pair.hosts[1].events.clear();
        pair.request(0, 1, b"tick");
        pair.run_until(Duration::from_millis(100), |pair| pair.incoming(1).is_some());
        let stream = pair.incoming(1).expect("opened");
        assert_eq!(pair.read_all(1, stream), b"tick");
        pair.hosts[1].node.finish(pair.now, stream).expect("open");
        pair.run_for(Duration::from_secs(5));
    }
    assert!(!pair.has(0, |event| matches!(event, Event::Reset { .. })));
    assert_eq!(pair.hosts[0].events.iter().filter(|event| matches!(event, Event::PeerConnected { .. })).count(), 1);
    assert!(pair.hosts[0].node.stats().handshakes >= 4, "500 s at a rekey every 120 s");
}

#[test]
fn a_tunnel_without_open_streams_sends_nothing() {
    let mut pair = connected();
    pair.run_for(Duration::from_secs(2));
    let before = pair.sent;
    pair.run_for(Duration::from_secs(60));
    assert_eq!(pair.sent, before);
}

#[test]
fn a_silent_peer_shows_as_stalled() {
    let mut pair = connected();
    let stream = pair.request(0, 1, b"anybody");
    pair.run_for(Duration::from_millis(100));
    pair.cut = true;
    pair.run_until(Duration::from_secs(8), |pair| {
        pair.has(0, |event| matches!(event, Event::Stalled(which) if *which == stream))
    });
    pair.cut = false;
    pair.run_until(Duration::from_secs(8), |pair| {
        pair.has(0, |event| matches!(event, Event::Resumed(which) if *which == stream))
    });
}

#[test]
fn an_attempt_that_nobody_answers_fails_and_ends_its_streams() {
    let mut pair = Pair::new();
    pair.cut = true;
    let stream = pair.request(0, 1, b"hello");
    pair.run_until(Duration::from_secs(15), |pair| {
        pair.has(0, |event| matches!(event, Event::ConnectFailed { error: crate::event::ConnectError::NoAnswer, .. }))
    });
    assert!(pair.has(
        0,
        |event| matches!(event, Event::Reset { stream: which, code: Code::UNREACHABLE, .. } if *which == stream)
    ));
}

#[test]
fn a_closed_tunnel_tells_the_peer_why() {
    let mut pair = connected();
    pair.hosts[0].node.shutdown(pair.now);
    pair.run_until(Duration::from_secs(1), |pair| {
        pair.has(1, |event| matches!(event, Event::PeerClosed { code: Code::SHUTDOWN, .. }))
    });
}

#[test]
fn every_bit_flip_of_the_first_message_is_dropped_without_a_trace() {
    let mut pair = Pair::new();
    let info = PeerInfo {
        key: pair.key(1),
        certificate: Some(keys(1, START).certificate),
        addresses: Vec::new(),
        homes: Vec::new(),
    };
    pair.hosts[0].node.learn_peer(START, info);
    let peer = pair.key(1);
    pair.hosts[0].node.connect(START, &peer).expect("known");
    pair.drain();
    let init = pair.wire.remove(0).3;
    let from = Route::to(pair.hosts[0].address);
    let looked_at = init.len() - crate::wire::handshake::MAC_LEN;
    for bit in (0..looked_at * 8).step_by(7) {
        let mut damaged = init.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        pair.hosts[1].node.handle_datagram(START, from, crate::route::Ecn::NotEct, &mut damaged);
    }
    pair.drain();
    assert!(pair.wire.is_empty(), "nothing may be answered but a stale key id, and that is covered by MAC1");
    assert!(pair.hosts[1].node.peers().all(|peer| !peer.connected));
}

#[test]
fn junk_is_counted_and_changes_nothing() {
    let mut pair = connected();
    let from = Route::to("198.51.100.9:9".parse().expect("an address"));
    for first in 0..=255u8 {
        for len in [1, 8, 13, 29, 64, 1152] {
            let mut junk = vec![first; len];
            pair.hosts[1].node.handle_datagram(pair.now, from, crate::route::Ecn::NotEct, &mut junk);
        }
    }
    let dropped: u64 = DropReason::ALL.iter().map(|&reason| pair.hosts[1].node.stats().drops(reason)).sum();
    assert_eq!(dropped, 256 * 6);
    pair.hosts[1].events.clear();
    pair.request(0, 1, b"still here");
    pair.run_until(Duration::from_millis(100), |pair| pair.incoming(1).is_some());
}
