//! What people see: every verb's output and every error with its hint, as sessions under review in `tests/snapshots`.

mod support;

use std::net::UdpSocket;

use support::transcript::Transcript;
use support::{Home, PILOTCTL, assert_snapshot, eventually};

#[test]
fn outputs_are_as_reviewed() {
    let home = Home::new();
    let mut session = Transcript::new(&home);
    session.run(&["daemon", "start", "--hostname", "alpha"]);
    let tags = ["--tags", "mcp,finance", "--groups", "research", "--description", "tells the news"];
    session.run(&[&["daemon", "start", "--hostname", "beta"], &tags[..]].concat());
    session.run(&[
        "daemon",
        "start",
        "--hostname",
        "gamma",
        "--groups",
        "research",
        "--description",
        "knows the latest news",
    ]);
    for verb in ["info", "ticket"] {
        session.run(&[verb, "--as", "beta"]);
    }
    session.run(&["daemon", "status", "--as", "beta"]);
    session.run(&["group", "join", "ops", "--as", "alpha"]);
    session.run(&["group", "list", "--as", "alpha"]);
    session.run(&["group", "leave", "ops", "--as", "alpha"]);
    session.run(&["group", "list", "--as", "alpha"]);
    session.run(&["daemon", "set", "--tags", "asks", "--as", "alpha"]);
    session.run(&["find", "--tag", "finance", "--as", "alpha"]);
    session.run(&["ping", "beta", "--as", "alpha"]);
    session.run(&["peers", "--as", "alpha"]);
    session.run(&["netcheck", "--as", "alpha"]);
    session.run(&["doctor", "beta", "--as", "alpha"]);
    session.run_with_input(&["connect", "beta", "--as", "alpha"], "deploy is done\n");
    session.run(&["connect", "beta", "--as", "alpha", "--message", "deploy is done"]);

    let _handler = home.spawn(&["answer", "--as", "beta", "--", "sh", "-c", "printf 'nothing new'"], "answering");
    session.run(&["query", "beta", "what is new?", "--as", "alpha"]);
    session.run(&["query", "--group", "research", "the latest news", "--as", "alpha"]);
    session.run(&["mcp", "serve", "--as", "beta", "--detach", "--", PILOTCTL, "mcp", "demo-server"]);
    let notification = r#"{"jsonrpc": "2.0", "method": "call_tool"}"#;
    session.run(&["connect", "beta", "--as", "alpha", "--message", notification]);
    let request = r#"{"jsonrpc": "2.0", "id": 1, "method": "call_tool"}"#;
    session.run(&["connect", "beta", "--as", "alpha", "--message", request]);
    session.run(&["find", "--group", "research", "--as", "alpha"]);

    let file = home.path().join("beta.pem");
    let file = file.to_str().expect("text");
    session.run(&["identity", "export", "--as", "beta"]);
    session.run(&["identity", "export", file, "--as", "beta"]);
    let other = home.path().join("other");
    session.run(&["--home", other.to_str().expect("text"), "identity", "import", file]);

    session.run(&["daemon", "restart", "--as", "beta"]);
    session.run(&["backbone", "status"]);
    session.run(&["daemon", "stop", "--as", "alpha"]);
    session.run(&["daemon", "logs", "-n", "1", "--as", "alpha"]);
    session.run(&["daemon", "stop", "--all"]);
    session.run(&["daemon", "stop", "--all"]);
    session.run(&["backbone", "stop"]);
    session.run(&["backbone", "start", "--detach"]);
    assert_snapshot("outputs", &session.text());
}

#[test]
fn errors_of_the_command_line_are_as_reviewed() {
    let home = Home::new();
    let mut session = Transcript::new(&home);
    let long = "x".repeat(64);
    let labels = vec!["x"; 17].join(",");
    let cases: [&[&str]; 33] = [
        &["pign", "agent-alpha"],
        &["ping"],
        &["ping", "agent-alpha", "--cuont", "2"],
        &["ping", "agent-alpha", "--timeout", "soon"],
        &["ping", "agent-alpha", "--timeout", "0"],
        &["ping", "agent-alpha", "--timeout", "3 weeks"],
        &["ping", "agent-alpha", "--count", "0"],
        &["query", "agent-alpha"],
        &["query", "--group", "research", "agent-alpha", "what is new?"],
        &["answer"],
        &["answer", "--allow", "friends", "--", "cat"],
        &["group", "join"],
        &["mcp"],
        &["mcp", "serve"],
        &["man", "deamon"],
        &["man", "daemon", "nonsense"],
        &["completions", "tcsh"],
        &["daemon", "set"],
        &["daemon", "set", "--direct", "maybe"],
        &["daemon", "start", "--hostname", "My Agent"],
        &["daemon", "start", "--hostname", "_"],
        &["daemon", "start", "--hostname", &long],
        &["daemon", "start", "--hostname", "alpha", "--listen", "here"],
        &["daemon", "start", "--hostname", "alpha", "--tags", "Bad Tag"],
        &["daemon", "start", "--hostname", "alpha", "--tags", &labels],
        &["daemon", "start", "--hostname", "alpha", "--groups", &labels],
        &["daemon", "start", "--hostname", "alpha", "--backbone", "backbone.example.net"],
        &["daemon", "start", "--hostname", "alpha", "--backbone", "pilot-backbone:nonsense"],
        &["backbone", "start", "--listen", "here"],
        &["backbone", "start", "--advertise", "a host"],
        &["identity"],
        &["identity", "import", "/no/such/file"],
        &["identity", "import", "/etc/passwd"],
    ];
    for arguments in cases {
        session.run(arguments);
    }
    assert!(!home.path().join("agents").exists(), "none of these made an agent");
    std::fs::write(home.path().join("config.toml"), "agnet = 'x'\n").expect("write");
    session.run(&["info"]);
    std::fs::write(home.path().join("config.toml"), "timeout = 'soon'\n").expect("write");
    session.run(&["info"]);
    assert_snapshot("errors-usage", &session.text());
}

#[test]
fn errors_of_a_home_are_as_reviewed() {
    let home = Home::new();
    let mut session = Transcript::new(&home);
    for verb in [&["ping", "agent-alpha"][..], &["info", "--as", "agent-alpha"], &["daemon", "status"]] {
        session.run(verb);
    }
    for verb in [&["daemon", "logs"][..], &["daemon", "logs", "--as", "nobody"], &["identity", "export"]] {
        session.run(verb);
    }
    session.run(&["identity", "export", "--as", "nobody"]);
    session.run(&["backbone", "status"]);
    session.run(&["backbone", "stop"]);

    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let taken = socket.local_addr().expect("address").to_string();
    let start = ["daemon", "start", "--hostname", "agent-alpha", "--no-backbone"];
    let shown = [&start[..], &["--listen", "$TAKEN"]].concat();
    session.run_command(home.command(&[&start[..], &["--listen", &taken]].concat()), &shown, b"");
    session.run(&[&start[..], &["--listen", "192.0.2.1:9"]].concat());
    home.ok(&start);
    session.run(&start);
    session.run(&["info", "--as", "agent-alhpa"]);
    session.run(&["identity", "export", "--as", "agent-alhpa"]);
    session.run(&["peers"]);
    session.run(&["group", "join", "Not A Group"]);
    session.run(&["daemon", "set", "--description", &"x".repeat(4096)]);
    session.run(&["mcp", "serve", "--detach", "--", "/no/such/program"]);
    session.run(&["mcp", "serve", "--", "no-such-program"]);
    session.run(&["answer", "--", "/etc/passwd"]);
    home.ok(&["mcp", "serve", "--detach", "--", "cat"]);
    session.run(&["mcp", "serve", "--", "cat"]);

    let file = home.path().join("alpha.pem");
    let file = file.to_str().expect("text");
    home.ok(&["identity", "export", file]);
    session.run(&["identity", "export", file]);
    session.run(&["identity", "export", "/no/such/directory/alpha.pem"]);
    session.run(&["identity", "import", file]);
    session.run(&["identity", "import", file, "--hostname", "beta"]);
    session.run(&["identity", "import", file, "--hostname", "Not A Name"]);

    home.ok(&["daemon", "start", "--hostname", "beta", "--no-backbone"]);
    session.run(&["ping", "x"]);
    session.run(&["daemon", "stop"]);
    session.run(&["identity", "export"]);
    home.ok(&["daemon", "stop", "--all"]);
    session.run(&["daemon", "start"]);
    session.run(&["info", "--as", "beta"]);
    std::fs::write(home.agent_path("beta", "identity.pem"), "not a key").expect("write");
    session.run(&["daemon", "start", "--hostname", "beta", "--no-backbone"]);
    session.run(&["identity", "export", "--as", "beta"]);

    home.ok(&["backbone", "start", "--detach"]);
    session.run(&["backbone", "start"]);
    let file_as_home = format!("{file}/home");
    session.run(&["--home", &file_as_home, "daemon", "start", "--hostname", "alpha"]);
    session.run(&["--home", &file_as_home, "backbone", "start", "--detach"]);
    let deep = home.path().join("x".repeat(100));
    let arguments = ["--home", deep.to_str().expect("text"), "daemon", "start", "--hostname", "alpha"];
    let mut command = home.command(&arguments);
    command.env_remove("XDG_RUNTIME_DIR");
    session.run_command(command, &arguments, b"");
    let mut command = home.command(&["info"]);
    command.env_remove("PILOT_HOME").env_remove("HOME");
    session.run_command(command, &["info"], b"");
    assert_snapshot("errors-home", &session.text());
}

#[test]
fn errors_between_agents_are_as_reviewed() {
    let (home, other) = (Home::new(), Home::new());
    let backbone = other.ok(&["backbone", "start", "--detach"]);
    let by = ["--backbone", backbone.trim()];
    // Members are asked in the order of words in common with the question: round trips vary.
    for (name, description) in [("alpha", "asks"), ("beta", "what is new"), ("gamma", "what was"), ("delta", "gone")] {
        home.start(name, &[&by[..], &["--groups", "research", "--description", description]].concat());
    }
    other.start("stranger", &by);
    home.ok(&["daemon", "stop", "--as", "delta"]);
    home.ok(&["daemon", "start", "--hostname", "alone", "--no-backbone"]);
    let spawn = |arguments: &[&str]| home.spawn(arguments, "answering");
    let failing = spawn(&["answer", "--as", "beta", "--", "sh", "-c", "exit 3"]);
    let _slow = spawn(&["answer", "--as", "beta", "--service", "message", "--", "sh", "-c", "exec sleep 600"]);
    let _closed = other.spawn(&["answer", "--", "cat"], "answering");

    let mut session = Transcript::new(&home);
    let mut from_alpha = |arguments: &[&str]| session.run(&[arguments, &["--as", "alpha"]].concat());
    for target in [
        "betta",
        "nobody-at-all",
        "0:0000.0000.0001",
        "not a name",
        "0:ZZZZ.0000.0000",
        "pilot:nonsense",
        "delta",
        "alpha",
    ] {
        from_alpha(&["ping", target]);
    }
    from_alpha(&["find", "--tag", "nothing"]);
    from_alpha(&["find", "--tag", "nothing", "--need", "peace"]);
    from_alpha(&["query", "gamma", "what is new?"]);
    from_alpha(&["query", "beta", "what is new?"]);
    from_alpha(&["query", "stranger", "what is new?"]);
    from_alpha(&["query", "--group", "nobody", "what is new?"]);
    from_alpha(&["query", "--group", "research", "what is new?"]);
    from_alpha(&["mcp", "connect", "beta"]);
    from_alpha(&["connect", "beta", "--message", "hello", "--timeout", "300ms"]);
    drop(failing);
    let slow = spawn(&["answer", "--as", "beta", "--", "sh", "-c", "exec sleep 600"]);
    from_alpha(&["query", "beta", "what is new?", "--timeout", "300ms"]);
    drop(slow);
    let _fast = spawn(&["answer", "--as", "beta", "--", "printf", "12345"]);
    from_alpha(&["query", "beta", "what is new?", "--max-reply", "4"]);

    let start = ["daemon", "start", "--hostname", "stranger", "--backbone"];
    let shown = [&start[..], &["$TICKET"]].concat();
    session.run_command(home.command(&[&start[..], &[backbone.trim()]].concat()), &shown, b"");
    session.run(&["ping", "beta", "--as", "alone"]);

    other.ok(&["backbone", "stop"]);
    eventually("the tunnel to the backbone is down", || {
        home.json(&["daemon", "status", "--as", "alpha"])["backbone"]["connected"] == false
    });
    session.run(&["ping", "unheard-of", "--as", "alpha"]);
    session.run(&["group", "join", "ops", "--as", "alpha"]);
    assert_snapshot("errors-agents", &session.text());
}

#[test]
fn outputs_of_organisations_are_as_reviewed() {
    let home = Home::new();
    home.start("alpha", &[]);
    home.start("beta", &["--groups", "research"]);
    let mut session = Transcript::new(&home);
    session.run(&["org", "list", "--as", "alpha"]);
    session.run(&["org", "create", "fleet", "--as", "alpha"]);
    session.run(&["org", "invite", "--as", "alpha"]);
    session.run(&["org", "invite", "--code", "--as", "alpha"]);
    let file = home.path().join("fleet.invite");
    let file = file.to_str().expect("text");
    session.run(&["org", "invite", "--uses", "2", "--groups", "research", "--file", file, "--as", "alpha"]);
    session.run(&["join", "--org", "fleet", "--token-file", file, "--as", "beta"]);
    let code = home.ok(&["org", "invite", "--code", "--role", "lead", "--as", "alpha"]);
    home.start("gamma", &[]);
    let join = ["join", "--org", "fleet", "--as", "gamma", "--code"];
    let shown = [&join[..], &["alpha/XXXX-XXXX"]].concat();
    session.run_command(home.command(&[&join[..], &[code.trim()]].concat()), &shown, b"");
    let worker = ["daemon", "start", "--hostname", "worker-7", "--org", "fleet", "--token-file", file, "--ephemeral"];
    session.run(&worker);
    for verb in ["list", "members"] {
        session.run(&["org", verb, "--as", "alpha"]);
    }
    session.run(&["rules", "--as", "alpha"]);
    session.run(&["allow", "query", "role:lead@fleet", "--as", "alpha"]);
    session.run(&["deny", "mcp", "beta", "--as", "alpha"]);
    session.run(&["rules", "--as", "alpha"]);
    for (agent, service) in [("gamma", "query"), ("beta", "query"), ("beta", "mcp"), ("worker-7@fleet", "echo")] {
        session.run(&["why", agent, service, "--as", "alpha"]);
    }
    session.run(&["deny", "mcp", "beta", "--remove", "--as", "alpha"]);
    session.run(&["daemon", "stop", "--as", "worker-7"]);
    session.run(&["org", "revoke", "gamma", "--as", "alpha"]);
    session.run(&["org", "leave", "--as", "beta"]);
    session.run(&["org", "rotate", "--as", "alpha"]);
    session.run(&["org", "members", "--as", "alpha"]);
    session.run(&["org", "leave", "fleet", "--as", "alpha"]);
    assert_snapshot("outputs-orgs", &session.text());
}

#[test]
fn errors_of_organisations_are_as_reviewed() {
    let home = Home::new();
    home.start("alpha", &[]);
    home.start("beta", &[]);
    home.ok(&["org", "create", "fleet", "--as", "alpha"]);
    let invite = home.ok(&["org", "invite", "--as", "alpha"]);
    let code = home.ok(&["org", "invite", "--code", "--as", "alpha"]);
    let mut session = Transcript::new(&home);
    session.run(&["org", "create", "fleet", "--as", "alpha"]);
    session.run(&["org", "create", "My Fleet", "--as", "alpha"]);
    for verb in [&["invite"][..], &["members"], &["rotate"], &["leave"], &["revoke", "alpha"], &["members", "fleet"]] {
        session.run(&[&["org"], verb, &["--as", "beta"]].concat());
    }
    session.run(&["org", "revoke", "nobody", "--as", "alpha"]);
    session.run(&["org", "revoke", "alpha", "--as", "alpha"]);
    session.run(&["org", "leave", "--as", "alpha"]);
    for options in [
        &["--role", "The Boss"][..],
        &["--uses", "0"],
        &["--may-enrol", "4"],
        &["--membership", "500d"],
        &["--code", "--uses", "2"],
        &["--code", "--expires", "2d"],
        &["--file", "/no/such/directory/fleet.invite"],
    ] {
        session.run(&[&["org", "invite", "--as", "alpha"], options].concat());
    }

    session.run(&["join", "--org", "fleet", "--as", "beta"]);
    session.run(&["join", "--token", "an invite", "--as", "beta"]);
    session.run(&["join", "--token-file", "/no/such/file", "--as", "beta"]);
    session.run(&["join", "--code", "alpha/7123-4567", "--as", "beta"]);
    session.run(&["join", "--code", "beta/7123-456H", "--as", "alpha"]);
    session.run(&["join", "--code", "nobody/7123-456H", "--as", "beta"]);
    let mut join = |shown: &[&str], token: &str| {
        let typed = [&shown[..shown.len() - 1], &[token], &["--as", "beta"]].concat();
        session.run_command(home.command(&typed), &[shown, &["--as", "beta"]].concat(), b"");
    };
    join(&["join", "--token", "$DAMAGED"], &invite.trim()[..invite.len() - 5]);
    join(&["join", "--org", "other", "--token", "$INVITE"], invite.trim());
    join(&["join", "--name", "alpha", "--token", "$INVITE"], invite.trim());
    join(&["join", "--code", "$CODE"], code.trim());
    join(&["join", "--token", "$INVITE"], invite.trim());
    session.run(&["org", "leave", "--as", "beta"]);
    let mut join = |shown: &[&str], token: &str| {
        let typed = [&shown[..shown.len() - 1], &[token], &["--as", "beta"]].concat();
        session.run_command(home.command(&typed), &[shown, &["--as", "beta"]].concat(), b"");
    };
    join(&["join", "--code", "$CODE"], code.trim());
    join(&["join", "--token", "$INVITE"], invite.trim());

    session.run(&["allow", "query", "everybody", "--as", "alpha"]);
    session.run(&["allow", "query", "role:lead", "--as", "alpha"]);
    session.run(&["allow", "Not A Service", "public", "--as", "alpha"]);
    session.run(&["deny", "mcp", "public", "--remove", "--as", "alpha"]);
    session.run(&["why", "nobody", "mcp", "--as", "alpha"]);
    std::fs::write(home.agent_path("alpha", "rules.toml"), "[[allow]]\nservice = \"mcp\"\n").expect("written");
    session.run(&["rules", "--as", "alpha"]);
    session.run(&["allow", "mcp", "beta", "--as", "alpha"]);

    home.ok(&["daemon", "stop", "--as", "beta"]);
    session.run(&["daemon", "start", "--hostname", "beta", "--ephemeral"]);
    session.run(&["daemon", "start", "--hostname", "gamma", "--org", "fleet"]);
    home.start("delta", &["--ephemeral"]);
    session.run(&["daemon", "restart", "--as", "delta"]);
    assert_snapshot("errors-orgs", &session.text());
}
