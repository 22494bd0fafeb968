//! The paths to one peer: which exist, which are proved, which carries data (spec/paths.md).
//!
//! A path is a [`Hop`]: straight to an address, or by a circuit at a backbone node. The relay comes first and stays; a direct path is taken
//! when a PATH_RESPONSE has come back over it, which proves both directions, and left on evidence only: probe timeouts in a row.
//! States of a path: `unproved -> proved -> unproved (failed) -> proved ..`; an unproved one carries nothing but probes.

use std::net::IpAddr;
use std::time::Duration;

use crate::id::{CircuitId, PathId};
use crate::limits::{
    DIRECT_FRESH, PATHS_MAX, PROBE_COUNTED_FOR, PROBED_ADDRESSES_MAX, PROBES_PER_ADDRESS_MAX, PROBES_PER_PATH_MAX,
    PROBES_WHILE_IDLE_MAX, REPROBE_MAX, REPROBE_MIN, SOCKETS_KEPT_FOR,
};
use crate::rng::Rng;
use crate::route::{Route, SocketId};
use crate::time::Mono;

/// Pause after the first probe of a round; it doubles with each.
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(25);
/// The same in all rounds but the first while a TLS link stands in for UDP, for as long as that takes: who is idle there is not woken more often.
const PROBE_INTERVAL_BESIDE_LINK: Duration = Duration::from_secs(2);

/// A peer that was heard by another direct path for this long, and not by the one in use, has moved.
const PEER_MOVED_AFTER: Duration = Duration::from_millis(200);

/// Failures in a row, of a path that carries challenges and nothing else, from which on it rests, and how long it does; that doubles. One may be
/// chance.
const RELAPSES_BEFORE_REST: u32 = 2;
const REST_MIN: Duration = Duration::from_secs(10);
const REST_MAX: Duration = Duration::from_secs(600);

/// Direct paths besides the one in use that a peer may be heard by within [`NEWCOMERS_WITHIN`]: those that a volley finds are more than the
/// table holds, and would drive each other out of it for ever.
const NEWCOMERS_MAX: usize = 4;
/// How long a path is a newcomer: some round trips.
const NEWCOMERS_WITHIN: Duration = Duration::from_secs(1);

/// How a packet gets to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Straight to its address.
    Direct(Route),
    /// By the circuit that this backbone peer forwards; `backbone` is its slot in the node.
    Relay { backbone: u32, circuit: CircuitId },
}

/// What a packet with one challenge takes on the wire, and what a path that is not proved is sent at a time.
const PROBE_LEN: usize = 38;

/// Bytes of probes per byte that the peer has sent (RFC 9000 §8.1): whoever names or forges addresses gains nothing by it.
pub(crate) const PROBE_BYTES_PER_BYTE: usize = 3;

/// Credit for probes that a peer can save up: a full round on each of its paths.
const PROBE_CREDIT_MAX: usize = PATHS_MAX * PROBES_PER_PATH_MAX as usize * PROBE_LEN;

/// Everything known of one path.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) id: PathId,
    pub(crate) hop: Hop,
    proved: bool,
    /// When it was proved last, or lost its proof as the path in use: the peer was there.
    last_proved: Option<Mono>,
    /// When it became a path, or was named as one again.
    last_named: Mono,
    last_received: Option<Mono>,
    /// Since when a probe timeout has left it in doubt.
    doubted: Option<Mono>,
    probe: Option<Probe>,
    /// Pause before the next round of probes, once this one has failed.
    reprobe_after: Duration,
    /// Failures in a row before which it has carried challenges and nothing that is longer.
    relapses: u32,
    /// No round begins before that.
    rests_until: Mono,
}

/// A round of PATH_CHALLENGE under way on one path, all with one token.
#[derive(Debug)]
struct Probe {
    token: [u8; 8],
    sent: u32,
    next: Mono,
    /// A round after a failed one begins only while the tunnel is in use: an idle pair sends nothing.
    needs_use: bool,
}

/// Preference among proved paths: the greater is better, the fields in the order of weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PathScore {
    /// A direct path heard from lately, a TLS link, or a relay whose node is connected.
    usable: bool,
    direct: bool,
}

/// The path table of one peer.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    paths: Vec<Path>,
    next_id: u32,
    active: Option<PathId>,
    /// Since when it is that one.
    active_since: Mono,
    /// When a peer that had moved was followed last.
    followed: Option<Mono>,
    /// Bytes of probes, and of answers to the peer's, that may be sent.
    probe_credit: usize,
    /// Probes that have no answer yet, for each address.
    unanswered: Vec<Unanswered>,
}

/// When probes went to one address that has answered none since.
#[derive(Debug)]
struct Unanswered {
    ip: IpAddr,
    word: Word,
    sent: Vec<Mono>,
}

/// What speaks for an address that is probed. Each has a count of its own: where many probes were unanswered that somebody had asked for, the peer
/// itself may be heard later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It was named, or the peer was there once.
    Named,
    /// A packet of the peer has come from there just now, as far as sources can be believed.
    Heard,
}

impl Hop {
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self, Self::Direct(_))
    }

    /// The address that it leads to, if it is not a TLS link, whose far end TCP has proved.
    fn target(&self) -> Option<IpAddr> {
        match self {
            Self::Direct(route) => (!route.socket.is_link()).then(|| route.remote.ip()),
            Self::Relay { .. } => None,
        }
    }

    /// Whether it leads over a TLS link.
    pub(crate) fn is_link(&self) -> bool {
        matches!(self, Self::Direct(route) if route.socket.is_link())
    }

    /// Whether it leads over this socket.
    pub(crate) fn is_by(&self, socket: SocketId) -> bool {
        matches!(self, Self::Direct(route) if route.socket == socket)
    }

    /// Whether both are one path; the local address is a detail that may change under it.
    pub(crate) fn is_same_way(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Direct(one), Self::Direct(two)) => one.remote == two.remote && one.socket == two.socket,
            (Self::Relay { .. }, Self::Relay { .. }) => self == other,
            (Self::Direct(_), Self::Relay { .. }) | (Self::Relay { .. }, Self::Direct(_)) => false,
        }
    }
}

impl Paths {
    /// Notes that an authenticated packet came this way. Returns the path and whether it is new.
    pub(crate) fn received(&mut self, now: Mono, hop: Hop) -> (PathId, bool) {
        let (id, is_new) = self.insert(now, hop);
        let path = self.path_mut(id).expect("inserted above");
        path.last_received = Some(now);
        path.hop = hop;
        (id, is_new)
    }

    /// Makes sure a path with this hop exists, unproved if it is direct. A relayed one needs no proof: what it carries goes to the
    /// backbone node, whose tunnel has proved its address.
    pub(crate) fn insert(&mut self, now: Mono, hop: Hop) -> (PathId, bool) {
        if let Some(path) = self.paths.iter_mut().find(|path| path.hop.is_same_way(&hop)) {
            path.last_named = now;
            return (path.id, false);
        }
        let id = self.new_id();
        self.push(now, id, hop);
        (id, true)
    }

    /// The path of this hop, or the id that it will have.
    pub(crate) fn reserve(&mut self, hop: &Hop) -> PathId {
        let known = self.paths.iter().find(|path| path.hop.is_same_way(hop)).map(|path| path.id);
        known.unwrap_or_else(|| self.new_id())
    }

    /// Makes a path of a hop under the id that was reserved for it, unless it has become another one since. Returns whether it has that id.
    pub(crate) fn insert_as(&mut self, now: Mono, id: PathId, hop: Hop) -> bool {
        let known = self.paths.iter().find(|path| path.hop.is_same_way(&hop)).map(|path| path.id);
        if known.is_none() {
            self.push(now, id, hop);
        }
        known.is_none_or(|known| known == id)
    }

    fn new_id(&mut self) -> PathId {
        self.next_id += 1;
        PathId(self.next_id - 1)
    }

    fn push(&mut self, now: Mono, id: PathId, hop: Hop) {
        let proved = !hop.is_direct();
        let last_received = proved.then_some(now);
        // Room for what there is: most peers have one path.
        self.paths.reserve_exact(1);
        self.paths.push(Path {
            id,
            hop,
            proved,
            last_proved: last_received,
            last_named: now,
            last_received,
            doubted: None,
            probe: None,
            reprobe_after: REPROBE_MIN,
            relapses: 0,
            rests_until: Mono(0),
        });
    }

    /// Removes and returns the path that must make room, if there are too many: of the direct ones that carry nothing that which was heard, or
    /// named, the longest ago. What the peer has named just now is no less likely to lead to it than where it was heard once.
    pub(crate) fn evict(&mut self) -> Option<PathId> {
        if self.paths.len() <= PATHS_MAX {
            return None;
        }
        let newest = self.paths.len() - 1;
        let active = self.active;
        let is_idle = |&(_, path): &(usize, &Path)| Some(path.id) != active;
        let position = self.paths[..newest]
            .iter()
            .enumerate()
            .filter(is_idle)
            .min_by_key(|(_, path)| (!path.hop.is_direct(), path.last_received.max(Some(path.last_named))))
            .map(|(position, _)| position)?;
        Some(self.paths.remove(position).id)
    }

    /// Our network is another: lets the system choose the local address of direct paths that used one which is gone, since nothing can be sent from
    /// there any more, and none of them rests for what it did in the old one.
    pub(crate) fn leave_network(&mut self, is_there: impl Fn(IpAddr) -> bool) {
        for path in &mut self.paths {
            (path.relapses, path.rests_until) = (0, Mono(0));
            if let Hop::Direct(route) = &mut path.hop {
                route.local_ip = route.local_ip.filter(|&ip| is_there(ip));
            }
        }
    }

    /// The same for one path, wherever its local address leads.
    pub(crate) fn forget_local_ip(&mut self, id: PathId) {
        if let Some(Path { hop: Hop::Direct(route), .. }) = self.path_mut(id) {
            route.local_ip = None;
        }
    }

    /// Forgets a path.
    pub(crate) fn remove(&mut self, id: PathId) {
        self.paths.retain(|path| path.id != id);
        if self.active == Some(id) {
            self.active = None;
        }
    }

    /// The direct paths, or those by one backbone node's circuits.
    pub(crate) fn ids_where(&self, mut wanted: impl FnMut(&Hop) -> bool) -> Vec<PathId> {
        self.paths.iter().filter(|path| wanted(&path.hop)).map(|path| path.id).collect()
    }

    /// The peer has sent an authentic packet of this length: so many more probes may go to addresses that it is said to have.
    pub(crate) fn earn_probes(&mut self, len: usize) {
        self.probe_credit = (self.probe_credit + len * PROBE_BYTES_PER_BYTE).min(PROBE_CREDIT_MAX);
    }

    /// Takes the credit for one probe to an address, if there is any, and not too many are unanswered there. They are not counted where more
    /// than the peer's word speaks for the address.
    pub(crate) fn spend_probe(&mut self, now: Mono, ip: IpAddr, word: Option<Word>) -> bool {
        let Some(rest) = self.probe_credit.checked_sub(PROBE_LEN) else { return false };
        let may = word.is_none_or(|word| self.count_probe(now, ip, word));
        if may {
            self.probe_credit = rest;
        }
        may
    }

    /// Whether a knock may go where the peer was once. It costs what a probe does, and is counted as one; where the peer was last it costs
    /// nothing, or who cannot be asked for elsewhere might never be found again.
    pub(crate) fn spend_knock(&mut self, now: Mono, hop: &Hop) -> bool {
        let Some(ip) = hop.target() else { return false };
        let is_last = self.active().is_some_and(|active| active.hop.is_same_way(hop));
        if is_last { self.count_probe(now, ip, Word::Named) } else { self.spend_probe(now, ip, Some(Word::Named)) }
    }

    /// Takes the credit for the answer to a challenge. Where the peer is proved to be, or by a way that needs no proof, it costs none.
    pub(crate) fn spend_response(&mut self, now: Mono, id: PathId) -> bool {
        let target = self.path(id).filter(|path| !path.proved).and_then(|path| path.hop.target());
        target.is_none_or(|ip| self.spend_probe(now, ip, None))
    }

    /// Counts a probe to an address, if it may be sent.
    fn count_probe(&mut self, now: Mono, ip: IpAddr, word: Word) -> bool {
        self.unanswered.retain_mut(|probes| {
            probes.sent.retain(|&at| now.since(at) < PROBE_COUNTED_FOR);
            !probes.sent.is_empty()
        });
        let has_place = self.unanswered.iter().filter(|probes| probes.word == word).count() < PROBED_ADDRESSES_MAX;
        match self.unanswered.iter_mut().find(|probes| probes.ip == ip && probes.word == word) {
            Some(probes) if probes.sent.len() < PROBES_PER_ADDRESS_MAX => probes.sent.push(now),
            None if has_place => self.unanswered.push(Unanswered { ip, word, sent: vec![now] }),
            Some(_) | None => return false,
        }
        true
    }

    /// The direct paths that are not proved.
    pub(crate) fn unproved(&self) -> Vec<PathId> {
        self.paths.iter().filter(|path| !path.proved).map(|path| path.id).collect()
    }

    /// Whether another path than this one is proved.
    pub(crate) fn has_other_proved(&self, id: PathId) -> bool {
        self.paths.iter().any(|path| path.proved && path.id != id)
    }

    /// Whether so many direct paths have appeared in this moment that another one is not wanted: each of them is challenged, and one is enough.
    pub(crate) fn is_crowded(&self, now: Mono, hop: &Hop) -> bool {
        let is_new = !self.paths.iter().any(|path| path.hop.is_same_way(hop));
        let is_recent = |path: &&Path| {
            let is_heard = path.last_received.is_some_and(|at| now.since(at) < NEWCOMERS_WITHIN);
            is_heard && path.hop.is_direct() && Some(path.id) != self.active
        };
        is_new && hop.is_direct() && self.paths.iter().filter(is_recent).count() >= NEWCOMERS_MAX
    }

    /// Whether the peer was reached by this way once.
    pub(crate) fn was_proved(&self, hop: &Hop) -> bool {
        self.paths.iter().any(|path| path.was_proved() && path.hop.is_same_way(hop))
    }

    /// Whether the peer is there by all that is known: it was proved to be a moment ago, or it is the path in use and it is heard there.
    pub(crate) fn is_there(&self, now: Mono, hop: &Hop) -> bool {
        let Some(path) = self.paths.iter().find(|path| path.hop.is_same_way(hop)) else { return false };
        let is_in_use = Some(path.id) == self.active && path.proved && path.is_heard(now);
        is_in_use || path.last_proved.is_some_and(|at| now.since(at) < DIRECT_FRESH)
    }

    /// Whether the peer is reached directly.
    pub(crate) fn has_proved_direct(&self) -> bool {
        self.paths.iter().any(|path| path.proved && path.hop.is_direct())
    }

    /// Marks a path as proved in both directions.
    pub(crate) fn prove(&mut self, now: Mono, id: PathId) {
        let Some(path) = self.path_mut(id) else { return };
        path.probe = None;
        path.reprobe_after = REPROBE_MIN;
        path.last_received = Some(now);
        (path.proved, path.last_proved) = (true, Some(now));
        if let Hop::Direct(route) = path.hop {
            self.unanswered.retain(|probes| probes.ip != route.remote.ip());
        }
    }

    /// A probe timeout has passed on a path. Returns the relayed paths, by which the peer can be asked whether it is still there, if it is not
    /// the first: single losses ask nobody.
    pub(crate) fn doubt(&mut self, now: Mono, id: PathId, count: u32) -> Vec<PathId> {
        let Some(path) = self.path_mut(id).filter(|path| path.hop.is_direct()) else { return Vec::new() };
        if count == 1 {
            path.doubted = Some(now);
            return Vec::new();
        }
        self.ids_where(|hop| !hop.is_direct())
    }

    /// Whether the peer was heard by another path since this one is in doubt: it is the path that is silent, not the peer.
    pub(crate) fn is_outlived(&self, id: PathId) -> bool {
        let doubted = self.path(id).and_then(|path| path.doubted);
        doubted.is_some_and(|doubted| {
            self.paths.iter().any(|path| path.id != id && path.last_received.is_some_and(|at| at > doubted))
        })
    }

    /// Takes the proof away after probe timeouts in a row. A direct path will be probed again; if it has carried challenges only, now and the last time,
    /// it rests before that. Others, by UDP, of which nothing was heard since
    /// are no better known: they are proved anew before one of them is used, or the next in line would be the address before the last.
    pub(crate) fn fail(&mut self, now: Mono, id: PathId, carries_probes_only: bool, rng: &mut Rng) {
        let failed = self.path(id).filter(|path| path.hop.target().is_some()).map(|path| path.last_received);
        for path in self.paths.iter_mut().filter(|path| path.id != id && path.proved && path.hop.target().is_some()) {
            if failed.is_some_and(|heard| path.last_received <= heard) {
                path.proved = false;
                path.start_probe(now, false, rng);
            }
        }
        let Some(path) = self.path_mut(id) else { return };
        if !path.hop.is_direct() {
            path.last_received = None;
            return;
        }
        if path.proved {
            path.last_proved = Some(now);
            path.note_failure(now, carries_probes_only);
        }
        path.proved = false;
        path.start_probe((now + path.reprobe_after).max(path.rests_until), true, rng);
    }

    /// Takes the proof from the direct paths that were silent for so long that nobody knows whether they lead anywhere, and challenges
    /// them at once. Returns whether there are any.
    pub(crate) fn doubt_silent(&mut self, now: Mono, rng: &mut Rng) -> bool {
        let is_silent = |path: &&mut Path| path.proved && path.hop.target().is_some() && !path.is_fresh(now);
        let mut silent: Vec<_> = self.paths.iter_mut().filter(is_silent).collect();
        for path in &mut silent {
            path.proved = false;
            path.start_probe(now, false, rng);
        }
        !silent.is_empty()
    }

    /// Begins a round of probes on a direct path, unless one is under way; one that only waits begins now. The token names the round.
    pub(crate) fn probe(&mut self, now: Mono, id: PathId, rng: &mut Rng) {
        let Some(path) = self.path_mut(id) else { return };
        let is_under_way = path.probe.as_ref().is_some_and(|probe| probe.sent > 0 || probe.next <= now);
        if path.hop.is_direct() && !is_under_way && now >= path.rests_until {
            path.start_probe(now, false, rng);
        }
    }

    /// Takes a PATH_RESPONSE. Returns whether it answers the probe of the very path that it came by.
    pub(crate) fn is_response(&self, id: PathId, token: &[u8; 8]) -> bool {
        self.path(id).and_then(|path| path.probe.as_ref()).is_some_and(|probe| probe.token == *token)
    }

    /// Probes to send now. A round that ends unanswered is followed by another only while the tunnel is in use. A probe for which the
    /// peer has not earned the credit, or of which too many are unanswered, counts as sent and lost. `attested`: where our own home node
    /// sees the peer.
    pub(crate) fn due_probes(
        &mut self,
        now: Mono,
        is_in_use: bool,
        attested: Option<IpAddr>,
        rng: &mut Rng,
    ) -> Vec<(PathId, [u8; 8])> {
        let mut due = Vec::new();
        let is_by_link = self.active().is_some_and(|active| active.hop.is_link());
        for at in 0..self.paths.len() {
            let path = &mut self.paths[at];
            let Some(probe) = &mut path.probe else { continue };
            if probe.next > now {
                continue;
            }
            if !probe.may_go_on(is_in_use) {
                // It rests; what wakes it does so for later, not for what has passed.
                probe.next = now + PROBE_INTERVAL_MIN;
                continue;
            }
            if probe.sent < PROBES_PER_PATH_MAX {
                let doubling = PROBE_INTERVAL_MIN * 2u32.pow(probe.sent);
                let is_slow = is_by_link && probe.needs_use;
                probe.next = now + if is_slow { PROBE_INTERVAL_BESIDE_LINK } else { doubling };
                probe.sent += 1;
                let (id, token, target) = (path.id, probe.token, path.hop.target());
                let word = if path.is_fresh(now) { Word::Heard } else { Word::Named };
                if target.is_none_or(|ip| self.spend_probe(now, ip, Some(word).filter(|_| attested != Some(ip)))) {
                    due.push((id, token));
                }
            } else {
                path.reprobe_after = (path.reprobe_after * 2).min(REPROBE_MAX);
                path.start_probe(now + path.reprobe_after, true, rng);
            }
        }
        due
    }

    /// When the next probe is due.
    pub(crate) fn timeout(&self, is_in_use: bool) -> Option<Mono> {
        let probes = self.paths.iter().filter_map(|path| path.probe.as_ref());
        probes.filter(|probe| probe.may_go_on(is_in_use)).map(|probe| probe.next).min()
    }

    /// Chooses the path for data and returns it if it is another than before. Of equals, UDP comes before a TLS link, and then the one in
    /// use stays, unless the peer has moved: it is heard by another one only. `follow_after` is how long a switch rests before the next of that kind; it differs
    /// between the two sides, so that they do not follow each other in circles.
    pub(crate) fn choose(
        &mut self,
        now: Mono,
        follow_after: Duration,
        is_relay_up: impl Fn(u32) -> bool,
    ) -> Option<PathId> {
        let before = self.active().map(|active| active.score(now, &is_relay_up));
        let heard = self.active().and_then(|active| active.last_received);
        let may_follow = self.followed.is_none_or(|followed| now.since(followed) >= follow_after);
        let has_peer_moved_to = |path: &Path| {
            may_follow && path.last_received.unwrap_or_default().since(heard.unwrap_or(now)) >= PEER_MOVED_AFTER
        };
        let best = self.paths.iter().filter(|path| path.proved).max_by_key(|path| {
            let is_active = Some(path.id) == self.active;
            let score = path.score(now, &is_relay_up);
            (score, has_peer_moved_to(path), !path.hop.is_link(), is_active, path.last_received)
        })?;
        let (id, is_equal) = (best.id, Some(best.score(now, &is_relay_up)) == before);
        let is_followed = is_equal && has_peer_moved_to(best);
        if self.active.replace(id) == Some(id) {
            return None;
        }
        self.active_since = now;
        if is_followed {
            self.followed = Some(now);
        }
        Some(id)
    }

    /// Whether a way to the peer exists that may be expected to work.
    pub(crate) fn is_usable(&self, now: Mono, is_relay_up: impl Fn(u32) -> bool) -> bool {
        self.paths.iter().any(|path| path.proved && path.score(now, &is_relay_up).usable)
    }

    pub(crate) fn active(&self) -> Option<&Path> {
        self.path(self.active?)
    }

    /// Since when the active path is in use.
    pub(crate) fn active_since(&self) -> Option<Mono> {
        self.active.map(|_| self.active_since)
    }

    /// Whether a round of challenges is under way on a direct path, or about to begin; a pause between two rounds is none.
    pub(crate) fn is_probing(&self, is_in_use: bool) -> bool {
        self.paths.iter().filter_map(|path| path.probe.as_ref()).any(|probe| probe.is_under_way(is_in_use))
    }

    pub(crate) fn path(&self, id: PathId) -> Option<&Path> {
        self.paths.iter().find(|path| path.id == id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter()
    }

    fn path_mut(&mut self, id: PathId) -> Option<&mut Path> {
        self.paths.iter_mut().find(|path| path.id == id)
    }
}

impl Path {
    pub(crate) fn is_proved(&self) -> bool {
        self.proved
    }

    /// Whether it was proved once, even if it has failed since.
    pub(crate) fn was_proved(&self) -> bool {
        self.last_proved.is_some()
    }

    /// When the peer was heard by it last.
    pub(crate) fn last_received(&self) -> Option<Mono> {
        self.last_received
    }

    /// Whether it was heard of within the life of the most impatient NAT mapping.
    pub(crate) fn is_fresh(&self, now: Mono) -> bool {
        self.last_received.is_some_and(|at| now.since(at) < DIRECT_FRESH)
    }

    /// Whether it was heard of while a socket of its own may be kept for it.
    pub(crate) fn is_heard(&self, now: Mono) -> bool {
        self.last_received.is_some_and(|at| now.since(at) < SOCKETS_KEPT_FOR)
    }

    fn score(&self, now: Mono, is_relay_up: impl Fn(u32) -> bool) -> PathScore {
        let usable = match self.hop {
            Hop::Direct(route) => route.socket.is_link() || self.is_fresh(now),
            Hop::Relay { backbone, .. } => self.last_received.is_some() && is_relay_up(backbone),
        };
        PathScore { usable, direct: self.hop.is_direct() }
    }

    /// Lets it rest, ever longer, if challenges are all that it carries.
    fn note_failure(&mut self, now: Mono, carries_probes_only: bool) {
        self.relapses = if carries_probes_only { self.relapses + 1 } else { 0 };
        if let Some(doublings) = self.relapses.checked_sub(RELAPSES_BEFORE_REST) {
            let rest = REST_MIN.saturating_mul(2u32.saturating_pow(doublings)).min(REST_MAX);
            self.rests_until = now + rest;
        }
    }

    fn start_probe(&mut self, next: Mono, needs_use: bool, rng: &mut Rng) {
        self.probe = Some(Probe { token: rng.array(), sent: 0, next, needs_use });
    }
}

impl Probe {
    fn is_under_way(&self, is_in_use: bool) -> bool {
        let has_begun = self.sent > 0 || !self.needs_use;
        has_begun && self.sent < PROBES_PER_PATH_MAX && self.may_go_on(is_in_use)
    }

    fn may_go_on(&self, is_in_use: bool) -> bool {
        is_in_use || (!self.needs_use && self.sent < PROBES_WHILE_IDLE_MAX)
    }
}
