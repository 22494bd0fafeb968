//! Where errands are done: a lab whose readers are at different distances from everything else.
//!
//! All sources are one host with an address for each: nginx, a daemon for each source, and the process behind them. A resolver that knows all
//! names (unbound) and a backbone whose directory knows all agents are hosts beside it: the way to the resolver, to the directory and to the sources is
//! equally long. It takes root, nginx and unbound.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pilot_daemon::home::Home;
use pilot_sim::link::LinkConfig;
use tempfile::TempDir;

use super::source::{Sources, UPSTREAM};
use super::{Errand, GROUP, Order, Question, SOURCES, WEB, address, agent_name, web_name};
use crate::agents::wrong;
use crate::compare::process::{End, Place};
use crate::compare::system::Kind;
use crate::compare::systems::Authority;
use crate::compare::task::Report;
use crate::error::BenchError;
use crate::netlab::lab::{Host, Lab, Plan};
use crate::netlab::router::CORE;

/// Round trips between a reader and all others.
pub(crate) const ROUND_TRIPS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(40), Duration::from_millis(100)];
/// Programs of Debian that it takes.
pub(crate) const PROGRAMS: [&str; 2] = ["nginx", "unbound"];

const READERS: [&str; ROUND_TRIPS.len()] = ["reader-0", "reader-40", "reader-100"];
const READER_IPS: [&str; ROUND_TRIPS.len()] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const SOURCES_HOST: &str = "sources";
const BACKBONE: &str = "backbone";
const BACKBONE_IP: &str = "203.0.113.10";
const RESOLVER: &str = "resolver";
const RESOLVER_IP: &str = "203.0.113.53";
/// Nothing is left to chance here.
const SEED: u64 = 1;
/// Debian's default, where the machine's own may be another.
const CONGESTION: &str = "cubic";

/// The lab, and what runs in it. Dropping it ends all of it.
pub(crate) struct World {
    sources: End,
    servers: Vec<Server>,
    credential: String,
    pilotctl: PathBuf,
    lab: Lab,
    _files: TempDir,
}

/// A program of Debian. Dropping it ends it.
struct Server(Child);

impl World {
    /// Builds it for pages of these lengths.
    pub(crate) fn build(pilotctl: &Path, page_lens: &[usize]) -> Result<Self, BenchError> {
        let files = tempfile::tempdir()?;
        let authority = Authority::new()?;
        for source in 0..SOURCES {
            authority.issue(&web_name(source))?.write(files.path(), &agent_name(source))?;
        }
        let lab = plan().build()?;
        let host = lab.host(SOURCES_HOST);
        for reader in READERS {
            lab.host(reader).write_etc("resolv.conf", &format!("nameserver {RESOLVER_IP}\n"))?;
        }
        for name in READERS.into_iter().chain([SOURCES_HOST]) {
            lab.host(name).set_congestion(CONGESTION)?;
        }
        let ticket = start_backbone(pilotctl, lab.host(BACKBONE))?;
        for source in 0..SOURCES {
            let listen = format!("{}:0", address(source));
            start_daemon(
                pilotctl,
                host,
                &agent_name(source),
                &["--backbone", &ticket, "--listen", &listen, "--groups", GROUP],
            )?;
        }
        for reader in READERS {
            start_daemon(pilotctl, lab.host(reader), reader, &["--backbone", &ticket])?;
        }
        let sources = start_sources(host, files.path(), page_lens)?;
        let servers = vec![start_unbound(lab.host(RESOLVER), files.path())?, start_nginx(host, files.path())?];
        Ok(Self {
            sources,
            servers,
            credential: authority.credential(),
            pilotctl: pilotctl.to_owned(),
            lab,
            _files: files,
        })
    }

    /// The processes that are asked.
    pub(crate) fn pids(&self) -> Vec<u32> {
        std::iter::once(self.sources.pid()).chain(self.servers.iter().map(|server| server.0.id())).collect()
    }

    /// Lets a reader at that distance do an errand twice. Returns the milliseconds that were measured.
    pub(crate) fn run(&self, at: usize, kind: Kind, order: Order, question: Question) -> Result<Report, BenchError> {
        let host = self.lab.host(READERS[at]);
        if kind == Kind::PilotDaemons {
            // It knows of nobody then, as a program of the web that is started anew.
            run(host.command(&self.pilotctl).args(["daemon", "restart", "--as", host.name]))?;
        }
        let agent = Home::at(host.pilot_home()).agent(host.name).map_err(wrong)?;
        let socket = agent.socket_path().map_err(wrong)?;
        let errand = Errand { kind, order, question, credential: self.credential.clone(), socket };
        let errand = serde_json::to_string(&errand).map_err(BenchError::wrong)?;
        let launch = |program: &Path| host.command(program);
        let place = Place { launch: &launch, ip: READER_IPS[at].parse().map_err(BenchError::wrong)? };
        let mut end = End::start(place, &["end", "errand", "--task", &errand])?;
        serde_json::from_str(&end.line()?).map_err(BenchError::wrong)
    }
}

fn plan() -> Plan {
    let mut plan = Plan::new(SEED);
    let near = LinkConfig::default().delay(Duration::ZERO);
    let addresses: Vec<_> = (0..SOURCES).map(|source| address(source).to_string()).collect();
    plan.host(SOURCES_HOST, CORE, &addresses.iter().map(String::as_str).collect::<Vec<_>>(), &near);
    plan.host(BACKBONE, CORE, &[BACKBONE_IP], &near);
    plan.host(RESOLVER, CORE, &[RESOLVER_IP], &near);
    for ((name, ip), round_trip) in READERS.into_iter().zip(READER_IPS).zip(ROUND_TRIPS) {
        plan.host(name, CORE, &[ip], &LinkConfig::default().delay(round_trip / 2));
    }
    plan
}

fn start_backbone(pilotctl: &Path, host: &Host) -> Result<String, BenchError> {
    let listen = format!("{BACKBONE_IP}:3478");
    let printed = run(host.command(pilotctl).args(["backbone", "start", "--listen", &listen, "--detach"]))?;
    Ok(printed.trim().to_owned())
}

fn start_daemon(pilotctl: &Path, host: &Host, name: &str, options: &[&str]) -> Result<(), BenchError> {
    run(host.command(pilotctl).args(["daemon", "start", "--hostname", name]).args(options)).map(drop)
}

fn start_sources(host: &Host, certificates: &Path, page_lens: &[usize]) -> Result<End, BenchError> {
    let sources =
        Sources { home: host.pilot_home(), certificates: certificates.to_owned(), page_lens: page_lens.to_vec() };
    let sources = serde_json::to_string(&sources).map_err(BenchError::wrong)?;
    let launch = |program: &Path| host.command(program);
    let mut end =
        End::start(Place { launch: &launch, ip: address(0).into() }, &["end", "sources", "--task", &sources])?;
    end.line()?;
    Ok(end)
}

/// A resolver that is asked for no other names, and so answers at once.
fn start_unbound(host: &Host, files: &Path) -> Result<Server, BenchError> {
    let mut config = format!(
        "server:\n interface: {RESOLVER_IP}\n access-control: 0.0.0.0/0 allow\n do-daemonize: no\n do-ip6: no\n chroot: \"\"\n username: \"\"\n \
         pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n local-zone: \"example.\" static\n"
    );
    for source in 0..SOURCES {
        // Writing to a string does not fail.
        _ = writeln!(config, " local-data: \"{}. A {}\"", web_name(source), address(source));
    }
    let file = files.join("unbound.conf");
    fs::write(&file, config)?;
    let mut server = Server(host.command("unbound").arg("-c").arg(&file).stderr(Stdio::piped()).spawn()?);
    server.wait_for_line("start of service")?;
    Ok(server)
}

/// Debian's nginx as a front of the sources: keep-alive on both sides, and buffers in which a page has room.
fn start_nginx(host: &Host, files: &Path) -> Result<Server, BenchError> {
    let mut config = format!(
        "daemon off;\nuser root;\nworker_processes auto;\npid nginx.pid;\nerror_log stderr notice;\nevents {{ worker_connections 1024; }}\nhttp {{\n \
         access_log off;\n tcp_nopush on;\n client_body_temp_path body;\n proxy_temp_path proxy;\n fastcgi_temp_path fastcgi;\n uwsgi_temp_path uwsgi;\n \
         scgi_temp_path scgi;\n upstream sources {{ server {UPSTREAM}; keepalive 64; }}\n proxy_http_version 1.1;\n proxy_set_header Connection \"\";\n \
         proxy_set_header Host $host;\n proxy_buffers 16 16k;\n ssl_protocols TLSv1.3;\n ssl_ecdh_curve X25519;\n \
         ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384;\n"
    );
    for source in 0..SOURCES {
        let (ip, name, file) = (address(source), web_name(source), agent_name(source));
        // Writing to a string does not fail.
        _ = writeln!(
            config,
            " server {{ listen {ip}:{WEB} ssl http2; server_name {name}; ssl_certificate {0}/{file}.crt; ssl_certificate_key {0}/{file}.key; \
             location / {{ proxy_pass http://sources; }} }}",
            files.display()
        );
    }
    config.push_str("}\n");
    let file = files.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = host.command("nginx");
    command.arg("-p").arg(files).arg("-c").arg(&file).args(["-e", "stderr"]).stderr(Stdio::piped());
    let mut server = Server(command.spawn()?);
    server.wait_for_line("start worker process ")?;
    Ok(server)
}

impl Server {
    /// Returns when it has said so; what it says later is read, too, so that it never waits for us.
    fn wait_for_line(&mut self, wanted: &str) -> Result<(), BenchError> {
        let errors = self.0.stderr.take().ok_or_else(|| BenchError::wrong("a server without an output"))?;
        let mut lines = BufReader::new(errors).lines();
        let mut said = String::new();
        while let Some(line) = lines.next().transpose()? {
            if line.contains(wanted) {
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(());
            }
            said.push_str(&line);
        }
        Err(BenchError::wrong(format!("a server did not start: {said}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("warning: a server did not end: {error}");
        }
    }
}

/// Runs a command to its end; returns what it printed.
fn run(command: &mut Command) -> Result<String, BenchError> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(BenchError::wrong(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
