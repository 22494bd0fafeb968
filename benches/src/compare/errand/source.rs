//! The one process behind all sources: asked by callers of agents through daemons, and for pages by the web's servers.
//!
//! A server of HTTP/1.1 and HTTP/2 (nginx) stands before it and asks it over loopback; HTTP/3, which Debian's nginx does not speak, it
//! speaks itself, a hop less. Agents are daemons, and it answers their callers as any program does, by the local API.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h3::server::RequestResolver;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use pilot_daemon::api::client::Client;
use pilot_daemon::api::types::{AcceptRequest, Status};
use pilot_daemon::home::Home;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use super::{Question, SOURCES, WEB, address, agent_name, fact, page, web_name};
use crate::agents::wrong;
use crate::compare::system::{Kind, Setup};
use crate::compare::systems::{Certificate, accept_quic, listen_for_quic};
use crate::error::BenchError;

/// Where the web's servers ask.
pub(super) const UPSTREAM: &str = "127.0.0.1:8080";
/// The service of an agent that is asked.
pub(super) const SERVICE: &str = "query";
/// Programs that wait for an agent's callers: as many readers as there are ask at once, and one more has come before another has gone.
const HANDLERS: usize = 8;
/// Streams that a reader may have at once over HTTP/3: nginx's default for HTTP/2.
const STREAMS: u32 = 128;

/// What it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sources {
    /// Home of the agents.
    pub(crate) home: PathBuf,
    /// Where the certificates are.
    pub(crate) certificates: PathBuf,
    /// The pages that will be asked for: none is written while somebody waits.
    pub(crate) page_lens: Vec<usize>,
}

/// All pages, by source and length.
type Pages = Arc<BTreeMap<(u8, usize), Bytes>>;

/// Answers everybody until it is dropped. Calls `ready` when all agents can be asked.
pub(crate) async fn serve(sources: Sources, ready: impl FnOnce() -> Result<(), BenchError>) -> Result<(), BenchError> {
    let all = (0..SOURCES).flat_map(|source| sources.page_lens.iter().map(move |len| (source, *len)));
    let pages: Pages = Arc::new(all.map(|(source, len)| ((source, len), page::page(source, len).into())).collect());
    let listener = TcpListener::bind(UPSTREAM).await?;
    for source in 0..SOURCES {
        serve_callers(&sources.home, source).await?;
        serve_http3(&sources.certificates, source, Arc::clone(&pages))?;
    }
    ready()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pages = Arc::clone(&pages);
        let service = service_fn(move |request: Request<Incoming>| {
            let pages = Arc::clone(&pages);
            async move {
                let host = request.headers().get(hyper::header::HOST).and_then(|host| host.to_str().ok());
                let page = asked_for(&pages, host, request.uri()).await?;
                let response = Response::builder().header(hyper::header::CONTENT_TYPE, "text/html; charset=utf-8");
                response.body(Full::new(page)).map_err(BenchError::wrong)
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Thinks: the only wait that is nobody's work.
async fn think(question: Question) {
    if question.think_ms > 0 {
        tokio::time::sleep(Duration::from_millis(question.think_ms)).await;
    }
}

/// The page that a request wants, after some thought.
async fn asked_for(pages: &Pages, host: Option<&str>, uri: &Uri) -> Result<Bytes, BenchError> {
    let source = (0..SOURCES).find(|source| host == Some(&*web_name(*source)));
    let source = source.ok_or_else(|| BenchError::wrong(format!("nobody is {host:?}")))?;
    let question = Question::parse(uri.query().unwrap_or_default())?;
    think(question).await;
    let page = pages.get(&(source, question.page_len));
    page.cloned().ok_or_else(|| BenchError::wrong(format!("no page of {} bytes", question.page_len)))
}

/// Answers who asks the agent. Returns when its daemon knows the service.
async fn serve_callers(home: &Path, source: u8) -> Result<(), BenchError> {
    let agent = Home::at(home).agent(&agent_name(source)).map_err(wrong)?;
    let client = Client::connect(agent.socket_path().map_err(wrong)?).await?;
    for _ in 0..HANDLERS {
        let client = client.clone();
        tokio::spawn(async move {
            let service = SERVICE.to_owned();
            // It looks a fact up: as `pilotctl answer --replay-safe --allow public`.
            let request = AcceptRequest { service, public: true, replay_safe: true, ..AcceptRequest::default() };
            while let Ok((_, stream)) = client.accept(&request).await {
                // A stream that ends early is the caller's to report.
                let _ended = answer_caller(source, stream).await;
            }
        });
    }
    loop {
        let status: Status = client.get("/v1/status").await?;
        if status.services.iter().any(|service| service.service == SERVICE && service.waiting == HANDLERS) {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

async fn answer_caller(source: u8, mut stream: UnixStream) -> Result<(), BenchError> {
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    think(Question::parse(&text)?).await;
    stream.write_all(fact(source).as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

fn serve_http3(certificates: &Path, source: u8, pages: Pages) -> Result<(), BenchError> {
    let certificate = Certificate::read(certificates, &agent_name(source))?;
    let listen = SocketAddr::from((address(source), WEB));
    let setup =
        Setup { kind: Kind::Http3, listen: listen.ip(), streams: STREAMS, connections: 0, pilotctl: PathBuf::new() };
    let endpoint = listen_for_quic(&setup, certificate, listen, b"h3")?;
    let serving = accept_quic(endpoint, move |connection| {
        let pages = Arc::clone(&pages);
        async move {
            let connection = h3::server::Connection::new(h3_quinn::Connection::new(connection)).await;
            let mut connection = connection.map_err(BenchError::wrong)?;
            while let Some(resolver) = connection.accept().await.map_err(BenchError::wrong)? {
                tokio::spawn(answer_http3(Arc::clone(&pages), resolver));
            }
            Ok(())
        }
    });
    tokio::spawn(serving);
    Ok(())
}

async fn answer_http3(pages: Pages, resolver: RequestResolver<h3_quinn::Connection, Bytes>) -> Result<(), BenchError> {
    let (request, mut stream) = resolver.resolve_request().await.map_err(BenchError::wrong)?;
    let page = asked_for(&pages, request.uri().host(), request.uri()).await?;
    stream.send_response(Response::new(())).await.map_err(BenchError::wrong)?;
    stream.send_data(page).await.map_err(BenchError::wrong)?;
    stream.finish().await.map_err(BenchError::wrong)
}
