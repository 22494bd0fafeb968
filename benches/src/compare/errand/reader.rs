//! Who has the facts of all sources at the end: a program that asks agents, or one that reads the web.
//!
//! On the web each source costs a look-up of its name by the system's resolver, a connection, TLS, a page and its parsing. The second
//! errand of a reader finds what the first has left: names and connections, or tunnels.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::client::SendRequest as SendHttp3;
use h3_quinn::OpenStreams;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilot_core::time::Mono;
use pilot_daemon::api::client::Client;
use pilot_daemon::api::types::{FindRequest, Found, OpenRequest};
use pilot_daemon::clock;
use tokio::io::AsyncReadExt;
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::source::SERVICE;
use super::{Errand, GROUP, Order, Question, SOURCES, WEB, agent_name, fact, page, web_name};
use crate::compare::system::{Contact, Kind, Setup};
use crate::compare::systems::{CONNECTION_WINDOW, Quinn, STREAM_WINDOW, Tls};
use crate::compare::task::Report;
use crate::error::BenchError;

/// As `pilotctl query` has it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Does the errand twice, and reports the milliseconds of each: cold, unless that is not measured of this kind, and warm. One that begins
/// with a search is done once, cold.
pub(crate) async fn perform(errand: Errand) -> Result<Report, BenchError> {
    match errand.kind {
        Kind::PilotDaemons => twice(Agents(Client::connect(errand.socket.clone()).await?), &errand).await,
        Kind::Http1 => twice(Web::<Http1>::new(&errand)?, &errand).await,
        Kind::Http2 => twice(Web::<Http2>::new(&errand)?, &errand).await,
        Kind::Http3 => twice(Web::<Http3>::new(&errand)?, &errand).await,
        other => Err(BenchError::wrong(format!("{} does no errands", other.name()))),
    }
}

/// Whether the first errand of a reader is measured.
pub(crate) fn is_measured_cold(kind: Kind) -> bool {
    matches!(kind, Kind::Http1 | Kind::PilotDaemons)
}

/// A way to ask.
trait Asker: Send + Sync + 'static {
    /// The fact that a source knows.
    fn ask(&self, source: u8, question: Question) -> impl Future<Output = Result<String, BenchError>> + Send;

    /// Finds all sources by one search.
    fn find_all(&self) -> impl Future<Output = Result<(), BenchError>> + Send {
        async { Err(BenchError::wrong("there is no search that finds these sources")) }
    }
}

async fn twice(asker: impl Asker, errand: &Errand) -> Result<Report, BenchError> {
    let asker = Arc::new(asker);
    let mut values = Vec::new();
    if is_measured_cold(errand.kind) {
        values.push(once(&asker, errand.order, errand.question).await?);
    } else {
        once(&asker, Order::AtOnce, Question { think_ms: 0, ..errand.question }).await?;
    }
    if errand.order != Order::Found {
        values.push(once(&asker, errand.order, errand.question).await?);
    }
    Ok(Report { values, cpu: Duration::ZERO })
}

async fn once<A: Asker>(asker: &Arc<A>, order: Order, question: Question) -> Result<f64, BenchError> {
    let start = now();
    let ask = |source| {
        let asker = Arc::clone(asker);
        async move {
            let found = asker.ask(source, question).await?;
            let is_right = found == fact(source);
            is_right
                .then_some(())
                .ok_or_else(|| BenchError::wrong(format!("'{found}' is not what source {source} knows")))
        }
    };
    if order == Order::Found {
        asker.find_all().await?;
    }
    match order {
        Order::InTurn | Order::Found => {
            for source in 0..SOURCES {
                ask(source).await?;
            }
        }
        Order::AtOnce => {
            let mut asking: JoinSet<_> = (0..SOURCES).map(ask).collect();
            while let Some(asked) = asking.join_next().await {
                asked.map_err(BenchError::wrong)??;
            }
        }
    }
    Ok(now().since(start).as_secs_f64() * 1e3)
}

fn now() -> Mono {
    clock::now().mono
}

/// Asks agents by the local API, as `pilotctl query` does.
struct Agents(Client);

impl Asker for Agents {
    async fn ask(&self, source: u8, question: Question) -> Result<String, BenchError> {
        let request = OpenRequest {
            target: agent_name(source),
            service: SERVICE.to_owned(),
            deadline_ms: u64::try_from(DEADLINE.as_millis()).ok(),
            replay_safe: true,
            request: question.text().into_bytes(),
            ..OpenRequest::default()
        };
        let (_, mut stream) = self.0.open_stream(&request).await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        Ok(reply)
    }

    async fn find_all(&self) -> Result<(), BenchError> {
        let request = FindRequest { group: Some(GROUP.to_owned()), ..FindRequest::default() };
        let found: Found = self.0.post("/v1/find", &request).await?;
        let is_whole = found.agents.len() == usize::from(SOURCES);
        is_whole.then_some(()).ok_or_else(|| BenchError::wrong(format!("a search found {}", found.agents.len())))
    }
}

/// Reads the web: a session with each source, from the first page on.
struct Web<S: Session> {
    dialer: S::Dialer,
    sessions: Vec<Mutex<Option<S>>>,
}

/// A connection with a source that is kept.
trait Session: Sized + Send + 'static {
    /// What is made once in the life of a program.
    type Dialer: Send + Sync;

    fn dialer(errand: &Errand) -> Result<Self::Dialer, BenchError>;

    fn connect(
        dialer: &Self::Dialer,
        address: SocketAddr,
        name: &str,
    ) -> impl Future<Output = Result<Self, BenchError>> + Send;

    fn get(&mut self, name: &str, target: &str) -> impl Future<Output = Result<Bytes, BenchError>> + Send;
}

impl<S: Session> Web<S> {
    fn new(errand: &Errand) -> Result<Self, BenchError> {
        Ok(Self { dialer: S::dialer(errand)?, sessions: (0..SOURCES).map(|_| Mutex::default()).collect() })
    }
}

impl<S: Session> Asker for Web<S> {
    async fn ask(&self, source: u8, question: Question) -> Result<String, BenchError> {
        let name = web_name(source);
        let mut session = self.sessions[usize::from(source)].lock().await;
        let session = match &mut *session {
            Some(session) => session,
            none => {
                let address = lookup_host((&*name, WEB)).await?.next();
                let address = address.ok_or_else(|| BenchError::wrong(format!("{name} has no address")))?;
                none.insert(S::connect(&self.dialer, address, &name).await?)
            }
        };
        page::read(&session.get(&name, &format!("/?{}", question.text())).await?)
    }
}

/// A set-up of a client; nobody listens.
fn setup(errand: &Errand) -> Setup {
    Setup { kind: errand.kind, listen: [0, 0, 0, 0].into(), streams: 0, connections: 0, pilotctl: PathBuf::new() }
}

fn tls(errand: &Errand, protocol: &[u8]) -> Result<Tls, BenchError> {
    let contact = Contact { address: ([0; 4], 0).into(), credential: errand.credential.clone(), helpers: Vec::new() };
    Tls::new(&setup(errand), contact, Some(protocol))
}

struct Http1(http1::SendRequest<Empty<Bytes>>);

impl Session for Http1 {
    type Dialer = Tls;

    fn dialer(errand: &Errand) -> Result<Tls, BenchError> {
        tls(errand, b"http/1.1")
    }

    async fn connect(dialer: &Tls, address: SocketAddr, name: &str) -> Result<Self, BenchError> {
        let stream = dialer.dial_to(address, name).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(BenchError::wrong)?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn get(&mut self, name: &str, target: &str) -> Result<Bytes, BenchError> {
        self.0.ready().await.map_err(BenchError::wrong)?;
        let request = Request::get(target).header(hyper::header::HOST, name).body(Empty::new());
        let response = self.0.send_request(request.map_err(BenchError::wrong)?).await;
        body(response.map_err(BenchError::wrong)?).await
    }
}

struct Http2(http2::SendRequest<Empty<Bytes>>);

impl Session for Http2 {
    type Dialer = Tls;

    fn dialer(errand: &Errand) -> Result<Tls, BenchError> {
        tls(errand, b"h2")
    }

    async fn connect(dialer: &Tls, address: SocketAddr, name: &str) -> Result<Self, BenchError> {
        let stream = dialer.dial_to(address, name).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(BenchError::wrong)?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn get(&mut self, name: &str, target: &str) -> Result<Bytes, BenchError> {
        self.0.ready().await.map_err(BenchError::wrong)?;
        let request = Request::get(format!("https://{name}{target}")).body(Empty::new());
        let response = self.0.send_request(request.map_err(BenchError::wrong)?).await;
        body(response.map_err(BenchError::wrong)?).await
    }
}

async fn body(response: Response<Incoming>) -> Result<Bytes, BenchError> {
    if response.status() != StatusCode::OK {
        return Err(BenchError::wrong(format!("a page with status {}", response.status())));
    }
    Ok(response.into_body().collect().await.map_err(BenchError::wrong)?.to_bytes())
}

struct Http3(SendHttp3<OpenStreams, Bytes>);

impl Session for Http3 {
    type Dialer = Quinn;

    fn dialer(errand: &Errand) -> Result<Quinn, BenchError> {
        let contact =
            Contact { address: ([0; 4], 0).into(), credential: errand.credential.clone(), helpers: Vec::new() };
        Quinn::new(&setup(errand), &contact, b"h3")
    }

    async fn connect(dialer: &Quinn, address: SocketAddr, name: &str) -> Result<Self, BenchError> {
        let connection = h3_quinn::Connection::new(dialer.dial_to(address, name).await?);
        let (mut driver, sender) = h3::client::new(connection).await.map_err(BenchError::wrong)?;
        tokio::spawn(async move { driver.wait_idle().await });
        Ok(Self(sender))
    }

    async fn get(&mut self, name: &str, target: &str) -> Result<Bytes, BenchError> {
        let request = Request::get(format!("https://{name}{target}")).body(()).map_err(BenchError::wrong)?;
        let mut stream = self.0.send_request(request).await.map_err(BenchError::wrong)?;
        stream.finish().await.map_err(BenchError::wrong)?;
        stream.recv_response().await.map_err(BenchError::wrong)?;
        let mut page = Vec::new();
        while let Some(mut data) = stream.recv_data().await.map_err(BenchError::wrong)? {
            page.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        Ok(page.into())
    }
}
