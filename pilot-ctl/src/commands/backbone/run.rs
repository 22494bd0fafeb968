//! The backbone in this process, in the foreground or as what `--detach` started.

use std::ffi::OsString;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{ListenArgs, RunArgs, StartArgs, local};
use crate::context::Context;
use crate::hint::{Failure, Result};
use crate::output::Output;
use crate::process::{self, child};

/// What a backbone tells when it is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) pid: u32,
    pub(crate) ticket: String,
    pub(crate) listen: SocketAddr,
}

pub(super) async fn start_detached(args: &StartArgs, context: &Context) -> Result<()> {
    refuse_second(context)?;
    std::fs::create_dir_all(local::directory(context)).map_err(|error| {
        Failure::failed(format!("cannot make {}: {error}", local::directory(context).display()))
            .hint("PILOT_HOME must be a directory that you may write to; --home DIR names another")
    })?;
    let mut argv: Vec<OsString> = vec!["--home".into(), context.home.clone().into()];
    argv.extend(["backbone", "run", "--detached"].map(OsString::from));
    argv.extend(args.listen.to_argv());
    let ready: Ready = process::spawn_detached(&argv, &local::log(context)).await?;
    print(context.output, &ready)
}

pub(super) async fn run(args: &RunArgs, context: &Context) -> Result<()> {
    if !args.detached {
        return serve(args, context).await;
    }
    child::leave_session()?;
    child::leave_directory()?;
    let served = serve(args, context).await;
    if let Err(failure) = &served {
        child::report_failure(failure)?;
    }
    served
}

async fn serve(_args: &RunArgs, context: &Context) -> Result<()> {
    refuse_second(context)?;
    let _ = local::may_end(context)?;
    Err(Failure::failed("WIP"))
}

/// The ticket is the data, alone on its line; the rest is talk.
fn print(output: Output, ready: &Ready) -> Result<()> {
    if !output.is_json() {
        output.talk(format_args!("Backbone running (pid {}) on {}", ready.pid, ready.listen));
    }
    output.result(ready, || ready.ticket.clone())
}

fn refuse_second(context: &Context) -> Result<()> {
    if !local::is_running(context)? {
        return Ok(());
    }
    let pid = std::fs::read_to_string(local::pid_path(context)).unwrap_or_default();
    let failure = Failure::failed(format!("a backbone already runs in this home (pid {})", pid.trim()));
    Err(failure.hint("`pilotctl backbone stop` ends it; `pilotctl backbone status` prints its ticket"))
}

impl ListenArgs {
    fn to_argv(&self) -> Vec<OsString> {
        let listen = self.listen.map(|listen| format!("--listen={listen}"));
        let advertise = self.advertise.as_ref().map(|host| format!("--advertise={host}"));
        listen.into_iter().chain(advertise).map(OsString::from).collect()
    }
}
