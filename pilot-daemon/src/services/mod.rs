//! What an agent offers: who may call a service, which handler gets the stream, and what happens when none waits.
//!
//! Handlers come by [`Agent::accept`](crate::agent::Agent::accept), each taking one stream; how many wait is the backlog.
//! A handler that has just taken a stream comes back in a moment, so streams queue for a short grace before they are told
//! that nobody is there.

pub(crate) mod builtin;
pub(crate) mod inbox;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use pilot_core::address::Address;
use pilot_core::event::StreamHandle;
use pilot_core::id::{IdentityKey, ServicePort};
use pilot_core::record::Offer;
use pilot_core::time::{Mono, UnixTime};
use pilot_core::transport::Code;
use pilot_core::wire::stream_header::StreamHeader;
use tokio::sync::{oneshot, watch};

use crate::rules::Decision;
use crate::stream::Stream;

/// How long streams wait for a handler that was there a moment ago.
const HANDLER_GRACE: Duration = Duration::from_secs(2);
/// Streams that wait for one service: all that a caller may have open, whose requests may come at once; handlers that are there take them in a
/// moment.
const QUEUE_MAX: usize = 1_024;
/// Services at once; each needs a local program.
const SERVICES_MAX: usize = 256;

/// Names of services with a well-known port (spec/local-api.md §4).
const WELL_KNOWN: [(&str, ServicePort); 4] = [
    ("echo", ServicePort::ECHO),
    ("query", ServicePort::QUERY),
    ("mcp", ServicePort::MCP),
    ("message", ServicePort::MESSAGE),
];

/// A stream that another agent has opened, with its provenance.
#[derive(Debug)]
pub struct Incoming {
    /// The stream.
    pub stream: Stream,
    /// Who opened it, as the session proves.
    pub peer: IdentityKey,
    /// The address of that key.
    pub address: Option<Address>,
    /// Its name, if this agent knows it.
    pub name: Option<String>,
    /// What it is for.
    pub header: StreamHeader,
    /// When it arrived.
    pub arrived: UnixTime,
}

/// How a service is offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Let anybody call, not only agents of the same home.
    pub public: bool,
    /// What the service does, for the directory; handlers without a word keep what others have said.
    pub offer: Option<String>,
    /// To be asked twice does no harm: what callers mark likewise is answered while it may still be a replay, and so a round trip earlier
    /// (spec/handshake.md §10). Only as long as all handlers say so.
    pub replay_safe: bool,
}

/// How a service fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its port.
    pub port: ServicePort,
    /// Whether anybody may call it.
    pub public: bool,
    /// What it does.
    pub offer: String,
    /// Handlers that wait for a stream.
    pub waiting: usize,
}

/// The services of one agent.
#[derive(Debug)]
pub(crate) struct Services {
    table: BTreeMap<ServicePort, Service>,
    offers: watch::Sender<Vec<Offer>>,
}

#[derive(Debug, Default)]
struct Service {
    public: bool,
    offer: String,
    replay_safe: bool,
    handlers: VecDeque<oneshot::Sender<Incoming>>,
    queue: VecDeque<Incoming>,
    /// Streams in the hands of handlers: while there are any, the service is busy, not gone.
    serving: BTreeSet<StreamHandle>,
    last_handler: Mono,
}

/// A stream that no handler gets, and what to tell its opener.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) incoming: Incoming,
    pub(crate) code: Code,
    pub(crate) reason: String,
}

/// The port of a service given by name or number.
pub fn service_port(service: &str) -> Option<ServicePort> {
    let known = WELL_KNOWN.iter().find(|(name, _)| *name == service).map(|&(_, port)| port);
    known.or_else(|| service.parse().ok().map(ServicePort))
}

/// The name of a port, or its number.
pub fn service_name(port: ServicePort) -> String {
    let known = WELL_KNOWN.iter().find(|&&(_, known)| known == port);
    known.map_or_else(|| port.0.to_string(), |&(name, _)| name.to_owned())
}

impl Services {
    pub(crate) fn new(offers: watch::Sender<Vec<Offer>>) -> Self {
        Self { table: BTreeMap::new(), offers }
    }

    /// A handler waits for one stream.
    pub(crate) fn accept(
        &mut self,
        now: Mono,
        port: ServicePort,
        options: ServiceOptions,
        handler: oneshot::Sender<Incoming>,
    ) {
        if self.table.len() >= SERVICES_MAX && !self.table.contains_key(&port) {
            return;
        }
        let is_new = !self.table.contains_key(&port);
        let service = self.table.entry(port).or_default();
        service.public = options.public;
        service.replay_safe = options.replay_safe && (service.replay_safe || service.is_deserted());
        let offered = options.offer.filter(|offer| *offer != service.offer);
        let is_news = is_new || offered.is_some();
        if let Some(offer) = offered {
            service.offer = offer;
        }
        service.last_handler = now;
        service.handlers.push_back(handler);
        service.match_up();
        if is_news {
            self.publish();
        }
    }

    /// Handlers have stopped waiting.
    pub(crate) fn handler_left(&mut self, now: Mono, port: ServicePort) {
        if let Some(service) = self.table.get_mut(&port) {
            service.handlers.retain(|handler| !handler.is_closed());
            service.last_handler = now;
        }
    }

    /// Whether a handler is or was there.
    pub(crate) fn is_served(&self, port: ServicePort) -> bool {
        self.table.contains_key(&port)
    }

    /// Whether its handlers let everybody call.
    pub(crate) fn is_public(&self, port: ServicePort) -> bool {
        self.table.get(&port).is_some_and(|service| service.public)
    }

    /// Whether it may be asked what is perhaps a replay.
    pub(crate) fn is_replay_safe(&self, port: ServicePort) -> bool {
        self.table.get(&port).is_some_and(|service| service.replay_safe)
    }

    /// Gives a stream that is allowed to a handler, or to the queue.
    pub(crate) fn deliver(&mut self, incoming: Incoming, decision: &Decision) -> Result<(), Box<Refused>> {
        let name = service_name(incoming.header.port);
        let Some(service) = self.table.get_mut(&incoming.header.port) else {
            return Err(Refused::new(incoming, Code::NOT_FOUND, nobody(&name)).into());
        };
        if !decision.allowed {
            return Err(Refused::not_open(incoming, decision));
        }
        if service.queue.len() >= QUEUE_MAX {
            return Err(
                Refused::new(incoming, Code::BUSY, format!("{QUEUE_MAX} calls wait for '{name}' already")).into()
            );
        }
        service.queue.push_back(incoming);
        service.match_up();
        Ok(())
    }

    /// A stream is over, whoever had it. One that nobody had yet is kept for no handler: its end would not be told again.
    pub(crate) fn stream_closed(&mut self, now: Mono, stream: StreamHandle) {
        for service in self.table.values_mut() {
            service.queue.retain(|incoming| incoming.stream.handle() != stream);
            if service.serving.remove(&stream) && service.serving.is_empty() {
                service.last_handler = now;
            }
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.table
            .values()
            .filter(|service| service.is_deserted())
            .map(|service| service.last_handler + HANDLER_GRACE)
            .min()
    }

    /// Forgets services whose handlers have not come back, and returns them with those who waited for them.
    pub(crate) fn expire(&mut self, now: Mono) -> Vec<(ServicePort, Vec<Refused>)> {
        let is_gone = |service: &Service| service.is_deserted() && service.last_handler + HANDLER_GRACE <= now;
        let gone: Vec<_> = self.table.iter().filter(|(_, service)| is_gone(service)).map(|(&port, _)| port).collect();
        let forget = |port| {
            let queue = self.table.remove(&port).map(|service| service.queue).unwrap_or_default();
            let reason = nobody(&service_name(port));
            let refused = queue.into_iter().map(|incoming| Refused::new(incoming, Code::NOT_FOUND, reason.clone()));
            (port, refused.collect())
        };
        let forgotten: Vec<_> = gone.into_iter().map(forget).collect();
        if !forgotten.is_empty() {
            self.publish();
        }
        forgotten
    }

    pub(crate) fn status(&self) -> Vec<ServiceStatus> {
        let status = |(&port, service): (&ServicePort, &Service)| ServiceStatus {
            port,
            public: service.public,
            offer: service.offer.clone(),
            waiting: service.handlers.iter().filter(|handler| !handler.is_closed()).count(),
        };
        self.table.iter().map(status).collect()
    }

    /// Tells the registration what there is to find.
    fn publish(&self) {
        let offers = self
            .table
            .iter()
            .take(pilot_core::record::OFFERS_MAX)
            .map(|(&port, service)| Offer { service: service_name(port), description: service.offer.clone() });
        let offers: Vec<_> = offers.collect();
        self.offers.send_if_modified(|published| {
            let is_new = *published != offers;
            *published = offers;
            is_new
        });
    }
}

impl Service {
    /// Pairs streams and handlers while there are both.
    fn match_up(&mut self) {
        while !self.queue.is_empty() {
            let Some(handler) = self.handlers.pop_front() else { return };
            let Some(incoming) = self.queue.pop_front() else { return };
            let handle = incoming.stream.handle();
            match handler.send(incoming) {
                Ok(()) => {
                    self.serving.insert(handle);
                }
                // That handler has left; the next one is asked.
                Err(incoming) => self.queue.push_front(incoming),
            }
        }
    }

    fn is_deserted(&self) -> bool {
        self.handlers.is_empty() && self.serving.is_empty()
    }
}

impl Refused {
    /// The rules do not let the caller in. Which one it was is not for the caller to know; what it can ask for is.
    pub(crate) fn not_open(incoming: Incoming, decision: &Decision) -> Box<Self> {
        let name = service_name(incoming.header.port);
        let caller = incoming.address.map(|address| address.to_string()).unwrap_or_default();
        let reason = if decision.needs_new_list {
            format!(
                "'{name}' is not open to this agent: the revocation lists of the organisation are too old there\n\
                 start the agent that has the organisation's key"
            )
        } else {
            format!(
                "'{name}' is not open to this agent\nits owner can open it to all with --allow public, or to this one: \
                 pilotctl allow {name} {caller}"
            )
        };
        Box::new(Self::new(incoming, Code::REFUSED, reason))
    }

    pub(crate) fn new(incoming: Incoming, code: Code, reason: String) -> Self {
        Self { incoming, code, reason }
    }

    /// Tells the opener.
    pub(crate) fn send(mut self) {
        self.incoming.stream.reset(self.code, &self.reason);
    }
}

fn nobody(name: &str) -> String {
    format!("no '{name}' handler runs there")
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Mono = Mono(1_000_000_000);

    /// Handlers of one service, each with what it says of replays.
    fn accept(services: &mut Services, replay_safe: bool) -> oneshot::Receiver<Incoming> {
        let (handler, stream) = oneshot::channel();
        let options = ServiceOptions { replay_safe, ..ServiceOptions::default() };
        services.accept(START, ServicePort::QUERY, options, handler);
        stream
    }

    #[test]
    fn replays_are_allowed_only_while_all_handlers_allow_them() {
        let mut services = Services::new(watch::channel(Vec::new()).0);
        assert!(!services.is_replay_safe(ServicePort::QUERY));
        let handlers = [true, true, false, true].map(|replay_safe| {
            let handler = accept(&mut services, replay_safe);
            (handler, services.is_replay_safe(ServicePort::QUERY))
        });
        assert_eq!(handlers.each_ref().map(|(_, is_safe)| *is_safe), [true, true, false, false]);
        drop(handlers);
        services.handler_left(START, ServicePort::QUERY);
        let _handler = accept(&mut services, true);
        assert!(services.is_replay_safe(ServicePort::QUERY), "those who did not have left");
    }

    #[test]
    fn replays_are_allowed_no_longer_than_the_service_is_there() {
        let mut services = Services::new(watch::channel(Vec::new()).0);
        drop(accept(&mut services, true));
        services.handler_left(START, ServicePort::QUERY);
        let forgotten = services.expire(START + HANDLER_GRACE);
        assert_eq!(forgotten.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [ServicePort::QUERY]);
        assert!(!services.is_replay_safe(ServicePort::QUERY));
    }
}
