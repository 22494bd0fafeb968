//! Forwarding of RELAY packets between the two ends of a circuit (spec/relay.md §3).
//!
//! The node swaps the circuit id and sends the sealed packet on, untouched, with its ECN field. It believes only a packet that comes from
//! the address which its owner's tunnel has proved; it opens nothing, repeats nothing and paces nothing. A client that sends more than
//! [`CLIENT_RATE`] has the excess dropped.

use std::collections::BTreeMap;

use pilot_core::id::{CircuitId, IdentityKey, Instance};
use pilot_core::route::{Ecn, Route, Transmit};
use pilot_core::time::{Mono, Now};
use pilot_core::wire::RelayHeader;

use crate::circuits::Circuits;
use crate::limits::{Rate, TokenBucket};
use crate::train::TrainQueue;

/// Bytes that one identity, with all its instances, may send through the node: 1 Gbit/s, and 32 ms' worth of that at once.
pub const CLIENT_RATE: Rate = Rate { per_second: 125_000_000, burst: 4_000_000 };
/// What a packet costs beside its bytes, so that a flood of tiny packets is limited too.
const PACKET_COST_BYTES: u64 = 64;

/// Where a client can be reached and must send from: what its tunnel has proved.
pub trait Routes {
    /// The proved route in use of a client with a live tunnel.
    fn validated_remote(&self, client: &Instance) -> Option<Route>;

    /// Whether the tunnel of that client has proved this route: the one in use, or another one lately, from which it moves or has moved.
    fn has_validated(&self, now: Mono, client: &Instance, from: &Route) -> bool;
}

/// Why a RELAY packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum RelayDrop {
    /// Shorter than its header, or with reserved flags.
    #[error("malformed relay packet")]
    Malformed,
    /// No circuit has an end of this id.
    #[error("unknown circuit")]
    UnknownCircuit,
    /// It does not come from where the end's owner is.
    #[error("relay packet from a foreign address")]
    ForeignSource,
    /// The client at the other end has no live tunnel.
    #[error("other end is not connected")]
    NotConnected,
    /// The sender is over its rate.
    #[error("client is over its rate")]
    OverRate,
    /// The send queue is full.
    #[error("send queue is full")]
    QueueFull,
}

impl RelayDrop {
    /// Name of the counter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "relay_malformed",
            Self::UnknownCircuit => "relay_unknown_circuit",
            Self::ForeignSource => "relay_foreign_source",
            Self::NotConnected => "relay_not_connected",
            Self::OverRate => "relay_over_rate",
            Self::QueueFull => "relay_queue_full",
        }
    }
}

/// What was forwarded and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes forwarded, RELAY headers included.
    pub bytes: u64,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<RelayDrop, u64>,
}

/// The forwarder: circuits, rates and the send queue.
#[derive(Debug, Default)]
pub struct Relay {
    /// The circuits it forwards along.
    pub circuits: Circuits,
    buckets: BTreeMap<IdentityKey, TokenBucket>,
    run: Option<Run>,
    queue: TrainQueue,
    stats: RelayStats,
}

/// Packets that one end of a circuit sends in a row, from one address and at one time: what was found for the first holds for all of them,
/// so that a train costs little more than a packet.
#[derive(Debug)]
struct Run {
    now: Mono,
    from: Route,
    circuit: CircuitId,
    owner: IdentityKey,
    /// Of the owner; back in its place when the run ends.
    bucket: TokenBucket,
    to: Route,
    header: [u8; RelayHeader::LEN],
}

impl Relay {
    /// A forwarder without circuits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a RELAY packet for the other end of its circuit, or counts why not.
    pub fn handle_datagram(&mut self, now: Now, from: Route, ecn: Ecn, datagram: &[u8], routes: &impl Routes) {
        match self.forward(now.mono, from, ecn, datagram, routes) {
            Ok(()) => {
                self.stats.packets += 1;
                self.stats.bytes += datagram.len() as u64;
            }
            Err(reason) => *self.stats.drops.entry(reason).or_default() += 1,
        }
    }

    /// Tells that tunnels or circuits may have changed: the next packet is looked at as if it were the first.
    pub fn end_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.buckets.insert(run.owner, run.bucket);
        }
    }

    /// Bytes that wait for the socket.
    pub fn queued_bytes(&self) -> usize {
        self.queue.queued_bytes()
    }

    /// Closes idle circuits.
    pub fn handle_timeout(&mut self, now: Now) {
        self.circuits.handle_timeout(now.mono);
    }

    /// Appends the next train of forwarded packets to `buf`.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.queue.poll_transmit(buf)
    }

    /// Forgets the rate of an identity of which no instance is left. Its circuits stay, for it may return.
    pub fn client_gone(&mut self, client: &IdentityKey) {
        self.end_run();
        self.buckets.remove(client);
    }

    /// Counters.
    pub fn stats(&self) -> &RelayStats {
        &self.stats
    }

    fn forward(
        &mut self,
        now: Mono,
        from: Route,
        ecn: Ecn,
        datagram: &[u8],
        routes: &impl Routes,
    ) -> Result<(), RelayDrop> {
        let (header, packet) = RelayHeader::decode(datagram).map_err(|_| RelayDrop::Malformed)?;
        let mut run = match self.run.take() {
            Some(run) if run.covers(now, &from, header.circuit) => run,
            other => {
                self.run = other;
                self.end_run();
                self.begin_run(now, from, header.circuit, routes)?
            }
        };
        let cost = datagram.len() as u64 + PACKET_COST_BYTES;
        let forwarded = if !run.bucket.take(now, CLIENT_RATE, cost) {
            Err(RelayDrop::OverRate)
        } else if self.queue.push(run.to, ecn, &run.header, packet) {
            Ok(())
        } else {
            Err(RelayDrop::QueueFull)
        };
        self.run = Some(run);
        forwarded
    }

    /// Looks whether the owner of that end may send from there, and where its packets go.
    fn begin_run(
        &mut self,
        now: Mono,
        from: Route,
        circuit: CircuitId,
        routes: &impl Routes,
    ) -> Result<Run, RelayDrop> {
        let end = *self.circuits.end(circuit).ok_or(RelayDrop::UnknownCircuit)?;
        if !routes.has_validated(now, &end.owner, &from) {
            return Err(RelayDrop::ForeignSource);
        }
        self.circuits.touch(now, circuit);
        let to = routes.validated_remote(&end.peer).ok_or(RelayDrop::NotConnected)?;
        let owner = end.owner.key;
        let bucket = self.buckets.get(&owner).copied().unwrap_or_default();
        Ok(Run { now, from, circuit, owner, bucket, to, header: RelayHeader { circuit: end.peer_id }.encode() })
    }
}

impl Run {
    fn covers(&self, now: Mono, from: &Route, circuit: CircuitId) -> bool {
        self.circuit == circuit && self.now == now && self.from == *from
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circuits::Opened;
    use pilot_core::id::InstanceId;
    use pilot_core::rng::Rng;
    use pilot_core::time::UnixTime;

    const ALICE: Instance = Instance { key: IdentityKey([1; 32]), id: InstanceId([1; 8]) };
    const BOB: Instance = Instance { key: IdentityKey([2; 32]), id: InstanceId([1; 8]) };
    const MALLORY: Instance = Instance { key: IdentityKey([3; 32]), id: InstanceId([1; 8]) };
    const PACKET: &[u8] = &[0xc0, 1, 2, 3, 4, 5];

    struct Tunnels(BTreeMap<Instance, Route>);

    impl Routes for Tunnels {
        fn validated_remote(&self, client: &Instance) -> Option<Route> {
            self.0.get(client).copied()
        }

        fn has_validated(&self, _: Mono, client: &Instance, from: &Route) -> bool {
            self.0.get(client) == Some(from)
        }
    }

    fn route(host: u8) -> Route {
        Route::to(([192, 0, 2, host], 4_000).into())
    }

    fn now() -> Now {
        Now { mono: Mono(1_000_000_000), unix: UnixTime::from_secs(1_800_000_000) }
    }

    fn relay() -> (Relay, Tunnels, Opened) {
        let mut relay = Relay::new();
        let opened = relay.circuits.open(now().mono, ALICE, BOB, &mut Rng::new([3; 32])).unwrap();
        (relay, Tunnels(BTreeMap::from([(ALICE, route(1)), (BOB, route(2))])), opened)
    }

    fn relayed(circuit: CircuitId, packet: &[u8]) -> Vec<u8> {
        [&RelayHeader { circuit }.encode()[..], packet].concat()
    }

    fn only_drop(relay: &mut Relay) -> RelayDrop {
        assert_eq!(relay.poll_transmit(&mut Vec::new()), None);
        assert_eq!((relay.stats().packets, relay.stats().drops.len()), (0, 1));
        *relay.stats().drops.keys().next().unwrap()
    }

    #[test]
    fn a_packet_goes_to_the_other_end_under_its_id_with_its_ecn_field() {
        let (mut relay, tunnels, opened) = relay();
        for (from, to, id_in, id_out) in [(1, 2, opened.caller, opened.callee), (2, 1, opened.callee, opened.caller)] {
            relay.handle_datagram(now(), route(from), Ecn::Ce, &relayed(id_in, PACKET), &tunnels);
            let mut buf = Vec::new();
            let transmit = relay.poll_transmit(&mut buf).unwrap();
            assert_eq!((transmit.route, transmit.ecn), (route(to), Ecn::Ce));
            assert_eq!(buf, relayed(id_out, PACKET));
        }
        assert_eq!((relay.stats().packets, relay.stats().bytes), (2, 28));
    }

    /// A client of the node, a stranger, and the other end of the circuit send under an id that is not theirs.
    #[test]
    fn attack_5_relay_hijack_of_a_circuit_needs_its_owners_address() {
        let (mut relay, mut tunnels, opened) = relay();
        tunnels.0.insert(MALLORY, route(3));
        for from in [2, 3, 66] {
            relay.handle_datagram(now(), route(from), Ecn::NotEct, &relayed(opened.caller, PACKET), &tunnels);
        }
        assert_eq!(only_drop(&mut relay), RelayDrop::ForeignSource);
        assert_eq!(relay.stats().drops[&RelayDrop::ForeignSource], 3);
        let end = relay.circuits.end(opened.caller).unwrap();
        assert_eq!((end.owner, end.peer), (ALICE, BOB), "and the circuit is whose it was");
    }

    /// Whatever comes, from wherever: at most one packet goes out, no longer than it, and only to where a tunnel has proved its client.
    #[test]
    fn attack_5_relay_reflection_reaches_only_clients_and_multiplies_nothing() {
        let (mut relay, tunnels, opened) = relay();
        let mut rng = Rng::new([7; 32]);
        let (mut spent, mut sent) = (0, 0);
        for from in [1, 2, 66].into_iter().cycle().take(3_000) {
            let id = [opened.caller, opened.callee, CircuitId(u32::from_be_bytes(rng.array()))]
                [usize::from(rng.array::<1>()[0]) % 3];
            let datagram = relayed(id, &rng.array::<48>());
            relay.handle_datagram(now(), route(from), Ecn::NotEct, &datagram, &tunnels);
            spent += datagram.len();
            let mut buf = Vec::new();
            while let Some(transmit) = relay.poll_transmit(&mut buf) {
                assert!(transmit.route != route(from) && [route(1), route(2)].contains(&transmit.route));
                sent += std::mem::take(&mut buf).len();
            }
            assert!(sent <= spent);
        }
        assert!(sent > 0, "the two ends are served");
    }

    #[test]
    fn a_client_without_tunnel_sends_and_receives_nothing() {
        let (mut relay, mut tunnels, opened) = relay();
        tunnels.0.remove(&BOB);
        relay.handle_datagram(now(), route(1), Ecn::NotEct, &relayed(opened.caller, PACKET), &tunnels);
        assert_eq!(only_drop(&mut relay), RelayDrop::NotConnected);
        relay.handle_datagram(now(), route(2), Ecn::NotEct, &relayed(opened.callee, PACKET), &tunnels);
        assert_eq!(relay.stats().drops[&RelayDrop::ForeignSource], 1);
    }

    #[test]
    fn what_ends_between_two_packets_of_a_train_is_over_for_the_second() {
        let (mut relay, mut tunnels, opened) = relay();
        let packet = relayed(opened.caller, PACKET);
        relay.handle_datagram(now(), route(1), Ecn::NotEct, &packet, &tunnels);
        tunnels.0.insert(BOB, route(9));
        relay.end_run();
        relay.handle_datagram(now(), route(1), Ecn::NotEct, &packet, &tunnels);
        relay.circuits.close(opened.callee);
        relay.end_run();
        relay.handle_datagram(now(), route(1), Ecn::NotEct, &packet, &tunnels);
        let sent: Vec<_> = std::iter::from_fn(|| relay.poll_transmit(&mut Vec::new()).map(|sent| sent.route)).collect();
        assert_eq!(sent, [route(2), route(9)]);
        assert_eq!(relay.stats().drops, BTreeMap::from([(RelayDrop::UnknownCircuit, 1)]));
    }

    #[test]
    fn a_run_uses_up_the_rate_of_its_owner() {
        let (mut relay, tunnels, opened) = relay();
        let packet = relayed(opened.caller, &[0xc0; 1_192]);
        let cost = packet.len() as u64 + PACKET_COST_BYTES;
        for number in 0..CLIENT_RATE.burst / cost + 10 {
            relay.handle_datagram(now(), route(1), Ecn::NotEct, &packet, &tunnels);
            if number % 7 == 0 {
                relay.end_run();
            }
            while relay.poll_transmit(&mut Vec::new()).is_some() {}
        }
        assert_eq!(relay.stats().packets, CLIENT_RATE.burst / cost);
        assert_eq!(relay.stats().drops, BTreeMap::from([(RelayDrop::OverRate, 10)]));
    }

    #[test]
    fn a_circuit_follows_its_client_to_a_new_address() {
        let (mut relay, mut tunnels, opened) = relay();
        tunnels.0.insert(BOB, route(9));
        relay.handle_datagram(now(), route(1), Ecn::NotEct, &relayed(opened.caller, PACKET), &tunnels);
        assert_eq!(relay.poll_transmit(&mut Vec::new()).unwrap().route, route(9));
        relay.handle_datagram(now(), route(9), Ecn::NotEct, &relayed(opened.callee, PACKET), &tunnels);
        assert_eq!(relay.poll_transmit(&mut Vec::new()).unwrap().route, route(1));
    }

    #[test]
    fn unknown_circuits_and_truncations_are_dropped() {
        let (mut relay, tunnels, opened) = relay();
        let unknown = CircuitId(opened.caller.0 ^ opened.callee.0 ^ 1);
        relay.handle_datagram(now(), route(1), Ecn::NotEct, &relayed(unknown, PACKET), &tunnels);
        assert_eq!(only_drop(&mut relay), RelayDrop::UnknownCircuit);
        for len in 0..RelayHeader::LEN {
            let packet = relayed(opened.caller, PACKET);
            relay.handle_datagram(now(), route(1), Ecn::NotEct, &packet[..len], &tunnels);
        }
        assert_eq!(relay.stats().drops[&RelayDrop::Malformed], RelayHeader::LEN as u64);
    }

    #[test]
    fn a_client_over_its_rate_loses_the_tail_and_no_other_client_does() {
        let (mut relay, tunnels, opened) = relay();
        let big = relayed(opened.caller, &[0xc0; 1_192]);
        let mut buf = Vec::new();
        for _ in 0..4_000 {
            relay.handle_datagram(now(), route(1), Ecn::NotEct, &big, &tunnels);
            while relay.poll_transmit(&mut buf).is_some() {
                buf.clear();
            }
        }
        assert_eq!(relay.stats().packets, CLIENT_RATE.burst / (1_200 + PACKET_COST_BYTES));
        let before = relay.stats().packets;
        relay.handle_datagram(now(), route(2), Ecn::NotEct, &relayed(opened.callee, PACKET), &tunnels);
        assert_eq!(relay.stats().packets, before + 1);
    }
}
