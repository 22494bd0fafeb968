//! The daemon as the verbs use it: the local API, with its errors as failures and streams that know how they ended.

use std::fmt::Display;
use std::time::Duration;

use pilot_daemon::api::client::Client;
use pilot_daemon::api::network::{Diagnosis, DoctorRequest, NetCheck};
use pilot_daemon::api::orgs::{
    CreateOrg, InviteRequest, Invited, JoinRequest, Joined, LeaveRequest, OrgCreated, OrgList, OrgMembers, OrgRequest,
    RevokeRequest, Revoked, RotateRequest, Rotated, UninviteRequest, Uninvited,
};
use pilot_daemon::api::rules::{ChangeRules, Rule, RuleList, Why, WhyRequest};
use pilot_daemon::api::types::{
    AcceptRequest, ApiError, Done, ErrorCode, FindRequest, Found, Groups, GroupsRequest, HandOverRequest, HandedOver,
    OpenRequest, Peers, Published, Reached, ResetRequest, Settings, Status, StreamState, StreamStatus, TargetRequest,
    TicketReply,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::context::Context;
use crate::duration;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::home;
use crate::output::Output;

/// How long the daemon may take to answer a call that needs nobody else.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for calls for which it asks another agent.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// The same for questions to STUN servers, which may all be silent, and to an agent that has to be called first.
const NETCHECK_TIMEOUT: Duration = Duration::from_secs(25);
/// What the daemon gets on top of a deadline that it keeps itself, to tell it in its own words.
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// How long a command waits until the directory has what it changed (spec/cli.md §2): one round trip, if all is well.
pub(crate) const PUBLISH_PATIENCE: Duration = Duration::from_secs(3);
/// How often to look whether a handler is registered; it takes one turn of the daemon's loop.
const SERVICE_POLL: Duration = Duration::from_millis(5);
/// How often to ask the daemon how a stream fares, of which no event tells; that a peer is silent it notices after five seconds itself.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// A daemon that runs.
pub(crate) struct Daemon {
    /// The agent's hostname.
    pub(crate) name: String,
    client: Client,
}

/// A stream to open, and for how long that may take.
pub(crate) struct OpenOptions<'a> {
    pub(crate) target: &'a str,
    pub(crate) service: &'a str,
    pub(crate) timeout: Duration,
    /// Told to the handler.
    pub(crate) deadline: Option<Duration>,
    pub(crate) content_type: Option<&'static str>,
    /// The request may be repeated without harm, and may so travel in the first message to the agent.
    pub(crate) replay_safe: bool,
    /// All that there is to say, if that is not too much for one call; empty: it is said on the stream.
    pub(crate) request: &'a [u8],
}

/// A stream that was opened: its bytes, and who is at the other end.
pub(crate) struct Outgoing {
    pub(crate) stream: u64,
    pub(crate) io: UnixStream,
    pub(crate) address: String,
    pub(crate) name: Option<String>,
}

/// What a handler wants to be called for.
#[derive(Clone)]
pub(crate) struct AcceptOptions {
    pub(crate) service: String,
    /// Whether everybody may call.
    pub(crate) public: bool,
    /// What it does, for those who search.
    pub(crate) offer: Option<String>,
    /// Whether to be asked twice does no harm.
    pub(crate) replay_safe: bool,
}

/// A stream that somebody opened to us: its bytes, and who that is.
pub(crate) struct Incoming {
    pub(crate) stream: u64,
    pub(crate) io: UnixStream,
    pub(crate) address: String,
    pub(crate) key: String,
    pub(crate) name: Option<String>,
    pub(crate) service: String,
    /// What is left of the time that the caller waits.
    pub(crate) deadline: Option<Duration>,
    pub(crate) trace_id: Option<String>,
    /// Milliseconds since the UNIX epoch.
    pub(crate) time_ms: u64,
}

impl Daemon {
    /// The daemon of an agent, if it runs.
    pub(crate) async fn connect_to(context: &Context, name: &str) -> Result<Option<Self>> {
        match Client::connect(home::agent(&context.home, name)?.socket_path()?).await {
            Ok(client) => Ok(Some(Self { name: name.to_owned(), client })),
            Err(error) if error.code == ErrorCode::NotRunning => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    pub(crate) async fn peers(&self) -> Result<Peers> {
        self.get("/v1/peers").await
    }

    pub(crate) async fn netcheck(&self) -> Result<NetCheck> {
        within(NETCHECK_TIMEOUT, self.client.get("/v1/netcheck")).await
    }

    /// Looks for what is wrong; a direct path to `target` is waited for.
    pub(crate) async fn examine(&self, target: Option<&str>, patience: Duration) -> Result<Diagnosis> {
        let request =
            DoctorRequest { target: target.map(str::to_owned), patience_ms: Some(duration::millis(patience)) };
        self.post("/v1/doctor", &request, patience + NETCHECK_TIMEOUT).await
    }

    pub(crate) async fn ticket(&self) -> Result<TicketReply> {
        self.get("/v1/ticket").await
    }

    pub(crate) async fn hand_over(&self, request: &HandOverRequest) -> Result<HandedOver> {
        self.post("/v1/hand-over", request, CALL_TIMEOUT).await
    }

    pub(crate) async fn rules(&self) -> Result<RuleList> {
        self.get("/v1/rules").await
    }

    pub(crate) async fn change_rules(&self, request: &ChangeRules) -> Result<Rule> {
        self.post("/v1/rules", request, CALL_TIMEOUT).await
    }

    pub(crate) async fn why(&self, request: &WhyRequest) -> Result<Why> {
        self.post("/v1/why", request, CALL_TIMEOUT).await
    }

    pub(crate) async fn orgs(&self) -> Result<OrgList> {
        self.get("/v1/orgs").await
    }

    pub(crate) async fn create_org(&self, request: &CreateOrg) -> Result<OrgCreated> {
        self.post("/v1/orgs", request, CALL_TIMEOUT).await
    }

    pub(crate) async fn invite(&self, request: &InviteRequest) -> Result<Invited> {
        self.post("/v1/orgs/invite", request, CALL_TIMEOUT).await
    }

    pub(crate) async fn uninvite(&self, request: &UninviteRequest) -> Result<Uninvited> {
        self.post("/v1/orgs/uninvite", request, CALL_TIMEOUT).await
    }

    pub(crate) async fn join_org(&self, request: &JoinRequest) -> Result<Joined> {
        self.post("/v1/orgs/join", request, JOIN_TIMEOUT).await
    }

    pub(crate) async fn org_members(&self, request: &OrgRequest) -> Result<OrgMembers> {
        self.post("/v1/orgs/members", request, CALL_TIMEOUT).await
    }

    pub(crate) async fn revoke(&self, request: &RevokeRequest) -> Result<Revoked> {
        self.post("/v1/orgs/revoke", request, JOIN_TIMEOUT).await
    }

    pub(crate) async fn rotate_org_key(&self, request: &RotateRequest) -> Result<Rotated> {
        self.post("/v1/orgs/rotate", request, JOIN_TIMEOUT).await
    }

    pub(crate) async fn leave_org(&self, request: &LeaveRequest) -> Result<()> {
        self.post::<Done>("/v1/orgs/leave", request, CALL_TIMEOUT).await.map(drop)
    }

    pub(crate) async fn groups(&self, request: &GroupsRequest) -> Result<Groups> {
        self.post("/v1/groups", request, CALL_TIMEOUT).await
    }

    pub(crate) async fn find(&self, request: &FindRequest) -> Result<Found> {
        self.post("/v1/find", request, CALL_TIMEOUT).await
    }

    pub(crate) async fn ping(&self, target: &str, timeout: Duration) -> Result<Reached> {
        self.post("/v1/ping", &target_request(target, timeout), timeout + ANSWER_GRACE).await
    }

    /// Brings up a tunnel.
    pub(crate) async fn connect(&self, target: &str, timeout: Duration) -> Result<Reached> {
        self.post("/v1/connect", &target_request(target, timeout), timeout + ANSWER_GRACE).await
    }

    pub(crate) async fn set(&self, settings: &Settings) -> Result<()> {
        within(CALL_TIMEOUT, self.client.put("/v1/settings", settings)).await.map(|Done {}| ())
    }

    /// Asks the daemon to end. It answers first.
    pub(crate) async fn shut_down(&self) -> Result<()> {
        self.post::<Done>("/v1/shutdown", &Done {}, CALL_TIMEOUT).await.map(drop)
    }

    pub(crate) async fn open(&self, options: &OpenOptions<'_>) -> Result<Outgoing> {
        let request = OpenRequest {
            target: options.target.to_owned(),
            service: options.service.to_owned(),
            deadline_ms: options.deadline.map(duration::millis),
            content_type: options.content_type.map(str::to_owned),
            urgency: None,
            replay_safe: options.replay_safe,
            request: options.request.to_vec(),
        };
        let (opened, io) = within(options.timeout, self.client.open_stream(&request)).await?;
        Ok(Outgoing { stream: opened.stream, io, address: opened.address, name: opened.peer_name })
    }

    /// Waits for the next stream to a service, for as long as it takes.
    pub(crate) async fn accept(&self, options: &AcceptOptions) -> Result<Incoming> {
        let AcceptOptions { service, public, offer, replay_safe } = options.clone();
        let (accepted, io) = self.client.accept(&AcceptRequest { service, public, offer, replay_safe }).await?;
        Ok(Incoming {
            stream: accepted.stream,
            io,
            address: accepted.peer,
            key: accepted.peer_key,
            name: accepted.peer_name,
            service: accepted.service,
            deadline: accepted.deadline_ms.map(Duration::from_millis),
            trace_id: accepted.trace_id,
            time_ms: accepted.time_ms,
        })
    }

    /// Returns when a handler waits for streams to the service.
    pub(crate) async fn wait_for_service(&self, name: &str) -> Result<()> {
        let waiting = async {
            loop {
                let services = self.status().await?.services;
                if services.iter().any(|service| service.service == name && service.waiting > 0) {
                    return Ok(());
                }
                tokio::time::sleep(SERVICE_POLL).await;
            }
        };
        let late = || Err(Failure::new(ExitCode::Timeout, format!("the daemon does not list the service '{name}'")));
        tokio::time::timeout(CALL_TIMEOUT, waiting).await.unwrap_or_else(|_| late())
    }

    /// Waits until the directory has what was changed. If it has not in time, that is worth a warning: the agent goes on trying.
    pub(crate) async fn wait_until_published(&self, output: Output, patience: Duration) {
        let path = format!("/v1/published?wait_ms={}", duration::millis(patience));
        let failure = match self.get::<Published>(&path).await {
            Ok(Published { published: Some(false), error: Some(error) }) => error.into(),
            Ok(Published { .. }) => return,
            Err(failure) => failure,
        };
        output.warning(
            &format!("the directory does not have the change yet: {}", failure.message),
            "others find it as soon as the agent gets through; `pilotctl daemon status` tells",
        );
    }

    pub(crate) async fn stream_status(&self, stream: u64) -> Result<StreamStatus> {
        within(CALL_TIMEOUT, self.client.stream_status(stream)).await
    }

    /// Returns when both directions of a stream are over, or one of them has ended early.
    pub(crate) async fn wait_until_over(&self, stream: u64) {
        while self.stream_status(stream).await.is_ok_and(|status| status.state == StreamState::Open) {
            tokio::time::sleep(STATUS_INTERVAL).await;
        }
    }

    /// Returns when the tunnel calls the stream stalled, or answered again.
    pub(crate) async fn wait_until_stalled(&self, stream: u64, is_stalled: bool) {
        loop {
            tokio::time::sleep(STATUS_INTERVAL).await;
            if self.stream_status(stream).await.is_ok_and(|status| status.stalled == is_stalled) {
                return;
            }
        }
    }

    /// Says whenever the agent at the other end of a stream falls silent, and when it is back, until `exchange` ends.
    pub(crate) async fn telling_stalls<T>(
        &self,
        output: Output,
        stream: u64,
        target: &str,
        exchange: impl Future<Output = T>,
    ) -> T {
        let telling = async {
            loop {
                self.wait_until_stalled(stream, true).await;
                output.talk(format_args!("{target} gives no sign of life; waiting"));
                self.wait_until_stalled(stream, false).await;
                output.talk(format_args!("{target} answers again"));
            }
        };
        tokio::select! {
            ended = exchange => ended,
            never = telling => never,
        }
    }

    /// Ends a stream with an error that reaches the agent at its other end.
    pub(crate) async fn reset(&self, stream: u64, code: ExitCode, reason: &str) -> Result<()> {
        let request = ResetRequest { code: code.into(), reason: reason.to_owned() };
        self.post::<Done>(&format!("/v1/streams/{stream}/reset"), &request, CALL_TIMEOUT).await.map(drop)
    }

    /// Tells whether the end of a stream's bytes was a good one: at the socket, a reset can look like an end.
    pub(crate) async fn ended_well(&self, stream: u64) -> Result<()> {
        let status = self.stream_status(stream).await?;
        match status.state {
            StreamState::Open | StreamState::Finished => Ok(()),
            StreamState::Reset => Err(reset_failure(&status)),
        }
    }

    /// As [`Self::ended_well`], where it is the peer that ends the exchange: what we might still have said is not missed.
    pub(crate) async fn was_ended_by_peer(&self, stream: u64) -> Result<()> {
        let status = self.stream_status(stream).await?;
        if status.peer_finished || status.state != StreamState::Reset { Ok(()) } else { Err(reset_failure(&status)) }
    }

    /// Why a stream broke, as the daemon knows it; `error` is what the socket said.
    pub(crate) async fn why_ended(&self, stream: u64, error: &dyn Display) -> Failure {
        match self.ended_well(stream).await {
            Ok(()) => Failure::failed(format!("the stream broke: {error}")),
            Err(failure) => failure,
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        within(CALL_TIMEOUT, self.client.get(path)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, patience: Duration) -> Result<T> {
        within(patience, self.client.post(path, body)).await
    }
}

impl<'a> OpenOptions<'a> {
    pub(crate) fn new(target: &'a str, service: &'a str, timeout: Duration) -> Self {
        Self { target, service, timeout, deadline: None, content_type: None, replay_safe: false, request: b"" }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { code: error.code.into(), message: error.message, hint: error.hint }
    }
}

impl From<ErrorCode> for ExitCode {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Usage => Self::Usage,
            ErrorCode::NotRunning => Self::NotRunning,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Refused => Self::Refused,
            ErrorCode::Timeout => Self::Timeout,
            ErrorCode::Unreachable => Self::Unreachable,
            // A newer daemon may know more: they are failures.
            ErrorCode::Failed | _ => Self::Failed,
        }
    }
}

impl From<ExitCode> for ErrorCode {
    fn from(code: ExitCode) -> Self {
        match code {
            ExitCode::Ok | ExitCode::Failed | ExitCode::Interrupted => Self::Failed,
            ExitCode::Usage => Self::Usage,
            ExitCode::NotRunning => Self::NotRunning,
            ExitCode::NotFound => Self::NotFound,
            ExitCode::Refused => Self::Refused,
            ExitCode::Timeout => Self::Timeout,
            ExitCode::Unreachable => Self::Unreachable,
        }
    }
}

fn target_request(target: &str, timeout: Duration) -> TargetRequest {
    TargetRequest { target: target.to_owned(), timeout_ms: Some(duration::millis(timeout)) }
}

/// A daemon that hangs must not hang the command.
async fn within<T>(patience: Duration, call: impl Future<Output = Result<T, ApiError>>) -> Result<T> {
    match tokio::time::timeout(patience, call).await {
        Ok(answered) => Ok(answered?),
        Err(_) => {
            Err(Failure::new(ExitCode::Timeout, format!("no answer within {}", duration::display_short(patience)))
                .hint("--timeout gives it longer; `pilotctl daemon logs` may say more"))
        }
    }
}

fn reset_failure(status: &StreamStatus) -> Failure {
    if let Some(error) = &status.error {
        return error.clone().into();
    }
    let reason = status.reason.as_deref().or(status.code.as_deref()).unwrap_or("no reason given");
    Failure::failed(format!("the stream was reset: {reason}"))
}
