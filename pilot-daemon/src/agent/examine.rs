//! What `pilotctl doctor` asks: whether all is well with the agent, and what keeps it and another one on the relay (spec/local-api.md §10).

use std::time::Duration;

use pilot_core::event::{ConnectError, PathKind};
use pilot_core::id::IdentityKey;
use pilot_core::mapping::NatMapping;
use pilot_core::node::Obstacle;
use pilot_core::transport::Ports;

use super::network::Seen;
use super::{Agent, DEFAULT_TIMEOUT, Resolved, header};
use crate::api::network::{Check, Diagnosis, MappingKind};
use crate::api::types::{self, ApiError, ErrorCode, Finding, FindingCode};
use crate::backbone_link::Registration;
use crate::clock;

/// A direct path comes within a second where one is possible at once; a round of challenges, after which nobody has answered, takes 6.4 s.
pub const DIRECT_PATIENCE: Duration = Duration::from_secs(8);
/// The peer's list of addresses comes within a round trip of the tunnel, if it has one.
const CANDIDATES_PATIENCE: Duration = Duration::from_secs(2);
/// The state of the pair is looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl Agent {
    /// Examines the agent and, if one is named, its tunnel with another. A direct path is waited for, for `patience` at most.
    ///
    /// # Errors
    /// If the agent has shut down, or nobody is called so.
    pub async fn examine(&self, target: Option<&str>, patience: Duration) -> Result<Diagnosis, ApiError> {
        // First of all: what comes of it shows whether the backbone is there.
        let peer = match target {
            Some(target) => Some(self.target_check(target, patience).await?),
            None => None,
        };
        let status = self.status().await?;
        let seen = self.settled().await?;
        let mut checks = vec![running(&status), self.keys_check()];
        checks.extend(self.clock_check(&status).await?);
        checks.push(self.backbone_check(&status));
        checks.extend(network_checks(status.backbone.as_ref()));
        if status.backbone.is_some() {
            checks.push(self.nat_check(&seen));
        }
        let faults = self.orgs().into_iter().flat_map(|org| org.faults());
        checks.extend(faults.map(|fault| Check::wrong("org", fault.code, fault.what, fault.remedy)));
        checks.extend(peer);
        Ok(Diagnosis { checks })
    }

    async fn target_check(&self, target: &str, patience: Duration) -> Result<Check, ApiError> {
        match self.resolve(target).await {
            Ok(found) => self.peer_check(&found, patience).await,
            Err(error) if error.code == ErrorCode::Unreachable && !self.is_home_connected().await? => {
                Ok(behind_the_backbone(&format!("{target} cannot be looked up")))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether there is a tunnel with the home node; also if there is none to be had.
    async fn is_home_connected(&self) -> Result<bool, ApiError> {
        Ok(self.status().await?.backbone.is_none_or(|backbone| backbone.connected))
    }

    fn keys_check(&self) -> Check {
        let exposed = self.inner.agent_home.exposed();
        let Some(first) = exposed.first() else { return Check::fine("keys", "nobody else can read them") };
        let paths: Vec<_> = exposed.iter().map(|path| path.display().to_string()).collect();
        let message = format!("other users of this machine may get at {}", paths.join(", "));
        Check::wrong("keys", "exposed", message, format!("chmod go= {}", first.display()))
    }

    /// What is known of the clock: that others take our certificate for one of this day, and we theirs.
    async fn clock_check(&self, status: &types::Status) -> Result<Option<Check>, ApiError> {
        let error = self.inner.ask(|core, _| core.node.home_error().cloned()).await?;
        let is_before_certificate =
            clock::now().unix + pilot_core::identity::CLOCK_SKEW < self.inner.certificate.borrow().not_before;
        let remedy = "compare what 'date -u' says here and at the backbone, and set the clock that is wrong";
        Ok(match error {
            Some(ConnectError::Clock(reason)) => Some(Check::wrong("clock", "wrong", reason, remedy)),
            _ if is_before_certificate => {
                Some(Check::wrong("clock", "wrong", "it was set back since this agent was started", remedy))
            }
            _ if status.backbone.as_ref().is_some_and(|backbone| backbone.connected) => {
                Some(Check::fine("clock", "agrees with the backbone's to within a day"))
            }
            Some(_) | None => None,
        })
    }

    fn backbone_check(&self, status: &types::Status) -> Check {
        let (Some(backbone), Some(ticket)) = (&status.backbone, &self.inner.backbone) else {
            return Check::fine("backbone", "none is named: this agent is reached by its ticket");
        };
        let place = format!("{}:{}", ticket.host, ticket.port);
        let registration = self.inner.registration.borrow();
        match (&*registration, backbone.connected) {
            (_, false) => Check::wrong(
                "backbone",
                "unreachable",
                format!("{place} does not answer"),
                "see whether it runs there (pilotctl backbone status), and whether UDP, or TCP 443, gets through",
            ),
            (Registration::Registered(_), true) => {
                Check::fine("backbone", format!("{place} is connected, and has this agent in its directory"))
            }
            (Registration::Pending, true) => Check::wrong(
                "backbone",
                "not_registered",
                format!("{place} is connected, and has not taken this agent into its directory yet"),
                "ask again in a moment",
            ),
            (Registration::Failed(error, _), true) => {
                let remedy = error.hint.clone().unwrap_or_else(|| "`pilotctl daemon logs` may say more".to_owned());
                Check::wrong("backbone", "not_registered", error.message.clone(), remedy)
            }
        }
    }

    fn nat_check(&self, seen: &Seen) -> Check {
        let hard = |ports: &str| {
            let message =
                format!("the NAT here gives each destination another port ({ports}), by what STUN servers have seen");
            if let Some(mapped) = self.inner.port_mapper.mapped() {
                let message = format!("{message}; the router says that it has mapped {mapped} to this agent");
                return Check::fine("nat", message);
            }
            let remedy = "allow port mapping on the router (PCP, NAT-PMP or UPnP), or use IPv6";
            Check::wrong("nat", "hard_mapping", message, remedy)
        };
        let mapping = self.mapping(seen);
        match mapping.kind {
            MappingKind::None => Check::fine("nat", "none on the way to the backbone"),
            MappingKind::Independent => Check::fine("nat", "keeps one port for all destinations"),
            MappingKind::PortIndependent => {
                Check::fine("nat", "keeps one port for the backbone; whether other addresses see another is unknown")
            }
            MappingKind::Unknown => {
                let reason = mapping.reason.map(|reason| format!(": {}", reason.phrase())).unwrap_or_default();
                Check::fine("nat", format!("unknown{reason}"))
            }
            MappingKind::Sequence => hard("in sequence"),
            MappingKind::Random => hard("at random"),
        }
    }

    async fn peer_check(&self, found: &Resolved, patience: Duration) -> Result<Check, ApiError> {
        if let Err(error) = self.ping(found, DEFAULT_TIMEOUT.min(patience.max(LOOK_INTERVAL * 10))).await {
            if !self.is_home_connected().await? {
                return Ok(behind_the_backbone(&format!("{} is not reached", found.label())));
            }
            let remedy = error.hint.unwrap_or_else(|| "see whether its daemon runs".to_owned());
            return Ok(Check::wrong("peer", "not_connected", error.message, remedy));
        }
        // While a stream is open the tunnel is in use, and a direct path looked for.
        let stream = self.open(found, header("echo")?).await?;
        let obstacle = self.lasting_obstacle(found.key, patience).await?;
        let status = self.peer_status(found.key).await;
        drop(stream);
        Ok(match (obstacle, status.and_then(|status| status.path)) {
            (None, Some(PathKind::Direct(remote))) => Check::fine("peer", format!("direct, to {remote}")),
            (None, _) => Check::fine("peer", "direct"),
            (Some(obstacle), _) => obstacle_check(&found.label(), obstacle, self.inner.listen.port()),
        })
    }

    /// What stands between the two once it is not likely to go away by itself.
    async fn lasting_obstacle(&self, peer: IdentityKey, patience: Duration) -> Result<Option<Obstacle>, ApiError> {
        let mut waited = Duration::ZERO;
        loop {
            let obstacle = self.inner.ask(move |core, _| core.node.obstacle(&peer)).await?;
            let limit = match obstacle {
                Some(Obstacle::Trying) => patience,
                Some(Obstacle::NoCandidates) => CANDIDATES_PATIENCE.min(patience),
                _ => return Ok(obstacle),
            };
            if waited >= limit {
                return Ok(obstacle);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            waited += LOOK_INTERVAL;
        }
    }
}

/// What is wrong is on this side of the peer, of which nothing can be said.
fn behind_the_backbone(what: &str) -> Check {
    let message = format!("{what}: the way there is by the backbone, which does not answer");
    Check::wrong("peer", "backbone_unreachable", message, "first see to the backbone, as said above")
}

fn running(status: &types::Status) -> Check {
    Check::fine("daemon", format!("{} runs (pid {})", status.name, status.pid))
}

/// What is strange on the way to the backbone node.
fn network_checks(backbone: Option<&types::Backbone>) -> Vec<Check> {
    let Some(backbone) = backbone else { return Vec::new() };
    if backbone.findings.is_empty() && backbone.connected {
        return vec![Check::fine("network", "UDP gets through")];
    }
    let check = |finding: &Finding| {
        Check::wrong("network", finding.code.name(), finding.message.clone(), remedy_of(finding.code))
    };
    backbone.findings.iter().map(check).collect()
}

fn remedy_of(finding: FindingCode) -> &'static str {
    match finding {
        FindingCode::UdpBlocked => "let UDP out: everything is faster then, and direct paths become possible",
        FindingCode::TlsIntercepted => "nothing needs to be done: sealed packets are all that it sees",
        FindingCode::TlsFailed => {
            "let UDP or TCP 443 out, sign in if this network wants that, or name its proxy in config.toml"
        }
        FindingCode::Captive => {
            "open a web page and sign in to this network; if it wants no sign-in, let UDP out, or the port of the backbone's ticket by TCP"
        }
        FindingCode::ProxyCredentials => "correct user and password in `proxy` of config.toml",
        FindingCode::ProxyFailed => "correct `proxy` in config.toml, or HTTPS_PROXY",
        FindingCode::Other => "`pilotctl daemon logs` may say more",
    }
}

/// What an obstacle is called, and what can be done about it.
fn obstacle_check(peer: &str, obstacle: Obstacle, port: u16) -> Check {
    let wrong =
        |code: &str, message: &str, remedy: &str| Check::wrong("peer", code, format!("by relay: {message}"), remedy);
    match obstacle {
        Obstacle::ForbiddenHere => wrong(
            "forbidden_here",
            "this agent's policy forbids direct paths",
            "allow them: pilotctl daemon set --direct on",
        ),
        Obstacle::NoUdpHere => wrong("udp_blocked_here", "UDP is blocked here", "let UDP out"),
        Obstacle::NoUdpThere => {
            wrong("udp_blocked_there", "UDP is blocked there: the backbone sees it by TLS only", "let UDP out there")
        }
        Obstacle::NoCandidates => wrong(
            "forbidden_there",
            "it names no address to be reached at: its policy forbids direct paths",
            "its owner can allow them: pilotctl daemon set --direct on",
        ),
        Obstacle::NoCommonFamily => wrong(
            "no_common_family",
            "one of the two has IPv4 alone and the other IPv6 alone",
            "give one of them an address of the other kind",
        ),
        Obstacle::HardMappings { ours, theirs } => {
            let (ours, theirs) = (word_of(ours), word_of_theirs(theirs));
            let message = format!("both NATs give each destination another port ({ours} here, {theirs} there)");
            wrong("hard_mappings", &message, "allow port mapping on one of the two routers, or use IPv6 at both ends")
        }
        Obstacle::Trying => wrong(
            "trying",
            "a direct path is being looked for",
            &format!("wait for it: pilotctl ping --until-direct {peer}"),
        ),
        Obstacle::ShortPacketsOnly => wrong(
            "short_packets_only",
            "challenges are answered directly, and then nothing that is longer",
            "find what drops long or many packets between the two: a tunnel with a small MTU, a filter, a limit of rate",
        ),
        Obstacle::Unanswered { ours, theirs } => {
            let nat =
                |place: &str, word: &str| format!("; the NAT {place} gives each destination another port ({word})");
            let here = if is_hard(ours) { nat("here", word_of(ours)) } else { String::new() };
            let there = theirs.map(|theirs| nat("there", word_of_theirs(theirs))).unwrap_or_default();
            let message = format!("nobody answers directly at its addresses{here}{there}");
            let remedy =
                format!("let UDP in to port {port} here, or to its port there, or allow port mapping on the router");
            wrong("unanswered", &message, &remedy)
        }
        // Between the ping and now.
        Obstacle::NotConnected => wrong("not_connected", "the tunnel has ended", "ask again"),
    }
}

fn is_hard(mapping: NatMapping) -> bool {
    match mapping {
        NatMapping::Sequence { .. } | NatMapping::Random { .. } => true,
        NatMapping::Unknown | NatMapping::Independent { .. } | NatMapping::PortIndependent { .. } => false,
    }
}

fn word_of(mapping: NatMapping) -> &'static str {
    match mapping {
        NatMapping::Sequence { .. } => "in sequence",
        NatMapping::Random { .. } => "at random",
        NatMapping::Unknown | NatMapping::Independent { .. } | NatMapping::PortIndependent { .. } => "one for all",
    }
}

fn word_of_theirs(ports: Ports) -> &'static str {
    match ports {
        Ports::Sequence { .. } => "in sequence",
        Ports::Random { .. } => "at random",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_core::transport::PortSet;

    #[test]
    fn every_obstacle_has_a_code_a_reason_and_a_remedy() {
        let set = PortSet::default();
        let hard =
            Obstacle::HardMappings { ours: NatMapping::Random { set }, theirs: Ports::Sequence { next: 0, step: 1 } };
        let obstacles = [
            (Obstacle::NotConnected, "not_connected"),
            (Obstacle::ForbiddenHere, "forbidden_here"),
            (Obstacle::NoUdpHere, "udp_blocked_here"),
            (Obstacle::NoCandidates, "forbidden_there"),
            (Obstacle::NoUdpThere, "udp_blocked_there"),
            (hard, "hard_mappings"),
            (Obstacle::Trying, "trying"),
            (Obstacle::NoCommonFamily, "no_common_family"),
            (Obstacle::ShortPacketsOnly, "short_packets_only"),
            (Obstacle::Unanswered { ours: NatMapping::Independent { set: None }, theirs: None }, "unanswered"),
        ];
        for (obstacle, code) in obstacles {
            let check = obstacle_check("beta", obstacle, 7);
            assert_eq!((check.ok, check.code.as_deref()), (false, Some(code)));
            assert!(check.message.starts_with("by relay: ") && check.remedy.is_some(), "{check:?}");
        }
        let check = obstacle_check("beta", hard, 7);
        assert!(check.message.contains("at random here, in sequence there"), "{check:?}");
        let one_sided = Obstacle::Unanswered { ours: NatMapping::Random { set }, theirs: None };
        let check = obstacle_check("beta", one_sided, 7);
        assert!(check.message.contains("the NAT here gives each destination another port (at random)"), "{check:?}");
        assert!(!check.message.contains("there"), "{check:?}");
    }
}
