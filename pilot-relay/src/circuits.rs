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

/// A circuit that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What the caller calls it.
    pub caller: CircuitId,
    /// What the callee calls it.
    pub callee: CircuitId,
    /// It was made for this; others may be under way on one that was not.
    pub is_new: bool,
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

    /// Opens a circuit, or gives the one that joins the two already, whoever of them has opened it: what is under way on it is not disturbed.
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
        if let Some(opened) = self.between(caller, callee) {
            self.touch(now, opened.caller);
            return Ok(opened);
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
        Ok(Opened { caller: caller_id, callee: callee_id, is_new: true })
    }

    /// The circuit of the two, as the first of them would know it had it been the caller.
    fn between(&self, caller: Instance, callee: Instance) -> Option<Opened> {
        let there = self.pairs.get(&(caller, callee)).copied();
        let back = || self.ends.get(self.pairs.get(&(callee, caller))?).map(|end| end.peer_id);
        let caller = there.or_else(back)?;
        Some(Opened { caller, callee: self.ends.get(&caller)?.peer_id, is_new: false })
    }

    /// Closes the circuit that has an end of this id.
    pub fn close(&mut self, id: CircuitId) {
        let Some(end) = self.ends.remove(&id) else { return };
        self.ends.remove(&end.peer_id);
        // Either of them may have been the caller.
        for pair in [(end.owner, end.peer), (end.peer, end.owner)] {
            self.pairs.remove(&pair);
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
    fn a_second_open_gives_the_same_circuit_whoever_asks() {
        let (mut circuits, mut rng) = (Circuits::new(), rng());
        let first = circuits.open(at(0), ALICE, BOB, &mut rng).unwrap();
        let again = circuits.open(at(1), ALICE, BOB, &mut rng).unwrap();
        assert_eq!(again, Opened { is_new: false, ..first });
        let back = circuits.open(at(1), BOB, ALICE, &mut rng).unwrap();
        assert_eq!((back.caller, back.callee), (first.callee, first.caller));
        assert_eq!(circuits.len(), 1);
        circuits.close(back.caller);
        assert!(circuits.is_empty() && circuits.ends.is_empty());
        let anew = circuits.open(at(2), ALICE, BOB, &mut rng).unwrap();
        assert!(anew.is_new && anew.caller != first.caller && anew.callee != first.callee, "a new one has new ids");
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
        assert!(circuits.open(at(0), ALICE, callee(0), &mut rng).is_ok(), "one that is there needs no room");
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
        assert_eq!(circuits.len(), 2, "one for each, whoever asks");
        for (other, [to, from]) in others.iter().zip([[to[0], from[0]], [to[1], from[1]]]) {
            assert_eq!(circuits.end(to.callee).unwrap().owner, *other);
            assert_eq!((from.caller, from.callee), (to.callee, to.caller));
        }
        circuits.close(from[0].caller);
        assert!([to[0].caller, to[0].callee].iter().all(|id| circuits.end(*id).is_none()));
        assert!([to[1].caller, to[1].callee].iter().all(|id| circuits.end(*id).is_some()));
    }
}
