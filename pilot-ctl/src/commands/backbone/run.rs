//! The backbone in this process, in the foreground or as what `--detach` started.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use pilot_relay::driver::{self, Pulse, ServeError, ServeOptions};
use pilot_relay::roles::Roles;
use serde::{Deserialize, Serialize};

use super::{ListenArgs, Role, RoleArgs, RunArgs, StartArgs, local};
use crate::context::Context;
use crate::hint::{Failure, Result};
use crate::output::Output;
use crate::process::{self, child};
use crate::service_manager::ServiceManager;
use crate::signals::Interrupt;
use crate::{home, init};

/// What a backbone tells when it is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) pid: u32,
    pub(crate) ticket: String,
    pub(crate) listen: SocketAddr,
}

pub(super) async fn start_detached(args: &StartArgs, context: &Context) -> Result<()> {
    refuse_second(context)?;
    home::make_directory(&local::directory(context))?;
    let mut argv: Vec<OsString> = vec!["--home".into(), context.home.clone().into()];
    argv.extend(["backbone", "run", "--detached"].map(OsString::from));
    argv.extend(args.listen.to_argv());
    argv.extend(args.roles.to_argv());
    let ready: Ready = process::spawn_detached(&argv, &local::log(context)).await?;
    print(context.output, &ready)
}

pub(super) async fn run(args: &RunArgs, context: &Context) -> Result<()> {
    if !args.detached {
        init::reap_orphans()?;
        return serve(args, context).await;
    }
    child::run(async {
        child::leave_directory()?;
        serve(args, context).await
    })
    .await
}

/// Serves until told to end. When idle it ends only if no agent is about to register (see [`local`]).
async fn serve(args: &RunArgs, context: &Context) -> Result<()> {
    let manager = Arc::new(ServiceManager::of(args.detached)?);
    refuse_second(context)?;
    home::make_directory(&local::directory(context))?;
    process::start_log(&local::log(context))?;
    let mut interrupt = Interrupt::new()?;
    let mut announced = Ok(());
    let mut is_announced = false;
    loop {
        let announce = |ready: &driver::Ready| {
            if !std::mem::replace(&mut is_announced, true) {
                announced = announce(args, context, ready);
            }
            tokio::spawn(report(Arc::clone(&manager), ready.pulse.clone()));
        };
        driver::serve(options(args, context), announce).await.map_err(serve_failure)?;
        announced.clone()?;
        if interrupt.was_received() {
            manager.stopping().await;
            return Ok(());
        }
        if let Some(permission) = local::may_end(context)? {
            // Kept until the process has gone: whoever starts next must not find this one half alive.
            std::mem::forget(permission);
            return Ok(());
        }
    }
}

/// Tells the service manager that this node is ready, then that it lives.
async fn report(manager: Arc<ServiceManager>, pulse: Pulse) {
    manager.ready().await;
    match manager.watch(|| pulse.beat()).await {}
}

fn options(args: &RunArgs, context: &Context) -> ServeOptions {
    let listen = args.listen.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    ServeOptions {
        advertise: args.listen.advertise.clone(),
        idle_exit: args.idle_exit,
        roles: args.roles.roles(),
        set_aside_damaged: args.roles.set_aside_damaged,
        ..ServeOptions::new(listen, local::directory(context))
    }
}

fn announce(args: &RunArgs, context: &Context, ready: &driver::Ready) -> Result<()> {
    let ready = Ready { pid: std::process::id(), ticket: ready.ticket.to_string(), listen: ready.local_addr };
    if args.detached { child::report_ready(&ready) } else { print(context.output, &ready) }
}

/// The ticket is the data, alone on its line; the rest is talk.
fn print(output: Output, ready: &Ready) -> Result<()> {
    if !output.is_json() {
        output.talk(format_args!("Backbone running (pid {}) on {}", ready.pid, ready.listen));
    }
    output.result(ready, || ready.ticket.clone())
}

fn refuse_second(context: &Context) -> Result<()> {
    let Some(pid) = local::running_pid(context) else { return Ok(()) };
    let failure = Failure::failed(format!("a backbone already runs in this home (pid {pid})"));
    Err(failure.hint("`pilotctl backbone stop` ends it; `pilotctl backbone status` prints its ticket"))
}

fn serve_failure(error: ServeError) -> Failure {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let failure = Failure::failed(format!("{error}{cause}"));
    match error {
        ServeError::Home(error) => error.into(),
        ServeError::Bind { .. } => failure.hint("--listen ADDR names another address; port 0 takes any free one"),
        ServeError::Ticket(_) => failure.hint("--advertise takes a host name or an address, without a port"),
        ServeError::Directory(error) => failure.hint(error.hint()),
        ServeError::Api { .. } | ServeError::Io(_) | _ => failure,
    }
}

impl RoleArgs {
    fn roles(&self) -> Roles {
        Roles {
            stun: self.roles.contains(&Role::Stun),
            relay: self.roles.contains(&Role::Relay),
            directory: self.roles.contains(&Role::Directory),
        }
    }

    fn to_argv(&self) -> Vec<OsString> {
        let roles = self.roles().names().collect::<Vec<_>>().join(",");
        let set_aside = self.set_aside_damaged.then(|| "--set-aside-damaged".to_owned());
        [format!("--roles={roles}")].into_iter().chain(set_aside).map(OsString::from).collect()
    }
}

impl ListenArgs {
    fn to_argv(&self) -> Vec<OsString> {
        let listen = self.listen.map(|listen| format!("--listen={listen}"));
        let advertise = self.advertise.as_ref().map(|host| format!("--advertise={host}"));
        listen.into_iter().chain(advertise).map(OsString::from).collect()
    }
}
