//! `--json`: what every verb prints is what its schema in `spec/json` says (spec/cli.md §2). The other tests hold their own calls to
//! the same schemas, in `support::finish`.

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::{Home, PILOTCTL, Running, schema, verbs};

#[test]
fn every_verb_has_a_schema_and_every_schema_a_verb() {
    let mut expected: BTreeSet<String> = verbs().iter().map(|verb| verb.join("-")).collect();
    expected.insert("error".to_owned());
    assert_eq!(schema::names().into_iter().collect::<BTreeSet<_>>(), expected);
}

/// Every part of a schema that is one itself.
fn subschemas<'a>(schema: &'a Value, found: &mut Vec<&'a Value>) {
    match schema {
        Value::Object(fields) => {
            found.push(schema);
            fields.values().for_each(|field| subschemas(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| subschemas(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn objects_are_closed_and_numbers_have_units_or_a_meaning() {
    for name in schema::names().into_iter().chain(["types".to_owned()]) {
        let schema = schema::read(&name);
        let mut parts = Vec::new();
        subschemas(&schema, &mut parts);
        for part in &parts {
            if part["type"] == "object" {
                assert!(part.get("additionalProperties").is_some(), "{name}: open: {part:#}");
            }
        }
        let properties =
            parts.iter().filter(|part| part["type"] == "object").filter_map(|part| part["properties"].as_object());
        for (field, property) in properties.flatten() {
            let is_explained = ["description", "$ref", "const"].iter().any(|word| property.get(word).is_some());
            assert!(
                is_explained || property["type"] == "array" || property["type"] == "object",
                "{name}: {field} says nothing"
            );
        }
    }
}

/// Runs a verb with `--json`, holds it to its schema, and the schema to account: an object that lacks a field, has one more or has one of
/// another type must fail it.
struct Verbs<'a> {
    home: &'a Home,
    seen: BTreeSet<String>,
}

impl Verbs<'_> {
    #[track_caller]
    fn run(&mut self, verb: &str, arguments: &[&str]) -> Value {
        let words: Vec<&str> = verb.split('-').chain(arguments.iter().copied()).collect();
        let value = self.home.json(&words);
        self.saw(verb, &value);
        value
    }

    /// The same for a verb that goes on.
    #[track_caller]
    fn spawn(&mut self, verb: &str, arguments: &[&str]) -> Running {
        let words: Vec<&str> = verb.split('-').chain(["--json"]).chain(arguments.iter().copied()).collect();
        let running = Running::start(self.home.command(&words));
        let line = running.wait_for_line("{\"");
        self.saw(verb, &serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
        running
    }

    #[track_caller]
    fn saw(&mut self, verb: &str, value: &Value) {
        schema::check(verb, value);
        let validator = schema::validator(verb);
        let fields = value.as_object().expect("an object");
        // A message may have no reply, one setting is enough, and a line is no code.
        let is_optional = |field: &str| {
            verb == "daemon-set"
                || [("connect", "reply"), ("allow", "note"), ("deny", "note"), ("org-invite", "scan")]
                    .contains(&(verb, field))
        };
        for field in fields.keys() {
            let mut less = fields.clone();
            less.remove(field);
            assert_eq!(validator.is_valid(&Value::Object(less)), is_optional(field), "{verb}: without '{field}'");
            let mut other = fields.clone();
            other.insert(field.clone(), json!([[0]]));
            assert!(!validator.is_valid(&Value::Object(other)), "{verb}: '{field}' may be anything");
        }
        let mut more = fields.clone();
        more.insert("surprise".to_owned(), json!(1));
        assert!(!validator.is_valid(&Value::Object(more)), "{verb}: takes any field");
        self.seen.insert(verb.to_owned());
    }
}

#[test]
fn what_every_verb_prints_fits_its_schema_and_nothing_else_does() {
    let home = Home::new();
    let mut verbs_seen = Verbs { home: &home, seen: BTreeSet::new() };
    let verbs_run = &mut verbs_seen;
    verbs_run.run("daemon-start", &["--hostname", "alpha", "--tags", "a,b", "--groups", "research"]);
    let beta = verbs_run.spawn("daemon-run", &["--hostname", "beta"]);
    verbs_run.run("daemon-set", &["--as", "beta", "--tags", "mcp", "--description", "answers", "--direct", "on"]);
    for verb in ["group-join", "group-leave"] {
        verbs_run.run(verb, &["ops", "--as", "alpha"]);
    }
    verbs_run.run("group-list", &["--as", "alpha"]);
    let handler = verbs_run.spawn("answer", &["--as", "beta", "--offer", "echoes", "--", "cat"]);
    let server = verbs_run.spawn("mcp-serve", &["--as", "beta", "--", PILOTCTL, "mcp", "demo-server"]);
    verbs_run.run("ping", &["beta", "--as", "alpha"]);
    verbs_run.run("query", &["beta", "what is new?", "--as", "alpha"]);
    verbs_run.run("connect", &["beta", "--as", "alpha", "--message", r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#]);
    home.start("epsilon", &[]);
    home.ok(&["daemon", "stop", "--as", "epsilon"]);
    verbs_run.run("identity-rename", &["epsilon", "zeta"]);
    verbs_run.run("org-create", &["fleet", "--as", "alpha"]);
    verbs_run.run("org-invite", &["--code", "--as", "alpha"]);
    let invited = verbs_run.run("org-invite", &["--as", "alpha"]);
    verbs_run.run("join", &["--token", invited["invite"].as_str().expect("an invite"), "--as", "beta"]);
    verbs_run.run("org-list", &["--as", "alpha"]);
    let other = home.json(&["org", "invite", "--as", "alpha"]);
    verbs_run.run("org-uninvite", &[other["id"].as_str().expect("a number"), "--as", "alpha"]);
    verbs_run.run("org-members", &["--as", "alpha"]);
    verbs_run.run("org-rotate", &["--as", "alpha"]);
    verbs_run.run("org-revoke", &["beta", "--as", "alpha"]);
    verbs_run.run("org-leave", &["--as", "beta"]);
    verbs_run.run("allow", &["mcp", "beta", "--as", "alpha"]);
    verbs_run.run("deny", &["mcp", "beta", "--as", "alpha"]);
    verbs_run.run("rules", &["--as", "alpha"]);
    verbs_run.run("why", &["beta", "mcp", "--as", "alpha"]);
    verbs_run.run("find", &["--tag", "mcp", "--as", "alpha"]);
    for verb in ["daemon-status", "info", "peers", "netcheck", "doctor", "ticket"] {
        verbs_run.run(verb, &["--as", "alpha"]);
    }
    verbs_run.run("daemon-logs", &["--as", "alpha", "-n", "1"]);
    verbs_run.run("identity-export", &["--as", "alpha"]);
    let file = home.path().join("alpha.pem");
    let file = file.to_str().expect("text");
    verbs_run.run("identity-export", &["--as", "alpha", file]);
    let other = home.path().join("other");
    verbs_run.run("identity-import", &[file, "--home", other.to_str().expect("text")]);
    let units = home.path().join("units");
    let units = units.to_str().expect("text");
    verbs_run.run("daemon-install", &["--as", "alpha", "--units", units]);
    verbs_run.run("daemon-uninstall", &["--units", units]);
    verbs_run.run("completions", &["bash"]);
    verbs_run.run("man", &["daemon", "start"]);
    let key = home.json(&["info", "--as", "beta"])["key"].as_str().expect("a key").to_owned();
    home.start("gamma", &[]);
    verbs_run.run("handover", &[&key, "--as", "gamma"]);
    home.ok(&["daemon", "stop", "--as", "gamma"]);
    drop((handler, server));

    drop(verbs_run.spawn("demo", &[]));
    verbs_run.run("daemon-restart", &["--as", "alpha"]);
    verbs_run.run("daemon-stop", &["--as", "alpha"]);
    drop(beta);
    verbs_run.run("backbone-status", &[]);
    verbs_run.run("backbone-stop", &[]);
    drop(verbs_run.spawn("backbone-start", &[]));

    let mut expected: BTreeSet<String> = verbs().iter().map(|verb| verb.join("-")).collect();
    // Its stdout is the MCP server's.
    expected.remove("mcp-connect");
    assert_eq!(verbs_seen.seen, expected);
}

#[test]
fn what_is_not_text_stands_in_base64_and_what_did_not_come_nowhere() {
    let home = Home::new();
    for agent in ["alpha", "beta"] {
        home.start(agent, &["--no-backbone"]);
    }
    let ticket = home.ok(&["ticket", "--as", "beta"]);
    let answer = |service: &str, script: &str| {
        home.spawn(&["answer", "--as", "beta", "--service", service, "--", "sh", "-c", script], "answering")
    };
    let (_query, message) = (answer("query", r"printf '\377'"), answer("message", r"cat >/dev/null; printf '\376'"));
    let answered = home.json(&["query", ticket.trim(), "x", "--as", "alpha"]);
    assert_eq!((answered.get("reply"), &answered["reply_base64"]), (None, &json!("/w==")));
    let sent = home.json(&["connect", ticket.trim(), "--message", "x", "--as", "alpha"]);
    assert_eq!((sent.get("reply"), &sent["reply_base64"]), (None, &json!("/g==")));
    drop(message);
    let _silent = answer("message", "cat >/dev/null");
    let sent = home.json(&["connect", ticket.trim(), "--message", "x", "--as", "alpha"]);
    assert_eq!((sent.get("reply"), sent.get("reply_base64")), (None, None));
}

#[test]
fn an_error_without_its_class_or_with_a_blank_message_is_none() {
    let validator = schema::validator("error");
    let error = |code: &str, message: &str| json!({ "error": { "code": code, "message": message, "hint": null } });
    assert!(validator.is_valid(&error("not_found", "no agent named 'x'")));
    for wrong in
        [error("ok", "x"), error("failed", ""), json!({ "error": "x" }), json!({ "error": { "code": "failed" } })]
    {
        assert!(!validator.is_valid(&wrong), "{wrong}");
    }
}
