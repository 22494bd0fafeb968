//! The tunnel with one peer: its sessions, its packet numbers, its streams (spec/handshake.md §6).
//!
//! A tunnel outlives its sessions: a rekey replaces the keys and nothing else. `current` is the session that seals, `previous` the one before,
//! which opens what is late and stays until the peer has used `current`. A responder's session that its initiator has not used yet is no part
//! of a tunnel: it waits in [`Unconfirmed`](crate::peer::Unconfirmed).

use crate::event::StreamHandle;
use crate::handshake::{Established, FEATURE_PORTS, Parameters};
use crate::id::{PacketNumber, SessionIndex, StreamId, TunnelId};
use crate::limits::{
    HANDSHAKE_CROSSING, PREVIOUS_KEYS_LIFETIME, PREVIOUS_SESSION_LIFETIME, REJECT_AFTER_TIME, REKEY_AFTER_TIME,
    REKEY_RESPONDER_DELAY,
};
use crate::session::replay::ReplayWindow;
use crate::session::{OpenError, Session};
use crate::time::Mono;
use crate::transport::{PeerLimits, Transport, TransportConfig};

/// One set of keys in use.
pub(crate) struct LiveSession {
    session: Session,
    index: SessionIndex,
    remote_index: SessionIndex,
    since: Mono,
    is_initiator: bool,
    /// A packet of the peer has opened under it, so that the peer has it too.
    is_confirmed: bool,
    next_psk: [u8; 32],
    /// The receive key's generation, and since when.
    generation: (u64, Mono),
}

/// Counts the transports that a peer has had, so that stream handles are never used twice. Those of streams that we have opened and of those
/// that the peer has differ where a tunnel was made of two.
#[derive(Clone, Copy)]
pub(crate) struct Generation {
    peer: u32,
    ours: u32,
    theirs: u32,
    opens_even: bool,
}

/// What a handshake has agreed on, ready to become a tunnel's session.
pub(crate) struct Agreed {
    pub(crate) live: LiveSession,
    pub(crate) tunnel: TunnelId,
    pub(crate) limits: PeerLimits,
    /// What the peer grants and tells.
    pub(crate) parameters: Parameters,
    is_initiator: bool,
}

/// Streams and keys shared with one peer.
pub(crate) struct Tunnel {
    /// Chosen by the initiator of the first session; meaningless until there is one.
    pub(crate) id: TunnelId,
    generation: Generation,
    pub(crate) transport: Transport,
    pub(crate) connected_since: Option<Mono>,
    replay: ReplayWindow,
    current: Option<LiveSession>,
    /// In a box: most tunnels have none most of the time.
    previous: Option<Box<LiveSession>>,
    /// Somebody else may seal under the keys of `current`: a copy of this process.
    is_distrusted: bool,
    /// What the peer knows beyond version 1.
    features: u64,
}

impl Agreed {
    /// Takes over the outcome of a handshake.
    pub(crate) fn new(established: Established, index: SessionIndex, is_initiator: bool, now: Mono) -> Self {
        let limits = PeerLimits {
            max_data: established.parameters.max_data,
            max_stream_data: established.parameters.max_stream_data,
            max_streams: established.parameters.max_streams,
        };
        let tunnel = established.tunnel;
        let parameters = established.parameters;
        let next_psk = *established.keys.next_psk;
        let remote_index = established.remote_index;
        let session = Session::new(established, index);
        Self {
            live: LiveSession {
                session,
                index,
                remote_index,
                since: now,
                is_initiator,
                is_confirmed: false,
                next_psk,
                generation: (0, now),
            },
            tunnel,
            limits,
            parameters,
            is_initiator,
        }
    }
}

impl Generation {
    /// The handle of a stream of the tunnel.
    pub(crate) fn handle(&self, stream: StreamId) -> StreamHandle {
        let is_ours = (stream.0 & 1 == 0) == self.opens_even;
        StreamHandle { peer: self.peer, generation: if is_ours { self.ours } else { self.theirs }, stream }
    }
}

impl Agreed {
    /// Whether the peer has taken the early data of our message 1.
    pub(crate) fn took_early(&self) -> bool {
        self.is_initiator && self.parameters.early_taken == 1
    }
}

impl LiveSession {
    /// Seals a packet of a session whose tunnel has received nothing yet. The packet starts at `start`.
    pub(crate) fn seal(&mut self, packet: &mut Vec<u8>, start: usize, number: PacketNumber) {
        self.session.seal(packet, start, number);
    }

    pub(crate) fn index(&self) -> SessionIndex {
        self.index
    }

    /// How the peer names the session.
    pub(crate) fn remote_index(&self) -> SessionIndex {
        self.remote_index
    }

    /// Opens a packet of a session whose tunnel has received nothing yet.
    pub(crate) fn open<'a>(&mut self, packet: &'a mut [u8]) -> Result<(PacketNumber, &'a mut [u8]), OpenError> {
        self.session.open(packet)
    }

    /// Forgets the receive key before the current one when nothing late is to be expected under it any more.
    fn age_keys(&mut self, now: Mono) {
        let generation = self.session.receive_generation();
        if generation != self.generation.0 {
            self.generation = (generation, now);
        } else if self.session.has_previous_keys() && now.since(self.generation.1) >= PREVIOUS_KEYS_LIFETIME {
            self.session.discard_previous_keys();
        }
    }

    fn is_expired(&self, now: Mono) -> bool {
        now.since(self.since) >= REJECT_AFTER_TIME
    }
}

impl Tunnel {
    /// A tunnel without keys: streams can be opened on it, nothing is sent until [`Tunnel::adopt`]. `opens_even`: our key is the smaller one.
    pub(crate) fn new(config: &TransportConfig, (slot, generation): (u32, u32), opens_even: bool, now: Mono) -> Self {
        Self {
            id: TunnelId([0; 16]),
            generation: Generation { peer: slot, ours: generation, theirs: generation, opens_even },
            transport: Transport::new(config, opens_even, PeerLimits::UNKNOWN, now),
            connected_since: None,
            replay: ReplayWindow::new(),
            current: None,
            previous: None,
            is_distrusted: false,
            features: 0,
        }
    }

    /// How streams of the tunnel are named outside.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether this is the handle of a stream of the tunnel.
    pub(crate) fn names(&self, handle: StreamHandle) -> bool {
        self.generation.handle(handle.stream) == handle
    }

    /// Takes over the streams of another tunnel that wait for a session, under their old handles.
    pub(crate) fn adopt_streams(&mut self, waiting: Self) {
        self.generation.ours = waiting.generation.ours;
        self.transport.adopt_streams(waiting.transport);
    }

    pub(crate) fn is_established(&self) -> bool {
        self.current.is_some()
    }

    /// Whether the peer takes PORTS.
    pub(crate) fn knows_ports(&self) -> bool {
        self.is_established() && self.features & FEATURE_PORTS != 0
    }

    /// Makes a new session the current one. Returns the session that this drops, if any: of the other two, the one that the peer may not have.
    pub(crate) fn adopt(&mut self, agreed: Agreed, now: Mono) -> Option<LiveSession> {
        self.is_distrusted = false;
        self.features = agreed.parameters.features;
        let mut forgotten = self.current.replace(agreed.live);
        if self.previous.is_none() || forgotten.as_ref().is_some_and(|replaced| replaced.is_confirmed) {
            let replaced = std::mem::replace(&mut self.previous, forgotten.map(Box::new));
            forgotten = replaced.map(|previous| *previous);
        }
        if self.id != agreed.tunnel || self.connected_since.is_none() {
            self.id = agreed.tunnel;
            self.connected_since = Some(now);
            self.transport.set_peer_limits(agreed.limits);
        }
        forgotten
    }

    /// Whether the peer may still know nothing of this tunnel: it is new, and nothing has come by it. Two handshakes that cross leave one
    /// side with such a tunnel; it then goes on under the keys of the other, streams and all.
    pub(crate) fn is_unheard(&self, now: Mono) -> bool {
        let is_confirmed = self.sessions().any(|live| live.is_confirmed);
        !is_confirmed && self.connected_since.is_some_and(|since| now.since(since) < HANDSHAKE_CROSSING)
    }

    /// Opens a data packet. Nothing of the tunnel has changed if this fails.
    pub(crate) fn open<'a>(
        &mut self,
        now: Mono,
        index: SessionIndex,
        packet: &'a mut [u8],
    ) -> Result<(PacketNumber, &'a mut [u8]), TunnelOpenError> {
        let sessions = [self.current.as_mut(), self.previous.as_deref_mut()];
        let live = sessions.into_iter().flatten().find(|live| live.index == index).ok_or(TunnelOpenError::Unknown)?;
        if live.is_expired(now) {
            return Err(TunnelOpenError::Expired);
        }
        live.age_keys(now);
        let (number, frames) = live.session.open(packet)?;
        if !self.replay.check(number) {
            return Err(TunnelOpenError::Replay);
        }
        self.replay.mark(number);
        live.is_confirmed = true;
        Ok((number, frames))
    }

    /// Seals the packet that starts at `start`; its path header is not part of it.
    pub(crate) fn seal(&mut self, packet: &mut Vec<u8>, start: usize, number: PacketNumber) {
        let live = self.current.as_mut().expect("only an established tunnel is asked for packets");
        live.session.seal(packet, start, number);
    }

    /// Seals nothing more under the keys that there are.
    pub(crate) fn distrust_keys(&mut self) {
        self.is_distrusted = self.is_established();
    }

    /// What a handshake tells about the state of a tunnel whose keys are distrusted: nothing was sent since.
    pub(crate) fn doubted_next_packet(&self) -> u64 {
        if self.is_distrusted { self.transport.next_packet() } else { 0 }
    }

    /// Whether the peer, which names its next packet in doubt, has sent that one already: another copy of it has.
    pub(crate) fn is_ahead_of(&self, parameters: &Parameters) -> bool {
        parameters.next_packet > 0 && self.transport.has_received_from(parameters.next_packet)
    }

    /// Whether packets may be sealed: there are keys, nobody else has them, and they are not too old.
    pub(crate) fn can_seal(&self, now: Mono) -> bool {
        !self.is_distrusted && self.current.as_ref().is_some_and(|live| !live.is_expired(now))
    }

    /// Whether the keys are so old that their next use is to renew them.
    pub(crate) fn wants_rekey(&self, now: Mono) -> bool {
        self.current.as_ref().is_some_and(|live| {
            let patience = if live.is_initiator { REKEY_AFTER_TIME } else { REKEY_AFTER_TIME + REKEY_RESPONDER_DELAY };
            self.is_distrusted || now.since(live.since) >= patience
        })
    }

    /// Keys by which a rekey proves continuity, the likeliest first.
    pub(crate) fn rekey_psks(&self) -> impl Iterator<Item = [u8; 32]> + '_ {
        [self.current.as_ref(), self.previous.as_deref()].into_iter().flatten().map(|live| live.next_psk)
    }

    /// The key by which we prove continuity to a peer that renews: that of the last session which it is known to have.
    pub(crate) fn shared_psk(&self) -> Option<[u8; 32]> {
        let confirmed = self.sessions().find(|live| live.is_confirmed);
        confirmed.or(self.current.as_ref()).map(|live| live.next_psk)
    }

    /// Forgets the previous session when its time is over, and returns it.
    pub(crate) fn expire_previous(&mut self, now: Mono) -> Option<LiveSession> {
        self.previous_expiry().filter(|&due| due <= now).and_then(|_| self.previous.take()).map(|previous| *previous)
    }

    /// When [`Tunnel::expire_previous`] has something to do. Until the peer has used the current session, it may know the previous one
    /// only, and nothing else proves to it that the tunnel is the same.
    pub(crate) fn previous_expiry(&self) -> Option<Mono> {
        self.previous.as_ref()?;
        let current = self.current.as_ref().filter(|live| live.is_confirmed)?;
        Some(current.since + PREVIOUS_SESSION_LIFETIME)
    }

    /// The sessions by which packets reach this tunnel.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &LiveSession> + '_ {
        [self.current.as_ref(), self.previous.as_deref()].into_iter().flatten()
    }
}

/// Why a data packet was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelOpenError {
    #[error("no session of the tunnel has this index")]
    Unknown,
    #[error("the session is past its lifetime")]
    Expired,
    #[error("the packet number was seen before")]
    Replay,
    #[error("the packet does not open")]
    Open(#[from] OpenError),
}
