//! `pilotctl org invite`: a line, a file, or a code that people read to each other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use pilot_daemon::api::orgs::{InviteRequest, Invited};
use pilot_daemon::home::create_file;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use super::{BY_ARGUMENT, choose};
use crate::client::Daemon;
use crate::context::Context;
use crate::duration;
use crate::hint::{Failure, Result};

/// An invite may be used for so long unless the command line says otherwise.
const EXPIRES: Duration = Duration::from_secs(86_400);
/// A code, which is short enough to be guessed at, for so long: two people are on the telephone.
const CODE_EXPIRES: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// The organisation, where the agent is in several.
    #[arg(value_name = "ORG")]
    org: Option<String>,
    /// How many agents may use it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    uses: u32,
    /// How long it may be used [default: 1d; a code: 10m].
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_long)]
    expires: Option<Duration>,
    /// What they are; rules can name it.
    #[arg(long, value_name = "ROLE", default_value = "member")]
    role: String,
    /// Groups that they are in, comma separated; rules can name them.
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    groups: Vec<String>,
    /// Services that they may call at other members, comma separated [default: all that this agent may].
    #[arg(long, value_name = "SERVICES", value_delimiter = ',')]
    services: Vec<String>,
    /// How many generations they may enrol themselves.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    may_enrol: u8,
    /// How long a membership lasts unless it is renewed, which happens by itself. It may count a day longer, for clocks that are behind.
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = duration::parse_long)]
    membership: Duration,
    /// Write it to a new file that only its owner can read, for an image or a secret store; `-` is stdout.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A short code for one, to read aloud or to scan, instead of a line.
    #[arg(long, conflicts_with_all = ["uses", "file"])]
    code: bool,
}

pub(super) async fn run(args: &InviteArgs, daemon: &Daemon, context: &Context) -> Result<()> {
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    if let Some(file) = file {
        check_new(file)?;
    }
    let request = InviteRequest {
        org: choose(args.org.as_ref(), BY_ARGUMENT, daemon).await?,
        uses: args.uses,
        expires_s: args.expires.unwrap_or(if args.code { CODE_EXPIRES } else { EXPIRES }).as_secs(),
        role: args.role.clone(),
        groups: args.groups.clone(),
        services: args.services.clone(),
        generations: args.may_enrol,
        lifetime_s: args.membership.as_secs(),
        code: args.code,
    };
    let invited = daemon.invite(&request).await?;
    show_qr(&invited, context)?;
    let Some(file) = file else {
        return context.output.result(&invited, || invited.invite.clone());
    };
    let contents = format!("{}\n", invited.invite);
    create_file(file, contents.as_bytes(), 0o600).map_err(|error| {
        let take_back = format!("pilotctl org uninvite {} --org {}", invited.id, request.org);
        Failure::failed(format!("cannot write {}: {error}", file.display()))
            .hint(format!("the invite is open all the same; take it back: {take_back}"))
    })?;
    context.output.result(&invited, || file.display().to_string())
}

/// An invite that stands in a file may be on its way to somebody. Asked before there is one more that is open.
fn check_new(file: &Path) -> Result<()> {
    if file.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(Failure::failed(format!("{} exists already", file.display()))
        .hint("an invite in it may be in use: name another file, or remove that one first"))
}

/// Shows a person at a terminal what a camera at the other end can read.
fn show_qr(invited: &Invited, context: &Context) -> Result<()> {
    let Some(text) = invited.scan.as_deref().filter(|_| context.output.is_talk_seen()) else { return Ok(()) };
    context.output.talk(qr(text)?);
    Ok(())
}

/// The least error correction: a screen has no scratches, and the picture has to fit it.
fn qr(text: &str) -> Result<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L);
    let code = code.map_err(|error| Failure::failed(format!("cannot draw the code: {error}")))?;
    // Blocks are what is light, as most terminals have light letters on a dark ground; cameras read the inverse as well.
    Ok(code.render().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_for_a_camera_fits_a_terminal() {
        let key = "a".repeat(52);
        let addresses = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535,198.51.100.200:65535";
        let home = "backbone.of-a-company.example.net:65535";
        let text = format!("pilot:{key}.1048576@{addresses}/{key}@{home}/K7QM-2XPA");
        let drawn = qr(&text).expect("it can be drawn");
        let width = drawn.lines().map(|line| line.chars().count()).max();
        assert!(width.is_some_and(|width| width <= 79), "{width:?} columns");
        assert!(drawn.lines().count() <= 40, "{} lines", drawn.lines().count());
    }
}
