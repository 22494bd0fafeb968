//! The way into a link: TLS, then one HTTP request that asks for something else (spec/tcp.md §1).
//!
//! TLS is here because firewalls let it through, and authenticates nothing that matters: the tunnel inside does. So any certificate is
//! taken. Whether the TLS connection ends at the node itself, its identity key says: it signs what is secret between the two ends of that
//! connection (RFC 9266). Who takes TLS apart on the way sees sealed packets, and is seen.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pilot_core::id::IdentityKey;
use pilot_core::identity::Identity;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// What is asked for.
const PATH: &str = "/pilot/v1";
/// What the connection becomes.
const PROTOCOL: &str = "pilot";
/// The key of the node that is meant: another one has nothing to say.
const NODE_HEADER: &str = "pilot-node";
/// The node's signature over the TLS connection.
const BINDING_HEADER: &str = "pilot-binding";
/// The longest head of a request or an answer: hyper works with no less.
const HEAD_LEN_MAX: usize = 8 * 1024;
/// Label of the exported secret (RFC 9266 §2).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// Context of the node's signature over it (spec/address.md §3).
const BINDING_CONTEXT: &str = "tls-exporter";

/// Why a link did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// TLS has failed.
    #[error("no TLS: {0}")]
    Tls(#[source] io::Error),
    /// HTTP has failed.
    #[error("no HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// What answers is no backbone node, or another one.
    #[error("what answers there is not the backbone node (HTTP status {})", .0.as_u16())]
    Status(StatusCode),
    /// The answer said yes and was no upgrade.
    #[error("the connection was not handed over")]
    NotHandedOver,
}

/// A connection that carries frames from now on.
pub struct Link<Io> {
    /// The connection.
    pub io: Io,
    /// What came with the answer.
    pub early: Bytes,
    /// Whether TLS ends at the node: it has signed this connection.
    pub is_bound: bool,
}

/// TLS of the end that asks.
///
/// # Panics
/// Never: the provider has the versions.
pub fn connector() -> TlsConnector {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols.push(b"http/1.1".to_vec());
    TlsConnector::from(Arc::new(config))
}

/// TLS of the end that answers, under a certificate that nobody checks.
///
/// # Errors
/// If key and certificate do not belong together.
pub fn acceptor(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols.push(b"http/1.1".to_vec());
    // A link lives for hours: a ticket for the next one is not worth its bytes, nor a place in memory.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Asks a node for a link over a connection that leads to it. `host` is how the ticket names its host.
///
/// # Errors
/// Why there is none.
pub async fn ask<Io>(
    connector: &TlsConnector,
    io: Io,
    host: &str,
    node: &IdentityKey,
) -> Result<Link<client::TlsStream<Io>>, UpgradeError>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let name = ServerName::try_from(host.to_owned()).map_err(|error| UpgradeError::Tls(io::Error::other(error)))?;
    let tls = connector.connect(name, io).await.map_err(UpgradeError::Tls)?;
    let exported = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None).ok();
    let mut http = hyper::client::conn::http1::Builder::new();
    let (mut requests, connection) = http.max_buf_size(HEAD_LEN_MAX).handshake(TokioIo::new(tls)).await?;
    let exchange = async {
        let answer = requests.send_request(request(host, node)).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(UpgradeError::Status(answer.status()));
        }
        let is_bound = exported.is_some_and(|exported| is_bound(answer.headers(), node, &exported));
        Ok((hyper::upgrade::on(answer).await?, is_bound))
    };
    let (upgraded, is_bound) = while_served(connection.with_upgrades(), exchange).await?;
    let (io, early) = taken_back(upgraded)?;
    Ok(Link { io, early, is_bound })
}

/// Answers whoever is at the other end of a TCP connection; None if it wants no link with this node.
///
/// # Errors
/// If TLS or HTTP has failed.
pub async fn answer<Io>(
    acceptor: &TlsAcceptor,
    io: Io,
    identity: &Identity,
) -> Result<Option<Link<server::TlsStream<Io>>>, UpgradeError>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tls = acceptor.accept(io).await.map_err(UpgradeError::Tls)?;
    let exported = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None).ok();
    let binding = exported.map(|exported: [u8; 32]| identity.sign(BINDING_CONTEXT, &exported));
    let binding = binding.map(|signature| BASE64URL_NOPAD.encode(&signature)).unwrap_or_default();
    // A leaf, never held across an await.
    let asked: Mutex<Option<OnUpgrade>> = Mutex::new(None);
    let service = service_fn(|mut request: Request<Incoming>| {
        let status = judge(&request, &identity.key());
        if status == StatusCode::SWITCHING_PROTOCOLS {
            *asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(hyper::upgrade::on(&mut request));
        }
        std::future::ready(reply(status, &binding))
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.max_buf_size(HEAD_LEN_MAX).serve_connection(TokioIo::new(tls), service).with_upgrades().await?;
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(asked) = asked else { return Ok(None) };
    let (io, early) = taken_back(asked.await?)?;
    Ok(Some(Link { io, early, is_bound: true }))
}

/// Drives a connection beside what is said over it.
pub(super) async fn while_served<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => return result,
        _ended = connection => {}
    }
    exchange.await
}

/// The connection that hyper was given, and what it has read beyond its head.
pub(super) fn taken_back<Io>(upgraded: Upgraded) -> Result<(Io, Bytes), UpgradeError>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let parts = upgraded.downcast::<TokioIo<Io>>().map_err(|_| UpgradeError::NotHandedOver)?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

fn request(host: &str, node: &IdentityKey) -> Request<Empty<Bytes>> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Request::builder()
        .uri(PATH)
        .header(HOST, host)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PROTOCOL)
        .header(NODE_HEADER, node.to_string())
        .body(Empty::new())
        .expect("a ticket's host and a key are header values")
}

/// What a request is answered with.
fn judge(request: &Request<Incoming>, node: &IdentityKey) -> StatusCode {
    let has = |name: &str, wanted: &str| {
        request.headers().get(name).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(wanted.as_bytes()))
    };
    if request.method() != Method::GET || request.uri().path() != PATH {
        StatusCode::NOT_FOUND
    } else if !has(UPGRADE.as_str(), PROTOCOL) {
        StatusCode::UPGRADE_REQUIRED
    } else if !has(NODE_HEADER, &node.to_string()) {
        StatusCode::MISDIRECTED_REQUEST
    } else {
        StatusCode::SWITCHING_PROTOCOLS
    }
}

fn reply(status: StatusCode, binding: &str) -> Result<Response<Empty<Bytes>>, hyper::http::Error> {
    let reply = Response::builder().status(status);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = HeaderValue::from_static("upgrade");
        return reply
            .header(CONNECTION, upgrade)
            .header(UPGRADE, PROTOCOL)
            .header(BINDING_HEADER, binding)
            .body(Empty::new());
    }
    reply.header(CONNECTION, "close").body(Empty::new())
}

/// Whether the node has signed what is secret between the ends of this very connection.
fn is_bound(headers: &HeaderMap, node: &IdentityKey, exported: &[u8; 32]) -> bool {
    let signature = headers.get(BINDING_HEADER).and_then(|value| BASE64URL_NOPAD.decode(value.as_bytes()).ok());
    let signature = signature.and_then(|signature| signature.try_into().ok());
    signature.is_some_and(|signature| node.verify(BINDING_CONTEXT, exported, &signature).is_ok())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Takes whatever certificate there is: see the module.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
