//! The local API over real Unix sockets: two agents, their servers, and the client that `pilotctl` uses.
#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pilot_daemon::agent::{Agent, AgentConfig};
use pilot_daemon::api::BODY_LEN_MAX;
use pilot_daemon::api::client::Client;
use pilot_daemon::api::server::Server;
use pilot_daemon::api::types::{
    AcceptRequest, DatagramReceived, DatagramToSend, DatagramsRequest, Done, EndedBy, ErrorBody, ErrorCode, Groups,
    GroupsRequest, OpenRequest, Path as PathKind, Peers, Reached, ResetRequest, ResolveRequest, Settings, Status,
    StreamState, StreamStatus, TargetRequest, TicketReply,
};
use pilot_daemon::home::Home;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Nothing here takes a tenth of it; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

struct Daemon {
    client: Client,
    agent: Agent,
    socket: PathBuf,
    _home: TempDir,
}

impl Daemon {
    async fn start(name: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = AgentConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..AgentConfig::new(Home::at(home.path()), name)
        };
        let agent = Agent::start(config).await.unwrap();
        let socket = agent.home().socket_path().unwrap();
        // A daemon that crashed has left its socket behind.
        std::fs::write(&socket, b"").unwrap();
        let server = Server::bind(&socket).unwrap();
        tokio::spawn(server.run(agent.clone()));
        let client = Client::connect(&socket).await.unwrap();
        Self { client, agent, socket, _home: home }
    }

    async fn ticket(&self) -> String {
        self.client.get::<TicketReply>("/v1/ticket").await.unwrap().ticket
    }

    async fn open(&self, to: &Self, service: &str) -> (u64, UnixStream) {
        let request = OpenRequest { target: to.ticket().await, service: service.into(), ..OpenRequest::default() };
        let (opened, stream) = patiently(self.client.open_stream(&request)).await.unwrap();
        assert_eq!(opened.address, to.agent.address().to_string());
        (opened.stream, stream)
    }

    /// Waits for the end of a stream, which no event announces to an HTTP client.
    async fn ended(&self, stream: u64) -> StreamStatus {
        patiently(async {
            loop {
                let status = self.client.stream_status(stream).await.unwrap();
                if status.state != StreamState::Open {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// Waits until a handler's call has reached the loop.
    async fn serves(&self, service: &str) {
        patiently(async {
            loop {
                let status: Status = self.client.get("/v1/status").await.unwrap();
                if status.services.iter().any(|found| found.service == service && found.waiting > 0) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("finished in time")
}

fn public(service: &str) -> AcceptRequest {
    AcceptRequest { service: service.into(), public: true, offer: Some("answers".into()), ..AcceptRequest::default() }
}

#[tokio::test]
async fn status_tells_who_and_how() {
    let alpha = Daemon::start("alpha").await;
    let status: Status = alpha.client.get("/v1/status").await.unwrap();
    assert_eq!((status.name.as_str(), status.pid), ("alpha", std::process::id()));
    assert_eq!(status.address, alpha.agent.address().to_string());
    assert_eq!(status.socket.as_deref(), Some(alpha.socket.as_path()));
    assert!(status.drops.contains_key("authentication") && status.backbone.is_none());
}

#[tokio::test]
async fn ping_connect_and_peers_tell_of_the_tunnel() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let request = TargetRequest { target: beta.ticket().await, timeout_ms: Some(5_000) };
    let reached: Reached = alpha.client.post("/v1/ping", &request).await.unwrap();
    assert_eq!((reached.address, reached.path), (beta.agent.address().to_string(), Some(PathKind::Direct)));
    let connected: Reached = alpha.client.post("/v1/connect", &request).await.unwrap();
    assert!(connected.rtt_ms > 0.0);

    let peers: Peers = beta.client.get("/v1/peers").await.unwrap();
    assert_eq!(peers.peers.len(), 1);
    assert!(peers.peers[0].connected);
    assert_eq!(peers.peers[0].address.as_deref(), Some(alpha.agent.address().to_string().as_str()));
}

#[tokio::test]
async fn bytes_pass_both_sockets_unchanged_and_the_stream_ends_well() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let server = async {
        let (accepted, mut stream) = beta.client.accept(&public("query")).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all.reverse();
        stream.write_all(&all).await.unwrap();
        stream.shutdown().await.unwrap();
        accepted
    };
    let caller = async {
        beta.serves("query").await;
        let (id, stream) = alpha.open(&beta, "query").await;
        let (mut from, mut to) = stream.into_split();
        let sent: Vec<u8> =
            (0..4 << 20u32).map(|position: u32| (position.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
        let mut back = Vec::new();
        from.read_to_end(&mut back).await.unwrap();
        back.reverse();
        assert!(back == sent);
        alpha.ended(id).await
    };
    let (accepted, status) = patiently(async { tokio::join!(server, caller) }).await;
    assert_eq!((accepted.service.as_str(), accepted.peer), ("query", alpha.agent.address().to_string()));
    assert_eq!(accepted.peer_key, alpha.agent.key().to_string());
    assert_eq!((status.state, status.bytes_sent, status.bytes_received), (StreamState::Finished, 4 << 20, 4 << 20));
}

#[tokio::test]
async fn refusal_shows_in_the_stream_with_its_remedy() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let handler = {
        let client = beta.client.clone();
        tokio::spawn(async move { client.accept(&AcceptRequest { public: false, ..public("mcp") }).await })
    };
    beta.serves("mcp").await;

    let (id, mut stream) = alpha.open(&beta, "mcp").await;
    let status = alpha.ended(id).await;

    assert_eq!(
        (status.state, status.code.as_deref(), status.by),
        (StreamState::Reset, Some("refused"), Some(EndedBy::Peer))
    );
    let error = status.error.unwrap();
    assert_eq!(error.code, ErrorCode::Refused);
    assert!(error.hint.unwrap().contains("--allow public"));
    assert!(!matches!(patiently(stream.read(&mut [0; 8])).await, Ok(1..)));
    handler.abort();
}

#[tokio::test]
async fn service_that_nobody_handles_is_not_found() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let (id, _stream) = alpha.open(&beta, "query").await;
    let error = alpha.ended(id).await.error.unwrap();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::NotFound, "no 'query' handler runs there"));
}

#[tokio::test]
async fn deadline_ends_a_call_that_nobody_answers() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let handler = {
        let client = beta.client.clone();
        tokio::spawn(async move { client.accept(&public("query")).await })
    };
    beta.serves("query").await;
    let request = OpenRequest {
        target: beta.ticket().await,
        service: "query".into(),
        deadline_ms: Some(300),
        content_type: Some("text/plain".into()),
        ..OpenRequest::default()
    };
    let (opened, _stream) = alpha.client.open_stream(&request).await.unwrap();

    let (accepted, _held) = patiently(handler).await.unwrap().unwrap();
    assert_eq!((accepted.deadline_ms, accepted.content_type.as_deref()), (Some(300), Some("text/plain")));
    let status = alpha.ended(opened.stream).await;
    assert_eq!((status.code.as_deref(), status.by), (Some("deadline_exceeded"), Some(EndedBy::Local)));
    assert_eq!(status.error.unwrap().code, ErrorCode::Timeout);
}

/// How many first messages had early data, and how many streams of it were handed out at once.
async fn early(daemon: &Daemon) -> (u64, u64) {
    let counters = daemon.client.get::<Status>("/v1/status").await.unwrap().counters;
    (counters["early_data"], counters["early_streams"])
}

/// As `pilotctl query` and `pilotctl answer --replay-safe` do it.
#[tokio::test]
async fn a_request_that_comes_with_the_call_travels_in_the_first_message_if_it_may_be_repeated() {
    for (is_allowed_by_caller, is_allowed_by_service, counted) in
        [(true, true, (1, 1)), (true, false, (1, 0)), (false, true, (0, 0))]
    {
        let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
        let handler = {
            let client = beta.client.clone();
            let accept = AcceptRequest { replay_safe: is_allowed_by_service, ..public("query") };
            tokio::spawn(async move {
                let (accepted, mut stream) = client.accept(&accept).await.unwrap();
                let mut request = Vec::new();
                stream.read_to_end(&mut request).await.unwrap();
                stream.write_all(&request).await.unwrap();
                stream.shutdown().await.unwrap();
                accepted
            })
        };
        beta.serves("query").await;
        let request = OpenRequest {
            target: beta.ticket().await,
            service: "query".into(),
            replay_safe: is_allowed_by_caller,
            request: b"what is it worth".into(),
            ..OpenRequest::default()
        };
        let (opened, mut stream) = patiently(alpha.client.open_stream(&request)).await.unwrap();
        let mut answer = String::new();
        patiently(stream.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "what is it worth");
        let accepted = patiently(handler).await.unwrap();
        assert_eq!(accepted.peer, alpha.agent.address().to_string(), "who asks is known at once");
        assert_eq!(alpha.ended(opened.stream).await.state, StreamState::Finished);
        assert_eq!(early(&beta).await, counted);
    }
}

#[tokio::test]
async fn a_request_with_the_call_may_be_as_long_as_a_body_and_is_the_whole_of_it() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let long: Vec<u8> = (0..BODY_LEN_MAX).map(|place| (place % 251) as u8).collect();
    let open = |request: Vec<u8>, target| OpenRequest {
        target,
        service: "echo".into(),
        replay_safe: true,
        request,
        ..OpenRequest::default()
    };
    let (_, mut stream) = patiently(alpha.client.open_stream(&open(long.clone(), beta.ticket().await))).await.unwrap();
    let mut echoed = Vec::new();
    patiently(stream.read_to_end(&mut echoed)).await.unwrap();
    assert!(echoed == long);

    let too_long = open([long, vec![0]].concat(), beta.ticket().await);
    let error = patiently(alpha.client.open_stream(&too_long)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Usage);
}

#[tokio::test]
async fn either_side_may_end_first_and_hear_the_other_out() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let large = vec![7; 1 << 20];
    for first in ["caller", "handler"] {
        let handler = {
            let client = beta.client.clone();
            tokio::spawn(async move { client.accept(&public("query")).await })
        };
        beta.serves("query").await;
        let (id, mut caller) = alpha.open(&beta, "query").await;
        let (accepted, mut handler) = patiently(handler).await.unwrap().unwrap();
        let (one, other) = if first == "caller" { (&mut caller, &mut handler) } else { (&mut handler, &mut caller) };
        one.shutdown().await.unwrap();
        assert_eq!(patiently(other.read(&mut [0; 8])).await.unwrap(), 0, "{first}");
        let mut heard = Vec::new();
        let talk = async {
            other.write_all(&large).await.unwrap();
            other.shutdown().await.unwrap();
        };
        let (result, ()) = patiently(async { tokio::join!(one.read_to_end(&mut heard), talk) }).await;
        assert!(result.unwrap() == large.len() && heard == large, "{first}");
        assert_eq!(alpha.ended(id).await.state, StreamState::Finished, "{first}");
        assert_eq!(beta.ended(accepted.stream).await.state, StreamState::Finished, "{first}");
    }
}

#[tokio::test]
async fn urgency_is_chosen_by_the_caller_and_told_to_the_handler() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    for (asked, told) in [(None, 3), (Some(0), 0), (Some(7), 7)] {
        let client = beta.client.clone();
        let handler = tokio::spawn(async move { client.accept(&public("query")).await });
        beta.serves("query").await;
        let (target, service) = (beta.ticket().await, "query".to_owned());
        let request = OpenRequest { target, service, urgency: asked, ..OpenRequest::default() };
        let _caller = patiently(alpha.client.open_stream(&request)).await.unwrap();
        let (accepted, _stream) = patiently(handler).await.unwrap().unwrap();
        assert_eq!(accepted.urgency, Some(told));
    }
    let none = OpenRequest {
        target: beta.ticket().await,
        service: "query".into(),
        urgency: Some(8),
        ..OpenRequest::default()
    };
    assert_eq!(alpha.client.open_stream(&none).await.unwrap_err().code, ErrorCode::Usage);
}

#[tokio::test]
async fn reason_of_two_lines_is_what_happened_and_what_to_do() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let client = beta.client.clone();
    let handler = tokio::spawn(async move { client.accept(&public("query")).await });
    beta.serves("query").await;
    let (id, _caller) = alpha.open(&beta, "query").await;
    let (accepted, _stream) = patiently(handler).await.unwrap().unwrap();

    let reset = ResetRequest { code: ErrorCode::Refused, reason: "no more today\ncome back tomorrow".into() };
    beta.client.post::<Done>(&format!("/v1/streams/{}/reset", accepted.stream), &reset).await.unwrap();

    let status = alpha.ended(id).await;
    assert_eq!((status.code.as_deref(), status.by), (Some("refused"), Some(EndedBy::Peer)));
    let error = status.error.unwrap();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::Refused, "no more today"));
    assert_eq!(error.hint.as_deref(), Some("the other side says: come back tomorrow"));
    let own = beta.ended(accepted.stream).await;
    assert_eq!((own.code.as_deref(), own.by), (Some("refused"), Some(EndedBy::Local)));
}

/// A program's socket for unreliable messages.
struct Messages(BufReader<UnixStream>);

impl Messages {
    async fn open(daemon: &Daemon, service: Option<&str>, public: bool) -> Self {
        let request = DatagramsRequest { service: service.map(str::to_owned), public };
        Self(BufReader::new(daemon.client.datagrams(&request).await.unwrap()))
    }

    async fn send(&mut self, to: &str, len: usize) {
        let data = data_encoding::BASE64.encode(&vec![7; len]);
        self.send_line(&DatagramToSend { to: to.into(), service: "900".into(), data }).await;
    }

    async fn send_line(&mut self, line: &impl serde::Serialize) {
        let line = serde_json::to_string(line).unwrap() + "\n";
        self.0.get_mut().write_all(line.as_bytes()).await.unwrap();
    }

    async fn receive<T: serde::de::DeserializeOwned>(&mut self) -> T {
        let mut line = String::new();
        patiently(self.0.read_line(&mut line)).await.unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

#[tokio::test]
async fn messages_reach_the_program_that_takes_their_port_and_are_answered() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let mut asks = Messages::open(&alpha, Some("900"), true).await;
    let mut answers = Messages::open(&beta, Some("900"), true).await;

    asks.send(&beta.ticket().await, 5).await;
    let question: DatagramReceived = answers.receive().await;
    assert_eq!((&question.key, question.data.as_str()), (&alpha.agent.key().to_string(), "BwcHBwc="));
    assert_eq!(question.peer, Some(alpha.agent.address().to_string()));

    answers.send(&alpha.ticket().await, 1024).await;
    let answer: DatagramReceived = asks.receive().await;
    assert_eq!(data_encoding::BASE64.decode(answer.data.as_bytes()).unwrap(), [7; 1024]);
}

#[tokio::test]
async fn message_that_cannot_be_sent_is_told_and_the_next_one_goes() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let mut taken = Messages::open(&beta, Some("900"), true).await;
    let mut sends = Messages::open(&alpha, None, false).await;
    let ticket = beta.ticket().await;
    sends.send(&ticket, 1025).await;
    let ErrorBody { error } = sends.receive().await;
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::Usage, "datagram of 1025 bytes is longer than 1024"));
    sends.send("no such name", 1).await;
    assert_eq!(sends.receive::<ErrorBody>().await.error.code, ErrorCode::Usage);
    sends.send_line(&"nonsense").await;
    assert_eq!(sends.receive::<ErrorBody>().await.error.code, ErrorCode::Usage);
    sends.send(&ticket, 1).await;
    assert_eq!(taken.receive::<DatagramReceived>().await.data, "Bw==");
}

#[tokio::test]
async fn port_belongs_to_one_program_until_that_ends() {
    let beta = Daemon::start("beta").await;
    let held = Messages::open(&beta, Some("900"), false).await;
    let again = DatagramsRequest { service: Some("900".into()), public: false };
    let error = beta.client.datagrams(&again).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::Failed, "another program takes the datagrams for port 900")
    );
    drop(held);
    patiently(async {
        while beta.client.datagrams(&again).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn strangers_message_is_dropped_and_counted_where_the_port_is_not_public() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let _closed = Messages::open(&beta, Some("900"), false).await;
    let mut sends = Messages::open(&alpha, None, false).await;
    sends.send(&beta.ticket().await, 1).await;
    patiently(async {
        while beta.client.get::<Status>("/v1/status").await.unwrap().counters["messages_dropped"] == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn caller_that_goes_away_is_noticed_by_the_handler() {
    let (alpha, beta) = (Daemon::start("alpha").await, Daemon::start("beta").await);
    let handler = {
        let client = beta.client.clone();
        tokio::spawn(async move { client.accept(&public("900")).await })
    };
    beta.serves("900").await;
    let (_, caller) = alpha.open(&beta, "900").await;
    let (accepted, mut stream) = patiently(handler).await.unwrap().unwrap();

    drop(caller);
    let mut rest = Vec::new();
    // An end of file or a reset: the caller sends no more either way.
    drop(patiently(stream.read_to_end(&mut rest)).await);
    stream.shutdown().await.ok();
    drop(stream);
    assert_ne!(beta.ended(accepted.stream).await.state, StreamState::Open);
}

#[tokio::test]
async fn handler_that_leaves_is_counted_out() {
    let beta = Daemon::start("beta").await;
    let handler = {
        let client = beta.client.clone();
        tokio::spawn(async move { client.accept(&public("query")).await })
    };
    beta.serves("query").await;
    handler.abort();
    patiently(async {
        loop {
            let status: Status = beta.client.get("/v1/status").await.unwrap();
            if status.services.iter().all(|service| service.waiting == 0) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn groups_and_settings_are_kept() {
    let alpha = Daemon::start("alpha").await;
    let join = GroupsRequest { join: vec!["research".into(), "support".into()], leave: vec![] };
    let groups: Groups = alpha.client.post("/v1/groups", &join).await.unwrap();
    assert_eq!(groups.groups, ["research", "support"]);
    let leave = GroupsRequest { join: vec![], leave: vec!["support".into()] };
    let groups: Groups = alpha.client.post("/v1/groups", &leave).await.unwrap();
    assert_eq!(groups.groups, ["research"]);
    let settings = Settings { direct: Some(false), tags: Some(vec!["mcp".into()]), description: None };
    alpha.client.put::<Done>("/v1/settings", &settings).await.unwrap();

    let kept = alpha.agent.home().settings().unwrap();
    assert_eq!((kept.groups, kept.tags, kept.direct), (vec!["research".into()], vec!["mcp".into()], false));
    let bad = GroupsRequest { join: vec!["No Label".into()], leave: vec![] };
    assert_eq!(alpha.client.post::<Groups>("/v1/groups", &bad).await.unwrap_err().code, ErrorCode::Usage);
}

#[tokio::test]
async fn errors_have_code_message_and_hint() {
    let alpha = Daemon::start("alpha").await;
    let request = ResolveRequest { target: "agent-alhpa".into() };
    let error = alpha.client.post::<Status>("/v1/resolve", &request).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unreachable);
    assert!(error.message.contains("no backbone") && error.hint.is_some());
    assert_eq!(alpha.client.get::<Status>("/v1/nonsense").await.unwrap_err().code, ErrorCode::NotFound);
    let open =
        OpenRequest { target: alpha.ticket().await, service: "no such service".into(), ..OpenRequest::default() };
    assert_eq!(alpha.client.open_stream(&open).await.unwrap_err().code, ErrorCode::Usage);
}

/// What any HTTP client would send and get.
async fn raw(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    patiently(stream.read_to_string(&mut reply)).await.unwrap();
    reply
}

#[tokio::test]
async fn foreign_host_or_origin_is_turned_away() {
    let alpha = Daemon::start("alpha").await;
    for (headers, expected) in [
        ("host: localhost\r\n", "HTTP/1.1 200"),
        ("host: evil.example\r\n", "HTTP/1.1 400"),
        ("host: localhost\r\norigin: http://evil.example\r\n", "HTTP/1.1 400"),
        ("host: localhost\r\norigin: http://localhost:3000\r\n", "HTTP/1.1 200"),
    ] {
        let reply = raw(&alpha.socket, &format!("GET /v1/status HTTP/1.1\r\n{headers}connection: close\r\n\r\n")).await;
        assert!(reply.starts_with(expected), "{headers}: {reply}");
        assert!(reply.to_ascii_lowercase().contains("pilot-api-version: 1"));
    }
}

#[tokio::test]
async fn body_beyond_its_bound_is_refused() {
    let alpha = Daemon::start("alpha").await;
    let request = ResolveRequest { target: "x".repeat(100_000) };
    let error = alpha.client.post::<Status>("/v1/resolve", &request).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Usage);
}

#[tokio::test]
async fn shutdown_removes_the_socket_and_frees_the_agent() {
    let alpha = Daemon::start("alpha").await;
    alpha.client.post::<Done>("/v1/shutdown", &Done {}).await.unwrap();
    patiently(alpha.agent.ended()).await;
    patiently(async {
        while alpha.socket.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let error = Client::connect(&alpha.socket).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotRunning);
}
