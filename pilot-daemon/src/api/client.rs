//! A client of the local API: one connection a call, as any HTTP client would do it (spec/local-api.md §2).

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::net::RecvFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::types::{
    AcceptRequest, Accepted, ApiError, DatagramsRequest, ErrorBody, ErrorCode, OpenRequest, Opened, StreamStatus,
};
use super::{UPGRADE, VERSION, VERSION_HEADER, header};

/// Longest reply taken: a full `find` of 64 agents is a tenth of it.
const REPLY_LEN_MAX: usize = 8 * 1024 * 1024;
/// Longest wait for a daemon that accepts nobody.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is tried meanwhile.
const DIAL_RETRY: Duration = Duration::from_millis(20);
/// Longest head of a reply to an upgrade; ours take a tenth of it.
const HEAD_LEN_MAX: usize = 16 * 1024;

/// A daemon's local API.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that listens there.
    ///
    /// # Errors
    /// [`ErrorCode::NotRunning`] if nobody does.
    pub async fn connect(socket: impl Into<PathBuf>) -> Result<Self, ApiError> {
        let client = Self { socket: socket.into() };
        client.dial().await?;
        Ok(client)
    }

    /// The socket that this client speaks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET path`.
    ///
    /// # Errors
    /// What the daemon answered, or that it does not run.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// What the daemon answered, or that it does not run.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.call(Method::POST, path, encode(body)?).await
    }

    /// `PUT path` with a JSON body.
    ///
    /// # Errors
    /// What the daemon answered, or that it does not run.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.call(Method::PUT, path, encode(body)?).await
    }

    /// How a stream of this daemon fares, or ended.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] once a minute has passed since its end.
    pub async fn stream_status(&self, stream: u64) -> Result<StreamStatus, ApiError> {
        self.get(&format!("/v1/streams/{stream}")).await
    }

    /// Opens a stream to another agent. The socket returned carries its bytes both ways; shutting down its write half
    /// finishes our direction, unless all that there is to say was in the request. After an end of file, [`Self::stream_status`] tells whether
    /// it was a good one.
    ///
    /// # Errors
    /// What the daemon answered, or that it does not run.
    pub async fn open_stream(&self, request: &OpenRequest) -> Result<(Opened, UnixStream), ApiError> {
        let path =
            format!("/v1/streams?target={}&service={}", encode_query(&request.target), encode_query(&request.service));
        let mut headers = String::new();
        if let Some(deadline_ms) = request.deadline_ms {
            headers.push_str(&format!("{}: {deadline_ms}\r\n", header::DEADLINE_MS));
        }
        if let Some(content_type) = &request.content_type {
            headers.push_str(&format!("{}: {}\r\n", header::CONTENT_TYPE, header_value(content_type)?));
        }
        if let Some(urgency) = request.urgency {
            headers.push_str(&format!("{}: {urgency}\r\n", header::URGENCY));
        }
        if request.replay_safe {
            headers.push_str(&format!("{}: true\r\n", header::REPLAY_SAFE));
        }
        let (head, stream) = self.upgrade("POST", &path, &headers, &request.request).await?;
        let opened = Opened {
            stream: head.number(header::STREAM).ok_or_else(|| malformed("no stream number"))?,
            address: head.required(header::ADDRESS)?,
            peer_name: head.text(header::PEER_NAME),
        };
        Ok((opened, stream))
    }

    /// Waits for the next stream to a service. The future may be dropped while it waits; the daemon then counts one
    /// handler less.
    ///
    /// # Errors
    /// What the daemon answered, or that it does not run.
    pub async fn accept(&self, request: &AcceptRequest) -> Result<(Accepted, UnixStream), ApiError> {
        let mut path = format!("/v1/accept?service={}", encode_query(&request.service));
        if request.public {
            path.push_str("&allow=public");
        }
        if let Some(offer) = &request.offer {
            path.push_str(&format!("&offer={}", encode_query(offer)));
        }
        if request.replay_safe {
            path.push_str("&replay_safe=true");
        }
        let (head, stream) = self.upgrade("GET", &path, "", b"").await?;
        let accepted = Accepted {
            stream: head.number(header::STREAM).ok_or_else(|| malformed("no stream number"))?,
            peer: head.required(header::PEER)?,
            peer_key: head.required(header::PEER_KEY)?,
            peer_name: head.text(header::PEER_NAME),
            service: head.required(header::SERVICE)?,
            deadline_ms: head.number(header::DEADLINE_MS),
            content_type: head.text(header::CONTENT_TYPE),
            urgency: head.number(header::URGENCY).and_then(|urgency| u8::try_from(urgency).ok()),
            trace_id: head.text(header::TRACE_ID),
            time_ms: head.number(header::TIME).ok_or_else(|| malformed("no time of arrival"))?,
        };
        Ok((accepted, stream))
    }

    /// A socket for unreliable messages: lines of [`DatagramToSend`](super::types::DatagramToSend) go to the daemon, lines of
    /// [`DatagramReceived`](super::types::DatagramReceived), or of [`ErrorBody`] for what could not be sent, come back.
    ///
    /// # Errors
    /// What the daemon answered, or that it does not run.
    pub async fn datagrams(&self, request: &DatagramsRequest) -> Result<UnixStream, ApiError> {
        let service = request.service.iter().map(|service| format!("service={}", encode_query(service)));
        let query: Vec<_> = service.chain(request.public.then(|| "allow=public".to_owned())).collect();
        let (_, stream) = self.upgrade("GET", &format!("/v1/datagrams?{}", query.join("&")), "", b"").await?;
        Ok(stream)
    }

    async fn dial(&self) -> Result<UnixStream, ApiError> {
        match timeout(DIAL_TIMEOUT, self.dial_when_there_is_room()).await {
            Ok(dialled) => dialled.map_err(|error| not_running(&self.socket, &error)),
            Err(_) => Err(ApiError::new(ErrorCode::Timeout, "the daemon has no room for another program")
                .hint("let some of those that use it end; see what it says: pilotctl daemon logs")),
        }
    }

    async fn dial_when_there_is_room(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.socket).await {
                // So many wait to be accepted that the system takes no more. No event tells when it does again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(DIAL_RETRY).await,
                dialled => return dialled,
            }
        }
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ApiError> {
        let io = TokioIo::new(self.dial().await?);
        let (mut sender, connection) = http1::handshake(io).await.map_err(|error| broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| ApiError::new(ErrorCode::Usage, error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let (head, body) = response.into_parts();
            check_version(head.headers.get(VERSION_HEADER).and_then(|value| value.to_str().ok()))?;
            let body =
                Limited::new(body, REPLY_LEN_MAX).collect().await.map_err(|error| malformed(&error.to_string()))?;
            decode(head.status, &body.to_bytes())
        };
        // The connection only moves while it is polled; it may end before the body has been looked at.
        tokio::pin!(connection);
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            result = &mut exchange => result,
            _ = &mut connection => exchange.await,
        }
    }

    /// Written out, since after the head the socket itself is wanted, with not one byte of the stream read too far.
    async fn upgrade(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Result<(Head, UnixStream), ApiError> {
        let mut stream = self.dial().await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: {UPGRADE}\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).await.map_err(|error| broken(&error))?;
        let head = Head::read(&mut stream).await?;
        check_version(head.text(VERSION_HEADER).as_deref())?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok((head, stream));
        }
        let len = head.number("content-length").map_or(0, |len| len.min(REPLY_LEN_MAX as u64));
        let mut body = Vec::new();
        stream.take(len).read_to_end(&mut body).await.map_err(|error| broken(&error))?;
        match decode::<serde_json::Value>(head.status, &body) {
            Err(error) => Err(error),
            Ok(_) => Err(malformed("no upgrade")),
        }
    }
}

/// Head of a reply to an upgrade.
#[derive(Debug)]
struct Head {
    status: StatusCode,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Takes the head from the socket and leaves what follows it.
    async fn read(stream: &mut UnixStream) -> Result<Self, ApiError> {
        let mut head = Vec::new();
        let mut seen = vec![0; HEAD_LEN_MAX];
        while head.len() < HEAD_LEN_MAX {
            let len = peek(stream, &mut seen).await.map_err(|error| broken(&error))?;
            if len == 0 {
                return Err(broken(&"it closed the connection"));
            }
            let before = head.len();
            head.extend_from_slice(&seen[..len]);
            // Without an end in sight all of it is head; with one, what follows stays in the socket.
            let end = head.windows(4).position(|window| window == b"\r\n\r\n").map(|position| position + 4);
            let taken = end.unwrap_or(head.len()) - before;
            stream.read_exact(&mut seen[..taken]).await.map_err(|error| broken(&error))?;
            if let Some(end) = end {
                return Self::parse(&head[..end]);
            }
        }
        Err(malformed("the head is too long"))
    }

    fn parse(head: &[u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(head).map_err(|_| malformed("the head is not text"))?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| malformed("no status"))?;
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Ok(Self { status, fields })
    }

    fn text(&self, name: &str) -> Option<String> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    fn required(&self, name: &str) -> Result<String, ApiError> {
        self.text(name).ok_or_else(|| malformed(&format!("no header '{name}'")))
    }
}

async fn peek(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    let look = || Ok(rustix::net::recv(stream.as_fd(), &mut *buffer, RecvFlags::PEEK)?.0);
    let mut look = look;
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, &mut look) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes, ApiError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| ApiError::new(ErrorCode::Usage, error.to_string()))
}

fn decode<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, ApiError> {
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()));
    }
    let error = serde_json::from_slice::<ErrorBody>(body);
    Err(error.map_or_else(|_| malformed(&format!("status {status}")), |body| body.error))
}

/// Percent-encodes a query value (RFC 3986 §2.3: unreserved characters stay).
fn encode_query(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn header_value(value: &str) -> Result<&str, ApiError> {
    let is_visible = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if is_visible { Ok(value) } else { Err(ApiError::new(ErrorCode::Usage, format!("{value:?} cannot be a header"))) }
}

fn check_version(version: Option<&str>) -> Result<(), ApiError> {
    let theirs = version.and_then(|version| version.parse::<u32>().ok());
    if theirs == Some(VERSION) {
        return Ok(());
    }
    let theirs = theirs.map_or_else(|| "no version".to_owned(), |version| format!("version {version}"));
    let error = ApiError::new(
        ErrorCode::Failed,
        format!("the daemon speaks {theirs} of the local API, this program version {VERSION}"),
    );
    Err(error.hint("restart the daemon: pilotctl daemon restart"))
}

fn not_running(socket: &Path, error: &io::Error) -> ApiError {
    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        return ApiError::new(ErrorCode::NotRunning, format!("no daemon answers at {}", socket.display()))
            .hint("start one: pilotctl daemon start --hostname NAME");
    }
    ApiError::new(ErrorCode::Failed, format!("cannot use {}: {error}", socket.display()))
}

fn broken(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::NotRunning, format!("the daemon broke off: {error}"))
        .hint("see what it says: pilotctl daemon logs")
}

fn malformed(what: &str) -> ApiError {
    ApiError::new(ErrorCode::Failed, format!("the daemon's reply makes no sense: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_the_queue_full_waits_for_its_turn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let mut queued = Vec::new();
        let full = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);

        let client = Client { socket: path };
        let dialling = tokio::spawn(async move { client.dial().await });
        for _ in 0..=queued.len() {
            let listener = listener.try_clone().unwrap();
            tokio::task::spawn_blocking(move || listener.accept().unwrap()).await.unwrap();
        }
        dialling.await.unwrap().unwrap();
    }
}
