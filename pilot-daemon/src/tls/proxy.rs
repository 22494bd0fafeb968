//! The HTTP proxy on the way to a backbone node: which one, and CONNECT through it (RFC 9110 §9.3.6; spec/tcp.md §5).
//!
//! The config files are read at each attempt, so that a password that has changed is found without a restart. No address is looked up for
//! what is behind the proxy: it gets the name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::Empty;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::upgrade::{UpgradeError, taken_back, while_served};

/// Port of a proxy that names none: that of its scheme.
const PROXY_PORT: u16 = 80;
/// In the place of a proxy: there is none, whatever the environment says.
const NO_PROXY: &str = "none";
/// What a proxy says of itself is shown to people, so far.
const CHALLENGE_LEN_MAX: usize = 200;

/// A proxy, and what it wants to know.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// User and password, which are shown to nobody.
    credentials: Option<(String, String)>,
}

/// Why a text names no proxy that we can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// We speak HTTP to proxies.
    #[error("a proxy of the kind '{0}' cannot be used: name an http:// one")]
    Scheme(String),
    /// There is no host, or no port, where one should be.
    #[error("no proxy has that name: write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")]
    Name,
}

/// Why a proxy does not let us through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It wants other credentials, or some.
    #[error("the proxy {proxy} refuses {} ({challenge})", if *.has_credentials { "the credentials that it was given" } else { "who has no credentials" })]
    Credentials {
        /// Which.
        proxy: String,
        /// Whether it was given any.
        has_credentials: bool,
        /// What it says that it takes.
        challenge: String,
    },
    /// It does not want to connect us.
    #[error("the proxy {proxy} does not connect to {target} (HTTP status {status})")]
    Refused {
        /// Which.
        proxy: String,
        /// To where.
        target: String,
        /// What it says.
        status: u16,
    },
    /// It speaks no HTTP.
    #[error("the proxy {proxy} makes no sense: {source}")]
    Http {
        /// Which.
        proxy: String,
        /// Why.
        #[source]
        source: UpgradeError,
    },
}

/// Where settings say that a proxy is: the config files first, then the environment.
#[derive(Clone, Debug, Default)]
pub struct ProxySettings {
    /// `proxy` of the more specific config file.
    pub configured: Option<String>,
    /// `HTTPS_PROXY`.
    pub environment: Option<String>,
    /// `NO_PROXY`.
    pub exceptions: String,
}

impl ProxySettings {
    /// The settings of this moment, `configured` being those of the files.
    pub fn now(configured: Option<String>) -> Self {
        let variable = |names: [&str; 2]| {
            names.into_iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        };
        Self {
            configured,
            environment: variable(["https_proxy", "HTTPS_PROXY"]),
            exceptions: variable(["no_proxy", "NO_PROXY"]).unwrap_or_default(),
        }
    }

    /// The proxy on the way to a host, if there is one.
    ///
    /// # Errors
    /// If what is named is none.
    pub fn proxy_for(&self, host: &str) -> Result<Option<Proxy>, ProxyError> {
        if is_local(host) {
            return Ok(None);
        }
        match (&self.configured, &self.environment) {
            (Some(none), _) if none == NO_PROXY => Ok(None),
            (Some(configured), _) => configured.parse().map(Some),
            (None, Some(named)) if !is_excepted(host, &self.exceptions) => named.parse().map(Some),
            (None, _) => Ok(None),
        }
    }
}

impl Proxy {
    /// Host and port, as the resolver wants them.
    pub fn place(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Asks for a way through over a connection to the proxy.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(&self, socket: TcpStream, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        let target = target(host, port);
        let failed = |source: UpgradeError| ConnectError::Http { proxy: self.to_string(), source };
        let http = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await;
        let (mut requests, connection) = http.map_err(|error| failed(error.into()))?;
        let request = self.request(&target);
        let exchange = async {
            let answer = requests.send_request(request).await.map_err(|error| failed(error.into()))?;
            match answer.status() {
                status if status.is_success() => hyper::upgrade::on(answer).await.map_err(|error| failed(error.into())),
                StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(ConnectError::Credentials {
                    proxy: self.to_string(),
                    has_credentials: self.credentials.is_some(),
                    challenge: challenge(answer.headers()),
                }),
                status => Err(ConnectError::Refused {
                    proxy: self.to_string(),
                    target: target.clone(),
                    status: status.as_u16(),
                }),
            }
        };
        let upgraded = while_served(connection.with_upgrades(), exchange).await?;
        let (socket, early) = taken_back(upgraded).map_err(failed)?;
        // In TLS the client speaks first: what comes before is the proxy's own.
        if early.is_empty() { Ok(socket) } else { Err(failed(UpgradeError::NotHandedOver)) }
    }

    fn request(&self, target: &str) -> Request<Empty<Bytes>> {
        let mut request = Request::connect(target).header(HOST, target);
        if let Some((user, password)) = &self.credentials {
            let encoded = BASE64.encode(format!("{user}:{password}").as_bytes());
            let basic = HeaderValue::from_str(&format!("Basic {encoded}"));
            let mut basic = basic.expect("base64 is a header value");
            basic.set_sensitive(true);
            request = request.header(PROXY_AUTHORIZATION, basic);
        }
        request.body(Empty::new()).expect("a ticket's host and a port are an authority")
    }
}

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return Err(ProxyError::Scheme(scheme.to_owned())),
            None => text,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, authority),
        };
        let credentials = credentials.map(|credentials| {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            (percent_decoded(user), percent_decoded(password))
        });
        let (host, port) = host_and_port(place).ok_or(ProxyError::Name)?;
        Ok(Self { host: host.to_owned(), port, credentials })
    }
}

/// Without the credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&target(&self.host, self.port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// `HOST:PORT`, `[HOST]:PORT` or a host alone.
fn host_and_port(place: &str) -> Option<(&str, u16)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':').unwrap_or(port))
        }
        None => place.split_once(':').unwrap_or((place, "")),
    };
    let port = if port.is_empty() { PROXY_PORT } else { port.parse().ok()? };
    let is_host = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c));
    is_host.then_some((host, port))
}

fn target(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What the proxy takes, as far as it is fit to be shown.
fn challenge(headers: &HeaderMap) -> String {
    let challenges = headers.get_all(PROXY_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let said = challenges.collect::<Vec<_>>().join(", ");
    if said.is_empty() {
        "it does not say what it takes".to_owned()
    } else {
        said.chars().take(CHALLENGE_LEN_MAX).collect()
    }
}

/// RFC 3986 §2.1; what is no escape stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// No proxy leads to this very machine.
pub(super) fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether `NO_PROXY` names the host: itself, its domain, its network, or everything.
fn is_excepted(host: &str, exceptions: &str) -> bool {
    let ip = host.parse::<IpAddr>().ok();
    exceptions.split(',').map(str::trim).filter(|exception| !exception.is_empty()).any(|exception| {
        let domain = exception.trim_start_matches("*.").trim_start_matches('.');
        exception == "*"
            || host.eq_ignore_ascii_case(domain)
            || ip.is_some_and(|ip| is_in_network(ip, exception))
            || (ip.is_none() && is_in_domain(host, domain))
    })
}

fn is_in_domain(host: &str, domain: &str) -> bool {
    let start = host.len().checked_sub(domain.len() + 1);
    start
        .and_then(|start| host.get(start..))
        .is_some_and(|end| end.strip_prefix('.').is_some_and(|end| end.eq_ignore_ascii_case(domain)))
}

fn is_in_network(ip: IpAddr, network: &str) -> bool {
    let Some((address, len)) = network.split_once('/') else { return false };
    let (Ok(address), Ok(len)) = (address.parse::<IpAddr>(), len.parse::<u32>()) else { return false };
    match (ip, address) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => len <= 32 && (ip.to_bits() ^ network.to_bits()).leading_zeros() >= len,
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            len <= 128 && (ip.to_bits() ^ network.to_bits()).leading_zeros() >= len
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(configured: Option<&str>, environment: Option<&str>, exceptions: &str) -> ProxySettings {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        ProxySettings {
            configured: owned(configured),
            environment: owned(environment),
            exceptions: exceptions.to_owned(),
        }
    }

    fn proxy_for(settings: &ProxySettings, host: &str) -> Option<String> {
        settings.proxy_for(host).expect("a proxy or none").map(|proxy| proxy.to_string())
    }

    #[test]
    fn a_proxy_is_named_as_people_name_them() {
        let named = |text: &str| text.parse::<Proxy>();
        let full = named("http://user%40corp:p%3Aw%25@proxy.corp:3128/").expect("a proxy");
        assert_eq!(full.place(), ("proxy.corp", 3128));
        assert_eq!(full.credentials, Some(("user@corp".into(), "p:w%".into())));
        assert_eq!(named("proxy.corp:3128").expect("a proxy").place(), ("proxy.corp", 3128));
        assert_eq!(named("http://proxy.corp").expect("a proxy").place(), ("proxy.corp", 80));
        assert_eq!(named("http://[2001:db8::1]:8080").expect("a proxy").to_string(), "[2001:db8::1]:8080");
        assert_eq!(named("socks5://proxy.corp:1080"), Err(ProxyError::Scheme("socks5".into())));
        for bad in ["", "http://", "http://:80", "proxy:port", "http://[::1:80", "http://a b:80", "proxy:99999"] {
            assert_eq!(named(bad), Err(ProxyError::Name), "{bad}");
        }
    }

    #[test]
    fn nobody_is_shown_the_credentials() {
        let proxy: Proxy = "http://user:secret@proxy.corp:3128".parse().expect("a proxy");
        assert_eq!(format!("{proxy} {proxy:?}"), "proxy.corp:3128 Proxy(proxy.corp:3128)");
    }

    #[test]
    fn a_config_file_comes_before_the_environment_and_may_say_none() {
        let environment = Some("http://env:1");
        assert_eq!(proxy_for(&settings(Some("file:2"), environment, "*"), "node.example").as_deref(), Some("file:2"));
        assert_eq!(proxy_for(&settings(None, environment, ""), "node.example").as_deref(), Some("env:1"));
        assert_eq!(proxy_for(&settings(Some("none"), environment, ""), "node.example"), None);
        assert_eq!(proxy_for(&settings(Some("file:2"), None, ""), "127.0.0.1"), None);
    }

    #[test]
    fn exceptions_are_hosts_domains_and_networks() {
        let exceptions = "node.example, .corp,*.lan , 10.0.0.0/8,2001:db8::/32,192.0.2.7";
        for excepted in [
            "node.example",
            "NODE.example",
            "a.node.example",
            "x.corp",
            "h.lan",
            "10.9.8.7",
            "192.0.2.7",
            "2001:db8::9",
        ] {
            assert!(is_excepted(excepted, exceptions), "{excepted}");
        }
        for other in ["anode.example", "example", "corp.example", "11.0.0.1", "192.0.2.70", "2001:db9::1"] {
            assert!(!is_excepted(other, exceptions), "{other}");
        }
        assert!(is_excepted("whatever", "*") && !is_excepted("whatever", ""));
    }
}
