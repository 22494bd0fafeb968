//! What a local program sends to the socket of the local API.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HOST, ORIGIN};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pilot_daemon::api::request::{Call, check_origin};
use pilot_daemon::api::types::ErrorCode;

/// As the daemon's own bounds: they decide what is refused before it is read.
const HEAD_MAX: usize = 16 * 1024;
const BODY_MAX: usize = 64 * 1024;
/// The names of this host that a browser's page of another can not have.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Serves the bytes as a connection, and reads every call that hyper makes of them.
///
/// # Panics
/// If a call passes for a local one that is none, or what it asks for is not what it says.
pub fn local_api_request(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    let mut replies = Vec::new();
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(tokio::io::join(data, &mut replies)), service_fn(answer));
    // What ends the connection is the program's own doing; how, the replies tell.
    let _ended = runtime.block_on(connection);
    assert!(replies.is_empty() || replies.starts_with(b"HTTP/1."));
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = Limited::new(request.body_mut(), BODY_MAX).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let mut response = Response::new(Full::default());
    if check_origin(request.headers()).is_err() {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    }
    assert_local(&request);
    match Call::read(&request, &body) {
        Ok(call) => assert_meant(&call, &request, &body),
        Err(error) => assert!(matches!(error.code, ErrorCode::Usage | ErrorCode::NotFound), "{error}"),
    }
    Ok(response)
}

/// The parser of URIs says the same of host and origins.
fn assert_local(request: &Request<Incoming>) {
    let headers = request.headers();
    assert!(headers.contains_key(HOST));
    for value in headers.get_all(HOST).iter().chain(headers.get_all(ORIGIN)) {
        let text = value.to_str().expect("a local name is plain text");
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let authority: hyper::http::uri::Authority = authority.parse().unwrap_or_else(|_| panic!("{text:?} passed"));
        assert!(LOCAL_HOSTS.contains(&authority.host()), "{text:?} passed");
        assert!(!authority.as_str().contains('@'), "{text:?} passed");
    }
}

/// A call and its path agree, and a query keeps what is not percent-encoded.
fn assert_meant(call: &Call, request: &Request<Incoming>, body: &[u8]) {
    let path = request.uri().path();
    let expected = match call {
        Call::Status => "/v1/status",
        Call::Peers => "/v1/peers",
        Call::NetCheck => "/v1/netcheck",
        Call::Doctor(_) => "/v1/doctor",
        Call::Ticket => "/v1/ticket",
        Call::Published(_) => "/v1/published",
        Call::Accept(_) => "/v1/accept",
        Call::Open(_) => "/v1/streams",
        Call::Datagrams(_) => "/v1/datagrams",
        Call::ShutDown => "/v1/shutdown",
        Call::Resolve(_) => "/v1/resolve",
        Call::Ping(_) => "/v1/ping",
        Call::Connect(_) => "/v1/connect",
        Call::Find(_) => "/v1/find",
        Call::HandOver(_) => "/v1/hand-over",
        Call::ChangeGroups(_) => "/v1/groups",
        Call::ChangeSettings(_) => "/v1/settings",
        Call::Rules | Call::ChangeRules(_) => "/v1/rules",
        Call::Why(_) => "/v1/why",
        Call::Orgs | Call::CreateOrg(_) => "/v1/orgs",
        Call::Invite(_) => "/v1/orgs/invite",
        Call::Uninvite(_) => "/v1/orgs/uninvite",
        Call::JoinOrg(_) => "/v1/orgs/join",
        Call::OrgMembers(_) => "/v1/orgs/members",
        Call::Revoke(_) => "/v1/orgs/revoke",
        Call::RotateOrgKey(_) => "/v1/orgs/rotate",
        Call::LeaveOrg(_) => "/v1/orgs/leave",
        Call::Stream(id) => {
            assert_eq!(path.rsplit('/').next().map(str::parse), Some(Ok(*id)));
            return assert_eq!(path.split('/').count(), 4);
        }
        Call::ResetStream(id, _) => {
            assert_eq!(path.rsplit('/').nth(1).map(str::parse), Some(Ok(*id)));
            return assert_eq!(path.split('/').count(), 5);
        }
    };
    assert_eq!(path, expected);
    if let Call::Open(open) = call {
        let target = raw_query(request, "target").expect("it was read");
        assert_eq!(open.target, percent_decoded(target));
        assert_eq!(open.request, body);
    }
}

fn raw_query<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
}

/// RFC 3986 §2.1 once more, in other words: `%` and two hexadecimal digits stand for a byte.
fn percent_decoded(value: &str) -> String {
    let mut parts = value.split('%');
    let mut bytes = parts.next().unwrap_or_default().replace('+', " ").into_bytes();
    for part in parts {
        let is_escape = part.len() >= 2 && part.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
        let digits = if is_escape { &part[..2] } else { "" };
        bytes.push(u8::from_str_radix(digits, 16).unwrap_or(b'%'));
        bytes.extend(part[digits.len()..].replace('+', " ").bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
