//! Where nothing but a proxy leads out (spec/tcp.md §5): whole daemons, started as a user starts them, with a backbone that only the proxy finds.

mod support;

use std::io::{Read, Write, copy};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use support::stream::LocalStream;
use support::{Home, eventually, finish};

/// `alice:old` and `alice:new`, as Basic has them.
const OLD: &str = "YWxpY2U6b2xk";
const NEW: &str = "YWxpY2U6bmV3";
/// How often the proxy cuts all that goes through it: the third pause is four seconds long.
const CUTS: usize = 3;

/// An HTTP proxy in front of one host, to which it connects whoever knows the password.
#[derive(Clone)]
struct Proxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    password: &'static str,
    asked: Vec<String>,
    links: Vec<TcpStream>,
}

impl Proxy {
    fn start(node: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let proxy =
            Self { port, state: Arc::new(Mutex::new(State { password: OLD, asked: Vec::new(), links: Vec::new() })) };
        let serving = proxy.clone();
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let proxy = serving.clone();
                thread::spawn(move || proxy.serve(connection, node));
            }
        });
        proxy
    }

    /// Who is cut off hears of it as an error, which is no concern of the proxy.
    fn serve(&self, mut client: TcpStream, node: SocketAddr) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).ok()?;
        let password = {
            let mut state = self.state.lock().expect("no test thread has failed");
            state.asked.push(head.lines().next()?.to_owned());
            state.password
        };
        if !head.lines().any(|line| line.ends_with(&format!("Basic {password}"))) {
            let refusal =
                "HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=\"office\"\r\nContent-Length: 0\r\n\r\n";
            return client.write_all(refusal.as_bytes()).ok();
        }
        let onward = TcpStream::connect(node).ok()?;
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
        let links = [client.try_clone().ok()?, onward.try_clone().ok()?];
        self.state.lock().expect("no test thread has failed").links.extend(links);
        join(client, onward)
    }

    /// Ends everything that goes through it.
    fn cut(&self) {
        for link in self.state.lock().expect("no test thread has failed").links.drain(..) {
            // It may have ended by itself.
            let _ended = link.shutdown(Shutdown::Both);
        }
    }

    fn set_password(&self, password: &'static str) {
        self.state.lock().expect("no test thread has failed").password = password;
    }

    fn asked(&self) -> Vec<String> {
        self.state.lock().expect("no test thread has failed").asked.clone()
    }
}

/// Passes on what comes from either side, until one of them ends.
fn join(mut client: TcpStream, mut onward: TcpStream) -> Option<()> {
    let (mut from_client, mut to_node) = (client.try_clone().ok()?, onward.try_clone().ok()?);
    thread::spawn(move || copy(&mut from_client, &mut to_node));
    copy(&mut onward, &mut client).ok().map(drop)
}

/// Passes TCP on to the node, and no UDP; returns where. An agent that is found learns nothing else of the node's address.
fn firewall(node: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || join(client, TcpStream::connect(node).ok()?));
        }
    });
    address
}

/// An office, in which an agent has `HTTPS_PROXY` and no other way out, and the world outside it with another agent, which knows no way by
/// UDP either: the office would find it in that one's record.
struct Office {
    world: Home,
    home: Home,
    proxy: Proxy,
    /// The home of the node, which ends last.
    _backbone: Home,
}

impl Office {
    fn new() -> Self {
        let backbone = Home::new();
        let ticket = backbone.ok(&["backbone", "start", "--detach"]);
        let (key, place) = ticket.trim().split_once('@').expect("a ticket");
        let node: SocketAddr = place.parse().expect("an address");
        let world = Home::new();
        world.start("free", &["--backbone", &format!("{key}@{}", firewall(node))]);
        eventually("a link", || world.json(&["daemon", "status"])["backbone"]["registered"] == json!(true));
        let proxy = Proxy::start(node);
        let home = Home::new();
        let ticket = format!("{key}@backbone.invalid:{}", node.port());
        let mut start =
            home.command(&["daemon", "start", "--hostname", "office", "--backbone", &ticket, "--direct", "off"]);
        for name in ["https_proxy", "no_proxy", "NO_PROXY"] {
            start.env_remove(name);
        }
        start.env("HTTPS_PROXY", format!("http://alice:old@127.0.0.1:{}", proxy.port));
        let said = finish(start, b"");
        assert_eq!(said.code, 0, "{said:?}");
        Self { world, home, proxy, _backbone: backbone }
    }

    fn backbone(&self) -> Value {
        self.home.json(&["daemon", "status"])["backbone"].clone()
    }

    fn wait_for_link(&self) {
        eventually("a link through the proxy", || {
            let backbone = self.backbone();
            (&backbone["registered"], &backbone["transport"]) == (&json!(true), &json!("tls"))
        });
    }
}

#[test]
fn https_proxy_leads_out_and_a_password_that_changes_is_found_in_the_config_file() {
    let office = Office::new();
    office.wait_for_link();
    office.home.ok(&["ping", "free"]);
    let asked = office.proxy.asked();
    assert!(asked.iter().all(|line| line.starts_with("CONNECT backbone.invalid:")), "{asked:?}");

    office.proxy.set_password(NEW);
    office.proxy.cut();
    let finding = |code: &str| {
        let findings = office.backbone()["findings"].as_array().expect("a list").clone();
        findings.into_iter().find(|finding| finding["code"] == code)
    };
    eventually("the proxy refuses", || finding("proxy_credentials").is_some());
    let config = format!("proxy = 'http://alice:new@127.0.0.1:{}'\n", office.proxy.port);
    std::fs::write(office.home.path().join("config.toml"), config).expect("a file of ours");
    office.wait_for_link();
    office.home.ok(&["ping", "free"]);
    assert!(finding("proxy_credentials").is_none());
}

/// Whatever a stream has said is said once, in order, however often the link under it is cut.
#[test]
fn a_proxy_that_cuts_links_costs_a_stream_time_and_no_byte() {
    let office = Office::new();
    office.wait_for_link();
    let mut stream = LocalStream::open(&office.home, "office", "free", "echo");
    for round in 0..CUTS {
        let before = format!("before cut {round};");
        stream.send(&before);
        stream.expect(&before);
        office.proxy.cut();
        let after = format!("after cut {round};");
        stream.send(&after);
        stream.expect(&after);
    }
    office.wait_for_link();
    let asked = office.proxy.asked().len();
    assert!((CUTS + 1..=4 * (CUTS + 1)).contains(&asked), "{asked} attempts");
    assert_eq!(office.world.json(&["ping", "office"])["path"], json!("relay"));
}
