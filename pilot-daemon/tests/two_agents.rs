//! Two agents in one process that hold each other's ticket, over real sockets on loopback, with no backbone.
#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pilot_core::id::ServicePort;
use pilot_core::transport::Code;
use pilot_daemon::agent::{Agent, AgentConfig, EndedBy, Incoming, Resolved, ServiceOptions, header};
use pilot_daemon::api::types::ErrorCode;
use pilot_daemon::home::Home;
use tempfile::TempDir;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Nothing here takes a tenth of it; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

async fn start(home: &TempDir, name: &str) -> Agent {
    let config = AgentConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        ..AgentConfig::new(Home::at(home.path()), name)
    };
    Agent::start(config).await.expect("the agent starts")
}

/// Two agents of one home, and the second as the first sees it.
async fn neighbours() -> (TempDir, Agent, Agent, Resolved) {
    let home = tempfile::tempdir().unwrap();
    let (alpha, beta) = (start(&home, "alpha").await, start(&home, "beta").await);
    let found = find(&alpha, &beta).await;
    (home, alpha, beta, found)
}

/// Two agents of different homes, and the second as the first sees it.
async fn strangers() -> ([TempDir; 2], Agent, Agent, Resolved) {
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (alpha, beta) = (start(&homes[0], "alpha").await, start(&homes[1], "beta").await);
    let found = find(&alpha, &beta).await;
    (homes, alpha, beta, found)
}

async fn find(from: &Agent, to: &Agent) -> Resolved {
    let ticket = to.ticket().await.unwrap().to_string();
    from.resolve(&ticket).await.unwrap()
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("finished in time")
}

async fn accept(agent: &Agent, service: ServicePort, public: bool) -> Incoming {
    agent.accept(service, ServiceOptions { public, ..ServiceOptions::default() }).await.unwrap()
}

#[tokio::test]
async fn ping_measures_a_direct_round_trip() {
    let (_home, alpha, _beta, beta) = neighbours().await;
    let pong = patiently(alpha.ping(&beta, PATIENCE)).await.unwrap();
    assert!(pong.rtt < Duration::from_secs(1));
    assert!(matches!(pong.path, Some(pilot_core::event::PathKind::Direct(_))));
}

#[tokio::test]
async fn eight_mebibytes_come_back_from_echo_byte_for_byte() {
    let (_home, alpha, _beta, beta) = neighbours().await;
    let sent: Vec<u8> =
        (0..8 * 1024 * 1024u32).map(|position| (position.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stream = alpha.open(&beta, header("echo").unwrap()).await.unwrap();
    let watch = stream.watch();

    let echoed = patiently(async {
        let mut left = Bytes::from(sent.clone());
        let mut echoed = Vec::new();
        while echoed.len() < sent.len() {
            let piece = left.split_to(left.len().min(200_000));
            if !piece.is_empty() {
                stream.write_chunk(piece).await.unwrap();
                if left.is_empty() {
                    stream.finish();
                }
            }
            echoed.extend_from_slice(&stream.read_chunk().await.unwrap().expect("more to come"));
        }
        assert_eq!(stream.read_chunk().await.unwrap(), None);
        echoed
    })
    .await;

    assert!(echoed == sent);
    let outcome = patiently(watch.closed()).await;
    assert_eq!((outcome.error, outcome.bytes_sent, outcome.bytes_received), (None, 8 << 20, 8 << 20));
}

#[tokio::test]
async fn a_burst_of_calls_beyond_the_peers_limit_waits_and_is_answered() {
    // The limit is 1,024, and no stream ends before all are wanted.
    const CALLS: usize = 1_500;
    let (_home, alpha, _beta, beta) = neighbours().await;
    let beta = Arc::new(beta);
    let all_wanted = Arc::new(Barrier::new(CALLS));
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let (alpha, beta, all_wanted) = (alpha.clone(), Arc::clone(&beta), Arc::clone(&all_wanted));
        calls.spawn(async move {
            all_wanted.wait().await;
            let mut stream = alpha.open(&beta, header("echo").unwrap()).await.unwrap();
            stream.exchange(b"all of us".to_vec(), 64).await.unwrap()
        });
    }

    let answers = patiently(calls.join_all()).await;

    assert!(answers.iter().all(|answer| answer.as_deref() == Some(b"all of us".as_slice())));
}

#[tokio::test]
async fn after_a_tunnel_was_ended_the_next_call_makes_another() {
    let (_home, alpha, _beta, beta) = neighbours().await;
    patiently(alpha.ping(&beta, PATIENCE)).await.unwrap();
    let first = alpha.peer_status(beta.key).await.unwrap();

    alpha.disconnect(&beta).await.unwrap();

    assert!(!alpha.peer_status(beta.key).await.is_some_and(|status| status.connected));
    patiently(alpha.ping(&beta, PATIENCE)).await.unwrap();
    assert_ne!(alpha.peer_status(beta.key).await.unwrap().connected_since, first.connected_since);
}

#[tokio::test]
async fn answer_flows_after_the_question_is_finished() {
    let (_home, alpha, beta_agent, beta) = neighbours().await;
    let server = tokio::spawn(async move {
        let mut incoming = accept(&beta_agent, ServicePort::QUERY, false).await;
        let mut question = Vec::new();
        while let Some(chunk) = incoming.stream.read_chunk().await.unwrap() {
            question.extend_from_slice(&chunk);
        }
        incoming.stream.write_chunk(Bytes::from(question.to_ascii_uppercase())).await.unwrap();
        incoming.stream.finish();
        (incoming.peer, incoming.name, incoming.address, beta_agent)
    });
    wait_for_service(&alpha, &beta).await;

    let mut stream = alpha.open(&beta, header("query").unwrap()).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"what is new?")).await.unwrap();
    stream.finish();
    let answer = patiently(stream.read_chunk()).await.unwrap();

    assert_eq!(answer.as_deref(), Some(&b"WHAT IS NEW?"[..]));
    assert_eq!(patiently(stream.read_chunk()).await, Ok(None));
    let (peer, name, address, _beta) = server.await.unwrap();
    assert_eq!((peer, name.as_deref(), address), (alpha.key(), Some("alpha"), Some(alpha.address())));
}

/// The handler's place is taken by a message to the loop that was sent before this ping's.
async fn wait_for_service(from: &Agent, to: &Resolved) {
    patiently(from.ping(to, PATIENCE)).await.unwrap();
}

#[tokio::test]
async fn stream_whose_handler_left_without_it_goes_to_the_next() {
    let (_home, alpha, beta_agent, beta) = neighbours().await;
    let mut stream = alpha.open(&beta, header("query").unwrap()).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"anybody?")).await.unwrap();
    let first = patiently(accept(&beta_agent, ServicePort::QUERY, false)).await;
    let opened_by = first.peer;
    beta_agent.give_back(first).await.unwrap();
    let mut next = patiently(accept(&beta_agent, ServicePort::QUERY, false)).await;

    assert_eq!((next.peer, opened_by), (alpha.key(), alpha.key()));
    assert_eq!(patiently(next.stream.read_chunk()).await, Ok(Some(Bytes::from_static(b"anybody?"))));
}

#[tokio::test]
async fn caller_that_gave_up_waiting_is_given_to_no_handler() {
    let (_home, alpha, beta_agent, beta) = neighbours().await;
    let call = async |text: &'static [u8]| {
        let mut stream = alpha.open(&beta, header("query").unwrap()).await.unwrap();
        stream.write_chunk(Bytes::from_static(text)).await.unwrap();
        stream
    };
    let _first = call(b"first").await;
    let _held = patiently(accept(&beta_agent, ServicePort::QUERY, false)).await;
    let mut second = call(b"second").await;
    patiently(alpha.ping(&beta, PATIENCE)).await.unwrap();
    second.reset(Code::CANCELLED, "waited for too long");
    patiently(second.watch().closed()).await;
    let _third = call(b"third").await;
    patiently(alpha.ping(&beta, PATIENCE)).await.unwrap();

    let mut next = patiently(accept(&beta_agent, ServicePort::QUERY, false)).await;
    assert_eq!(patiently(next.stream.read_chunk()).await, Ok(Some(Bytes::from_static(b"third"))));
}

#[tokio::test]
async fn reset_carries_code_and_reason_to_the_other_side() {
    let (_home, alpha, beta_agent, beta) = neighbours().await;
    let server = tokio::spawn(async move {
        let mut incoming = accept(&beta_agent, ServicePort(900), false).await;
        incoming.stream.reset(Code::SERVICE_FAILED, "the handler crashed");
        beta_agent
    });
    wait_for_service(&alpha, &beta).await;

    let mut stream = alpha.open(&beta, header("900").unwrap()).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"work")).await.unwrap();
    let error = patiently(stream.read_chunk()).await.unwrap_err();

    assert_eq!((error.code, error.reason.as_str()), (Code::SERVICE_FAILED, "the handler crashed"));
    drop(server.await.unwrap());
}

#[tokio::test]
async fn peer_that_wants_no_more_says_why_and_is_still_heard() {
    let (_home, alpha, beta_agent, beta) = neighbours().await;
    let server = tokio::spawn(async move { (accept(&beta_agent, ServicePort(900), false).await, beta_agent) });
    wait_for_service(&alpha, &beta).await;
    let mut stream = alpha.open(&beta, header("900").unwrap()).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"on and on")).await.unwrap();
    let (mut incoming, _beta) = patiently(server).await.unwrap();

    incoming.stream.stop(Code::BUSY, "that will do");
    let (mut reader, mut writer) = stream.split();
    patiently(writer.stopped()).await;
    let error = writer.write_chunk(Bytes::from_static(b"and on")).await.unwrap_err();
    assert_eq!((error.code, error.reason.as_str(), error.by), (Code::BUSY, "that will do", EndedBy::Peer));

    incoming.stream.write_chunk(Bytes::from_static(b"my turn")).await.unwrap();
    incoming.stream.finish();
    assert_eq!(patiently(reader.read_chunk()).await, Ok(Some(Bytes::from_static(b"my turn"))));
    assert_eq!(patiently(reader.read_chunk()).await, Ok(None));
}

#[tokio::test]
async fn message_makes_a_tunnel_and_reaches_an_embedding_program() {
    let (_homes, alpha, beta_agent, beta) = strangers().await;
    let mut messages = beta_agent.datagrams(ServicePort(900), true).await.unwrap();
    alpha.send_datagram(&beta, ServicePort(900), Bytes::from_static(b"hello"), PATIENCE).await.unwrap();
    let message = patiently(messages.recv()).await.unwrap();
    assert_eq!((message.peer, message.address, &message.data[..]), (alpha.key(), Some(alpha.address()), &b"hello"[..]));

    let too_long = Bytes::from(vec![0; 1_025]);
    let error = alpha.send_datagram(&beta, ServicePort(900), too_long, PATIENCE).await.unwrap_err();
    assert_eq!(
        (error.code, error.hint.as_deref()),
        (ErrorCode::Usage, Some("send at most 1024 bytes at once, or open a stream"))
    );
    beta_agent.shutdown().await;
    assert_eq!(patiently(messages.recv()).await, None);
}

#[tokio::test]
async fn service_without_a_handler_is_not_found() {
    let (_home, alpha, _beta, beta) = neighbours().await;
    let mut stream = alpha.open(&beta, header("query").unwrap()).await.unwrap();
    let error = patiently(stream.read_chunk()).await.unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (Code::NOT_FOUND, "no 'query' handler runs there"));
}

#[tokio::test]
async fn stranger_is_refused_with_the_remedy() {
    let (_homes, alpha, beta_agent, beta) = strangers().await;
    let server = tokio::spawn(async move { accept(&beta_agent, ServicePort::MCP, false).await });
    wait_for_service(&alpha, &beta).await;

    let mut stream = alpha.open(&beta, header("mcp").unwrap()).await.unwrap();
    let error = patiently(stream.read_chunk()).await.unwrap_err();

    assert_eq!(error.code, Code::REFUSED);
    assert!(error.reason.contains("--allow public"), "{}", error.reason);
    assert!(!server.is_finished());
}

#[tokio::test]
async fn stranger_may_call_a_public_service() {
    let (_homes, alpha, beta_agent, beta) = strangers().await;
    let server = tokio::spawn(async move { (accept(&beta_agent, ServicePort::MCP, true).await, beta_agent) });
    wait_for_service(&alpha, &beta).await;

    let stream = alpha.open(&beta, header("mcp").unwrap()).await.unwrap();
    let (incoming, _beta) = patiently(server).await.unwrap();

    assert_eq!(incoming.peer, alpha.key());
    drop(stream);
}

#[tokio::test]
async fn program_that_does_not_read_stops_only_its_own_stream() {
    let (_home, alpha, beta_agent, beta) = neighbours().await;
    let server = tokio::spawn(async move { (accept(&beta_agent, ServicePort(900), false).await, beta_agent) });
    wait_for_service(&alpha, &beta).await;
    let mut stalled = alpha.open(&beta, header("900").unwrap()).await.unwrap();
    let (_never_read, _beta) = {
        stalled.write_chunk(Bytes::from_static(b"first")).await.unwrap();
        patiently(server).await.unwrap()
    };

    // Written until credit and queues are full, which is when a write does not end while pings still do.
    let mut written = 0u64;
    loop {
        tokio::select! {
            biased;
            result = stalled.write_chunk(Bytes::from(vec![0; 256 * 1024])) => { result.unwrap(); written += 256 * 1024 }
            pong = alpha.ping(&beta, PATIENCE) => { pong.unwrap(); break }
        }
        assert!(written < 256 << 20, "nothing holds the writer back");
    }
}

#[tokio::test]
async fn message_without_a_handler_waits_in_the_inbox() {
    let (_home, alpha, beta_agent, beta) = neighbours().await;
    let mut stream = alpha.open(&beta, header("message").unwrap()).await.unwrap();
    stream.write_chunk(Bytes::from_static("grüße".as_bytes())).await.unwrap();
    stream.finish();
    assert_eq!(patiently(stream.read_chunk()).await, Ok(None));

    let inbox = std::fs::read_to_string(beta_agent.home().inbox_path()).unwrap();
    let message: serde_json::Value = serde_json::from_str(inbox.trim()).unwrap();
    assert_eq!((&message["text"], &message["peer_key"]), (&"grüße".into(), &alpha.key().to_string().into()));
}

#[tokio::test]
async fn streams_of_an_agent_that_shuts_down_end_at_once() {
    let (_home, alpha, beta_agent, beta) = neighbours().await;
    let server = tokio::spawn(async move { (accept(&beta_agent, ServicePort(900), false).await, beta_agent) });
    wait_for_service(&alpha, &beta).await;
    let mut stream = alpha.open(&beta, header("900").unwrap()).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"hello")).await.unwrap();
    let (_incoming, beta_agent) = patiently(server).await.unwrap();

    patiently(beta_agent.shutdown()).await;

    assert_eq!(patiently(stream.read_chunk()).await.unwrap_err().code, Code::SHUTDOWN);
    assert_eq!(beta_agent.ticket().await.unwrap_err().code, ErrorCode::NotRunning);
}

#[tokio::test]
async fn who_writes_to_an_agent_that_shuts_down_is_told_that_reason() {
    let (_home, alpha, beta, found) = neighbours().await;
    let mut stream = alpha.open(&found, header("echo").unwrap()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let piece = Bytes::from(vec![0; 64 * 1024]);
    writer.write_chunk(piece.clone()).await.unwrap();
    patiently(reader.read_chunk()).await.unwrap();
    let writing = async {
        loop {
            if let Err(error) = writer.write_chunk(piece.clone()).await {
                return error;
            }
        }
    };
    let reading = async { while reader.read_chunk().await.is_ok_and(|chunk| chunk.is_some()) {} };
    let (error, (), ()) = patiently(async { tokio::join!(writing, reading, beta.shutdown()) }).await;
    assert_eq!(error.code, Code::SHUTDOWN, "{error:?}");
}

#[tokio::test]
async fn agent_that_is_gone_is_unreachable_not_waited_for() {
    let (_home, alpha, beta_agent, beta) = neighbours().await;
    beta_agent.shutdown().await;
    let error = patiently(alpha.connect(&beta, Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
}

#[tokio::test]
async fn name_without_a_backbone_says_what_to_do() {
    let (_home, alpha, ..) = neighbours().await;
    let error = alpha.resolve("gamma").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unreachable);
    assert!(error.hint.unwrap().contains("--backbone"));
    assert_eq!(alpha.resolve("not a name").await.unwrap_err().code, ErrorCode::Usage);
}
