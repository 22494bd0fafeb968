//! A stream of the local API (spec/local-api.md §4), in blocking calls: what `curl --unix-socket` could do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use super::Home;

/// A stream that a program has open.
pub struct LocalStream {
    io: BufReader<UnixStream>,
    /// Its number at the daemon.
    pub number: u64,
}

impl LocalStream {
    /// Opens a stream from `agent` to a service of `target`.
    #[track_caller]
    pub fn open(home: &Home, agent: &str, target: &str, service: &str) -> Self {
        Self::upgrade(home, agent, &format!("POST /v1/streams?target={target}&service={service}"))
    }

    /// Takes the next stream to a service.
    #[track_caller]
    pub fn accept(home: &Home, agent: &str, service: &str) -> Self {
        Self::upgrade(home, agent, &format!("GET /v1/accept?service={service}"))
    }

    #[track_caller]
    fn upgrade(home: &Home, agent: &str, call: &str) -> Self {
        let mut io = BufReader::new(connect(home, agent));
        let upgrade = "connection: upgrade\r\nupgrade: pilot\r\n";
        write!(io.get_mut(), "{call} HTTP/1.1\r\nhost: localhost\r\n{upgrade}content-length: 0\r\n\r\n")
            .expect("write");
        let head: Vec<String> =
            io.by_ref().lines().map(|line| line.expect("read")).take_while(|line| !line.is_empty()).collect();
        assert!(head[0].contains(" 101 "), "{head:?}");
        let number = head.iter().find_map(|line| line.strip_prefix("pilot-stream: ")).expect("a number");
        Self { number: number.parse().expect("a number"), io }
    }

    /// The socket itself, for who does what no program should.
    pub fn socket(&mut self) -> &mut UnixStream {
        self.io.get_mut()
    }

    pub fn send(&mut self, text: &str) {
        self.io.get_mut().write_all(text.as_bytes()).expect("write");
    }

    /// Reads as many bytes as `text` has; they have to be the same.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let mut received = vec![0; text.len()];
        self.io.read_exact(&mut received).expect("read");
        assert_eq!(String::from_utf8_lossy(&received), text);
    }

    /// Ends this side, and leaves the other as it is.
    pub fn finish(&mut self) {
        self.io.get_mut().shutdown(Shutdown::Write).expect("open");
    }

    /// Reads what is left until the other side's end.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.io.read_to_string(&mut rest).expect("read");
        rest
    }

    /// What the daemon knows of the stream.
    #[track_caller]
    pub fn status(&self, home: &Home, agent: &str) -> Value {
        status(home, agent, self.number)
    }
}

/// What the daemon of `agent` knows of its stream of that number.
#[track_caller]
pub fn status(home: &Home, agent: &str, number: u64) -> Value {
    let mut io = connect(home, agent);
    write!(io, "GET /v1/streams/{number} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("write");
    let mut reply = String::new();
    io.read_to_string(&mut reply).expect("read");
    let (_, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{reply}"));
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {reply}"))
}

#[track_caller]
fn connect(home: &Home, agent: &str) -> UnixStream {
    UnixStream::connect(home.agent_path(agent, "api.sock")).expect("the local API")
}
