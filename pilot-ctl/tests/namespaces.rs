//! Two machines: two network namespaces joined by a cable, with nothing else on it.
//!
//! Needs root on Linux, and `ip` of iproute2. Without them the tests say so and pass; with `PILOT_REQUIRE_NAMESPACES` set,
//! as in `.ci/run`, they fail.

#![cfg(target_os = "linux")]

#[path = "support/rest.rs"]
mod rest;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

const PILOTCTL: &str = env!("CARGO_BIN_EXE_pilotctl");
/// What a verb may take before it counts as hung; in seconds, for `timeout`.
const COMMAND_TIMEOUT_S: &str = "30";
/// What a process in the background may take to say that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// An agent's state is looked at so often, while it notices that the network has changed: UDP is tried again once a minute in the long run.
const CHANGE_LOOKS: usize = 1_200;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

#[test]
fn two_machines_meet_through_the_ticket_that_backbone_start_printed() {
    let Some(lab) = Lab::new("backbone") else { return };
    let [left, right] = &lab.machines;
    let (_backbone, ticket) = left.spawn(&["backbone", "start", "--listen", "0.0.0.0:3478"], Speaks::Stdout);
    let alpha = left.start_agent("alpha", &["--backbone", &ticket]);
    let beta = right.start_agent("beta", &["--backbone", &ticket]);

    assert_reply(&left.pilotctl(&["ping", "beta"]), &beta);
    assert_reply(&right.pilotctl(&["ping", "alpha"]), &alpha);

    let (_handler, _ready) = right.spawn(&["answer", "--allow", "public", "--", "tr", "a-z", "A-Z"], Speaks::Stderr);
    assert_eq!(left.pilotctl(&["query", "beta", "are you there?"]).trim_end(), "ARE YOU THERE?");
}

#[test]
fn two_agents_that_hold_tickets_talk_with_no_backbone_at_all() {
    let Some(lab) = Lab::new("tickets") else { return };
    let [left, right] = &lab.machines;
    let alpha = left.start_agent("alpha", &["--no-backbone"]);
    let beta = right.start_agent("beta", &["--no-backbone"]);
    let alpha_ticket = left.pilotctl(&["ticket"]);
    let beta_ticket = right.pilotctl(&["ticket"]);

    assert_reply(&left.pilotctl(&["ping", beta_ticket.trim()]), &beta);
    assert_reply(&right.pilotctl(&["ping", alpha_ticket.trim()]), &alpha);

    let (_handler, _ready) = left.spawn(&["answer", "--allow", "public", "--", "tr", "a-z", "A-Z"], Speaks::Stderr);
    assert_eq!(right.pilotctl(&["query", alpha_ticket.trim(), "no broker?"]).trim_end(), "NO BROKER?");
}

/// As when a VPN comes up, or a cable beside a radio: what leaves by the new way from the old address is thrown away there.
#[test]
fn where_the_route_changes_and_the_old_address_stays_two_agents_without_a_backbone_go_on() {
    let Some(lab) = Lab::new("route") else { return };
    let [left, right] = &lab.machines;
    lab.second_cable().expect("the lab was built");
    left.start_agent("alpha", &["--no-backbone"]);
    let beta = right.start_agent("beta", &["--no-backbone", "--listen", "192.0.2.200:0"]);
    let ticket = right.pilotctl(&["ticket"]);
    assert_reply(&left.pilotctl(&["ping", ticket.trim()]), &beta);

    left.ip("route replace default via", "10.78.0.2").expect("a route");
    assert_reply(&left.pilotctl(&["ping", ticket.trim()]), &beta);
}

/// The cable carries TCP 443 alone, as behind the firewall of a hotel. `daemon start` waits 2 s for the directory's word, and here it has it.
#[test]
fn behind_a_firewall_without_udp_an_agent_is_ready_at_once_and_leaves_tls_when_udp_works() {
    let Some(lab) = Lab::new("tcp") else { return };
    let [left, right] = &lab.machines;
    let (_backbone, ticket) = left.spawn(&["backbone", "start", "--listen", "0.0.0.0:3478"], Speaks::Stdout);
    let alpha = left.start_agent("alpha", &["--backbone", &ticket]);
    lab.let_through_tcp_443_only("add");

    let beta = right.start_agent("beta", &["--backbone", &ticket]);
    let backbone = right.backbone();
    assert_eq!((&backbone["registered"], &backbone["transport"]), (&true.into(), &"tls".into()), "{backbone}");
    assert_eq!(backbone["findings"][0]["code"], "udp_blocked");
    assert_reply(&right.pilotctl(&["ping", "alpha"]), &alpha);
    assert_reply(&left.pilotctl(&["ping", "beta"]), &beta);
    let pid = right.status()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    rest::assert_rests(&[pid.expect("it runs")]);

    lab.let_through_tcp_443_only("delete");
    right.wait_for("UDP", |status| status["backbone"]["transport"] == "udp");
    right.wait_for("the end of the link", |status| status["counters"]["links_open"] == 0);
    assert_reply(&left.pilotctl(&["ping", "beta"]), &beta);
}

/// TLS looks the name up again much sooner than UDP does; that it works is not the end of it.
#[test]
#[ignore = "a name is looked up again after half a minute, and UDP tried again once a minute: `.ci/run patience`"]
fn a_backbone_whose_name_is_known_late_is_reached_by_udp_in_the_end() {
    let Some(lab) = Lab::new("late") else { return };
    let [left, right] = &lab.machines;
    let (_backbone, ticket) = left.spawn(&["backbone", "start", "--listen", "0.0.0.0:3478"], Speaks::Stdout);
    let (key, _) = ticket.trim().split_once('@').expect("a ticket");
    right.know("");
    right.start_agent("beta", &["--backbone", &format!("{key}@backbone.test:3478")]);
    right.know("10.77.0.1 backbone.test\n");
    right.wait_for("TLS", |status| status["backbone"]["transport"] == "tls");
    right.wait_for("UDP", |status| status["backbone"]["transport"] == "udp");
}

#[test]
fn a_fresh_agent_sends_nothing_to_anybody_but_its_backbone() {
    let Some(lab) = Lab::new("quiet") else { return };
    let [left, right] = &lab.machines;
    lab.send_everything_else_over_the_cable().expect("the lab was built");
    let before = right.received_packets();
    left.start_agent("alpha", &[]);
    left.start_agent("beta", &[]);
    left.pilotctl(&["ping", "beta", "--as", "alpha"]);
    left.pilotctl(&["find", "--as", "alpha"]);
    left.pilotctl(&["daemon", "restart", "--as", "alpha"]);
    left.pilotctl(&["daemon", "stop", "--all"]);
    left.pilotctl(&["backbone", "stop"]);
    assert_eq!(right.received_packets(), before, "the backbone that they have started is on their own machine");
    assert_eq!(left.tcp_connections(), 0);

    // What goes elsewhere is seen.
    let ticket = "pilot-backbone:gluwrtvtkgks4ffxj2xhb53hoski6g5bdzfdvfetnnblwdezzola@192.0.2.1:3478";
    left.start_agent("gamma", &["--backbone", ticket]);
    left.pilotctl(&["daemon", "stop", "--all"]);
    assert!(right.received_packets() > before);
}

/// Behind a NAT of this kind nobody is met by simple challenges. The router's word is proved by the packets that come there.
#[test]
fn behind_a_difficult_nat_an_agent_is_met_at_the_port_that_its_router_has_mapped() {
    let Some(street) = Street::new("pcp", "enable_natpmp=yes\nenable_upnp=no") else { return };
    let (_backbone, ticket, found) = street.begin();
    assert_eq!((&found["port_mapping"]["protocol"], &found["mapping"]["kind"]), (&"pcp".into(), &"random".into()));
    let mapped = found["port_mapping"]["address"].clone();
    assert!(mapped.as_str().is_some_and(|mapped| mapped.starts_with(OUTSIDE)), "{found}");
    let diagnosis = street.home.pilotctl(&["doctor"]);
    assert!(diagnosis.lines().any(|line| line.starts_with("✓ nat: ") && line.contains(OUTSIDE)), "{diagnosis}");

    street.elsewhere.start_agent("beta", &["--backbone", &ticket]);
    street.home.pilotctl(&["ping", "beta", "--until-direct"]);
    let peers: serde_json::Value =
        serde_json::from_str(&street.elsewhere.pilotctl(&["peers", "--json"])).expect("JSON");
    let alpha = peers["peers"].as_array().expect("a list").iter().find(|peer| peer["backbone"] == false);
    assert_eq!(alpha.map(|alpha| &alpha["remote"]), Some(&mapped), "{peers}");

    street.assert_given_back_at_the_end();
}

#[test]
fn a_router_that_speaks_upnp_alone_is_asked_by_that() {
    let Some(street) = Street::new("upnp", "enable_natpmp=no\nenable_upnp=yes") else { return };
    let (_backbone, _ticket, found) = street.begin();
    assert_eq!(found["port_mapping"]["protocol"], "upnp", "{found}");
    street.assert_given_back_at_the_end();
}

/// miniupnpd speaks PCP wherever it speaks NAT-PMP. What makes an older router of it answers PCP as RFC 6886 §3.5 says; the rest is its own.
#[test]
fn a_router_that_speaks_nat_pmp_alone_is_asked_by_that() {
    let Some(street) = Street::new("natpmp", "enable_natpmp=yes\nenable_upnp=no") else { return };
    street.router.run("nft", &[NO_PCP]).expect("a rule");
    street.router.refuse_pcp();
    let (_backbone, _ticket, found) = street.begin();
    assert_eq!(found["port_mapping"]["protocol"], "nat_pmp", "{found}");
    let mapped = found["port_mapping"]["address"].as_str().unwrap_or_default();
    assert!(mapped.starts_with(OUTSIDE), "{found}");
    street.assert_given_back_at_the_end();
}

/// Each of two NATs gives each destination another port, at random; then no UDP leaves one of the homes either.
#[test]
fn doctor_names_two_difficult_nats_and_udp_that_is_blocked_on_either_side() {
    let Some(street) = Street::new("doctor", "enable_natpmp=yes\nenable_upnp=no") else { return };
    let Street { home, router, net, elsewhere, .. } = &street;
    elsewhere.run("nft", &[DIFFICULT]).expect("a rule");
    std::fs::write(home.home.path().join("config.toml"), "port-mapping = false\n").expect("a file");
    let listen = ["backbone", "start", "--listen", "0.0.0.0:3478", "--advertise", "11.11.11.10"];
    let (_backbone, ticket) = net.spawn(&listen, Speaks::Stdout);
    home.start_agent("alpha", &["--backbone", &ticket]);
    elsewhere.start_agent("beta", &["--backbone", &ticket]);
    for machine in [home, elsewhere] {
        machine.wait_for("random ports", |_| {
            let found = machine.pilotctl(&["netcheck", "--json"]);
            serde_json::from_str::<serde_json::Value>(&found).expect("JSON")["mapping"]["kind"] == "random"
        });
    }
    assert_eq!(home.obstacle("beta"), "hard_mappings");
    assert_eq!(elsewhere.obstacle("alpha"), "hard_mappings");

    router.run("nft", &["insert rule inet filter forward meta l4proto udp drop"]).expect("a rule");
    home.pilotctl(&["daemon", "restart"]);
    home.wait_for("TLS", |status| status["backbone"]["transport"] == "tls");
    assert_eq!(home.obstacle("beta"), "udp_blocked_here");
    assert_eq!(elsewhere.obstacle("alpha"), "udp_blocked_there");
}

fn assert_reply(line: &str, address: &str) {
    let promised = format!("✓ reply from {address} · ");
    assert!(line.starts_with(&promised), "{line:?} does not start with {promised:?}");
}

/// Two machines and the cable between them. What still runs on them ends with it.
struct Lab {
    machines: [Machine; 2],
    cleaner: Child,
}

/// Waits for the end of its stdin, which comes when the lab is dropped, but also when the test is killed.
const CLEANER: &str = r#"
read -r _
for namespace in "$@"; do
    ip netns pids "$namespace" | xargs -r kill -9
    ip netns delete "$namespace"
    rm -rf "/etc/netns/$namespace"
done
"#;

impl Lab {
    /// Builds the lab, or says why that is impossible here.
    fn new(test: &str) -> Option<Self> {
        let machines = [Machine::new(test, "a"), Machine::new(test, "b")];
        let cleaner = start_cleaner(&machines.each_ref().map(|machine| machine.namespace.as_str()));
        let lab = Self { machines, cleaner };
        let built = lab.build();
        is_built(test, built).then_some(lab)
    }

    fn build(&self) -> Result<(), String> {
        let [left, right] = self.machines.each_ref().map(|machine| machine.namespace.as_str());
        ip(&["netns", "add", left])?;
        ip(&["netns", "add", right])?;
        ip(&["-n", left, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", right])?;
        for (namespace, address) in [(left, "10.77.0.1/24"), (right, "10.77.0.2/24")] {
            ip(&["-n", namespace, "address", "add", address, "dev", "eth0"])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
        }
        Ok(())
    }

    /// Lays another cable, and gives the right machine an address behind both. It takes by each what has that cable's addresses, as routers of
    /// providers do (RFC 2827).
    fn second_cable(&self) -> Result<(), String> {
        let [left, right] = &self.machines;
        ip(&[
            "-n",
            &left.namespace,
            "link",
            "add",
            "eth1",
            "type",
            "veth",
            "peer",
            "name",
            "eth1",
            "netns",
            &right.namespace,
        ])?;
        left.address("10.78.0.1/24", "eth1")?;
        right.address("10.78.0.2/24", "eth1")?;
        right.ip("address add 192.0.2.200/32 dev", "lo")?;
        right.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/conf/eth1/rp_filter"])?;
        left.ip("route add default via", "10.77.0.2")
    }

    /// Lets nothing from the left machine reach the right one but what its TCP port 443 says, or lets all through again.
    fn let_through_tcp_443_only(&self, change: &str) {
        for what in [&["udp"][..], &["tcp", "sport", "1-442"], &["tcp", "sport", "444-65534"]] {
            let rule = ["priority", "10", "to", "10.77.0.2", "type", "blackhole", "ipproto"];
            ip(&[&["-n", &self.machines[0].namespace, "rule", change][..], &rule, what].concat())
                .expect("a rule of routing");
        }
    }

    /// Makes the right machine the left one's way to everybody else, and takes from the cable what systems say of themselves (IPv6).
    fn send_everything_else_over_the_cable(&self) -> Result<(), String> {
        let [left, right] = self.machines.each_ref().map(|machine| machine.namespace.as_str());
        for namespace in [left, right] {
            ip(&["-n", namespace, "link", "set", "eth0", "down"])?;
            let quiet = "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6";
            ip(&["netns", "exec", namespace, "sh", "-c", quiet])?;
            ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
        }
        ip(&["-n", left, "route", "add", "default", "via", "10.77.0.2"])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        let _reaped = self.cleaner.wait();
    }
}

/// Whether the test can go on; says so if it cannot, and fails where it must.
fn is_built(test: &str, built: Result<(), String>) -> bool {
    let Err(reason) = built else { return true };
    let is_required = std::env::var_os("PILOT_REQUIRE_NAMESPACES").is_some();
    assert!(!is_required, "no network namespaces here: {reason}");
    // Straight to stderr: the test harness swallows what `eprintln!` says in a test that passes.
    writeln!(std::io::stderr(), "\nSKIPPED: {test}: no network namespaces here: {reason}").expect("stderr");
    false
}

/// A home behind a router that gives each destination another port, and an agent elsewhere behind a firewall that lets in answers only: by
/// simple challenges the two never meet (P and R of natlab's matrix). Between them the net, with the backbone on it.
struct Street {
    home: Machine,
    router: Machine,
    net: Machine,
    elsewhere: Machine,
    /// Ends before the router's namespace does.
    port_mapper: Option<Background>,
    cleaner: Child,
}

/// The address that the router has outside: miniupnpd maps nothing at one that is private or for documentation.
const OUTSIDE: &str = "11.11.11.1";

/// The chains that miniupnpd fills, and the NAT around them.
const ROUTER: &str = r#"
table inet filter {
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting {
        type nat hook postrouting priority 100;
        jump postrouting_miniupnpd;
        oifname "wan" masquerade fully-random;
    }
    chain input { type filter hook input priority 0; iifname "wan" ct state new drop; }
    chain forward {
        type filter hook forward priority 0; policy drop;
        iifname "lan" accept;
        ct state established,related accept;
        ct status dnat accept;
        jump miniupnpd;
    }
}
"#;

/// What says version 2 to the port of both protocols is PCP, and goes to [`NO_PCP_PORT`].
const NO_PCP: &str = r#"
table ip older {
    chain prerouting {
        type nat hook prerouting priority -110;
        iifname "lan" udp dport 5351 @th,64,8 2 redirect to :5350
    }
}
"#;
const NO_PCP_PORT: u16 = 5_350;

const FIREWALL: &str = r#"
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        iifname "lo" accept;
        ct state established,related accept;
    }
}
"#;

/// What makes a host's own packets look as if they came through such a NAT.
const DIFFICULT: &str = r#"
table ip difficult {
    chain postrouting { type nat hook postrouting priority 100; oifname "eth0" meta l4proto udp masquerade fully-random; }
}
"#;

impl Street {
    /// Builds it; the router maps ports by the protocols that `options` of its miniupnpd name.
    fn new(test: &str, options: &str) -> Option<Self> {
        let machine = |side| Machine::new(test, side);
        let (home, router, net, elsewhere) = (machine("home"), machine("router"), machine("net"), machine("else"));
        let namespaces = [&home, &router, &net, &elsewhere].map(|machine| machine.namespace.as_str());
        let cleaner = start_cleaner(&namespaces);
        let mut street = Self { home, router, net, elsewhere, port_mapper: None, cleaner };
        let built = street.build(options);
        is_built(test, built).then_some(street)
    }

    fn build(&mut self, options: &str) -> Result<(), String> {
        let Self { home, router, net, elsewhere, .. } = &*self;
        for machine in [home, router, net, elsewhere] {
            ip(&["netns", "add", &machine.namespace])?;
            ip(&["-n", &machine.namespace, "link", "set", "lo", "up"])?;
        }
        home.ip("link add eth0 type veth peer name lan netns", &router.namespace)?;
        router.ip("link add wan type veth peer name port1 netns", &net.namespace)?;
        elsewhere.ip("link add eth0 type veth peer name port2 netns", &net.namespace)?;
        net.ip("link add bridge type", "bridge")?;
        for port in ["port1", "port2"] {
            net.ip("link set master bridge up dev", port)?;
        }
        home.address("192.168.7.2/24", "eth0")?;
        router.address("192.168.7.1/24", "lan")?;
        router.address(&format!("{OUTSIDE}/24"), "wan")?;
        net.address("11.11.11.10/24", "bridge")?;
        elsewhere.address("11.11.11.20/24", "eth0")?;
        home.ip("route add default via", "192.168.7.1")?;
        router.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        router.run("nft", &[ROUTER])?;
        elsewhere.run("nft", &[FIREWALL])?;
        self.port_mapper = Some(self.router.map_ports(options)?);
        Ok(())
    }

    /// Ends the agent at home, and sees the mapping go.
    fn assert_given_back_at_the_end(&self) {
        let is_mapped =
            || self.router.run("nft", &["list", "ruleset"]).expect("rules").contains("dnat ip to 192.168.7.2");
        assert!(is_mapped());
        self.home.pilotctl(&["daemon", "stop"]);
        assert!(!is_mapped(), "it was given back");
    }

    /// Starts the backbone, and an agent at home behind the router; returns the backbone and its ticket, and what the router has mapped for
    /// the agent.
    fn begin(&self) -> (Background, String, serde_json::Value) {
        let listen = ["backbone", "start", "--listen", "0.0.0.0:3478", "--advertise", "11.11.11.10"];
        let (backbone, ticket) = self.net.spawn(&listen, Speaks::Stdout);
        self.home.start_agent("alpha", &["--backbone", &ticket]);
        let mut found = serde_json::Value::Null;
        self.home.wait_for("a port mapping", |_| {
            found = serde_json::from_str(&self.home.pilotctl(&["netcheck", "--json"])).expect("JSON");
            found["port_mapping"]["state"] == "mapped"
        });
        (backbone, ticket, found)
    }
}

impl Drop for Street {
    fn drop(&mut self) {
        drop(self.port_mapper.take());
        drop(self.cleaner.stdin.take());
        let _reaped = self.cleaner.wait();
    }
}

fn start_cleaner(namespaces: &[&str]) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", CLEANER, "cleaner"]).args(namespaces);
    // A group of its own, for it has to outlive a test that is killed. Of a lab that was never built nothing is there to
    // remove: what `ip` says to that is of no interest.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("sh is installed")
}

/// A host: a network namespace and a home of its own.
struct Machine {
    namespace: String,
    home: TempDir,
}

impl Machine {
    fn new(test: &str, side: &str) -> Self {
        let namespace = format!("pilot-{}-{test}-{side}", std::process::id());
        Self { namespace, home: tempfile::tempdir().expect("a temporary home") }
    }

    fn ip(&self, arguments: &str, last: &str) -> Result<(), String> {
        let words: Vec<&str> = ["-n", &self.namespace].into_iter().chain(arguments.split(' ')).chain([last]).collect();
        ip(&words)
    }

    fn address(&self, address: &str, interface: &str) -> Result<(), String> {
        self.ip(&format!("address add {address} dev"), interface)?;
        self.ip("link set up dev", interface)
    }

    /// Has the machine's only directory of names say this.
    fn know(&self, names: &str) {
        let etc = std::path::Path::new("/etc/netns").join(&self.namespace);
        std::fs::create_dir_all(&etc)
            .and_then(|()| std::fs::write(etc.join("hosts"), names))
            .expect("a directory of names");
    }

    /// Runs a program of the system, which may be missing.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("{program}: {}", told(&output)))
        }
    }

    /// Makes a router of it that maps ports for those at `lan`.
    fn map_ports(&self, options: &str) -> Result<Background, String> {
        let files = self.home.path();
        let (settings, leases) = (files.join("miniupnpd.conf"), files.join("leases"));
        let fixed = "ext_ifname=wan\nlistening_ip=lan\nsecure_mode=yes\nuuid=3b1e8e2a-6f0a-4b5e-9f3a-0c6f3d1c2b4a\n";
        let allowed = "allow 1024-65535 192.168.7.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n";
        let text = format!("{fixed}{options}\nlease_file={}\n{allowed}", leases.display());
        std::fs::write(&settings, text).map_err(|error| error.to_string())?;
        self.run("sh", &["-c", "command -v miniupnpd"])?;
        let mut command = self.command("miniupnpd");
        command.args(["-d", "-f"]).arg(&settings).arg("-P").arg(files.join("pid"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Background(command.spawn().map_err(|error| error.to_string())?))
    }

    /// Answers each request of PCP from here on with the word of a router that knows NAT-PMP alone: unsupported version, and a time.
    fn refuse_pcp(&self) {
        const UNSUPPORTED_VERSION: [u8; 8] = [0, 128, 0, 1, 0, 0, 0, 9];
        let namespace = File::open(format!("/run/netns/{}", self.namespace)).expect("the lab was built");
        let (sender, ready) = mpsc::channel();
        // Of all threads this one alone is in the router.
        std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("we are root");
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, NO_PCP_PORT)).expect("a free port");
            sender.send(()).expect("somebody waits");
            let mut request = [0; 1_100];
            while let Ok((_, from)) = socket.recv_from(&mut request) {
                socket.send_to(&UNSUPPORTED_VERSION, from).expect("sent");
            }
        });
        ready.recv_timeout(READY_TIMEOUT).expect("a socket in the router");
    }

    /// Starts an agent and returns its address.
    fn start_agent(&self, hostname: &str, options: &[&str]) -> String {
        let printed = self.pilotctl(&[&["daemon", "start", "--hostname", hostname], options].concat());
        let address = printed.lines().find_map(|line| line.strip_prefix("Address: "));
        address.unwrap_or_else(|| panic!("no address in {printed:?}")).to_owned()
    }

    /// Runs a verb to its end and returns its stdout.
    fn pilotctl(&self, arguments: &[&str]) -> String {
        let output = self.command("timeout").arg(COMMAND_TIMEOUT_S).arg(PILOTCTL).args(arguments).output();
        let output = output.expect("ip is installed, for the lab was built");
        assert!(output.status.success(), "pilotctl {arguments:?}: {}", told(&output));
        String::from_utf8(output.stdout).expect("stdout is UTF-8")
    }

    /// What doctor says of the way to another agent, which it does with the code of a failure.
    fn obstacle(&self, target: &str) -> serde_json::Value {
        let arguments = [COMMAND_TIMEOUT_S, PILOTCTL, "doctor", target, "--json"];
        let output = self.command("timeout").args(arguments).output().expect("ip is installed, for the lab was built");
        let found: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(&output)));
        let checks = found["checks"].as_array().expect("a list");
        checks.iter().find(|check| check["check"] == "peer").unwrap_or_else(|| panic!("{found}"))["code"].clone()
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.pilotctl(&["daemon", "status", "--json"])).expect("one agent's status")
    }

    fn backbone(&self) -> serde_json::Value {
        self.status()["backbone"].clone()
    }

    /// Asks the agent until it is so.
    fn wait_for(&self, what: &str, mut is_so: impl FnMut(&serde_json::Value) -> bool) {
        for _ in 0..CHANGE_LOOKS {
            if is_so(&self.status()) {
                return;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        panic!("no sign of {what}: {}", self.backbone());
    }

    /// Starts a verb that goes on, and returns the line that says it is ready.
    fn spawn(&self, arguments: &[&str], speaks: Speaks) -> (Background, String) {
        let mut command = self.command(PILOTCTL);
        command.args(arguments).stdin(Stdio::null());
        let mut child = match speaks {
            Speaks::Stdout => command.stdout(Stdio::piped()),
            Speaks::Stderr => command.stderr(Stdio::piped()),
        }
        .spawn()
        .expect("ip is installed, for the lab was built");
        let voice: Box<dyn Read + Send> = match speaks {
            Speaks::Stdout => Box::new(child.stdout.take().expect("stdout is piped")),
            Speaks::Stderr => Box::new(child.stderr.take().expect("stderr is piped")),
        };
        let background = Background(child);
        let line = first_line(voice).unwrap_or_else(|| panic!("pilotctl {arguments:?} never became ready"));
        (background, line)
    }

    /// What has come over the cable since the lab was built.
    fn received_packets(&self) -> u64 {
        self.number("cat /sys/class/net/eth0/statistics/rx_packets")
    }

    /// TCP connections that anybody here has begun.
    fn tcp_connections(&self) -> u64 {
        self.number("awk '/^Tcp: [0-9]/ { print $6 }' /proc/net/snmp")
    }

    fn number(&self, script: &str) -> u64 {
        let output = self.command("sh").args(["-c", script]).output().expect("ip is installed, for the lab was built");
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("{script}: {}", told(&output)))
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PILOT_") {
                command.env_remove(name);
            }
        }
        for proxy in ["https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"] {
            command.env_remove(proxy);
        }
        command.env_remove("XDG_RUNTIME_DIR").env("PILOT_HOME", self.home.path());
        command
    }
}

/// Where a verb says that it is ready.
#[derive(Clone, Copy)]
enum Speaks {
    Stdout,
    Stderr,
}

/// A process that ends with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The first line, if it comes in time. What follows is read and dropped, so that the writer never waits.
fn first_line(voice: Box<dyn Read + Send>) -> Option<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(voice).lines().map_while(Result::ok) {
            // Nobody listens after the first.
            let _heard = sender.send(line);
        }
    });
    receiver.recv_timeout(READY_TIMEOUT).ok()
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {}", arguments.join(" "), told(&output))) }
}

fn told(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}
