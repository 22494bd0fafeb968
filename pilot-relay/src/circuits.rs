//! The circuit table (spec/relay.md §2): which two clients a circuit joins, and under which id each knows its end.
//!
//! Ends belong to instances of identities, not to addresses, so a circuit outlives a restart or a move of either client. Ids are random:
//! knowing one gives no right to use it, but a guess should not even hit a circuit.

use std::collections::BTreeMap;
use std::time::Duration;

use pilot_core::id::{CircuitId, IdentityKey, Instance};
use pilot_core::rng::Rng;
use pilot_core::time::Mono;

/// Circuits of one node, about 20 MB.
pub const CIRCUITS_MAX: usize = 65_536;
/// Circuits that one identity may have opened at once: peers it talks with by relay within [`IDLE_MAX`]. Its instances share them, since
/// to make one more costs nothing.
pub const CIRCUITS_PER_CALLER_MAX: usize = 1_024;
/// A circuit that carried nothing for this long is closed; agents keep the relay warm more often than this (spec/paths.md).
pub const IDLE_MAX: Duration = Duration::from_secs(600);
/// How often idle circuits are looked for. The search is linear.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Why a circuit is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenCircuitError {
    /// Both ends would be the same client.
    #[error("a circuit to oneself")]
    ToOneself,
    /// The caller has [`CIRCUITS_PER_CALLER_MAX`].
    #[error("caller has too many circuits")]
    CallerFull,
    /// The node has [`CIRCUITS_MAX`].
    #[error("node has too many circuits")]
    NodeFull,
}

/// The ids of a new circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What the caller calls it.
    pub caller: CircuitId,
    /// What the callee calls it.
    pub callee: CircuitId,
}

/// One end of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The client it belongs to.
    pub owner: Instance,
    /// The client at the other end.
    pub peer: Instance,
    /// The id of the other end.
    pub peer_id: CircuitId,
    /// When a packet last came in by this end.
    last_used: Mono,
}

/// All circuits of a node.
#[derive(Debug, Default)]
pub struct Circuits {
    ends: BTreeMap<CircuitId, End>,
    /// (caller, callee) -> the caller's end. Each circuit has one entry here and two in `ends`.
    pairs: BTreeMap<(Instance, Instance), CircuitId>,
    next_sweep: Option<Mono>,
}

impl Circuits {
    /// No circuits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a circuit, in place of the one that the same caller had opened to the same callee.
    ///
    /// # Errors
    /// [`OpenCircuitError`] when a bound is reached.
    pub fn open(
        &mut self,
        now: Mono,
        caller: Instance,
        callee: Instance,
        rng: &mut Rng,
    ) -> Result<Opened, OpenCircuitError> {
        if caller.key == callee.key {
            return Err(OpenCircuitError::ToOneself);
        }
        if let Some(replaced) = self.pairs.get(&(caller, callee)) {
            self.close(*replaced);
        }
        if self.len() >= CIRCUITS_MAX {
            return Err(OpenCircuitError::NodeFull);
        }
        if self.count_of(caller.key) >= CIRCUITS_PER_CALLER_MAX {
            return Err(OpenCircuitError::CallerFull);
        }
        let caller_id = self.unused_id(rng);
        self.ends.insert(caller_id, End { owner: caller, peer: callee, peer_id: caller_id, last_used: now });
        let callee_id = self.unused_id(rng);
        self.ends.insert(callee_id, End { owner: callee, peer: caller, peer_id: caller_id, last_used: now });
        self.ends.entry(caller_id).and_modify(|end| end.peer_id = callee_id);
        self.pairs.insert((caller, callee), caller_id);
        self.next_sweep.get_or_insert(now + SWEEP_INTERVAL);
        Ok(Opened { caller: caller_id, callee: callee_id })
    }

    /// Closes the circuit that has an end of this id.
    pub fn close(&mut self, id: CircuitId) {
        let Some(end) = self.ends.remove(&id) else { return };
        self.ends.remove(&end.peer_id);
        // The entry of a circuit that the two have opened in the other direction is not ours to remove.
        for (pair, caller_id) in [((end.owner, end.peer), id), ((end.peer, end.owner), end.peer_id)] {
            if self.pairs.get(&pair) == Some(&caller_id) {
                self.pairs.remove(&pair);
            }
        }
    }

    /// Notes that a packet came in by this end.
    pub fn touch(&mut self, now: Mono, id: CircuitId) {
        self.ends.entry(id).and_modify(|end| end.last_used = now);
    }

    /// Closes what has been idle for [`IDLE_MAX`] in both directions.
    pub fn handle_timeout(&mut self, now: Mono) {
        if self.next_sweep.is_none_or(|at| now < at) {
            return;
        }
        let ends = &self.ends;
        let is_idle = |id: &CircuitId| ends.get(id).is_none_or(|end| now.since(end.last_used) >= IDLE_MAX);
        let idle: Vec<_> =
            ends.iter().filter(|(id, end)| is_idle(id) && is_idle(&end.peer_id)).map(|(id, _)| *id).collect();
        for id in idle {
            self.close(id);
        }
        self.next_sweep = (!self.ends.is_empty()).then(|| now + SWEEP_INTERVAL);
    }

    /// When [`Circuits::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.next_sweep
    }

    /// The end of this id.
    pub fn end(&self, id: CircuitId) -> Option<&End> {
        self.ends.get(&id)
    }

    /// Circuits open.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether no circuit is open.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn count_of(&self, caller: IdentityKey) -> usize {
        let (first, last) = Instance::all_of(caller).into_inner();
        let (least, greatest) =
            (*Instance::all_of(IdentityKey([0; 32])).start(), *Instance::all_of(IdentityKey([0xff; 32])).end());
        self.pairs.range((first, least)..=(last, greatest)).count()
    }

    /// The table holds far fewer than 2^32 entries, so this ends after a draw or two.
    fn unused_id(&self, rng: &mut Rng) -> CircuitId {
        loop {
            let id = CircuitId(u32::from_be_bytes(rng.array()));
            if !self.ends.contains_key(&id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_core::id::InstanceId;

    const ALICE: Instance = instance(1, 1);
    const BOB: Instance = instance(2, 1);

    const fn instance(key: u8, id: u8) -> Instance {
        Instance { key: IdentityKey([key; 32]), id: InstanceId([id; 8]) }
    }

    fn at(secs: u64) -> Mono {
        Mono(secs * 1_000_000_000)
    }

    fn rng() -> Rng {
        Rng::new([7; 32])
    }

    #[test]
    fn each_end_leads_to_the_other() {
        let mut circuits = Circuits::new();
        let opened = circuits.open(at(0), ALICE, BOB, &mut rng()).unwrap();
        let [alice, bob] = [opened.caller, opened.callee].map(|id| *circuits.end(id).unwrap());
        assert_eq!((alice.owner, alice.peer, alice.peer_id), (ALICE, BOB, opened.callee));
        assert_eq!((bob.owner, bob.peer, bob.peer_id), (BOB, ALICE, opened.caller));
    }

    #[test]
    fn a_second_open_replaces_the_first() {
        let (mut circuits, mut rng) = (Circuits::new(), rng());
        let first = circuits.open(at(0), ALICE, BOB, &mut rng).unwrap();
        let second = circuits.open(at(1), ALICE, BOB, &mut rng).unwrap();
        assert_eq!(circuits.len(), 1);
        assert_eq!(circuits.end(first.caller), None);
        assert_eq!(circuits.end(first.callee), None);
        assert!(circuits.end(second.callee).is_some());
    }

    #[test]
    fn circuits_in_both_directions_do_not_disturb_each_other() {
        let (mut circuits, mut rng) = (Circuits::new(), rng());
        let there = circuits.open(at(0), ALICE, BOB, &mut rng).unwrap();
        let back = circuits.open(at(0), BOB, ALICE, &mut rng).unwrap();
        circuits.close(there.callee);
        assert_eq!(circuits.len(), 1);
        assert!(circuits.end(back.caller).is_some());
        circuits.close(back.callee);
        assert!(circuits.is_empty() && circuits.ends.is_empty());
    }

    #[test]
    fn a_circuit_used_in_one_direction_stays() {
        let mut circuits = Circuits::new();
        let opened = circuits.open(at(0), ALICE, BOB, &mut rng()).unwrap();
        circuits.touch(at(300), opened.callee);
        circuits.handle_timeout(at(899));
        assert_eq!(circuits.len(), 1);
    }

    #[test]
    fn an_idle_circuit_ends_and_with_it_the_timer() {
        let mut circuits = Circuits::new();
        circuits.open(at(0), ALICE, BOB, &mut rng()).unwrap();
        while let Some(next) = circuits.poll_timeout() {
            circuits.handle_timeout(next);
        }
        assert!(circuits.is_empty() && circuits.ends.is_empty());
    }

    #[test]
    fn one_caller_cannot_fill_the_table() {
        let (mut circuits, mut rng) = (Circuits::new(), rng());
        let callee = |i: usize| {
            let mut key = [9; 32];
            key[..8].copy_from_slice(&(i as u64).to_be_bytes());
            Instance { key: IdentityKey(key), id: InstanceId([1; 8]) }
        };
        for i in 0..CIRCUITS_PER_CALLER_MAX {
            circuits.open(at(0), ALICE, callee(i), &mut rng).unwrap();
        }
        assert_eq!(circuits.open(at(0), ALICE, BOB, &mut rng), Err(OpenCircuitError::CallerFull));
        let invented = Instance { id: InstanceId([7; 8]), ..ALICE };
        assert_eq!(circuits.open(at(0), invented, BOB, &mut rng), Err(OpenCircuitError::CallerFull));
        assert!(circuits.open(at(0), BOB, ALICE, &mut rng).is_ok());
        assert!(circuits.open(at(0), ALICE, callee(0), &mut rng).is_ok(), "replacing needs no room");
    }

    #[test]
    fn nobody_has_a_circuit_to_oneself() {
        for instance in [ALICE, Instance { id: InstanceId([7; 8]), ..ALICE }] {
            assert_eq!(Circuits::new().open(at(0), ALICE, instance, &mut rng()), Err(OpenCircuitError::ToOneself));
        }
    }

    #[test]
    fn each_instance_of_an_identity_has_circuits_of_its_own() {
        let (mut circuits, mut rng) = (Circuits::new(), rng());
        let others = [instance(2, 1), instance(2, 2)];
        let to = others.map(|other| circuits.open(at(0), ALICE, other, &mut rng).unwrap());
        let from = others.map(|other| circuits.open(at(0), other, ALICE, &mut rng).unwrap());
        assert_eq!(circuits.len(), 4);
        for (other, opened) in others.iter().zip(to) {
            assert_eq!(circuits.end(opened.callee).unwrap().owner, *other);
        }
        circuits.close(from[0].caller);
        assert!(to.iter().chain(&from[1..]).all(|opened| circuits.end(opened.caller).is_some()));
    }
}
