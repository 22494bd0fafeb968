//! Agents whose UDP goes nowhere, and a real backbone node on loopback (spec/tcp.md). The node that the ticket names is a middlebox of the
//! test: a TCP port, and no UDP unless the test lets it through.
#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pilot_core::event::PathKind;
use pilot_core::ticket::BackboneTicket;
use pilot_daemon::agent::{Agent, AgentConfig};
use pilot_daemon::api::network::{MappingGap, MappingKind};
use pilot_daemon::api::types::{Backbone, FindingCode, Path, Transport};
use pilot_daemon::home::Home;
use pilot_daemon::tls::upgrade;
use pilot_relay::driver::{ServeOptions, serve};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Nothing here takes a tenth of it but what waits for UDP to be tried again; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

struct World {
    home: TempDir,
    /// The node's own ticket.
    ticket: BackboneTicket,
    backbone: JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (ticket, backbone) = start_backbone(&home).await;
        Self { home, ticket, backbone }
    }

    async fn kill_backbone(&mut self) {
        self.backbone.abort();
        (&mut self.backbone).await.ok();
    }

    /// Starts a node that was killed again, at its port.
    async fn revive_backbone(&mut self) {
        let ticket;
        (ticket, self.backbone) = start_backbone(&self.home).await;
        assert_eq!(ticket, self.ticket);
    }

    fn node(&self) -> SocketAddr {
        (LOOPBACK, self.ticket.port).into()
    }

    /// An agent with a home of its own, that knows the node under this host and port.
    async fn agent(&self, name: &str, host: &str, port: u16) -> Agent {
        let home = self.home.path().join(format!("home-of-{name}"));
        self.agent_in(home, name, host, port).await
    }

    async fn agent_in(&self, home: std::path::PathBuf, name: &str, host: &str, port: u16) -> Agent {
        let config = AgentConfig {
            listen: SocketAddr::from((LOOPBACK, 0)),
            backbone: Some(BackboneTicket::new(self.ticket.identity, host, port).unwrap()),
            ..AgentConfig::new(Home::at(home), name)
        };
        patiently(Agent::start(config)).await.unwrap()
    }

    /// One that has UDP.
    async fn free_agent(&self, name: &str) -> Agent {
        self.agent(name, "127.0.0.1", self.ticket.port).await
    }
}

async fn start_backbone(home: &TempDir) -> (BackboneTicket, JoinHandle<()>) {
    let listen = SocketAddr::from((LOOPBACK, 0));
    let options =
        ServeOptions { advertise: Some("127.0.0.1".into()), ..ServeOptions::new(listen, home.path().join("backbone")) };
    let (sender, ready) = oneshot::channel();
    let backbone = tokio::spawn(async move {
        serve(options, |ready| sender.send(ready.ticket.clone()).unwrap()).await.unwrap();
    });
    (patiently(ready).await.unwrap(), backbone)
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("finished in time")
}

/// What stands between agents and the node.
struct Middlebox {
    port: u16,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Does to each TCP connection what `handle` does.
async fn middlebox<F, H>(handle: H) -> Middlebox
where
    H: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepting = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            connections.spawn(handle(connection));
        }
    });
    Middlebox { port, tasks: vec![accepting] }
}

/// Passes TCP on to the node, and nothing else.
async fn firewall(node: SocketAddr) -> Middlebox {
    middlebox(move |connection| join(connection, node)).await
}

async fn join(mut connection: impl AsyncRead + AsyncWrite + Unpin, node: SocketAddr) {
    if let Ok(mut onward) = TcpStream::connect(node).await {
        copy_bidirectional(&mut connection, &mut onward).await.ok();
    }
}

impl Middlebox {
    /// Lets UDP through, too: as a NAT does, a socket for each source.
    async fn open_udp(&mut self, node: SocketAddr) {
        let front = Arc::new(UdpSocket::bind((LOOPBACK, self.port)).await.unwrap());
        self.tasks.push(tokio::spawn(async move {
            let mut mappings: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
            let mut buffer = vec![0; 2_048];
            loop {
                let Ok((len, from)) = front.recv_from(&mut buffer).await else { continue };
                let mapping = match mappings.entry(from) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => new.insert(mapping(node, from, Arc::clone(&front)).await),
                };
                mapping.send(&buffer[..len]).await.ok();
            }
        }));
    }
}

/// A socket of a NAT for one source; what the node sends to it goes back there.
async fn mapping(node: SocketAddr, source: SocketAddr, front: Arc<UdpSocket>) -> Arc<UdpSocket> {
    let mapping = Arc::new(UdpSocket::bind((LOOPBACK, 0)).await.unwrap());
    mapping.connect(node).await.unwrap();
    let back = Arc::clone(&mapping);
    tokio::spawn(async move {
        let mut buffer = vec![0; 2_048];
        while let Ok(len) = back.recv(&mut buffer).await {
            front.send_to(&buffer[..len], source).await.ok();
        }
    });
    mapping
}

/// The state of an agent's backbone node, once it is as it should be.
async fn backbone_when(agent: &Agent, is_so: impl Fn(&Backbone) -> bool) -> Backbone {
    patiently(async {
        loop {
            let backbone = agent.status().await.unwrap().backbone.unwrap();
            if is_so(&backbone) {
                return backbone;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

fn is_by(transport: Transport) -> impl Fn(&Backbone) -> bool {
    move |backbone| backbone.transport == Some(transport)
}

async fn ping(from: &Agent, to: &str) -> Option<PathKind> {
    let found = patiently(from.resolve(to)).await.unwrap();
    patiently(from.ping(&found, PATIENCE)).await.unwrap().path
}

fn codes(backbone: &Backbone) -> Vec<FindingCode> {
    backbone.findings.iter().map(|finding| finding.code).collect()
}

#[tokio::test]
async fn where_udp_is_blocked_an_agent_comes_by_tls_and_says_so() {
    let world = World::new().await;
    let firewall = firewall(world.node()).await;
    let blocked = world.agent("agent-blocked", "127.0.0.1", firewall.port).await;
    let free = world.free_agent("agent-free").await;

    let backbone = backbone_when(&blocked, |backbone| backbone.registered).await;
    assert_eq!((backbone.transport, codes(&backbone)), (Some(Transport::Tls), vec![FindingCode::UdpBlocked]));
    assert!(backbone.findings[0].message.contains(&firewall.port.to_string()), "{:?}", backbone.findings);
    assert_eq!(backbone.observed_address, None);
    let home = blocked.peers().await.unwrap().into_iter().find(|peer| peer.backbone).unwrap();
    assert_eq!((home.path, home.remote), (Some(Path::Tls), Some((LOOPBACK, firewall.port).into())));
    assert!(ping(&blocked, "agent-free").await.is_some());
    assert!(ping(&free, "agent-blocked").await.is_some());
    let free = free.status().await.unwrap().backbone.unwrap();
    assert_eq!((free.transport, free.findings), (Some(Transport::Udp), vec![]));
}

#[tokio::test]
async fn the_link_is_left_when_udp_works() {
    let world = World::new().await;
    let mut firewall = firewall(world.node()).await;
    let blocked = world.agent("agent-blocked", "127.0.0.1", firewall.port).await;
    let _free = world.free_agent("agent-free").await;
    backbone_when(&blocked, is_by(Transport::Tls)).await;

    firewall.open_udp(world.node()).await;
    let backbone = backbone_when(&blocked, is_by(Transport::Udp)).await;
    assert_eq!(backbone.findings, []);
    patiently(async {
        while blocked.status().await.unwrap().counters["links_open"] > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(ping(&blocked, "agent-free").await.is_some());
}

#[tokio::test]
async fn trap_23_a_link_is_made_again_whatever_broke_it_and_however_often_that_failed() {
    let mut world = World::new().await;
    let firewall = firewall(world.node()).await;
    let blocked = world.agent("agent-blocked", "127.0.0.1", firewall.port).await;
    for _ in 0..2 {
        backbone_when(&blocked, is_by(Transport::Tls)).await;
        world.kill_backbone().await;
        // The first attempt to come back has failed when this is found.
        backbone_when(&blocked, |backbone| codes(backbone).contains(&FindingCode::TlsFailed)).await;
        world.revive_backbone().await;
    }
    backbone_when(&blocked, |backbone| backbone.registered && backbone.transport == Some(Transport::Tls)).await;
    let _free = world.free_agent("agent-free").await;
    assert!(ping(&blocked, "agent-free").await.is_some());
}

/// A network that wants a sign-in, and shows its page in the place of whatever one asks for.
#[tokio::test]
async fn a_portal_that_wants_a_sign_in_is_named() {
    let world = World::new().await;
    let own = rcgen::generate_simple_self_signed(["portal".to_owned()]).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let acceptor = upgrade::acceptor(own.cert.der().clone(), key).unwrap();
    let portal = middlebox(move |connection| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut tls) = acceptor.accept(connection).await else { return };
            let mut asked = [0; 1_024];
            let Ok(1..) = tls.read(&mut asked).await else { return };
            let answer = b"HTTP/1.1 302 Found\r\nLocation: https://portal.example/\r\nContent-Length: 0\r\n\r\n";
            tls.write_all(answer).await.ok();
            tls.shutdown().await.ok();
        }
    })
    .await;
    let captive = world.agent("agent-captive", "127.0.0.1", portal.port).await;
    let backbone = backbone_when(&captive, |backbone| !backbone.findings.is_empty()).await;
    assert_eq!(codes(&backbone), [FindingCode::Captive]);
    assert!(backbone.findings[0].message.contains("sign-in"), "{:?}", backbone.findings);
    let checks = patiently(captive.examine(None, Duration::ZERO)).await.unwrap().checks;
    let network = checks.iter().find(|check| check.check == "network").unwrap();
    assert_eq!(network.code.as_deref(), Some("captive"));
    assert!(network.remedy.as_ref().unwrap().contains("sign in"), "{network:?}");
}

/// What was true of one network says nothing of another.
#[tokio::test]
async fn what_the_backbone_saw_is_not_said_any_more_when_it_is_lost() {
    let mut world = World::new().await;
    let agent = world.free_agent("agent-left").await;
    backbone_when(&agent, |backbone| backbone.observed_address.is_some()).await;
    let before = patiently(agent.netcheck()).await.unwrap();
    assert_eq!((before.observed_address.is_some(), before.mapping.kind), (true, MappingKind::None));
    world.kill_backbone().await;
    let lost = backbone_when(&agent, |backbone| !backbone.connected).await;
    assert_eq!(lost.observed_address, None);
    let found = patiently(agent.netcheck()).await.unwrap();
    assert_eq!((found.observed_address, found.mapping.kind), (None, MappingKind::Unknown));
    assert_eq!(found.mapping.reason, Some(MappingGap::NotAsked));
}

#[tokio::test]
async fn a_proxy_that_takes_tls_apart_is_survived_and_reported() {
    let world = World::new().await;
    let node = world.node();
    let own = rcgen::generate_simple_self_signed(["inspection".to_owned()]).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let acceptor = upgrade::acceptor(own.cert.der().clone(), key).unwrap();
    let inspector = middlebox(move |connection| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut outer) = acceptor.accept(connection).await else { return };
            let onward = TcpStream::connect(node).await.unwrap();
            let name = tokio_rustls::rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
            let mut inner = upgrade::connector().connect(name, onward).await.unwrap();
            copy_bidirectional(&mut outer, &mut inner).await.ok();
        }
    })
    .await;
    let watched = world.agent("agent-watched", "127.0.0.1", inspector.port).await;
    let backbone = backbone_when(&watched, |backbone| backbone.registered).await;
    assert_eq!(codes(&backbone), [FindingCode::UdpBlocked, FindingCode::TlsIntercepted]);
    let _free = world.free_agent("agent-free").await;
    assert!(ping(&watched, "agent-free").await.is_some());
}

/// What a proxy was asked, and what it lets through.
#[derive(Default)]
struct ProxyRules {
    /// `user:password`, in base64.
    credentials: String,
    asked: Vec<String>,
}

/// An HTTP proxy that knows one name, which no resolver does.
async fn proxy(node: SocketAddr, rules: Arc<Mutex<ProxyRules>>) -> Middlebox {
    middlebox(move |mut connection| {
        let rules = Arc::clone(&rules);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = connection.read_u8().await else { return };
                head.push(byte.to_ascii_lowercase());
            }
            let original = String::from_utf8(head).unwrap();
            let wanted = format!("proxy-authorization: basic {}", rules.lock().unwrap().credentials.to_ascii_lowercase());
            let is_known = original.contains(&wanted);
            rules.lock().unwrap().asked.push(original.lines().next().unwrap().to_owned());
            if !is_known {
                let refusal = "HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=\"office\"\r\nContent-Length: 0\r\n\r\n";
                connection.write_all(refusal.as_bytes()).await.ok();
                return;
            }
            connection.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
            join(connection, node).await;
        }
    })
    .await
}

#[tokio::test]
async fn through_a_proxy_by_name_with_credentials_that_change_while_it_runs() {
    let world = World::new().await;
    // alice:old
    let rules = Arc::new(Mutex::new(ProxyRules { credentials: "YWxpY2U6b2xk".into(), asked: Vec::new() }));
    let mut office = proxy(world.node(), Arc::clone(&rules)).await;
    let home = world.home.path().join("home-of-agent-office");
    std::fs::create_dir_all(&home).unwrap();
    let configure = |port: u16, password: &str| {
        let line = format!("proxy = 'http://alice:{password}@127.0.0.1:{port}'\n");
        std::fs::write(home.join("config.toml"), line).unwrap();
    };
    configure(office.port, "old");
    let agent = world.agent_in(home.clone(), "agent-office", "backbone.invalid", world.ticket.port).await;
    let backbone = backbone_when(&agent, |backbone| backbone.registered).await;
    assert_eq!(backbone.transport, Some(Transport::Tls));
    assert!(backbone.findings[0].message.contains(&format!("through the proxy 127.0.0.1:{}", office.port)));
    let asked = rules.lock().unwrap().asked.clone();
    assert!(
        asked.iter().all(|line| line.starts_with("connect backbone.invalid:")),
        "the proxy gets the name: {asked:?}"
    );

    // alice:new. The connection that stands is cut, as proxies do.
    rules.lock().unwrap().credentials = "YWxpY2U6bmV3".into();
    drop(office);
    office = proxy(world.node(), Arc::clone(&rules)).await;
    configure(office.port, "old");
    let backbone = backbone_when(&agent, |backbone| codes(backbone).contains(&FindingCode::ProxyCredentials)).await;
    let finding = backbone.findings.iter().find(|finding| finding.code == FindingCode::ProxyCredentials).unwrap();
    assert!(finding.message.contains("realm=\"office\"") && !finding.message.contains("old"), "{finding:?}");

    configure(office.port, "new");
    backbone_when(&agent, is_by(Transport::Tls)).await;
    let _free = world.free_agent("agent-free").await;
    assert!(ping(&agent, "agent-free").await.is_some());
}
