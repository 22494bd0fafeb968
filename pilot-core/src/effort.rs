//! What is done for one peer when simple challenges do not meet: which step, and until when (spec/paths.md §7).

use std::net::IpAddr;
use std::time::Duration;

use crate::limits::{
    EFFORT_AFTERMATH, EFFORT_PATIENCE, EFFORT_REST_MAX, EFFORT_REST_MIN, MOVES_BELIEVED_INTERVAL, SOCKETS_KEPT_FOR,
};
use crate::mapping::Volley;
use crate::rng::Rng;
use crate::route::SocketId;
use crate::time::Mono;
use crate::transport::{PortSet, Ports};

/// The effort for one peer.
#[derive(Debug)]
pub(crate) struct Effort {
    pub(crate) stage: Stage,
    /// A volley at ports of an address where the peer was attested: it goes beside whatever stage there is.
    pub(crate) volley: Option<(IpAddr, Volley)>,
    /// One that the peer waits for, behind that for another peer.
    pub(crate) queued: Option<Queued>,
    /// What the peer has told of its NAT last.
    pub(crate) peer: Option<Ports>,
    /// Sockets that the driver was asked for.
    pub(crate) sockets: Vec<SocketId>,
    /// Of those, how many are open.
    pub(crate) open: usize,
    /// When those that are of no use any more are closed, whatever has become of the stage and of the tunnel.
    pub(crate) tidied: Option<Mono>,
    rest: Duration,
    /// Before that none begins, whatever the peer says.
    rests_until: Mono,
    last_volley: Option<Mono>,
    /// When the peer's word that it has moved has ended a rest last.
    believed: Option<Mono>,
}

/// A volley that is to begin when the one that is under way ends.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) due: Mono,
    /// It must begin by then, or the peer has given up before it ends.
    pub(crate) latest: Mono,
    pub(crate) set: PortSet,
}

/// Where an effort stands.
#[derive(Debug, Default)]
pub(crate) enum Stage {
    /// Nothing is under way.
    #[default]
    Idle,
    /// Simple challenges have their time, or a pause goes on; the next attempt is due then, if the tunnel is in use.
    Waiting(Mono),
    /// The driver opens sockets, or the home node is asked for their ports, until then.
    Preparing(Mono),
    /// The peer has been told the port that will follow, or is about to be.
    Foretold(Mono),
    /// Many sockets wait for the peer's volley. What is due at that time, and whether they have sent their own challenges.
    Spread { due: Mono, has_challenged: bool },
    /// The peer is met. Until then it may turn out on which of the paths both sides agree; the sockets of the others go.
    Met(Mono),
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            stage: Stage::Idle,
            volley: None,
            queued: None,
            peer: None,
            sockets: Vec::new(),
            open: 0,
            tidied: None,
            rest: EFFORT_REST_MIN,
            rests_until: Mono(0),
            last_volley: None,
            believed: None,
        }
    }
}

impl Effort {
    /// Both sides have the other's candidates: simple challenges go out now, and have so much time.
    pub(crate) fn give_time(&mut self, now: Mono, time: Duration) {
        if matches!(self.stage, Stage::Idle | Stage::Waiting(_)) {
            self.stage = Stage::Waiting((now + time).max(self.rests_until));
        }
    }

    /// One of the two is in another network than before: what was in vain there says nothing of here.
    pub(crate) fn begin_anew(&mut self) {
        (self.rest, self.rests_until, self.last_volley) = (EFFORT_REST_MIN, Mono(0), None);
    }

    /// The same on the peer's word, which is believed once in a while: to name another address costs it nothing.
    pub(crate) fn begin_anew_if_told_rarely(&mut self, now: Mono) {
        let has_volleyed = self.last_volley.is_some_and(|last| now.since(last) < EFFORT_REST_MIN);
        let may = self.believed.is_none_or(|last| now.since(last) >= MOVES_BELIEVED_INTERVAL);
        if may && (now < self.rests_until || has_volleyed) {
            self.believed = Some(now);
            self.begin_anew();
        }
    }

    /// Sockets are asked for. Many are not followed by as many soon, even if they meet the peer, and that path fails at once.
    pub(crate) fn begin(&mut self, now: Mono, sockets: Vec<SocketId>) {
        self.stage = Stage::Preparing(Self::patience(now));
        if sockets.len() > 1 {
            self.rests_until = now + EFFORT_REST_MIN;
        }
        (self.sockets, self.open) = (sockets, 0);
        self.tidied = Some(now + SOCKETS_KEPT_FOR);
    }

    /// The tunnel has ended: as soon as its last packet has gone, no socket is of use.
    pub(crate) fn end(&mut self, now: Mono) {
        self.tidied = self.tidied.map(|_| now + EFFORT_AFTERMATH);
    }

    /// It was in vain: the next one after a pause, which doubles. Those who were in each other's way do not come again in the same moment: the
    /// pause is up to a quarter longer.
    pub(crate) fn rest(&mut self, now: Mono, rng: &mut Rng) {
        let [chance] = rng.array();
        self.rests_until = now + self.rest + self.rest * u32::from(chance) / 1_024;
        self.stage = Stage::Waiting(self.rests_until);
        self.rest = (self.rest * 2).min(EFFORT_REST_MAX);
    }

    /// There is a direct path.
    pub(crate) fn succeed(&mut self, now: Mono) {
        let has_sockets = !self.sockets.is_empty();
        if !matches!(self.stage, Stage::Met(_)) {
            self.stage = if has_sockets { Stage::Met(now + EFFORT_AFTERMATH) } else { Stage::Idle };
        }
        (self.rest, self.volley, self.queued) = (EFFORT_REST_MIN, None, None);
        self.rests_until = self.rests_until.min(now + EFFORT_REST_MIN);
    }

    /// A step that the driver, a server or the peer has to answer in time.
    pub(crate) fn patience(now: Mono) -> Mono {
        now + EFFORT_PATIENCE
    }

    /// Whether the peer may cause a volley now: one in a while, and one after a change of network.
    pub(crate) fn may_volley(&mut self, now: Mono) -> bool {
        let may = self.last_volley.is_none_or(|last| now.since(last) >= EFFORT_REST_MIN);
        if may {
            self.last_volley = Some(now);
        }
        may
    }

    /// Whether something is being done; a pause is none.
    pub(crate) fn is_under_way(&self) -> bool {
        self.volley.is_some() || self.queued.is_some() || !matches!(self.stage, Stage::Idle | Stage::Waiting(_))
    }

    /// When something is due.
    pub(crate) fn timeout(&self, is_in_use: bool) -> Option<Mono> {
        let volley = self.volley.as_ref().and_then(|(_, volley)| volley.timeout());
        let queued = self.queued.as_ref().map(|queued| queued.due);
        self.stage_timeout(is_in_use).into_iter().chain(volley).chain(queued).chain(self.tidied).min()
    }

    /// When the next stage is due.
    pub(crate) fn stage_timeout(&self, is_in_use: bool) -> Option<Mono> {
        match &self.stage {
            Stage::Idle => None,
            Stage::Waiting(due) => Some(*due).filter(|_| is_in_use),
            Stage::Preparing(due) | Stage::Foretold(due) | Stage::Spread { due, .. } | Stage::Met(due) => Some(*due),
        }
    }
}
