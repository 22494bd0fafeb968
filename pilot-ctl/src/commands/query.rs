//! `pilotctl query` (spec/cli.md §5.5): one request, one reply, from an agent or from the fittest member of a group.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use pilot_daemon::api::BODY_LEN_MAX;
use pilot_daemon::api::types::{AgentInfo, FindRequest};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::client::{Daemon, OpenOptions, Outgoing};
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::hint::{Failure, Result};
use crate::output::{Output, Reply, milliseconds};
use crate::signals::aside;
use crate::{duration, env_vars};

const SERVICE: &str = "query";
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// A reply is held in memory until it is whole.
const MAX_REPLY_DEFAULT: u64 = 16 << 20;
/// The daemon ends the request at its deadline; one that hangs itself is not waited for longer than this.
const DAEMON_GRACE: Duration = Duration::from_secs(1);
/// Shorter words say nothing about what an agent is good at.
const WORD_LEN_MIN: usize = 3;

#[derive(Debug, Args)]
#[command(override_usage = "pilotctl query [OPTIONS] <NAME> <TEXT>
       pilotctl query [OPTIONS] --group <GROUP> <TEXT>")]
#[command(after_help = "Examples:
  pilotctl query research-agent-alpha \"verify citation: DOI 10.1038/s41586-024-07421-0\"
  pilotctl query --group research \"latest CVE alerts for nginx 1.25\"
  pilotctl query agent-alpha \"summarise\" --timeout 2m --json

The answer is on stdout as the agent gave it. With --group, stderr says who answered and why that one was chosen.")]
pub(crate) struct QueryArgs {
    /// Ask the members of this group, the fittest first, until one answers.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Whom to ask, unless --group is given, and what; `-` reads the text from stdin.
    #[arg(required = true, num_args = 1..=2, value_names = ["NAME", "TEXT"])]
    words: Vec<String>,
    /// How long to wait for the answer, all members together [default: 30s].
    #[arg(long, value_name = "TIME", env = env_vars::PILOT_TIMEOUT, hide_env_values = true, value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// The largest reply that is taken, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = MAX_REPLY_DEFAULT)]
    max_reply: u64,
    /// Keep the text out of the first message to an agent, which who learns the agent's keys later can read: a round trip more.
    #[arg(long)]
    forward_secret: bool,
}

/// The stable `--json` form of an answer.
#[derive(Debug, Serialize)]
struct Answer {
    name: Option<String>,
    address: String,
    #[serde(flatten)]
    reply: Reply,
    why: String,
    passed_over: Vec<PassedOver>,
    #[serde(skip)]
    bytes: Vec<u8>,
}

#[derive(Debug, Serialize)]
struct PassedOver {
    name: String,
    reason: String,
}

/// One question and its bounds.
struct Question<'a> {
    text: &'a [u8],
    deadline: Instant,
    reply_len_max: u64,
    /// It travels in the first message to an agent where there is no tunnel yet.
    is_early: bool,
}

pub(crate) async fn run(args: &QueryArgs, context: &Context) -> Result<()> {
    let (target, text) = target_and_text(args)?;
    let daemon = context.daemon().await?;
    let timeout = context.timeout(args.timeout, TIMEOUT_DEFAULT);
    let text = if text == "-" { aside(read_stdin).await?? } else { text.as_bytes().to_vec() };
    let question = Question {
        text: &text,
        deadline: Instant::now() + timeout,
        reply_len_max: args.max_reply,
        is_early: !args.forward_secret,
    };
    let answer = match (target, &args.group) {
        (Some(target), _) => ask_agent(&daemon, context.output, &target, &question).await?,
        (None, Some(group)) => ask_group(&daemon, context.output, group, &question).await?,
        (None, None) => return Err(Failure::usage("nobody to ask")),
    };
    if context.output.is_json() {
        return context.output.result(&answer, String::new);
    }
    print_as_given(context.output, &answer.bytes)
}

fn target_and_text(args: &QueryArgs) -> Result<(Option<String>, String)> {
    match (args.words.as_slice(), &args.group) {
        ([text], Some(_)) => Ok((None, text.clone())),
        ([target, text], None) => Ok((Some(target.clone()), text.clone())),
        ([target, _], Some(group)) => Err(Failure::usage(format!("both an agent, '{target}', and a group, '{group}'"))
            .hint("leave out one; a text of several words needs quotes")),
        _ => Err(Failure::usage("the text of the query is missing").hint("usage is `pilotctl query NAME TEXT`")),
    }
}

fn read_stdin() -> Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut text);
    read.map_err(|error| Failure::failed(format!("cannot read the query from stdin: {error}")))?;
    Ok(text)
}

/// The bytes of the reply, and a line break only where a person would miss it.
fn print_as_given(output: Output, reply: &[u8]) -> Result<()> {
    use std::io::IsTerminal;
    output.bytes(reply)?;
    if std::io::stdout().is_terminal() && !reply.ends_with(b"\n") { output.bytes(b"\n") } else { Ok(()) }
}

async fn ask_agent(daemon: &Daemon, output: Output, target: &str, question: &Question<'_>) -> Result<Answer> {
    let warn = || output.talk(format_args!("{target} gives no sign of life; waiting until the deadline"));
    ask(daemon, target, question, OnStall::Wait(&warn)).await
}

async fn ask_group(daemon: &Daemon, output: Output, group: &str, question: &Question<'_>) -> Result<Answer> {
    let request = FindRequest { tag: None, group: Some(group.to_owned()), need: None, limit: None };
    let found = daemon.find(&request).await?.agents;
    let members = rank(found.into_iter().filter(|member| member.name.as_deref() != Some(&*daemon.name)), question.text);
    if members.is_empty() {
        let failure = Failure::new(ExitCode::NotFound, format!("group '{group}' has no other members"));
        return Err(failure.hint(format!("an agent joins with `pilotctl group join {group}`")));
    }
    let mut passed_over = Vec::new();
    let mut last_code = ExitCode::Failed;
    for member in &members {
        match ask(daemon, &member.agent.address, question, OnStall::GiveUp).await {
            Ok(answer) => {
                let why = member.why();
                output.talk(format_args!("answered by: {} ({}), {why}", member.name(), member.agent.address));
                return Ok(Answer { why, passed_over, ..answer });
            }
            Err(failure) => {
                last_code = failure.code;
                let reason = format!("{}: {}", failure.code.word(), failure.message);
                output.talk(format_args!("passed over: {} ({reason})", member.name()));
                passed_over.push(PassedOver { name: member.name().to_owned(), reason });
            }
        }
    }
    let failure = Failure::new(last_code, format!("no member of group '{group}' answered, {} asked", members.len()));
    Err(failure.hint(format!("`pilotctl find --group {group}` shows who is reachable")))
}

impl Question<'_> {
    /// The text, if it can go to the daemon with the call that opens the stream: then the daemon has it before the first message leaves.
    fn with_call(&self) -> &[u8] {
        if self.text.len() <= BODY_LEN_MAX { self.text } else { b"" }
    }
}

/// What to do when the agent's side of the stream is silent for so long that the tunnel calls it stalled.
enum OnStall<'a> {
    /// Say so, once, and wait for the deadline: there is nobody else to ask.
    Wait(&'a dyn Fn()),
    /// Ask the next.
    GiveUp,
}

async fn ask(daemon: &Daemon, target: &str, question: &Question<'_>, on_stall: OnStall<'_>) -> Result<Answer> {
    let left = question.deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(deadline_passed());
    }
    let mut options = OpenOptions::new(target, SERVICE, left);
    options.deadline = Some(left);
    options.content_type = Some("text/plain; charset=utf-8");
    options.replay_safe = question.is_early;
    options.request = question.with_call();
    let mut outgoing = daemon.open(&options).await?;
    let stream = outgoing.stream;
    let exchanged = tokio::select! {
        reply = exchange(&mut outgoing, question) => reply,
        failure = watch_stall(daemon, stream, on_stall) => return Err(failure),
        () = tokio::time::sleep_until(question.deadline + DAEMON_GRACE) => return Err(deadline_passed()),
    };
    let ended = match exchanged {
        Ok(bytes) if bytes.len() as u64 > question.reply_len_max => {
            let message = format!("the reply is larger than {} bytes", question.reply_len_max);
            return Err(Failure::failed(message).hint("--max-reply BYTES takes more"));
        }
        Ok(bytes) => daemon.was_ended_by_peer(stream).await.map(|()| bytes),
        Err(error) => Err(daemon.why_ended(stream, &error).await),
    };
    match ended {
        Ok(bytes) => Ok(Answer::new(&outgoing, bytes)),
        Err(failure) if failure.code == ExitCode::Timeout => Err(deadline_passed()),
        Err(failure) => Err(failure),
    }
}

async fn exchange(outgoing: &mut Outgoing, question: &Question<'_>) -> std::io::Result<Vec<u8>> {
    if question.with_call().is_empty() {
        outgoing.io.write_all(question.text).await?;
        outgoing.io.shutdown().await?;
    }
    let mut reply = Vec::new();
    (&mut outgoing.io).take(question.reply_len_max.saturating_add(1)).read_to_end(&mut reply).await?;
    Ok(reply)
}

async fn watch_stall(daemon: &Daemon, stream: u64, on_stall: OnStall<'_>) -> Failure {
    daemon.wait_until_stalled(stream, true).await;
    match on_stall {
        OnStall::GiveUp => Failure::new(ExitCode::Unreachable, "it gives no sign of life"),
        OnStall::Wait(warn) => {
            warn();
            std::future::pending().await
        }
    }
}

fn deadline_passed() -> Failure {
    Failure::new(ExitCode::Timeout, "no answer before the deadline").hint("--timeout gives it longer")
}

impl Answer {
    fn new(outgoing: &Outgoing, bytes: Vec<u8>) -> Self {
        Self {
            name: outgoing.name.clone(),
            address: outgoing.address.clone(),
            reply: bytes.as_slice().into(),
            why: "named in the query".to_owned(),
            passed_over: Vec::new(),
            bytes,
        }
    }
}

/// A member of the group and what speaks for it.
struct Member {
    agent: AgentInfo,
    matches: Vec<String>,
}

impl Member {
    fn name(&self) -> &str {
        self.agent.name.as_deref().unwrap_or(&self.agent.address)
    }

    fn why(&self) -> String {
        let mut reasons = Vec::new();
        if !self.matches.is_empty() {
            let words: Vec<String> = self.matches.iter().map(|word| format!("'{word}'")).collect();
            reasons.push(format!("matches {}", words.join(", ")));
        }
        if let Some(rtt_ms) = self.agent.rtt_ms {
            reasons.push(milliseconds(rtt_ms));
        }
        if reasons.is_empty() { "the first that is reachable".to_owned() } else { reasons.join(", ") }
    }
}

/// Reachable members first, then by words in common with the text, then by round trip; equals by name.
fn rank(agents: impl Iterator<Item = AgentInfo>, text: &[u8]) -> Vec<Member> {
    let asked = words(&String::from_utf8_lossy(text));
    let mut members: Vec<Member> = agents
        .map(|agent| {
            let known = words(&self_description(&agent));
            Member { matches: asked.intersection(&known).cloned().collect(), agent }
        })
        .collect();
    members.sort_by(|left, right| {
        let fitness = |member: &Member| (member.agent.reachable != Some(true), std::cmp::Reverse(member.matches.len()));
        let rtt = |member: &Member| member.agent.rtt_ms.unwrap_or(f64::INFINITY);
        let by_rtt = rtt(left).total_cmp(&rtt(right));
        fitness(left).cmp(&fitness(right)).then(by_rtt).then_with(|| left.name().cmp(right.name()))
    });
    members
}

fn self_description(agent: &AgentInfo) -> String {
    let offers = agent.offers.iter().map(|offer| offer.description.as_str());
    let tags = agent.tags.iter().map(String::as_str);
    let own = [agent.name.as_deref().unwrap_or_default(), agent.description.as_str()];
    own.into_iter().chain(tags).chain(offers).collect::<Vec<_>>().join(" ")
}

fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() >= WORD_LEN_MIN);
    words.map(str::to_lowercase).collect()
}
