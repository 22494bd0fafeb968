//! What agents do with each other: ping, connect, query, answer, groups, relay (spec/cli.md §5.3 to §5.7).

mod support;

use std::io::{Read, Write};

use serde_json::json;
use support::stream::{self, LocalStream};
use support::{Home, Running, eventually, is_alive, signal};

/// Two agents, and what answers queries at the second.
fn pair() -> Home {
    let home = Home::new();
    home.start("alpha", &[]);
    home.start("beta", &[]);
    home
}

fn answer(home: &Home, agent: &str, script: &str) -> Running {
    home.spawn(&["answer", "--as", agent, "--", "sh", "-c", script], "answering 'query' as")
}

#[test]
fn ping_prints_one_line_with_the_round_trip() {
    let home = pair();
    let address = home.json(&["info", "--as", "beta"])["address"].as_str().expect("address").to_owned();
    let printed = home.ok(&["ping", "beta", "--as", "alpha"]);
    let time = printed.strip_prefix(&format!("✓ reply from {address} · ")).unwrap_or_else(|| panic!("{printed}"));
    let number = time.strip_suffix("ms\n").expect("ms");
    assert!(number.parse::<u32>().is_ok() || number.starts_with("0."), "{printed}");
    let reply = home.json(&["ping", &address, "--as", "alpha"]);
    assert_eq!(reply["address"], json!(address));
    assert!(reply["rtt_ms"].is_number() && reply["path"].is_string(), "{reply}");
}

#[test]
fn a_misspelt_name_is_not_found_and_corrected() {
    let home = Home::new();
    home.start("agent-alpha", &[]);
    home.start("other", &[]);
    let said = home.run(&["ping", "agent-alhpa", "--as", "other"]);
    assert_eq!(said.stderr, "error: no agent named 'agent-alhpa'\nhint: did you mean 'agent-alpha'?\n");
    assert_eq!((said.code, said.stdout.as_str()), (4, ""));
}

#[test]
fn peers_lists_the_tunnel() {
    let home = pair();
    home.ok(&["ping", "beta", "--as", "alpha"]);
    let peers = home.json(&["peers", "--as", "alpha"])["peers"].clone();
    let names: Vec<&str> = peers.as_array().expect("a list").iter().filter_map(|peer| peer["name"].as_str()).collect();
    assert!(names.contains(&"beta"), "{peers}");
    assert!(home.ok(&["peers", "--as", "alpha"]).contains("beta"));
}

#[test]
fn connect_says_that_the_tunnel_stands_and_keeps_stdout_for_the_agent() {
    let home = pair();
    let said = home.run_with_input(&["connect", "beta", "--as", "alpha"], "hello\n");
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.starts_with("Tunnel established · 0:") && said.stderr.ends_with("ms\n"), "{said:?}");
    assert_eq!(said.stdout, "");
    let inbox = std::fs::read_to_string(home.agent_path("beta", "inbox")).expect("inbox");
    assert!(inbox.contains("hello"), "{inbox}");
}

#[test]
fn connect_carries_bytes_both_ways_to_a_message_handler() {
    let home = pair();
    let arguments = ["answer", "--as", "beta", "--service", "message", "--", "sh", "-c", "tr a-z A-Z"];
    let _handler = home.spawn(&arguments, "answering 'message' as beta");
    let said = home.run_with_input(&["connect", "beta", "--as", "alpha"], "one\ntwo\n");
    assert_eq!((said.code, said.stdout.as_str()), (0, "ONE\nTWO\n"), "{said:?}");
    let said = home.run(&["connect", "beta", "--as", "alpha", "--message", "shout"]);
    assert_eq!((said.code, said.stdout.as_str()), (0, "SHOUT\n"), "{said:?}");
}

#[test]
fn query_prints_the_answer_as_it_was_given() {
    let home = pair();
    let _handler = answer(&home, "beta", "printf 'you asked: '; cat");
    let said = home.run(&["query", "beta", "verify citation: DOI 10.1038/s41586-024-07421-0", "--as", "alpha"]);
    assert_eq!(said.stdout, "you asked: verify citation: DOI 10.1038/s41586-024-07421-0", "{said:?}");
    assert_eq!(said.code, 0);
    let reply = home.json(&["query", "beta", "x", "--as", "alpha"]);
    assert_eq!((&reply["reply"], &reply["name"]), (&json!("you asked: x"), &json!("beta")));
}

/// What the counters of an agent say of first messages: how many had early data, and how many requests of it were handed out at once.
fn early(home: &Home, agent: &str) -> [u64; 2] {
    let counters = home.json(&["daemon", "status", "--as", agent])["counters"].clone();
    ["early_data", "early_streams"].map(|name| counters[name].as_u64().unwrap_or_else(|| panic!("{counters}")))
}

#[test]
fn a_first_query_is_answered_before_the_tunnel_is_proved_where_the_handler_says_that_it_may_be() {
    for (answer_option, query_option, counted) in [
        (Some("--replay-safe"), None, [1, 1]),
        (None, None, [1, 0]),
        (Some("--replay-safe"), Some("--forward-secret"), [0, 0]),
    ] {
        let home = pair();
        let answer: Vec<_> = ["answer", "--as", "beta"].into_iter().chain(answer_option).chain(["--", "cat"]).collect();
        let _handler = home.spawn(&answer, "answering 'query' as beta");
        let query: Vec<_> =
            ["query", "beta", "what is it worth", "--as", "alpha"].into_iter().chain(query_option).collect();
        assert_eq!(home.ok(&query), "what is it worth");
        assert_eq!(early(&home, "beta"), counted, "{answer_option:?} {query_option:?}");
    }
}

#[test]
fn provenance_is_in_the_environment_of_the_handler() {
    let home = pair();
    let script = "cat >/dev/null; printf '%s|%s|%s|%s|%s|%s|%s' \"$PILOT_PEER_NAME\" \"$PILOT_PEER_ADDRESS\" \
                  \"$PILOT_PEER_KEY\" \"$PILOT_SERVICE\" \"$PILOT_AGENT\" \"$PILOT_DEADLINE_MS\" \"$PILOT_TIME\"";
    let _handler = answer(&home, "beta", script);
    let asker = home.json(&["info", "--as", "alpha"]);
    let reply = home.ok(&["query", "beta", "who am I?", "--as", "alpha", "--timeout", "9s"]);
    let fields: Vec<&str> = reply.split('|').collect();
    let text = |name: &str| asker[name].as_str().expect("text").to_owned();
    assert_eq!(fields[..5], ["alpha", &text("address"), &text("key"), "query", "beta"], "{reply}");
    let deadline_ms: u64 = fields[5].parse().expect("milliseconds");
    assert!((1..=9_000).contains(&deadline_ms), "{reply}");
    assert!(fields[6].parse::<u64>().expect("milliseconds") > 1_600_000_000_000, "{reply}");
}

#[test]
fn a_handler_is_not_told_the_invite_that_its_agent_was_started_with() {
    let home = pair();
    let mut command = home.command(&["answer", "--as", "beta", "--", "sh", "-c", "cat >/dev/null; env"]);
    command.env("PILOT_TOKEN", "pilot-invite:secret").env("PILOT_TOKEN_FILE", "/run/secret");
    let handler = Running::start(command);
    handler.wait_for_line("answering 'query' as beta");
    let environment = home.ok(&["query", "beta", "env", "--as", "alpha"]);
    assert!(environment.contains("PILOT_PEER_KEY=") && !environment.contains("secret"), "{environment}");
}

#[test]
fn a_handler_that_fails_is_an_error_at_the_caller() {
    let home = pair();
    let _handler = answer(&home, "beta", "printf half; exit 3");
    let said = home.run(&["query", "beta", "x", "--as", "alpha"]);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
    assert!(said.stderr.contains("the handler failed: exit status: 3"), "{said:?}");
}

#[test]
fn a_handler_ends_when_its_caller_has_gone() {
    let home = pair();
    let pid_file = home.path().join("handler");
    let _handler = answer(&home, "beta", &format!("echo $$ > '{}'; exec sleep 600", pid_file.display()));
    let mut query = Running::start(home.command(&["query", "beta", "x", "--as", "alpha", "--timeout", "10m"]));
    let pid = || std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok();
    eventually("the handler runs", || pid().is_some());
    query.signal("INT");
    assert_eq!(query.wait(), Some(130));
    eventually("the handler ends", || !is_alive(pid().expect("pid")));
}

#[test]
fn a_query_ends_at_its_deadline() {
    let home = pair();
    let _handler = answer(&home, "beta", "exec sleep 600");
    let said = home.run(&["query", "beta", "x", "--as", "alpha", "--timeout", "500ms"]);
    assert_eq!((said.code, said.stdout.as_str()), (6, ""), "{said:?}");
}

#[test]
fn nobody_who_answers_is_not_found() {
    let home = pair();
    let said = home.run(&["query", "beta", "x", "--as", "alpha"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.stderr.starts_with("error: no 'query' handler runs there"), "{said:?}");
}

#[test]
fn strangers_are_refused_unless_allowed() {
    let (_backbone, one, two) = strangers();
    let handler = answer(&two, "beta", "cat");
    let said = one.run(&["query", "beta", "x"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(said.stderr.contains("--allow public"), "{said:?}");
    drop(handler);
    let _open = two.spawn(&["answer", "--allow", "public", "--", "cat"], "answering 'query' as beta");
    assert_eq!(one.ok(&["query", "beta", "x"]), "x");
}

/// Two agents that do not know each other but by their backbone.
fn strangers() -> (Home, Home, Home) {
    let backbone = Home::new();
    let ticket = backbone.ok(&["backbone", "start", "--detach"]);
    let (one, two) = (Home::new(), Home::new());
    one.start("alpha", &["--backbone", ticket.trim()]);
    two.start("beta", &["--backbone", ticket.trim()]);
    (backbone, one, two)
}

/// Ways to call the three services that agents have.
const CALLS: [(&str, &[&str]); 4] = [
    ("query", &["query", "beta", "x"]),
    ("message", &["connect", "beta"]),
    ("message", &["connect", "beta", "--message", "x"]),
    ("mcp", &["mcp", "connect", "beta"]),
];

/// Runs each call in both forms; it has to fail with this code, and message and hint that depend on the service. Calls of services that
/// have no message are left out.
#[track_caller]
fn every_call_fails(home: &Home, code: i32, word: &str, words: impl Fn(&str) -> Option<(String, String)>) {
    for (service, call) in CALLS {
        let Some((message, hint)) = words(service) else { continue };
        let said = home.run(call);
        let expected = format!("error: {message}\nhint: {hint}\n");
        assert!(said.stderr.ends_with(&expected) && said.code == code, "{call:?}: {said:?}");
        let said = home.run(&[call, &["--json"]].concat());
        let last = said.stdout.lines().last().unwrap_or_default();
        let error: serde_json::Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        let expected = json!({ "error": { "code": word, "message": message, "hint": hint } });
        assert_eq!((error, said.code), (expected, code), "{call:?}");
    }
}

#[test]
fn a_refusal_reaches_the_command_line_with_code_reason_and_remedy() {
    let (_backbone, one, two) = strangers();
    let _query = answer(&two, "beta", "cat");
    let _message = two.spawn(&["answer", "--service", "message", "--", "cat"], "answering 'message' as beta");
    let _mcp = two.spawn(&["mcp", "serve", "--", "cat"], "serving MCP as beta");
    let alpha = one.json(&["info"])["address"].as_str().expect("an address").to_owned();
    let remedy = |service: &str| {
        format!("its owner can open it to all with --allow public, or to this one: pilotctl allow {service} {alpha}")
    };
    every_call_fails(&one, 5, "refused", |service| {
        Some((format!("'{service}' is not open to this agent"), format!("the other side says: {}", remedy(service))))
    });

    let mut stream = LocalStream::open(&one, "alpha", "beta", "query");
    assert_eq!(stream.rest(), "");
    let status = stream.status(&one, "alpha");
    assert_eq!(
        (&status["state"], &status["code"], &status["by"]),
        (&json!("reset"), &json!("refused"), &json!("peer"))
    );
    assert_eq!(status["reason"], format!("'query' is not open to this agent\n{}", remedy("query")));
}

#[test]
fn a_service_that_nobody_offers_is_not_found_by_any_call() {
    let (_backbone, one, _two) = strangers();
    // Messages go to the inbox where nobody takes them: they are refused, not unknown.
    let hint = "its owner starts one: `pilotctl answer` for queries, `pilotctl mcp serve` for MCP".to_owned();
    every_call_fails(&one, 4, "not_found", |service| {
        (service != "message").then(|| (format!("no '{service}' handler runs there"), hint.clone()))
    });
}

#[test]
fn an_agent_that_has_said_all_still_hears_the_caller() {
    let home = pair();
    let mut connect = home.command(&["connect", "beta", "--as", "alpha"]).spawn().expect("spawn");
    let mut agent = LocalStream::accept(&home, "beta", "message");
    agent.send("all I have to say");
    agent.finish();
    let (mut stdin, mut said) = (connect.stdin.take().expect("stdin"), [0; 17]);
    connect.stdout.take().expect("stdout").read_exact(&mut said).expect("read");
    assert_eq!(&said, b"all I have to say");
    stdin.write_all(b"and one thing more").expect("still open");
    drop(stdin);
    assert_eq!(agent.rest(), "and one thing more");
    assert_eq!(connect.wait().expect("wait").code(), Some(0));
}

#[test]
fn a_caller_that_has_said_all_still_hears_the_agent() {
    let home = pair();
    let connect = home.command(&["connect", "beta", "--as", "alpha"]).spawn().expect("spawn");
    let mut agent = LocalStream::accept(&home, "beta", "message");
    // The caller's stdin ends with this.
    let reading = std::thread::spawn(move || connect.wait_with_output().expect("wait"));
    assert_eq!(agent.rest(), "");
    agent.send("what you have waited for");
    agent.finish();
    let output = reading.join().expect("read");
    assert_eq!((&*output.stdout, output.status.code()), (&b"what you have waited for"[..], Some(0)));
}

#[test]
fn a_caller_that_is_asked_to_stop_ends_with_what_the_agent_has_said() {
    let home = pair();
    let mut connect = home.command(&["connect", "beta", "--as", "alpha"]).spawn().expect("spawn");
    let mut stdin = connect.stdin.take().expect("stdin");
    // More than every buffer on the way holds: it ends when nobody takes any more.
    let talking = std::thread::spawn(move || while stdin.write_all(&[b'x'; 64 * 1024]).is_ok() {});
    let mut agent = LocalStream::accept(&home, "beta", "message");
    agent.expect("xxxxx");
    agent.send("enough");
    agent.finish();
    eventually("its end has arrived", || stream::status(&home, "alpha", 1)["peer_finished"] == true);
    drop(agent);
    let output = connect.wait_with_output().expect("wait");
    assert_eq!((&*output.stdout, output.status.code()), (&b"enough"[..], Some(0)), "{output:?}");
    talking.join().expect("talking");
}

#[test]
fn a_connection_tells_when_the_agent_falls_silent_and_when_it_is_back() {
    let home = pair();
    let mut connect = Running::start_with_stdin(home.command(&["connect", "beta", "--as", "alpha"]));
    let mut agent = LocalStream::accept(&home, "beta", "message");
    let pid = home.json(&["daemon", "status", "--as", "beta"])["pid"].as_u64().expect("a pid");
    let pid = u32::try_from(pid).expect("a pid");
    connect.wait_for_line("Tunnel established");
    signal(pid, "STOP");
    connect.write("anybody?\n");
    connect.wait_for_line("beta gives no sign of life; waiting");
    signal(pid, "CONT");
    connect.wait_for_line("beta answers again");
    agent.expect("anybody?\n");
    agent.send("here\n");
    connect.wait_for_line("here");
    agent.finish();
    connect.end_stdin();
    assert_eq!(connect.wait(), Some(0));
}

#[test]
fn a_reply_that_is_too_large_is_an_error() {
    let home = pair();
    let _handler = answer(&home, "beta", "printf 12345");
    let said = home.run(&["query", "beta", "x", "--as", "alpha", "--max-reply", "4"]);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""));
    assert!(said.stderr.contains("larger than 4 bytes"), "{said:?}");
    assert_eq!(home.ok(&["query", "beta", "x", "--as", "alpha", "--max-reply", "5"]), "12345");
}

#[test]
fn a_large_request_and_reply_arrive_whole() {
    let home = pair();
    let _handler = answer(&home, "beta", "cat");
    let text = "0123456789abcdef".repeat(1 << 18);
    let said = home.run_with_input(&["query", "beta", "-", "--as", "alpha"], &text);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stdout == text);
}

#[test]
fn a_group_answers_by_its_fittest_member_and_then_by_the_next() {
    let home = Home::new();
    home.start("asker", &[]);
    home.start("research-alpha", &["--groups", "research"]);
    home.start("research-beta", &["--groups", "research"]);
    let script = "printf '%s' \"$PILOT_AGENT\"";
    let offer = |agent: &str, offer: &str| {
        home.spawn(&["answer", "--as", agent, "--offer", offer, "--", "sh", "-c", script], "answering")
    };
    let _alpha = offer("research-alpha", "academic citations");
    let _beta = offer("research-beta", "CVE alerts for web servers such as nginx");
    let question = ["query", "--group", "research", "latest CVE alerts for nginx 1.25", "--as", "asker"];
    let said = home.run(&question);
    assert_eq!(said.stdout, "research-beta", "{said:?}");
    assert!(said.stderr.contains("answered by: research-beta (0:"), "{said:?}");
    assert!(said.stderr.contains("matches 'alerts', 'cve', 'for', 'nginx'"), "{said:?}");

    home.ok(&["daemon", "stop", "--as", "research-beta"]);
    let said = home.run(&question);
    assert_eq!((said.code, said.stdout.as_str()), (0, "research-alpha"), "{said:?}");
    assert!(said.stderr.contains("answered by: research-alpha"), "{said:?}");

    let said = home.run(&["query", "--group", "nobody", "x", "--as", "asker"]);
    assert_eq!(said.code, 4, "{said:?}");
}

#[test]
fn answers_go_on_by_relay_while_direct_paths_are_off() {
    let home = pair();
    let _handler = answer(&home, "beta", "cat");
    home.ok(&["daemon", "set", "--direct", "off", "--as", "alpha"]);
    assert_eq!(home.ok(&["query", "beta", "by relay", "--as", "alpha"]), "by relay");
    let path = || home.json(&["ping", "beta", "--as", "alpha"])["path"].clone();
    assert_eq!(path(), json!("relay"));
    home.ok(&["daemon", "set", "--direct", "on", "--as", "alpha"]);
    eventually("the path is direct", || path() == json!("direct"));
    assert_eq!(home.ok(&["query", "beta", "direct", "--as", "alpha"]), "direct");
}

#[test]
fn tunnels_and_known_names_outlive_the_backbone() {
    let home = pair();
    home.ok(&["ping", "beta", "--as", "alpha"]);
    home.ok(&["backbone", "stop"]);
    assert!(home.ok(&["ping", "beta", "--as", "alpha"]).starts_with("✓ reply"));
    let said = home.run(&["ping", "gamma", "--as", "alpha"]);
    assert_ne!(said.code, 0);
    assert!(said.stderr.contains("backbone") || said.stderr.contains("directory"), "{said:?}");
}

#[test]
fn a_restarted_peer_answers_the_next_ping() {
    let home = pair();
    home.ok(&["ping", "beta", "--as", "alpha"]);
    home.ok(&["daemon", "restart", "--as", "beta"]);
    assert!(home.ok(&["ping", "beta", "--as", "alpha"]).starts_with("✓ reply"));
}

#[test]
fn handlers_end_with_their_daemon_and_on_sigterm() {
    let home = pair();
    let mut one = answer(&home, "beta", "cat");
    let mut other = home.spawn(&["answer", "--as", "alpha", "--", "cat"], "answering");
    other.signal("TERM");
    assert_eq!(other.wait(), Some(0));
    home.ok(&["daemon", "stop", "--as", "beta"]);
    assert_eq!(one.wait(), Some(3));
}
