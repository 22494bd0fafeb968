//! STUN servers of the settings that lie: what an agent asks them for is what its NAT is like, and that is all that they can spoil
//! (spec/paths.md §7.1).

use super::*;
use crate::limits::{SAMPLES, STUN_TRIES};
use crate::mapping::{MappingGap, NatMapping};
use crate::wire::{self, PacketKind};

const LIAR: &str = "198.51.100.9:3478";
const VICTIM: &str = "203.0.113.66:53";
/// Time in which all that is asked is asked, and asked again.
const SURVEYED: Duration = Duration::from_secs(10);
/// The longest datagram of UDP over IPv4.
const DATAGRAM_LEN_MAX: usize = 65_507;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A success response to this request that says so, after other attributes.
fn success(request: &[u8], seen: SocketAddr, attributes: &[u8]) -> Vec<u8> {
    let SocketAddr::V4(seen) = seen else { panic!("IPv4 in these tests") };
    let port = (seen.port() ^ 0x2112).to_be_bytes();
    let ip: [u8; 4] = std::array::from_fn(|at| seen.ip().octets()[at] ^ request[4 + at]);
    let mapped = [&[0, 0x20, 0, 8, 0, 1][..], &port, &ip].concat();
    let len = u16::try_from(attributes.len() + mapped.len()).expect("a datagram").to_be_bytes();
    [&[1, 1][..], &len, &request[4..20], attributes, &mapped].concat()
}

/// Two agents at one backbone node. The first one asks a server that answers each request so, from its address.
fn asking(lie: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> Pair {
    let mut pair = Pair::by_relay();
    pair.hosts[0].node.set_stun_servers(pair.now, &[address(LIAR)]);
    let until = pair.now.mono + SURVEYED;
    let mut answered = 0;
    while pair.now.mono < until {
        pair.run_for(ONE_WAY);
        let asked: Vec<_> = pair.astray.iter().filter(|(to, _)| *to == address(LIAR)).cloned().collect();
        for (_, request) in &asked[answered..] {
            for answer in lie(request) {
                pair.deliver(0, address(LIAR), &answer);
            }
        }
        answered = asked.len();
        let events = std::mem::take(&mut pair.hosts[0].events);
        for event in &events {
            if let Event::OpenSockets(sockets) = event {
                pair.hosts[0].node.sockets_opened(pair.now, sockets);
            }
        }
    }
    assert!((1..=STUN_TRIES as usize).contains(&answered), "the liar was asked {answered} times");
    pair
}

/// What a server answers to a request.
type Lie = fn(&[u8]) -> Vec<Vec<u8>>;

fn lies() -> [(&'static str, Lie); 8] {
    [
        ("silence", |_| Vec::new()),
        ("a victim's address", |request| vec![success(request, address(VICTIM), &[])]),
        ("another transaction", |request| {
            let mut answer = success(request, address(VICTIM), &[]);
            answer[19] ^= 1;
            vec![answer]
        }),
        ("junk", |request| vec![Vec::new(), vec![0; 20], vec![0xff; 1_200], request.to_vec()]),
        ("an answer cut short", |request| vec![success(request, address(VICTIM), &[])[..28].to_vec()]),
        ("a huge answer", |request| {
            // SOFTWARE with a length that is a multiple of four, as often as it fits.
            let software = [&[0x80, 0x22, 0, 252][..], &[b'x'; 252]].concat();
            let filling = software.repeat((DATAGRAM_LEN_MAX - 64) / software.len());
            vec![success(request, address(VICTIM), &filling)]
        }),
        ("many answers", |request| {
            (1..=200).map(|port| success(request, SocketAddr::new(address(VICTIM).ip(), port), &[])).collect()
        }),
        ("port 0 of everywhere", |request| vec![success(request, address("0.0.0.0:0"), &[])]),
    ]
}

#[test]
fn a_lying_stun_server_names_no_candidate_and_draws_nothing_to_a_victim() {
    for (what, lie) in lies() {
        let mut pair = asking(lie);
        let own = pair.hosts[0].address;
        assert_eq!(pair.hosts[0].node.observed_address(), Some(own), "{what}: the home node's word counts");
        pair.exchange(0, 1, Duration::from_secs(1));
        pair.run_for(Duration::from_secs(5));
        assert_eq!(pair.path(0, 1), Some(PathKind::Direct(pair.hosts[1].address)), "{what}");
        assert_eq!(pair.path(1, 0), Some(PathKind::Direct(own)), "{what}");
        let victim = address(VICTIM).ip();
        assert!(pair.astray.iter().all(|(to, _)| to.ip() != victim && !to.ip().is_unspecified()), "{what}");
    }
}

/// It can make an easy NAT look hard. That costs eight sockets, which ask the home node and nobody else, and is over.
#[test]
fn a_lying_stun_server_costs_a_few_questions_and_no_more() {
    for (what, lie) in lies() {
        let pair = asking(lie);
        let asked = pair
            .log
            .iter()
            .filter(|(which, datagram)| {
                *which == 0 && datagram.starts_with(&[0, 1]) && wire::peek(datagram) == Ok(PacketKind::Stun)
            })
            .count();
        let asked_max = STUN_TRIES as usize * (2 + 2 + SAMPLES);
        assert!(asked <= asked_max, "{what}: {asked} questions");
        let node = &pair.hosts[0].node;
        assert!(!node.is_surveying() && !matches!(node.nat_mapping(), NatMapping::Sequence { .. }), "{what}");
    }
}

#[test]
fn what_a_survey_has_not_found_out_has_its_reason() {
    let strangers = Pair::strangers();
    assert_eq!(strangers.hosts[0].node.nat_mapping_gap(), Some(MappingGap::NotAsked), "there is no home node");
    let silent = asking(|_| Vec::new());
    assert_eq!(silent.hosts[0].node.nat_mapping_gap(), Some(MappingGap::NoAnswer));
    // It sees the main socket elsewhere, and the home node, which could tell of further sockets, answers no STUN here.
    let elsewhere = asking(|request| vec![success(request, address(VICTIM), &[])]);
    assert_eq!(elsewhere.hosts[0].node.nat_mapping_gap(), Some(MappingGap::SocketsUnanswered));
}

/// A system that has no more sockets keeps nobody from asking again later.
#[test]
fn a_survey_whose_sockets_are_refused_ends_and_is_tried_again() {
    let mut pair = Pair::by_relay();
    pair.hosts[0].node.set_stun_servers(pair.now, &[address(LIAR)]);
    pair.run_for(ONE_WAY);
    let asked = |pair: &Pair| pair.astray.iter().filter(|(to, _)| *to == address(LIAR)).cloned().collect::<Vec<_>>();
    let request = asked(&pair).pop().expect("asked").1;
    pair.deliver(0, address(LIAR), &success(&request, address(VICTIM), &[]));
    pair.run_for(Duration::from_millis(10));
    assert!(pair.has(0, |event| matches!(event, Event::OpenSockets(_))), "to see what the NAT does with them");
    assert_eq!(pair.hosts[0].node.nat_mapping_gap(), Some(MappingGap::Asking));
    pair.run_for(SURVEYED);
    assert!(!pair.hosts[0].node.is_surveying());
    assert_eq!(pair.hosts[0].node.nat_mapping_gap(), Some(MappingGap::NoSockets));
    let before = asked(&pair).len();
    pair.run_for(Duration::from_secs(60));
    assert!(asked(&pair).len() > before);
}
