//! The server of the local API (spec/local-api.md): HTTP/1.1 on a Unix socket that only its owner may use.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming as Body;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pilot_core::id::IdentityKey;
use pilot_core::time::Mono;
use pilot_core::transport::Code;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::network::DoctorRequest;
use super::orgs::{OrgList, OrgMembers, OrgRequest};
use super::request::{self, Call, check_origin, no_such_stream, usage};
use super::types::{
    AcceptRequest, AgentInfo, ApiError, DatagramsRequest, Done, EndedBy, ErrorBody, ErrorCode, FindRequest, Found,
    Groups, GroupsRequest, HandOverRequest, HandedOver, Offer, OpenRequest, Peers, Published, Reached, ResetRequest,
    ResolveRequest, StreamState, StreamStatus, TargetRequest, TicketReply,
};
use super::{BODY_LEN_MAX, VERSION, VERSION_HEADER, datagrams, header, pump};
use crate::agent::{
    Agent, DEFAULT_TIMEOUT, DIRECT_PATIENCE, Incoming, Resolved, ServiceOptions, Stream, StreamWatch, millis, path_of,
};
use crate::agent::{service_name, service_port};
use crate::descriptors::connections_within_limit;
use crate::{agent, clock, stream};

/// Connections at once: streams, waiting handlers and calls of local programs. Others wait in the kernel until one ends. Fewer where the
/// system does not grant so many descriptors.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Rest after a connection that could not be taken: others must give up a descriptor first.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Largest head of a call; also the least that hyper works with.
const HEAD_MAX: usize = 16 * 1024;
/// A call must have its head and its body here after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it is told how a stream ended.
const ENDED_STREAM_LIFETIME: Duration = Duration::from_secs(60);
/// Ended streams remembered; a burst of more forgets the oldest.
const ENDED_STREAMS_MAX: usize = 4_096;
/// A change is in the directory after one round trip; who hears nothing for so long goes on without.
const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(3);
/// Most time that a caller can allow for a call.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

type Reply = Response<Full<Bytes>>;

/// A listening local API.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// A place among [`CONNECTIONS_MAX`]: whoever has the socket holds it, hyper or what follows an upgrade.
type Slot = Option<Arc<OwnedSemaphorePermit>>;

/// A connection that hyper is to let go of.
struct Upgrade {
    on: OnUpgrade,
    slot: Slot,
}

/// The socket of a program, once hyper has let go of it.
struct Program {
    socket: UnixStream,
    /// What came on it meanwhile.
    early: Bytes,
    slot: Slot,
}

/// What connections share.
struct Shared {
    agent: Agent,
    streams: Streams,
}

/// The streams that programs have had, by number. A leaf lock, never held across an await.
#[derive(Default)]
struct Streams(Mutex<StreamTable>);

#[derive(Default)]
struct StreamTable {
    last: u64,
    open: BTreeMap<u64, StreamWatch>,
    ended: BTreeMap<u64, (Mono, StreamWatch)>,
}

impl Server {
    /// Listens at `path` in place of whatever a daemon before has left there; the caller holds the agent's lock.
    ///
    /// # Errors
    /// Those of the system.
    pub fn bind(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // Until this line the directory's mode keeps others out; credentials are checked besides.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Serves until the agent has ended, then removes the socket.
    pub async fn run(self, agent: Agent) {
        let shared = Arc::new(Shared { agent: agent.clone(), streams: Streams::default() });
        let ended = agent.ended();
        tokio::select! {
            () = ended => {}
            never = self.accept(shared) => match never {},
        }
        remove_socket(&self.path);
    }

    async fn accept(&self, shared: Arc<Shared>) -> Infallible {
        let slots = Arc::new(Semaphore::new(connections_within_limit(CONNECTIONS_MAX)));
        let mut is_failing = false;
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await.ok().map(Arc::new);
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    is_failing = false;
                    tokio::spawn(serve(Arc::clone(&shared), socket, slot));
                }
                Err(error) => {
                    // Said once, however long it lasts.
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "programs wait for the local API");
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

fn remove_socket(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, "socket stays");
    }
}

async fn serve(shared: Arc<Shared>, socket: UnixStream, slot: Slot) {
    if !is_owner(&socket) {
        tracing::warn!("local API: another user's program was turned away");
        return;
    }
    let service = service_fn(|mut request| {
        let shared = Arc::clone(&shared);
        request.extensions_mut().insert(Slot::clone(&slot));
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "local API connection");
    }
}

/// The user that runs this daemon, or root.
fn is_owner(socket: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    socket.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn answer(shared: &Arc<Shared>, request: Request<Body>) -> Reply {
    let mut reply = match check_origin(request.headers()) {
        Ok(()) => route(shared, request).await.unwrap_or_else(|error| error_reply(&error)),
        Err(error) => error_reply(&error),
    };
    reply.headers_mut().insert(VERSION_HEADER, HeaderValue::from(VERSION));
    reply
}

async fn route(shared: &Arc<Shared>, mut request: Request<Body>) -> Result<Reply, ApiError> {
    let body = if request::has_body(&request) { body(&mut request).await? } else { Bytes::new() };
    let agent = &shared.agent;
    match Call::read(&request, &body)? {
        Call::Status => json(&agent.status().await?),
        Call::Peers => json(&Peers { peers: agent.peers().await? }),
        Call::NetCheck => json(&agent.netcheck().await?),
        Call::Doctor(DoctorRequest { target, patience_ms }) => {
            let patience = patience_ms.map_or(DIRECT_PATIENCE, Duration::from_millis).min(TIMEOUT_MAX);
            json(&agent.examine(target.as_deref(), patience).await?)
        }
        Call::Ticket => json(&TicketReply { ticket: agent.ticket().await?.to_string() }),
        Call::Published(wait) => published(agent, wait).await,
        Call::Accept(asked) => accept(shared, request, asked).await,
        Call::Open(asked) => open(shared, request, asked).await,
        Call::Datagrams(asked) => open_datagrams(agent, request, asked).await,
        Call::ShutDown => shut_down(agent),
        Call::Resolve(ResolveRequest { target }) => {
            let found = agent.resolve(&target).await?;
            json(&agent_info(agent, &found).await)
        }
        Call::Ping(asked) => ping(agent, asked).await,
        Call::Connect(asked) => connect(agent, asked).await,
        Call::Find(asked) => find(agent, asked).await,
        Call::HandOver(HandOverRequest { to }) => hand_over(agent, &to).await,
        Call::ChangeGroups(GroupsRequest { join, leave }) => {
            json(&Groups { groups: agent.change_groups(&join, &leave)? })
        }
        Call::ChangeSettings(settings) => {
            agent.change_settings(&settings).await?;
            json(&Done {})
        }
        Call::Rules => json(&agent.rules().await?),
        Call::ChangeRules(asked) => json(&agent.change_rules(&asked).await?),
        Call::Why(asked) => json(&agent.why(&asked).await?),
        Call::Orgs => json(&OrgList { orgs: agent.orgs() }),
        Call::CreateOrg(asked) => json(&agent.create_org(&asked).await?),
        Call::Invite(asked) => json(&agent.invite(&asked).await?),
        Call::Uninvite(asked) => json(&agent.uninvite(&asked).await?),
        Call::JoinOrg(asked) => json(&agent.join_org(&asked).await?),
        Call::OrgMembers(OrgRequest { org }) => json(&OrgMembers { members: agent.org_members(&org).await? }),
        Call::Revoke(asked) => json(&agent.revoke(&asked).await?),
        Call::RotateOrgKey(asked) => json(&agent.rotate_org_key(&asked).await?),
        Call::LeaveOrg(asked) => {
            agent.leave_org(&asked).await?;
            json(&Done {})
        }
        Call::Stream(id) => json(&shared.streams.status(id).ok_or_else(no_such_stream)?),
        Call::ResetStream(id, ResetRequest { code, reason }) => {
            let watch = shared.streams.open(id).ok_or_else(no_such_stream)?;
            watch.reset(reset_code(code), &reason);
            json(&Done {})
        }
    }
}

/// The whole body, within its bounds.
async fn body(request: &mut Request<Body>) -> Result<Bytes, ApiError> {
    let read = Limited::new(request.body_mut(), BODY_LEN_MAX).collect();
    let read = tokio::time::timeout(REQUEST_TIMEOUT, read).await;
    let body = read.map_err(|_| usage("the body did not come"))?;
    Ok(body.map_err(|error| usage(format!("the body cannot be read: {error}")))?.to_bytes())
}

/// The code of a reset that makes the error at the other end be of this class.
fn reset_code(class: ErrorCode) -> Code {
    match class {
        ErrorCode::Failed | ErrorCode::NotRunning => Code::INTERNAL,
        ErrorCode::Usage => Code::BAD_REQUEST,
        ErrorCode::NotFound => Code::NOT_FOUND,
        ErrorCode::Refused => Code::REFUSED,
        ErrorCode::Timeout => Code::DEADLINE_EXCEEDED,
        ErrorCode::Unreachable => Code::UNREACHABLE,
    }
}

fn shut_down(agent: &Agent) -> Result<Reply, ApiError> {
    let agent = agent.clone();
    // After the reply, so that it still gets out.
    tokio::spawn(async move { agent.shutdown().await });
    json(&Done {})
}

/// `GET /v1/published`: answers once the directory has what the agent says of itself, or once it is not to be waited for any longer.
async fn published(agent: &Agent, wait: Option<Duration>) -> Result<Reply, ApiError> {
    let published = agent.published(wait.unwrap_or(PUBLISH_WAIT_MAX).min(PUBLISH_WAIT_MAX)).await;
    json(&Published { published: published.as_ref().map(Result::is_ok), error: published.and_then(Result::err) })
}

async fn hand_over(agent: &Agent, to: &str) -> Result<Reply, ApiError> {
    let key = to.parse::<IdentityKey>().map_err(|_| {
        usage(format!("'{to}' is no key")).hint("`pilotctl info` shows the key of the agent that is to have the name")
    })?;
    agent.hand_over(key).await?;
    let from = agent.key();
    json(&HandedOver { name: agent.name().to_owned(), from: from.to_string(), to: key.to_string() })
}

async fn ping(agent: &Agent, request: TargetRequest) -> Result<Reply, ApiError> {
    let found = agent.resolve(&request.target).await?;
    let pong = agent.ping(&found, time_allowed(request.timeout_ms)).await?;
    let (path, remote) = path_of(pong.path);
    json(&Reached { address: found.address.to_string(), name: found.name, rtt_ms: millis(pong.rtt), path, remote })
}

async fn connect(agent: &Agent, request: TargetRequest) -> Result<Reply, ApiError> {
    let found = agent.resolve(&request.target).await?;
    let status = agent.connect(&found, time_allowed(request.timeout_ms)).await?;
    let rtt_ms = status.rtt.map(millis).unwrap_or_default();
    let (path, remote) = path_of(status.path);
    json(&Reached { address: found.address.to_string(), name: found.name, rtt_ms, path, remote })
}

async fn find(agent: &Agent, request: FindRequest) -> Result<Reply, ApiError> {
    let mut agents = Vec::new();
    for found in agent.find(&request).await? {
        agents.push(agent_info(agent, &found).await);
    }
    json(&Found { agents })
}

async fn agent_info(agent: &Agent, found: &Resolved) -> AgentInfo {
    let rtt = agent.peer_status(found.key).await.filter(|status| status.connected).and_then(|status| status.rtt);
    let offer = |offer: &pilot_core::record::Offer| Offer {
        service: offer.service.clone(),
        description: offer.description.clone(),
    };
    AgentInfo {
        name: found.name.clone(),
        address: found.address.to_string(),
        key: found.key.to_string(),
        tags: found.tags.clone(),
        groups: found.groups.clone(),
        description: found.description.clone(),
        offers: found.offers.iter().map(offer).collect(),
        reachable: found.reachable,
        rtt_ms: rtt.map(millis),
    }
}

/// `POST /v1/streams`: answers once the tunnel is up and the stream is open.
async fn open(shared: &Arc<Shared>, request: Request<Body>, asked: OpenRequest) -> Result<Reply, ApiError> {
    let agent = &shared.agent;
    let mut stream_header = agent::header(&asked.service)?;
    stream_header.deadline_ms = asked.deadline_ms;
    stream_header.content_type = asked.content_type;
    stream_header.urgency = asked.urgency.unwrap_or(stream_header.urgency);
    stream_header.replay_safe = asked.replay_safe;
    let deadline = stream_header.deadline_ms.map(Duration::from_millis);

    let found = agent.resolve(&asked.target).await?;
    let mut stream = if asked.request.is_empty() {
        agent.open(&found, stream_header).await?
    } else {
        agent.request(&found, stream_header, asked.request.into()).await?
    };
    agent.connect(&found, deadline.unwrap_or(DEFAULT_TIMEOUT).min(DEFAULT_TIMEOUT)).await?;

    let id = shared.streams.add(stream.watch());
    let mut reply = switching_to(id)?;
    put(&mut reply, header::ADDRESS, &found.address.to_string())?;
    put(&mut reply, header::PEER_KEY, &found.key.to_string())?;
    if let Some(name) = &found.name {
        put(&mut reply, header::PEER_NAME, name)?;
    }
    let (upgrade, shared) = (Upgrade::of(request), Arc::clone(shared));
    tokio::spawn(async move {
        match upgrade.let_go().await {
            Some(program) => shared.carry(id, program, stream, deadline).await,
            None => {
                stream.reset(Code::CANCELLED, "the program at the other end went away");
                shared.streams.end(id);
            }
        }
    });
    Ok(reply)
}

/// `GET /v1/accept`: answers when a stream arrives.
async fn accept(shared: &Arc<Shared>, request: Request<Body>, asked: AcceptRequest) -> Result<Reply, ApiError> {
    let AcceptRequest { service, public, offer, replay_safe } = asked;
    let port = service_port(&service).ok_or_else(|| usage(format!("'{service}' is not a service")))?;
    let incoming = shared.agent.accept(port, ServiceOptions { public, offer, replay_safe }).await?;
    let id = shared.streams.add(incoming.stream.watch());
    let mut reply = switching_to(id)?;
    describe(&mut reply, &incoming)?;
    let (upgrade, shared) = (Upgrade::of(request), Arc::clone(shared));
    tokio::spawn(async move {
        match upgrade.let_go().await {
            Some(program) => shared.carry(id, program, incoming.stream, None).await,
            // The handler left without it.
            None => {
                shared.streams.end(id);
                drop(shared.agent.give_back(incoming).await);
            }
        }
    });
    Ok(reply)
}

/// `GET /v1/datagrams`: answers when the program gets the messages that it asked for.
async fn open_datagrams(agent: &Agent, request: Request<Body>, asked: DatagramsRequest) -> Result<Reply, ApiError> {
    let receiver = match asked.service {
        Some(service) => {
            let port = service_port(&service).ok_or_else(|| usage(format!("'{service}' is not a service")))?;
            Some(agent.datagrams(port, asked.public).await?)
        }
        None => None,
    };
    let (upgrade, agent) = (Upgrade::of(request), agent.clone());
    tokio::spawn(async move {
        if let Some(Program { socket, early, slot }) = upgrade.let_go().await {
            datagrams::run(&agent, socket, early, receiver).await;
            drop(slot);
        }
    });
    switching()
}

/// The provenance of a stream.
fn describe(reply: &mut Reply, incoming: &Incoming) -> Result<(), ApiError> {
    put(reply, header::PEER_KEY, &incoming.peer.to_string())?;
    put(reply, header::SERVICE, &service_name(incoming.header.port))?;
    put(reply, header::TIME, &(incoming.arrived.0 / 1_000_000).to_string())?;
    // Without a certificate there is no session; the empty address only keeps the header's presence a promise.
    let address = incoming.address.map(|address| address.to_string()).unwrap_or_default();
    put(reply, header::PEER, &address)?;
    if let Some(name) = &incoming.name {
        put(reply, header::PEER_NAME, name)?;
    }
    put(reply, header::URGENCY, &incoming.header.urgency.to_string())?;
    if let Some(deadline_ms) = incoming.header.deadline_ms {
        put(reply, header::DEADLINE_MS, &deadline_ms.to_string())?;
    }
    // The peer chose it: what cannot stand in a header is left out.
    if let Some(Ok(content_type)) = incoming.header.content_type.as_deref().map(HeaderValue::from_str) {
        reply.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    if let Some(trace) = &incoming.header.trace {
        put(reply, header::TRACE_ID, &data_encoding::HEXLOWER.encode(trace))?;
    }
    Ok(())
}

impl Upgrade {
    fn of(mut request: Request<Body>) -> Self {
        let slot = request.extensions_mut().remove::<Slot>().flatten();
        Self { on: hyper::upgrade::on(request), slot }
    }

    /// Nothing if the program has gone away before.
    async fn let_go(self) -> Option<Program> {
        let parts = self.on.await.ok()?.downcast::<TokioIo<UnixStream>>().ok()?;
        Some(Program { socket: parts.io.into_inner(), early: parts.read_buf, slot: self.slot })
    }
}

impl Shared {
    /// Carries the bytes of a stream until it is over.
    async fn carry(&self, id: u64, program: Program, stream: Stream, deadline: Option<Duration>) {
        let (Program { socket, early, slot }, watch) = (program, stream.watch());
        pump::run(socket, early, stream, deadline).await;
        // A peer that is gone may keep the stream for minutes more, but no descriptor.
        drop(slot);
        watch.closed().await;
        self.streams.end(id);
    }
}

impl Streams {
    fn add(&self, watch: StreamWatch) -> u64 {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.last += 1;
        let id = table.last;
        table.open.insert(id, watch);
        id
    }

    fn end(&self, id: u64) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now().mono;
        if let Some(watch) = table.open.remove(&id) {
            table.ended.insert(id, (now, watch));
        }
        table.forget(now);
    }

    /// A stream that is not over.
    fn open(&self, id: u64) -> Option<StreamWatch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open.get(&id).cloned()
    }

    fn status(&self, id: u64) -> Option<StreamStatus> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.forget(clock::now().mono);
        let watch = table.open.get(&id).or_else(|| table.ended.get(&id).map(|(_, watch)| watch))?;
        Some(stream_status(id, watch))
    }
}

impl StreamTable {
    fn forget(&mut self, now: Mono) {
        self.ended.retain(|_, (ended, _)| now.since(*ended) < ENDED_STREAM_LIFETIME);
        while self.ended.len() > ENDED_STREAMS_MAX {
            self.ended.pop_first();
        }
    }
}

fn stream_status(id: u64, watch: &StreamWatch) -> StreamStatus {
    let outcome = watch.outcome();
    let state = match (&outcome.error, outcome.closed) {
        (Some(_), _) => StreamState::Reset,
        (None, true) => StreamState::Finished,
        (None, false) => StreamState::Open,
    };
    let error = outcome.error;
    StreamStatus {
        id,
        state,
        code: error.as_ref().map(|error| error.code.to_string()),
        reason: error.as_ref().map(|error| error.reason.clone()),
        by: error.as_ref().map(|error| match error.by {
            stream::EndedBy::Peer => EndedBy::Peer,
            stream::EndedBy::Local => EndedBy::Local,
            stream::EndedBy::Network => EndedBy::Network,
        }),
        error: error.map(ApiError::from),
        stalled: outcome.stalled,
        bytes_sent: outcome.bytes_sent,
        bytes_received: outcome.bytes_received,
        peer_finished: outcome.peer_finished,
    }
}

fn time_allowed(timeout_ms: Option<u64>) -> Duration {
    timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis).min(TIMEOUT_MAX)
}

/// The head of a reply behind which a stream begins.
fn switching_to(stream: u64) -> Result<Reply, ApiError> {
    let mut reply = switching()?;
    put(&mut reply, header::STREAM, &stream.to_string())?;
    Ok(reply)
}

fn switching() -> Result<Reply, ApiError> {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    put(&mut reply, CONNECTION.as_str(), "upgrade")?;
    put(&mut reply, UPGRADE.as_str(), super::UPGRADE)?;
    Ok(reply)
}

fn put(reply: &mut Reply, name: &'static str, value: &str) -> Result<(), ApiError> {
    let value = HeaderValue::from_str(value).map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()))?;
    reply.headers_mut().insert(name, value);
    Ok(())
}

fn json(body: &impl Serialize) -> Result<Reply, ApiError> {
    let body = serde_json::to_vec(body).map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()))?;
    let mut reply = Response::new(Full::from(body));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(reply)
}

fn error_reply(error: &ApiError) -> Reply {
    let status = match error.code {
        ErrorCode::Usage => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Refused => StatusCode::FORBIDDEN,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Unreachable => StatusCode::BAD_GATEWAY,
        ErrorCode::NotRunning => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    // A body of our own types always has a form; an empty one would be the lesser evil.
    let mut reply = json(&ErrorBody { error: error.clone() }).unwrap_or_default();
    *reply.status_mut() = status;
    reply
}
