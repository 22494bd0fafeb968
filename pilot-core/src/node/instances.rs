//! Instances: one identity may run at several homes at once, each with its own certificate, tunnel and slot (spec/handshake.md §11).

use super::{Node, OpenStreamError};
use crate::id::{IdentityKey, Instance, InstanceId};
use crate::identity::Certificate;
use crate::limits::{INSTANCES_MAX, PEERS_MAX, SLOTS_LOOKED_AT};
use crate::peer::{Peer, PeerInfo};
use crate::time::{Mono, Now};
use crate::transport::Code;

impl Node {
    /// The slot that speaks for a peer: that of an instance with a tunnel that is answered, or at least with a tunnel, else of the one that
    /// was learned of last.
    pub(super) fn index_of(&self, peer: &IdentityKey) -> Result<u32, OpenStreamError> {
        let slots = self.slots_of(peer);
        let at = |index: &&u32| &self.peers[**index as usize];
        let answered = slots.iter().find(|index| at(index).is_connected() && !at(index).is_stalled());
        let connected = || slots.iter().find(|index| at(index).is_connected());
        answered.or_else(connected).or(slots.first()).copied().ok_or(OpenStreamError::UnknownPeer)
    }

    /// The slot in which something new for a peer goes: a tunnel with good keys, a first attempt under way, then the instance that was
    /// learned of last. One that has stopped to answer is the last choice.
    pub(super) fn choose_instance(&self, now: Mono, peer: &IdentityKey) -> Result<u32, OpenStreamError> {
        let slots = self.slots_of(peer);
        let at = |index: &&u32| &self.peers[**index as usize];
        let answering = || slots.iter().filter(|index| !at(index).is_stalled());
        let running = answering().find(|index| at(index).tunnel.as_ref().is_some_and(|tunnel| tunnel.can_seal(now)));
        let is_awaited = |peer: &Peer| peer.is_expected(now) || (peer.dial.is_some() && !peer.is_connected());
        let under_way = || answering().find(|index| is_awaited(at(index)));
        let chosen = running.or_else(under_way).or_else(|| answering().next()).or(slots.first());
        chosen.copied().ok_or(OpenStreamError::UnknownPeer)
    }

    /// The slot of this very instance.
    pub(super) fn index_of_instance(&self, instance: &Instance) -> Option<u32> {
        let is_it = |&index: &u32| self.peers[index as usize].instance == Some(instance.id);
        self.slots_of(&instance.key).iter().copied().find(is_it)
    }

    /// The instance that the tunnel of this slot is with.
    pub(super) fn instance_at(&self, index: u32) -> Instance {
        let Peer { key, instance, .. } = &self.peers[index as usize];
        Instance { key: *key, id: instance.expect("who has the keys of a tunnel has shown its certificate") }
    }

    /// All slots of a peer, one for each instance; the instance that was learned of last comes first.
    pub(super) fn slots_of(&self, peer: &IdentityKey) -> &[u32] {
        self.by_key.get(peer).map_or(&[], Vec::as_slice)
    }

    /// Finds or makes the slot of a peer of which no instance is known, unless the table is full.
    pub(super) fn slot(&mut self, now: Mono, key: IdentityKey) -> Option<u32> {
        match self.index_of(&key) {
            Ok(index) => Some(index),
            Err(_) => self.new_slot(now, key),
        }
    }

    /// Finds or makes the slot of an instance. One that was made before anything was known of the instance becomes its own.
    pub(super) fn slot_of_instance(&mut self, now: Mono, key: IdentityKey, instance: InstanceId) -> Option<u32> {
        let slots = self.slots_of(&key);
        let named = |wanted| slots.iter().copied().find(|&index| self.peers[index as usize].instance == wanted);
        let found = named(Some(instance)).or_else(|| named(None));
        let index = match found {
            Some(index) => index,
            None if slots.len() < INSTANCES_MAX => self.new_slot(now, key)?,
            None => {
                let resting = slots.iter().copied().find(|&index| self.peers[index as usize].is_resting(now))?;
                self.clear_slot(now, resting, key);
                resting
            }
        };
        self.peers[index as usize].instance = Some(instance);
        Some(index)
    }

    /// Takes what is known of a peer. With a certificate it is about one instance, which is tried first from now on.
    pub(super) fn learn(&mut self, now: Mono, info: PeerInfo) -> Option<u32> {
        let key = info.key;
        let index = match &info.certificate {
            Some(certificate) => self.slot_of_instance(now, key, certificate.instance)?,
            None => self.slot(now, key)?,
        };
        if info.certificate.is_some()
            && let Some(slots) = self.by_key.get_mut(&key)
        {
            slots.retain(|&known| known != index);
            slots.insert(0, index);
        }
        self.peers[index as usize].learn(info);
        Some(index)
    }

    /// Takes the certificate that an attempt was answered with. Returns whether the attempt goes on with it: that of another instance must
    /// not end or cross a tunnel.
    pub(super) fn meet(&mut self, now: Mono, index: u32, certificate: Certificate) -> bool {
        let met = certificate.instance;
        let peer = &mut self.peers[index as usize];
        if peer.instance.is_none_or(|instance| instance == met) {
            (peer.instance, peer.certificate) = (Some(met), Some(certificate));
            return true;
        }
        let key = peer.key;
        let Some(other) = self.slot_of_instance(now, key, met) else { return false };
        self.peers[other as usize].certificate = Some(certificate);
        let is_free = self.peers[index as usize].may_change_instance(now) && self.peers[other as usize].is_untouched();
        if is_free {
            self.renew_tunnel(now, index);
            let (peer, other) = self.swap_instances(index, other);
            other.share_ways_of(peer);
        } else if let Some(dial) = &mut self.peers[index as usize].dial {
            dial.has_met_other = true;
        }
        is_free
    }

    /// Whether an attempt that fails goes on with another instance. One that we have a tunnel with is left only if another has answered in
    /// its place.
    pub(super) fn has_next_instance(&self, index: u32) -> bool {
        let peer = &self.peers[index as usize];
        let may_leave = !peer.is_connected() || peer.dial.as_ref().is_some_and(|dial| dial.has_met_other);
        may_leave && self.next_instance(index).is_some()
    }

    /// Goes on with another instance in place of one that was not reached: streams that wait for a session wait on.
    pub(super) fn go_on_with_next_instance(&mut self, now: Now, index: u32) {
        let Some(next) = self.next_instance(index) else { return };
        self.peers[index as usize].was_tried = true;
        self.end_settled_tunnel(index);
        let (peer, other) = self.swap_instances(index, next);
        peer.swap_ways(other);
        self.start_dial(now, index);
    }

    /// All instances were tried: the next attempt may try them again.
    pub(super) fn forget_tries(&mut self, index: u32) {
        for slot in self.slots_of(&self.peers[index as usize].key).to_vec() {
            self.peers[slot as usize].was_tried = false;
        }
    }

    /// Ends a tunnel of which the streams only wait. They do so in a new one.
    fn renew_tunnel(&mut self, now: Mono, index: u32) {
        let peer = &mut self.peers[index as usize];
        let Some(old) = peer.tunnel.take_if(|tunnel| tunnel.is_established()) else { return };
        for session in old.sessions() {
            self.forget_session(index, session);
        }
        self.credit.give_back(old.transport.earned_credit());
        self.tunnel_or_new(now, index).adopt_streams(old);
    }

    /// Ends a tunnel that has a session. The attempt goes on.
    fn end_settled_tunnel(&mut self, index: u32) {
        if self.peers[index as usize].is_connected() {
            self.end_tunnel(index, Code::PEER_RESTARTED, "the agent is at another home now");
        }
    }

    fn next_instance(&self, index: u32) -> Option<u32> {
        let is_next = |&other: &u32| {
            let peer = &self.peers[other as usize];
            other != index && !peer.was_tried && peer.is_untouched()
        };
        self.slots_of(&self.peers[index as usize].key).iter().copied().find(is_next)
    }

    /// Lets two slots of one peer, of which the other is untouched, change the instances that they are for. A session that the instance
    /// of the first was answered would end the tunnel with the other, once it is used.
    fn swap_instances(&mut self, index: u32, other: u32) -> (&mut Peer, &mut Peer) {
        self.drop_unconfirmed(index);
        let [peer, other] =
            self.peers.get_disjoint_mut([index as usize, other as usize]).expect("two slots of one peer");
        peer.swap_instance(other);
        (peer, other)
    }

    fn new_slot(&mut self, now: Mono, key: IdentityKey) -> Option<u32> {
        if key == self.key() {
            return None;
        }
        let index = if self.peers.len() < PEERS_MAX {
            self.peers.push(Peer::new(key, now));
            self.peers.len() as u32 - 1
        } else {
            self.take_over_slot(now, key)?
        };
        self.by_key.entry(key).or_default().push(index);
        Some(index)
    }

    /// Gives the place of a peer that is of no use any more to another. A few are looked at in turn.
    fn take_over_slot(&mut self, now: Mono, key: IdentityKey) -> Option<u32> {
        let at = |step: usize| (self.next_victim as usize + step) % self.peers.len();
        let found = (0..SLOTS_LOOKED_AT).find(|&step| self.peers[at(step)].is_forgettable(now));
        let index = found.map(|step| at(step) as u32);
        self.next_victim = at(found.map_or(SLOTS_LOOKED_AT, |step| step + 1)) as u32;
        let index = index?;
        let old = self.clear_slot(now, index, key);
        if let Some(slots) = self.by_key.get_mut(&old) {
            slots.retain(|&slot| slot != index);
            if slots.is_empty() {
                self.by_key.remove(&old);
            }
        }
        Some(index)
    }

    fn clear_slot(&mut self, now: Mono, index: u32, key: IdentityKey) -> IdentityKey {
        self.end_tunnel(index, Code::TIMEOUT, "nothing was heard for long");
        let sockets = std::mem::take(&mut self.peers[index as usize].effort.sockets);
        self.close_sockets(&sockets);
        self.peers[index as usize].make_way_for(key, now)
    }
}
