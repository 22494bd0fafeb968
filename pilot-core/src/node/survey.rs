//! What our own NAT is like: the node asks once it has a home, and again when its home sees it elsewhere (spec/paths.md §7).
//!
//! First the main socket asks second servers: those that were named, and the home node's own on the port above its tunnels'. If all that
//! answer see it where the home node does, that is all. Else eight fresh sockets ask the home
//! node, one after the other, and their ports tell.

use std::net::SocketAddr;

use super::Node;
use super::sockets::Purpose;
use crate::limits::{SAMPLES, STUN_RETRY, STUN_SERVERS_MAX, STUN_TRIES};
use crate::mapping::NatMapping;
use crate::route::SocketId;
use crate::time::{Mono, Now};

/// What was found out, and what is being asked.
#[derive(Default)]
pub(super) struct Survey {
    servers: Vec<SocketAddr>,
    mapping: NatMapping,
    stage: Stage,
    /// How often the question under way was asked, and when it is asked again.
    asked: Option<(u32, Mono)>,
}

/// How far it has got.
#[derive(Default)]
enum Stage {
    #[default]
    Rest,
    /// The main socket has asked the second servers; whether one has seen it where the home node does.
    Main { is_seen_alike: bool },
    /// Fresh sockets ask the home node.
    Samples { sockets: Vec<SocketId>, ports: Vec<u16> },
}

impl Survey {
    pub(super) fn mapping(&self) -> NatMapping {
        self.mapping
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.asked.map(|(_, again)| again)
    }
}

impl Node {
    /// Names STUN servers of our own choice besides the home node, at other addresses or ports than its. What our NAT is like is asked anew.
    pub fn set_stun_servers(&mut self, now: Now, servers: &[SocketAddr]) {
        self.survey.servers = servers.iter().copied().take(STUN_SERVERS_MAX).collect();
        self.begin_survey(now);
    }

    /// How our NAT maps sockets, as far as STUN servers tell.
    pub fn nat_mapping(&self) -> NatMapping {
        self.survey.mapping
    }

    /// Whether servers were asked how our NAT maps sockets, and may still answer.
    pub fn is_surveying(&self) -> bool {
        !matches!(self.survey.stage, Stage::Rest)
    }

    /// Begins anew: the home node sees us elsewhere, or there are other servers.
    pub(super) fn begin_survey(&mut self, now: Now) {
        self.end_survey(NatMapping::Unknown);
        let Some(observed) = self.observed else { return };
        if self.local_addresses.contains(&observed) {
            return self.end_survey(NatMapping::Independent);
        }
        self.survey.stage = Stage::Main { is_seen_alike: false };
        self.ask_for_survey(now, 1);
    }

    /// Does what is due.
    pub(super) fn survey_timeout(&mut self, now: Now) {
        let Some((tries, _)) = self.survey.asked.filter(|(_, again)| *again <= now.mono) else { return };
        if matches!(self.survey.stage, Stage::Main { is_seen_alike: true }) {
            self.end_survey(NatMapping::Independent);
        } else if tries < STUN_TRIES {
            self.ask_for_survey(now, tries + 1);
        } else {
            self.end_survey(NatMapping::Unknown);
        }
    }

    /// A socket asked for is open. The first sample may begin.
    pub(super) fn survey_socket_opened(&mut self, now: Now, socket: SocketId) {
        let Stage::Samples { sockets, ports } = &self.survey.stage else { return };
        if ports.is_empty() && sockets.last() == Some(&socket) {
            self.ask_for_survey(now, 1);
        }
    }

    /// A server has told where it sees one of our sockets.
    pub(super) fn survey_answered(&mut self, now: Now, socket: SocketId, mapped: SocketAddr) {
        match &mut self.survey.stage {
            Stage::Main { is_seen_alike } if self.observed == Some(mapped) => {
                *is_seen_alike = true;
                if !self.has_questions(Purpose::Survey) {
                    self.end_survey(NatMapping::Independent);
                }
            }
            Stage::Main { .. } => {
                self.forget_questions(Purpose::Survey);
                self.survey.asked = None;
                let sockets = self.want_sockets(Purpose::Survey, SAMPLES);
                self.survey.stage = Stage::Samples { sockets, ports: Vec::new() };
            }
            Stage::Samples { sockets, ports } if sockets.get(ports.len()) == Some(&socket) => {
                ports.push(mapped.port());
                match <[u16; SAMPLES]>::try_from(&ports[..]) {
                    Ok(ports) => self.end_survey(NatMapping::of_samples(&ports)),
                    Err(_) => self.ask_for_survey(now, 1),
                }
            }
            Stage::Samples { .. } | Stage::Rest => {}
        }
    }

    fn ask_for_survey(&mut self, now: Now, tries: u32) {
        self.forget_questions(Purpose::Survey);
        self.survey.asked = Some((tries, now.mono + STUN_RETRY));
        match &self.survey.stage {
            Stage::Rest => self.survey.asked = None,
            Stage::Main { .. } => {
                // Where the home node is reached, it sees us as it has told.
                let home = self.home_address();
                let is_second = |server: &SocketAddr| {
                    let is_of_family = self.observed.is_some_and(|ours| ours.is_ipv4() == server.is_ipv4());
                    is_of_family && Some(*server) != home
                };
                let above = home.and_then(|home| Some(SocketAddr::new(home.ip(), home.port().checked_add(1)?)));
                let servers: Vec<_> = self.survey.servers.iter().copied().chain(above).filter(is_second).collect();
                for &server in &servers {
                    self.ask_stun(server, SocketId::default(), Purpose::Survey);
                }
                if servers.is_empty() {
                    self.end_survey(NatMapping::Unknown);
                }
            }
            Stage::Samples { sockets, ports } => {
                if let (Some(&socket), Some(server)) = (sockets.get(ports.len()), self.home_address()) {
                    self.ask_stun(server, socket, Purpose::Survey);
                }
            }
        }
    }

    fn end_survey(&mut self, mapping: NatMapping) {
        self.forget_questions(Purpose::Survey);
        if let Stage::Samples { sockets, .. } = std::mem::take(&mut self.survey.stage) {
            self.close_sockets(&sockets);
        }
        self.survey.asked = None;
        self.survey.mapping = mapping;
    }

    /// Where the home node is reached by UDP; it answers STUN there.
    pub(super) fn home_address(&self) -> Option<SocketAddr> {
        let route = self.validated_remote_of(self.home?)?;
        (!route.socket.is_link()).then_some(route.remote)
    }
}
