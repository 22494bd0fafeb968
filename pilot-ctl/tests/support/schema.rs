//! The JSON Schemas in `spec/json`: whatever `--json` prints in a test is held to them.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use jsonschema::{Registry, Validator};
use serde_json::Value;

/// Where references between the files lead; nothing is ever fetched.
const BASE_URI: &str = "pilot:///spec/json/";
/// What the other files refer to.
const TYPES: &str = "types";

/// The names of all schemas: one for each verb, and `error`.
pub fn names() -> Vec<String> {
    let entries = std::fs::read_dir(directory()).expect("spec/json").map(|entry| entry.expect("entry").file_name());
    let files = entries.map(|name| name.into_string().expect("text"));
    let mut names: Vec<String> = files
        .filter_map(|name| Some(name.strip_suffix(".schema.json")?.to_owned()))
        .filter(|name| name != TYPES)
        .collect();
    names.sort();
    names
}

/// Holds what a command printed to the schema of its verb, and to that of errors if it failed.
#[track_caller]
pub fn check_output(command: &Command, stdout: &str, code: i32) {
    let arguments: Vec<&OsStr> = command.get_args().take_while(|argument| *argument != "--").collect();
    let has = |flag: &str| arguments.contains(&OsStr::new(flag));
    if !has("--json") || has("--help") || has("-h") {
        return;
    }
    let mut lines: Vec<&str> = stdout.lines().collect();
    if (1..=7).contains(&code) {
        let error = lines.pop().unwrap_or_else(|| panic!("{arguments:?}: failed without a word"));
        check("error", &parse(error));
    }
    let verb = verb(&arguments);
    for line in own_lines(&verb, &lines) {
        check(&verb, &parse(line));
    }
}

/// Holds one object to one schema.
#[track_caller]
pub fn check(name: &str, value: &Value) {
    let errors: Vec<String> =
        validator(name).iter_errors(value).map(|error| format!("{} at '{}'", error, error.instance_path())).collect();
    assert!(errors.is_empty(), "spec/json/{name}.schema.json: {errors:#?}\n{value:#}");
}

/// The schema, ready for use.
pub fn validator(name: &str) -> Validator {
    let registry = Registry::new().add(format!("{BASE_URI}{TYPES}.schema.json"), read(TYPES)).expect("a schema");
    let registry = registry.prepare().expect("schemas");
    let options = jsonschema::options().with_base_uri(format!("{BASE_URI}{name}.schema.json")).with_registry(&registry);
    options.build(&read(name)).unwrap_or_else(|error| panic!("spec/json/{name}.schema.json: {error}"))
}

/// A schema as it stands in its file.
#[track_caller]
pub fn read(name: &str) -> Value {
    let path = directory().join(format!("{name}.schema.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    parse(&text)
}

/// The verb that a command line names, as its schema is called: the first word that is one, with the verb below it.
fn verb(arguments: &[&OsStr]) -> String {
    let known = names();
    let words: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let mut candidates = (0..words.len())
        .flat_map(|at| [words[at..].iter().take(2).copied().collect::<Vec<_>>().join("-"), words[at].to_owned()]);
    candidates.find(|name| known.contains(name)).unwrap_or_default()
}

/// The lines that are the command's own; after them `connect` prints what the agent sends, and `mcp connect` prints nothing else.
fn own_lines<'a>(verb: &str, lines: &'a [&'a str]) -> &'a [&'a str] {
    match verb {
        "connect" => &lines[..lines.len().min(1)],
        "mcp-connect" => &[],
        _ => lines,
    }
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../spec/json")
}

#[track_caller]
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
