//! Credit: what a stranger gets, what is earned, and the account of all tunnels.

use super::*;

/// First window of a tunnel (spec/streams.md §4).
const FIRST: u64 = 64 << 10;
const UPLOAD_LEN: usize = 3 << 20;

/// Hosts that each upload to host 1.
struct Uploads {
    pair: Pair,
    streams: Vec<(usize, StreamHandle, Bytes)>,
    /// Bytes that host 1 has read.
    read: usize,
    /// The most that host 1 has ever promised to keep.
    kept_max: u64,
    reads: bool,
}

impl Uploads {
    /// Host 1 has `cap`; 0, 2, 3 and 4 send.
    fn new(cap: u64, senders: &[usize], streams_each: usize) -> Self {
        let mut pair = Pair::strangers();
        pair.hosts[1] = host(1, 2, START, Config::new(Role::Agent).credit(cap));
        for which in 2..IDENTITIES.len() {
            pair.hosts.push(host(which, which as u8 + 1, START, Config::new(Role::Agent)));
        }
        let mut streams = Vec::new();
        for &which in senders {
            pair.introduce(which, 1);
            let peer = pair.key(1);
            for _ in 0..streams_each {
                let header = StreamHeader::new(ServicePort::ECHO);
                let stream = pair.hosts[which].node.open_stream(START, &peer, &header).expect("a stream");
                streams.push((which, stream, Bytes::from(vec![7; UPLOAD_LEN])));
            }
        }
        Self { pair, streams, read: 0, kept_max: 0, reads: true }
    }

    fn run(&mut self, limit: Duration, is_done: impl Fn(&Self) -> bool) {
        let until = self.pair.now.mono + limit;
        while !is_done(self) && self.pair.now.mono < until {
            self.pair.step(until);
            for (which, stream, data) in &mut self.streams {
                if !data.is_empty() {
                    let _taken = self.pair.hosts[*which].node.write(self.pair.now, *stream, data);
                }
            }
            if self.reads {
                self.read_everything();
            }
            self.audit();
        }
    }

    fn read_everything(&mut self) {
        let opened: Vec<_> = self.pair.hosts[1]
            .events
            .iter()
            .filter_map(|event| if let Event::StreamOpened { stream, .. } = event { Some(*stream) } else { None })
            .collect();
        self.read += opened.into_iter().map(|stream| self.pair.read_all(1, stream).len()).sum::<usize>();
    }

    fn audit(&mut self) {
        let (node, now) = (&self.pair.hosts[1].node, self.pair.now.mono);
        node.audit_credit().expect("the account is right");
        assert!(node.audit(now).all(|(_, audit)| audit.data_kept_max <= audit.window));
        let kept = node.audit(now).map(|(_, audit)| audit.data_kept_max).sum();
        self.kept_max = self.kept_max.max(kept);
    }

    fn earned(&self, which: usize) -> u64 {
        let (node, key) = (&self.pair.hosts[1].node, self.pair.key(which));
        node.audit(self.pair.now.mono).find(|(peer, _)| *peer == key).expect("a tunnel").1.window - FIRST
    }
}

#[test]
fn a_stranger_that_is_not_read_from_holds_the_first_grant() {
    let mut uploads = Uploads::new(256 << 20, &[0], 8);
    uploads.reads = false;
    uploads.run(Duration::from_secs(3), |_| false);
    let audits: Vec<_> = uploads.pair.hosts[1].node.audit(uploads.pair.now.mono).collect();
    assert!(audits[0].1.data_received > FIRST / 2, "{}", audits[0].1.data_received);
    let headers = 8 * 4;
    assert!(uploads.kept_max <= FIRST && audits[0].1.data_received <= FIRST + headers);
    assert_eq!(uploads.earned(0), 0);
}

#[test]
fn all_tunnels_together_earn_no_more_than_the_cap() {
    let cap = 1 << 20;
    let mut uploads = Uploads::new(cap, &[0, 2, 3, 4], 1);
    let whole = 4 * UPLOAD_LEN;
    uploads.run(Duration::from_secs(20), |uploads| uploads.read == whole);
    assert_eq!(uploads.read, whole);
    assert!(uploads.kept_max > 4 * FIRST && uploads.kept_max <= cap + 4 * FIRST, "{}", uploads.kept_max);
    assert!([0, 2, 3, 4].iter().all(|&which| uploads.earned(which) > 0), "nobody is left out");
}

#[test]
fn what_a_tunnel_has_earned_goes_back_when_it_ends() {
    let mut uploads = Uploads::new(1 << 20, &[0, 2], 1);
    uploads.run(Duration::from_secs(20), |uploads| uploads.read == 2 * UPLOAD_LEN);
    let (leaves, stays) = (uploads.earned(0), uploads.earned(2));
    assert!(leaves > 0 && stays > 0);
    let before = uploads.pair.hosts[1].node.credit.granted();
    assert_eq!(before, leaves + stays);
    let key = uploads.pair.key(0);
    uploads.pair.hosts[1].node.close_peer(uploads.pair.now, &key, Code::SHUTDOWN, "");
    assert_eq!(uploads.pair.hosts[1].node.credit.granted(), stays);
    uploads.audit();
}
