//! The local API of a backbone node: `GET /v1/status` and `POST /v1/shutdown`, HTTP/1.1 and JSON on a Unix socket (spec/backbone.md §4).
//!
//! It is there for `pilotctl backbone status` and `stop`. The socket has mode 0600, so only the user who started the node can speak to it.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pilot_daemon::api::types::{ApiError, ErrorBody, ErrorCode};
use pilot_daemon::api::{VERSION, VERSION_HEADER};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Commands that wait for the driver, which takes them within one loop turn; more come only from a client that misbehaves.
pub const COMMANDS_MAX: usize = 16;
/// Connections at once; others wait in the kernel.
const CONNECTIONS_MAX: usize = 16;
/// A client that has not sent its request by then is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// No connection lasts longer, whatever its client does or leaves undone: there are few, and each is for one short call.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(10);

/// `GET /v1/status` of a backbone node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackboneStatusReply {
    /// What agents take to find the node.
    pub ticket: String,
    /// What it does: `stun`, `relay`, `directory`.
    pub roles: Vec<String>,
    /// Address of its socket.
    pub listen: String,
    /// Process.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// When it started.
    pub uptime_s: u64,
    /// Agents registered.
    pub agents: u64,
    /// Agents with a live tunnel.
    pub connected: u64,
    /// Circuits open.
    pub circuits: u64,
    /// Packets relayed.
    pub packets_relayed: u64,
    /// Bytes relayed.
    pub bytes_relayed: u64,
    /// TLS links up, for clients that have no UDP.
    #[serde(default)]
    pub links: usize,
    /// STUN requests answered.
    pub stun_answered: u64,
    /// Why the directory cannot store anything new, if the last attempt has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_error: Option<String>,
    /// Packets dropped, by reason.
    pub drops: std::collections::BTreeMap<String, u64>,
}

/// What a client of the API asks of the driver.
#[derive(Debug)]
pub enum Command {
    /// Report the node's status.
    Status(oneshot::Sender<BackboneStatusReply>),
    /// Show that the loop takes its turns.
    Beat(oneshot::Sender<()>),
    /// Shut down.
    Shutdown,
}

/// The socket, which is removed when this is dropped.
#[derive(Debug)]
pub struct StatusApi {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusApi {
    /// Opens the socket in place of a stale one: whoever calls this holds the lock of the home.
    ///
    /// # Errors
    /// Those of the system.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves clients until dropped.
    pub async fn serve(&self, commands: mpsc::Sender<Command>) -> Infallible {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let permit = Arc::clone(&connections).acquire_owned().await;
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let commands = commands.clone();
                    tokio::spawn(async move {
                        serve_connection(stream, commands).await;
                        drop(permit);
                    });
                }
                // Out of descriptors, or the client is gone already; either passes.
                Err(error) => {
                    tracing::debug!(%error, "no connection accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for StatusApi {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "socket file stays");
        }
    }
}

async fn serve_connection(stream: UnixStream, commands: mpsc::Sender<Command>) {
    let service = service_fn(move |request| {
        let commands = commands.clone();
        async move { Ok::<_, Infallible>(respond(request, commands).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_LIFETIME, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "local API connection ended early"),
        Err(_) => tracing::debug!("local API connection cut off"),
    }
}

async fn respond(request: Request<Incoming>, commands: mpsc::Sender<Command>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/status") => {
            let (reply, status) = oneshot::channel();
            // The driver answers or is ending; then the channel is closed.
            if commands.send(Command::Status(reply)).await.is_err() {
                return shutting_down();
            }
            status.await.map_or_else(|_| shutting_down(), |status| json(StatusCode::OK, &status))
        }
        (&Method::POST, "/v1/shutdown") => match commands.send(Command::Shutdown).await {
            Ok(()) => json(StatusCode::OK, &serde_json::json!({})),
            Err(_) => shutting_down(),
        },
        _ => error(StatusCode::NOT_FOUND, ErrorCode::NotFound, "a backbone node has no such endpoint"),
    }
}

fn shutting_down() -> Response<Full<Bytes>> {
    error(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotRunning, "the backbone node is shutting down")
}

fn error(status: StatusCode, code: ErrorCode, message: &str) -> Response<Full<Bytes>> {
    json(status, &ErrorBody { error: ApiError { code, message: message.to_owned(), hint: None } })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("our types have a JSON form");
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from(VERSION));
    response
}
