//! What a call to the local API asks for: read from its head and body before anything is done (spec/local-api.md §2 to §5).

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, UPGRADE};
use hyper::{Method, Request};
use pilot_core::wire::stream_header::StreamHeader;
use serde::de::DeserializeOwned;

use super::header;
use super::network::DoctorRequest;
use super::orgs::{
    CreateOrg, InviteRequest, JoinRequest, LeaveRequest, OrgRequest, RevokeRequest, RotateRequest, UninviteRequest,
};
use super::rules::{ChangeRules, WhyRequest};
use super::types::{
    AcceptRequest, ApiError, DatagramsRequest, ErrorCode, FindRequest, GroupsRequest, HandOverRequest, OpenRequest,
    ResetRequest, ResolveRequest, Settings, TargetRequest,
};

/// Path of the calls that open a stream, and start of those about one.
const STREAMS: &str = "/v1/streams";
const ACCEPT: &str = "/v1/accept";
const DATAGRAMS: &str = "/v1/datagrams";
/// The names of this host that no page of another can have.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// A call whose parts make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `GET /v1/status`.
    Status,
    /// `GET /v1/peers`.
    Peers,
    /// `GET /v1/netcheck`.
    NetCheck,
    /// `POST /v1/doctor`.
    Doctor(DoctorRequest),
    /// `GET /v1/ticket`.
    Ticket,
    /// `GET /v1/published`, with the time that the caller waits at most.
    Published(Option<Duration>),
    /// `GET /v1/accept`.
    Accept(AcceptRequest),
    /// `POST /v1/streams`.
    Open(OpenRequest),
    /// `GET /v1/datagrams`.
    Datagrams(DatagramsRequest),
    /// `POST /v1/shutdown`.
    ShutDown,
    /// `POST /v1/resolve`.
    Resolve(ResolveRequest),
    /// `POST /v1/ping`.
    Ping(TargetRequest),
    /// `POST /v1/connect`.
    Connect(TargetRequest),
    /// `POST /v1/find`.
    Find(FindRequest),
    /// `POST /v1/hand-over`.
    HandOver(HandOverRequest),
    /// `POST /v1/groups`.
    ChangeGroups(GroupsRequest),
    /// `PUT /v1/settings`.
    ChangeSettings(Settings),
    /// `GET /v1/rules`.
    Rules,
    /// `POST /v1/rules`.
    ChangeRules(ChangeRules),
    /// `POST /v1/why`.
    Why(WhyRequest),
    /// `GET /v1/orgs`.
    Orgs,
    /// `POST /v1/orgs`.
    CreateOrg(CreateOrg),
    /// `POST /v1/orgs/invite`.
    Invite(InviteRequest),
    /// `POST /v1/orgs/uninvite`.
    Uninvite(UninviteRequest),
    /// `POST /v1/orgs/join`.
    JoinOrg(JoinRequest),
    /// `POST /v1/orgs/members`.
    OrgMembers(OrgRequest),
    /// `POST /v1/orgs/revoke`.
    Revoke(RevokeRequest),
    /// `POST /v1/orgs/rotate`.
    RotateOrgKey(RotateRequest),
    /// `POST /v1/orgs/leave`.
    LeaveOrg(LeaveRequest),
    /// `GET /v1/streams/{id}`.
    Stream(u64),
    /// `POST /v1/streams/{id}/reset`.
    ResetStream(u64, ResetRequest),
}

impl Call {
    /// Reads a call. `body` is empty for calls that have none.
    ///
    /// # Errors
    /// If there is no such call, or it makes no sense.
    pub fn read<B>(request: &Request<B>, body: &[u8]) -> Result<Self, ApiError> {
        let head = Head::of(request);
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/v1/status") => Ok(Self::Status),
            (&Method::GET, "/v1/peers") => Ok(Self::Peers),
            (&Method::GET, "/v1/netcheck") => Ok(Self::NetCheck),
            (&Method::POST, "/v1/doctor") => from_json(body).map(Self::Doctor),
            (&Method::GET, "/v1/ticket") => Ok(Self::Ticket),
            (&Method::GET, "/v1/published") => head.published(),
            (&Method::GET, ACCEPT) => head.accept(),
            (&Method::GET, DATAGRAMS) => head.datagrams(),
            (&Method::POST, STREAMS) => head.open(body),
            (&Method::POST, "/v1/shutdown") => Ok(Self::ShutDown),
            (&Method::POST, "/v1/resolve") => from_json(body).map(Self::Resolve),
            (&Method::POST, "/v1/ping") => from_json(body).map(Self::Ping),
            (&Method::POST, "/v1/connect") => from_json(body).map(Self::Connect),
            (&Method::POST, "/v1/find") => from_json(body).map(Self::Find),
            (&Method::POST, "/v1/hand-over") => from_json(body).map(Self::HandOver),
            (&Method::POST, "/v1/groups") => from_json(body).map(Self::ChangeGroups),
            (&Method::PUT, "/v1/settings") => from_json(body).map(Self::ChangeSettings),
            (&Method::GET, "/v1/rules") => Ok(Self::Rules),
            (&Method::POST, "/v1/rules") => from_json(body).map(Self::ChangeRules),
            (&Method::POST, "/v1/why") => from_json(body).map(Self::Why),
            (&Method::GET, "/v1/orgs") => Ok(Self::Orgs),
            (&Method::POST, "/v1/orgs") => from_json(body).map(Self::CreateOrg),
            (&Method::POST, "/v1/orgs/invite") => from_json(body).map(Self::Invite),
            (&Method::POST, "/v1/orgs/uninvite") => from_json(body).map(Self::Uninvite),
            (&Method::POST, "/v1/orgs/join") => from_json(body).map(Self::JoinOrg),
            (&Method::POST, "/v1/orgs/members") => from_json(body).map(Self::OrgMembers),
            (&Method::POST, "/v1/orgs/revoke") => from_json(body).map(Self::Revoke),
            (&Method::POST, "/v1/orgs/rotate") => from_json(body).map(Self::RotateOrgKey),
            (&Method::POST, "/v1/orgs/leave") => from_json(body).map(Self::LeaveOrg),
            (method, path) => match (method, stream_of(path)) {
                (&Method::GET, Some((id, ""))) => Ok(Self::Stream(id.parse().map_err(|_| no_such_stream())?)),
                (&Method::POST, Some((id, "/reset"))) => {
                    Ok(Self::ResetStream(id.parse().map_err(|_| no_such_stream())?, from_json(body)?))
                }
                _ => Err(ApiError::new(ErrorCode::NotFound, format!("the local API has no {method} {path}"))),
            },
        }
    }
}

/// Whether a body may come with the call; after the others the connection becomes a stream at once.
pub(super) fn has_body<B>(request: &Request<B>) -> bool {
    !matches!(request.uri().path(), ACCEPT | DATAGRAMS)
}

/// A page in a browser must not reach this API, whatever forwards it here.
///
/// # Errors
/// If the call is for another host than this one, or comes from a page of another.
pub fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let is_for_us = headers.contains_key(HOST) && headers.get_all(HOST).iter().all(is_local);
    if is_for_us && headers.get_all(ORIGIN).iter().all(is_local) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Usage, "the local API answers to the host 'localhost' only")
        .hint("for example: curl --unix-socket PATH http://localhost/v1/status"))
}

fn is_local(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let authority = text.strip_prefix("http://").unwrap_or(text);
    LOCAL_HOSTS.iter().any(|host| authority.strip_prefix(host).is_some_and(is_port_or_nothing))
}

fn is_port_or_nothing(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

pub(super) fn no_such_stream() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "no such stream, or it ended over a minute ago")
}

pub(super) fn usage(what: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Usage, what)
}

/// The stream that a path names, and what follows its number.
fn stream_of(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix(STREAMS)?.strip_prefix('/')?;
    Some(rest.split_at(rest.find('/').unwrap_or(rest.len())))
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| usage(format!("the body makes no sense: {error}")))
}

/// Query and headers of a call.
struct Head<'a> {
    query: BTreeMap<&'a str, &'a str>,
    headers: &'a HeaderMap,
}

impl<'a> Head<'a> {
    fn of<B>(request: &'a Request<B>) -> Self {
        let pairs = request.uri().query().unwrap_or_default().split('&');
        Self { query: pairs.filter_map(|pair| pair.split_once('=')).collect(), headers: request.headers() }
    }

    fn published(&self) -> Result<Call, ApiError> {
        let wait = self.query("wait_ms").map(|text| text.parse().map(Duration::from_millis));
        Ok(Call::Published(wait.transpose().map_err(|_| usage("'wait_ms' is not a number"))?))
    }

    fn accept(&self) -> Result<Call, ApiError> {
        self.check_upgrade()?;
        let (service, public) = (self.needed("service")?, self.is_public()?);
        let replay_safe = is_true("replay_safe", self.query("replay_safe"))?;
        Ok(Call::Accept(AcceptRequest { service, public, offer: self.query("offer"), replay_safe }))
    }

    fn datagrams(&self) -> Result<Call, ApiError> {
        self.check_upgrade()?;
        Ok(Call::Datagrams(DatagramsRequest { service: self.query("service"), public: self.is_public()? }))
    }

    fn is_public(&self) -> Result<bool, ApiError> {
        match self.query("allow").as_deref() {
            None => Ok(false),
            Some("public") => Ok(true),
            Some(other) => Err(usage(format!("'{other}' is no allow rule")).hint("use allow=public")),
        }
    }

    fn open(&self, body: &[u8]) -> Result<Call, ApiError> {
        self.check_upgrade()?;
        Ok(Call::Open(OpenRequest {
            target: self.needed("target")?,
            service: self.needed("service")?,
            deadline_ms: self.number(header::DEADLINE_MS)?,
            content_type: self.text(header::CONTENT_TYPE),
            urgency: self.urgency()?,
            replay_safe: is_true(header::REPLAY_SAFE, self.text(header::REPLAY_SAFE))?,
            request: body.to_vec(),
        }))
    }

    fn urgency(&self) -> Result<Option<u8>, ApiError> {
        let Some(urgency) = self.number(header::URGENCY)? else { return Ok(None) };
        let known = u8::try_from(urgency).ok().filter(|urgency| *urgency <= StreamHeader::URGENCY_MAX);
        known.map(Some).ok_or_else(|| usage(format!("{urgency} is no urgency")).hint("0 goes first, 7 last"))
    }

    fn check_upgrade(&self) -> Result<(), ApiError> {
        let wants = |name: HeaderName, token: &str| {
            let value = self.text(name.as_str()).unwrap_or_default();
            value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token))
        };
        if wants(CONNECTION, "upgrade") && wants(UPGRADE, super::UPGRADE) {
            return Ok(());
        }
        Err(usage("a stream needs 'Connection: upgrade' and 'Upgrade: pilot'"))
    }

    fn query(&self, name: &str) -> Option<String> {
        self.query.get(name).map(|value| decode_query(value))
    }

    fn needed(&self, name: &str) -> Result<String, ApiError> {
        self.query(name).ok_or_else(|| usage(format!("the query has no '{name}'")))
    }

    fn text(&self, name: &str) -> Option<String> {
        self.headers.get(name)?.to_str().ok().map(str::to_owned)
    }

    fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let number = self.text(name).map(|text| text.parse());
        number.transpose().map_err(|_| usage(format!("the header {name} is not a number")))
    }
}

/// What is not said is not so; what is said otherwise is not understood.
fn is_true(name: &str, value: Option<String>) -> Result<bool, ApiError> {
    match value.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(usage(format!("'{name}' is true or false, not '{other}'"))),
    }
}

/// Undoes percent-encoding (RFC 3986 §2.1); what is malformed stays as it is.
fn decode_query(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match after
            .split_first_chunk()
            .filter(|_| first == b'%')
            .and_then(|(digits, after)| Some((octet(digits)?, after)))
        {
            Some((octet, after)) => {
                bytes.push(octet);
                rest = after;
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The byte that two hexadecimal digits stand for.
fn octet(digits: &[u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_taken(host: &[&'static str], origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        for host in host {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        headers.extend(origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin))));
        check_origin(&headers).is_ok()
    }

    #[test]
    fn every_name_of_this_host_is_taken_with_and_without_a_port() {
        for host in ["localhost", "localhost:80", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80"] {
            assert!(is_taken(&[host], None), "{host}");
        }
        assert!(is_taken(&["localhost"], Some("http://[::1]")));
    }

    #[test]
    fn what_only_begins_like_a_name_of_this_host_is_refused() {
        for host in ["", "localhost.example", "localhost:80@example.com", "[::1", "[::1]x", "example.com:localhost"] {
            assert!(!is_taken(&[host], None), "{host}");
            assert!(!is_taken(&["localhost"], Some(host)), "{host}");
        }
        assert!(!is_taken(&[], None));
    }

    #[test]
    fn a_second_host_is_refused_unless_it_is_local_too() {
        assert!(!is_taken(&["localhost", "example.com"], None));
    }

    #[test]
    fn only_hexadecimal_digits_are_percent_decoded() {
        assert_eq!(decode_query("a%2Db%2d+%41"), "a-b- A");
        assert_eq!(decode_query("%+1%zz%4%"), "% 1%zz%4%");
    }

    #[test]
    fn a_path_that_repeats_itself_names_no_stream() {
        let read = |path: &str| Call::read(&Request::get(path).body(()).expect("a path"), b"");
        assert_eq!(read("/v1/streams/7"), Ok(Call::Stream(7)));
        for path in ["/v1/streams//v1/streams/7", "/v1/streams/", "/v1/streams/7/", "/v1/streams/-1", "/v1/streamsx/7"]
        {
            assert_eq!(read(path).err().map(|error| error.code), Some(ErrorCode::NotFound), "{path}");
        }
    }
}
