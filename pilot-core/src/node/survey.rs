//! What our own NAT is like: the node asks once it has a home, and again when its home sees it elsewhere (spec/paths.md §7).
//!
//! First the main socket asks second servers: those that were named, other addresses of the home node, and its own on the port above its
//! tunnels'. Then eight fresh sockets ask the home node, one after the other: their ports tell what the NAT does if somebody sees the main
//! socket elsewhere, and which ports it gives at all.

use std::net::SocketAddr;
use std::time::Duration;

use super::Node;
use super::sockets::Purpose;
use crate::limits::{
    EFFORT_PATIENCE, SAMPLES, STUN_RETRY, STUN_SERVERS_MAX, STUN_TRIES, SURVEY_AGAIN_MAX, SURVEY_AGAIN_MIN,
};
use crate::mapping::{MappingGap, NatMapping};
use crate::route::SocketId;
use crate::time::{Mono, Now};

/// What was found out, and what is being asked.
#[derive(Default)]
pub(super) struct Survey {
    servers: Vec<SocketAddr>,
    mapping: NatMapping,
    /// Why it is not known, if it is not.
    gap: MappingGap,
    stage: Stage,
    /// How often the question under way was asked, and when it is asked again.
    asked: Option<(u32, Mono)>,
    /// When all is asked again, if nobody has told.
    again: Option<Mono>,
    /// The pause before that.
    pause: Duration,
}

/// How far it has got.
#[derive(Default)]
enum Stage {
    #[default]
    Rest,
    /// The main socket has asked the second servers.
    Main(Alike),
    /// Fresh sockets ask the home node. `alike`: who sees the main socket where that does; none if somebody sees it elsewhere.
    Samples { sockets: Vec<SocketId>, ports: Vec<u16>, alike: Option<Alike> },
}

/// Who has seen the main socket where the home node does.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Alike {
    #[default]
    Nobody,
    /// A server at the home node's own address.
    SameAddress,
    /// One at another address.
    OtherAddress,
}

impl Survey {
    pub(super) fn mapping(&self) -> NatMapping {
        self.mapping
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.asked.map(|(_, again)| again).or(self.again)
    }

    /// Takes it for known what the NAT is like.
    #[cfg(test)]
    pub(super) fn suppose(&mut self, mapping: NatMapping) {
        self.mapping = mapping;
    }
}

impl Node {
    /// Names STUN servers of our own choice besides the home node, at other addresses or ports than its. What our NAT is like is asked anew.
    pub fn set_stun_servers(&mut self, now: Now, servers: &[SocketAddr]) {
        self.survey.servers = servers.iter().copied().take(STUN_SERVERS_MAX).collect();
        self.begin_survey(now);
    }

    /// How our NAT maps sockets, as far as STUN servers tell. Unknown while the home node does not see us by UDP: this may be another NAT.
    pub fn nat_mapping(&self) -> NatMapping {
        if self.current_observed_address().is_some() { self.survey.mapping } else { NatMapping::Unknown }
    }

    /// Why it is not known, if it is not.
    pub fn nat_mapping_gap(&self) -> Option<MappingGap> {
        let gap = if self.current_observed_address().is_some() { self.survey.gap } else { MappingGap::NotAsked };
        (self.nat_mapping() == NatMapping::Unknown).then_some(gap)
    }

    /// Whether servers were asked how our NAT maps sockets, and may still answer.
    pub fn is_surveying(&self) -> bool {
        !matches!(self.survey.stage, Stage::Rest)
    }

    /// Begins anew: the home node sees us elsewhere, or there are other servers.
    pub(super) fn begin_survey(&mut self, now: Now) {
        self.survey.pause = SURVEY_AGAIN_MIN;
        self.ask_servers(now);
    }

    fn ask_servers(&mut self, now: Now) {
        self.end_survey(NatMapping::Unknown);
        self.survey.gap = MappingGap::NotAsked;
        let Some(observed) = self.observed else { return };
        if self.local_addresses.contains(&observed) {
            return self.end_survey(NatMapping::Independent { set: None });
        }
        self.survey.gap = MappingGap::Asking;
        self.survey.stage = Stage::Main(Alike::Nobody);
        self.ask_for_survey(now);
    }

    /// Does what is due.
    pub(super) fn survey_timeout(&mut self, now: Now) {
        if self.survey.again.is_some_and(|again| again <= now.mono) {
            return self.ask_servers(now);
        }
        let Some((tries, _)) = self.survey.asked.filter(|(_, again)| *again <= now.mono) else { return };
        match &self.survey.stage {
            Stage::Main(Alike::OtherAddress) => self.take_samples(now, Some(Alike::OtherAddress)),
            _ if tries < STUN_TRIES => self.repeat_survey(now, tries + 1),
            Stage::Main(Alike::SameAddress) => self.take_samples(now, Some(Alike::SameAddress)),
            Stage::Main(Alike::Nobody) | Stage::Rest => self.conclude_in_vain(now, MappingGap::NoAnswer),
            Stage::Samples { alike: Some(Alike::OtherAddress), .. } => {
                self.conclude_survey(now, NatMapping::Independent { set: None });
            }
            Stage::Samples { .. } => {
                let was_asked = self.has_questions(Purpose::Survey);
                let gap = if was_asked { MappingGap::SocketsUnanswered } else { MappingGap::NoSockets };
                self.conclude_in_vain(now, gap);
            }
        }
    }

    /// A socket asked for is open. The first sample may begin.
    pub(super) fn survey_socket_opened(&mut self, now: Now, socket: SocketId) {
        let Stage::Samples { sockets, ports, .. } = &self.survey.stage else { return };
        if ports.is_empty() && sockets.last() == Some(&socket) {
            self.ask_for_survey(now);
        }
    }

    /// A server has told where it sees one of our sockets.
    pub(super) fn survey_answered(&mut self, now: Now, server: SocketAddr, socket: SocketId, mapped: SocketAddr) {
        let is_at_home = self.home_address().is_some_and(|home| home.ip() == server.ip());
        match &mut self.survey.stage {
            Stage::Main(alike) if self.observed == Some(mapped) => {
                *alike = (*alike).max(if is_at_home { Alike::SameAddress } else { Alike::OtherAddress });
                let alike = *alike;
                if !self.has_questions(Purpose::Survey) {
                    self.take_samples(now, Some(alike));
                }
            }
            Stage::Main(_) => self.take_samples(now, None),
            Stage::Samples { sockets, ports, alike } if sockets.get(ports.len()) == Some(&socket) => {
                ports.push(mapped.port());
                match (<[u16; SAMPLES]>::try_from(&ports[..]), *alike) {
                    (Ok(ports), Some(alike)) => {
                        let mapping = NatMapping::of_one_port(alike == Alike::OtherAddress, &ports);
                        self.conclude_survey(now, mapping);
                    }
                    (Ok(ports), None) => self.conclude_survey(now, NatMapping::of_samples(&ports)),
                    (Err(_), _) => self.ask_for_survey(now),
                }
            }
            Stage::Samples { .. } | Stage::Rest => {}
        }
    }

    /// Asks the driver for fresh sockets. Where the system has none left, nothing is learned.
    fn take_samples(&mut self, now: Now, alike: Option<Alike>) {
        self.forget_questions(Purpose::Survey);
        self.survey.asked = Some((STUN_TRIES, now.mono + EFFORT_PATIENCE));
        let sockets = self.want_sockets(Purpose::Survey, SAMPLES);
        self.survey.stage = Stage::Samples { sockets, ports: Vec::new(), alike };
    }

    /// Asks those once more that have not answered.
    fn repeat_survey(&mut self, now: Now, tries: u32) {
        self.survey.asked = Some((tries, now.mono + STUN_RETRY * 2u32.pow(tries - 1)));
        self.repeat_questions(Purpose::Survey);
    }

    fn ask_for_survey(&mut self, now: Now) {
        self.survey.asked = Some((1, now.mono + STUN_RETRY));
        match &self.survey.stage {
            Stage::Rest => self.survey.asked = None,
            Stage::Main(_) => {
                // Where the home node is reached, it sees us as it has told.
                let home = self.home_address();
                let is_second = |server: &SocketAddr| {
                    let is_of_family = self.observed.is_some_and(|ours| ours.is_ipv4() == server.is_ipv4());
                    is_of_family && Some(*server) != home
                };
                let above = home.and_then(|home| Some(SocketAddr::new(home.ip(), home.port().checked_add(1)?)));
                let named = self.survey.servers.iter().copied();
                let servers: Vec<_> =
                    named.chain(self.homes_other_addresses()).chain(above).filter(is_second).collect();
                for &server in &servers {
                    self.ask_stun(server, SocketId::default(), Purpose::Survey);
                }
                if servers.is_empty() {
                    self.conclude_in_vain(now, MappingGap::NoSecondServer);
                }
            }
            Stage::Samples { sockets, ports, .. } => {
                if let (Some(&socket), Some(server)) = (sockets.get(ports.len()), self.home_address()) {
                    self.ask_stun(server, socket, Purpose::Survey);
                }
            }
        }
    }

    /// Addresses of the home node besides the one where it is reached: the name in its ticket may have several.
    fn homes_other_addresses(&self) -> Vec<SocketAddr> {
        let Some(home) = self.home else { return Vec::new() };
        let known = &self.peers[home as usize].addresses;
        let here = self.home_address().map(|address| address.ip());
        known.iter().copied().filter(|address| Some(address.ip()) != here).take(STUN_SERVERS_MAX).collect()
    }

    fn conclude_in_vain(&mut self, now: Now, gap: MappingGap) {
        self.survey.gap = gap;
        self.conclude_survey(now, NatMapping::Unknown);
    }

    /// What is known now may be what an effort has waited for, and what peers have to be told.
    fn conclude_survey(&mut self, now: Now, mapping: NatMapping) {
        self.end_survey(mapping);
        if mapping == NatMapping::Unknown {
            self.survey.again = Some(now.mono + self.survey.pause);
            self.survey.pause = (self.survey.pause * 2).min(SURVEY_AGAIN_MAX);
        }
        for index in 0..self.peers.len() as u32 {
            let peer = &self.peers[index as usize];
            let is_by_relay = peer.paths.active().is_some_and(|path| !path.hop.is_direct());
            if is_by_relay && peer.has_sent_candidates {
                self.announce_ports(index);
                self.give_challenges_time(now, index);
                self.touch(index);
            }
        }
    }

    fn end_survey(&mut self, mapping: NatMapping) {
        self.forget_questions(Purpose::Survey);
        if let Stage::Samples { sockets, .. } = std::mem::take(&mut self.survey.stage) {
            self.close_sockets(&sockets);
        }
        (self.survey.asked, self.survey.again) = (None, None);
        self.survey.mapping = mapping;
    }

    /// Where the home node is reached by UDP; it answers STUN there.
    pub(super) fn home_address(&self) -> Option<SocketAddr> {
        let route = self.validated_remote_of(self.home?)?;
        (!route.socket.is_link()).then_some(route.remote)
    }
}
