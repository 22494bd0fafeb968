//! What an agent tells about itself and its peers (spec/local-api.md).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pilot_core::address::Address;
use pilot_core::event::PathKind;
use pilot_core::id::IdentityKey;
use pilot_core::node::PeerStatus;
use pilot_core::ticket::BackboneTicket;
use pilot_core::time::Now;

use super::Agent;
use crate::api::types::{self, ApiError, Finding, FindingCode, Transport};
use crate::backbone_link::Registration;
use crate::driver::{Core, HomeLink};
use crate::services::{ServiceStatus, service_name};

impl Agent {
    /// Every agent and backbone node known.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn peers(&self) -> Result<Vec<types::Peer>, ApiError> {
        let peers = self.inner.ask(|core, now| {
            let with_address = |status: PeerStatus| {
                let address = core.node.peer_certificate(&status.key).map(|certificate| certificate.address());
                (status, address)
            };
            (core.node.peers().map(with_address).collect::<Vec<_>>(), now)
        });
        let (peers, now) = peers.await?;
        let relays = peers.iter().filter(|(status, _)| status.backbone);
        let relays: BTreeMap<_, _> =
            relays.filter_map(|(status, _)| Some((status.key, path_of(status.path).1?))).collect();
        let peer = |(status, address): &(PeerStatus, _)| self.peer(status, *address, &relays, now);
        Ok(peers.iter().map(peer).collect())
    }

    /// The state of the agent.
    ///
    /// # Errors
    /// If it has shut down.
    pub async fn status(&self) -> Result<types::Status, ApiError> {
        let snapshot = self.inner.ask(Snapshot::take).await?;
        let inner = &self.inner;
        let profile = inner.profile.borrow().clone();
        Ok(types::Status {
            name: inner.name().to_owned(),
            address: inner.identity.address().to_string(),
            key: inner.identity.key().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            supervised: inner.supervised,
            tags: profile.tags,
            groups: profile.groups,
            description: profile.description,
            uptime_s: snapshot.now.mono.since(inner.started).as_secs(),
            backbone: inner.backbone.as_ref().map(|ticket| self.backbone(ticket, &snapshot)),
            direct: profile.direct,
            socket: inner.agent_home.socket_path().ok(),
            listen: inner.listen,
            rules_error: snapshot.rules_error,
            services: snapshot.services,
            counters: snapshot.counters,
            drops: snapshot.drops,
        })
    }

    /// Returns once the loop has taken a turn for it: what a watchdog asks.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn beat(&self) -> Result<(), ApiError> {
        self.inner.ask(|_, _| ()).await
    }

    fn peer(
        &self,
        status: &PeerStatus,
        address: Option<Address>,
        relays: &BTreeMap<IdentityKey, SocketAddr>,
        now: Now,
    ) -> types::Peer {
        let (path, remote) = path_of(status.path);
        let relay = match status.path {
            Some(PathKind::Relay(key)) => Some(key),
            Some(PathKind::Direct(_) | PathKind::Tls(_)) | None => None,
        };
        types::Peer {
            name: self.inner.name_of(&status.key),
            address: address.map(|address| address.to_string()),
            key: status.key.to_string(),
            backbone: status.backbone,
            connected: status.connected,
            path,
            remote,
            relay: relay.map(|key| key.to_string()),
            relay_remote: relay.and_then(|key| relays.get(&key).copied()),
            path_s: status.path_since.filter(|_| status.connected).map(|since| now.mono.since(since).as_secs_f64()),
            rtt_ms: status.rtt.map(millis),
            connected_s: status.connected_since.map(|since| now.mono.since(since).as_secs_f64()),
            bytes_sent: status.bytes_sent,
            bytes_received: status.bytes_received,
            sent_packets: status.sent_packets,
            lost_packets: status.lost_packets,
            streams: status.streams,
        }
    }

    fn backbone(&self, ticket: &BackboneTicket, snapshot: &Snapshot) -> types::Backbone {
        let registration = self.inner.registration.borrow();
        let error = match &*registration {
            Registration::Failed(error, _) => Some(error.message.clone()),
            Registration::Pending | Registration::Registered(_) => None,
        };
        let link = *self.inner.home_link.borrow();
        types::Backbone {
            ticket: ticket.to_string(),
            connected: link.connected,
            registered: matches!(*registration, Registration::Registered(_)),
            transport: link.transport,
            findings: self.findings(ticket, link),
            observed_address: snapshot.observed,
            error,
        }
    }
}

impl Agent {
    /// Why the tunnel to the home node does not run over UDP. If it does, nothing else matters.
    pub(super) fn findings(&self, ticket: &BackboneTicket, link: HomeLink) -> Vec<Finding> {
        let report = self.inner.link_report.borrow().clone();
        let blocked = match link.transport {
            Some(Transport::Udp) => return Vec::new(),
            Some(Transport::Tls) => Some(udp_blocked(ticket, report.proxy.as_deref())),
            None => None,
        };
        blocked.into_iter().chain(report.findings).collect()
    }
}

fn udp_blocked(ticket: &BackboneTicket, proxy: Option<&str>) -> Finding {
    let BackboneTicket { host, port, .. } = ticket;
    let by = proxy.map(|proxy| format!(", through the proxy {proxy}")).unwrap_or_default();
    let message = format!("UDP to {host}:{port} is not answered: everything goes over TLS and TCP{by}");
    Finding { code: FindingCode::UdpBlocked, message }
}

/// State of the loop, taken in one turn.
struct Snapshot {
    now: Now,
    observed: Option<SocketAddr>,
    rules_error: Option<String>,
    services: Vec<types::Service>,
    counters: BTreeMap<String, u64>,
    drops: BTreeMap<String, u64>,
}

impl Snapshot {
    fn take(core: &mut Core, now: Now) -> Self {
        core.rules.current(now.mono);
        let rules_error = core.rules.error().map(ToString::to_string);
        let stats = core.node.stats();
        let net = core.net;
        let of_socket = [
            ("socket_datagrams_received", net.datagrams_received),
            ("socket_send_calls", net.send_calls),
            ("socket_unreachable", net.unreachable),
            ("socket_refused", net.refused),
            ("socket_blocked", net.blocked),
            ("links_open", core.links.count() as u64),
            ("link_datagrams_dropped", core.links.dropped()),
        ];
        let of_programs = [("messages_dropped", core.datagrams.dropped())];
        let named = |(name, count): (&'static str, u64)| (name.to_owned(), count);
        let service = |status: ServiceStatus| types::Service {
            service: service_name(status.port),
            public: status.public,
            offer: status.offer,
            waiting: status.waiting,
        };
        Self {
            now,
            observed: core.node.current_observed_address(),
            rules_error,
            services: core.services.status().into_iter().map(service).collect(),
            counters: stats.counters().into_iter().chain(of_socket).chain(of_programs).map(named).collect(),
            drops: stats.drop_counters().map(named).collect(),
        }
    }
}

/// How a path is shown.
pub(crate) fn path_of(path: Option<PathKind>) -> (Option<types::Path>, Option<SocketAddr>) {
    match path {
        Some(PathKind::Direct(remote)) => (Some(types::Path::Direct), Some(remote)),
        Some(PathKind::Relay(_)) => (Some(types::Path::Relay), None),
        Some(PathKind::Tls(remote)) => (Some(types::Path::Tls), Some(remote)),
        None => (None, None),
    }
}

/// Milliseconds, to the microsecond.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}
