//! Routers that do what a test wants, on addresses of loopback that nobody else has. A real one is in `pilot-ctl/tests/namespaces.rs`.

use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::super::{Keeper, Report, Woken};
use super::*;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(11, 11, 11, 1);
const PORT: u16 = 41_641;
/// Where a mapping's lifetime stands in a request: PCP and NAT-PMP.
const LIFETIME_AT: [usize; 2] = [4, 8];

/// What a router answers that nobody has taught better.
type Lie = fn(&[u8]) -> Vec<u8>;
/// What a router was asked, in order.
type Asked = Arc<Mutex<Vec<Vec<u8>>>>;

/// A router at 127.53.51.`last`.
async fn router(last: u8, answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> (Place, Asked) {
    let gateway = Ipv4Addr::new(127, 53, 51, last);
    let socket = UdpSocket::bind((gateway, crab_nat::GATEWAY_PORT)).await.expect("all of 127/8 is this machine's");
    let asked = Asked::default();
    let asked_by_router = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 1_100];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let request = buffer[..len].to_vec();
            let reply = answer(&request);
            asked_by_router.lock().expect("no panic").push(request);
            if let Some(reply) = reply {
                socket.send_to(&reply, from).await.expect("sent");
            }
        }
    });
    (Place { gateway, client: SocketAddr::from(([127, 0, 0, 1], PORT)) }, asked)
}

fn number(request: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(request[at..at + 4].try_into().expect("four bytes"))
}

/// Grants a mapping by PCP (RFC 6887 §7.2, §11.1), or takes it back.
fn pcp(request: &[u8], external: Ipv4Addr, port: u16, lifetime: u32) -> Vec<u8> {
    let lifetime = number(request, LIFETIME_AT[0]).min(lifetime);
    [
        &[2, 0x81, 0, 0][..],
        &lifetime.to_be_bytes(),
        &[0; 16],
        &request[24..42],
        &port.to_be_bytes(),
        &external.to_ipv6_mapped().octets(),
    ]
    .concat()
}

/// Speaks NAT-PMP alone (RFC 6886 §3.2 to §3.5).
fn nat_pmp(request: &[u8], external: Ipv4Addr, port: u16) -> Vec<u8> {
    match request {
        [0, 0] => [&[0, 128, 0, 0, 0, 0, 0, 1][..], &external.octets()].concat(),
        [0, 1, ..] => [&[0, 129, 0, 0, 0, 0, 0, 1][..], &request[4..6], &port.to_be_bytes(), &request[8..12]].concat(),
        _ => vec![0, 0x81, 0, 1, 0, 0, 0, 1],
    }
}

async fn refusal(place: Place) -> Refusal {
    match Mapping::request(place).await {
        Ok((_, granted)) => panic!("granted: {granted:?}"),
        Err(refusal) => refusal,
    }
}

#[tokio::test]
async fn a_port_is_mapped_by_pcp_renewed_and_given_back() {
    let (place, asked) = router(1, |request| Some(pcp(request, PUBLIC, 7, 3_600))).await;
    let (mut mapping, granted) = Mapping::request(place).await.expect("granted");
    let expected = Granted {
        address: SocketAddr::from((PUBLIC, 7)),
        lifetime: Duration::from_secs(3_600),
        protocol: MappingProtocol::Pcp,
    };
    assert_eq!(granted, expected);
    assert_eq!(mapping.renew(place).await, Ok(expected));
    mapping.remove().await;
    let lifetimes: Vec<_> =
        asked.lock().expect("no panic").iter().map(|request| number(request, LIFETIME_AT[0])).collect();
    assert_eq!(lifetimes, [LIFETIME_S, 3_600, 0]);
}

#[tokio::test]
async fn a_router_that_speaks_nat_pmp_alone_is_asked_by_that() {
    let (place, asked) = router(2, |request| Some(nat_pmp(request, PUBLIC, PORT))).await;
    let (mut mapping, granted) = Mapping::request(place).await.expect("granted");
    assert_eq!((granted.address, granted.protocol), (SocketAddr::from((PUBLIC, PORT)), MappingProtocol::NatPmp));
    mapping.remove().await;
    let last = asked.lock().expect("no panic").pop().expect("asked");
    assert_eq!((last[1], number(&last, LIFETIME_AT[1])), (1, 0), "{last:?}");
}

#[tokio::test]
async fn a_router_that_hangs_holds_nobody_up_for_ever() {
    let (place, asked) = router(3, |_| None).await;
    assert_eq!(refusal(place).await, Refusal::Silent(place.gateway));
    assert_eq!(asked.lock().expect("no panic").len(), TIMING.max_retries + 1);
}

#[tokio::test]
async fn a_router_behind_another_nat_is_found_out_and_its_mapping_given_back() {
    let shared = Ipv4Addr::new(100, 64, 0, 7);
    let (place, asked) = router(4, move |request| Some(pcp(request, shared, PORT, LIFETIME_S))).await;
    assert_eq!(refusal(place).await, Refusal::NotPublic { router: place.gateway, external: shared.into() });
    assert_eq!(asked.lock().expect("no panic").last().map(|request| number(request, LIFETIME_AT[0])), Some(0));
}

#[tokio::test]
async fn a_mapping_that_lasts_no_minute_counts_as_none() {
    let (place, _) = router(5, |request| Some(pcp(request, PUBLIC, PORT, 59))).await;
    assert_eq!(refusal(place).await, Refusal::Refused(place.gateway));
}

#[tokio::test]
async fn answers_that_fit_no_question_are_refused() {
    let lies: [Lie; 5] = [
        |_| Vec::new(),
        |_| vec![0xff; 1_100],
        |request| pcp(request, PUBLIC, 0, LIFETIME_S),
        |request| {
            let mut another = pcp(request, PUBLIC, PORT, LIFETIME_S);
            another[24] ^= 1;
            another
        },
        |request| pcp(request, PUBLIC, PORT, LIFETIME_S)[..40].to_vec(),
    ];
    for (last, lie) in (10..).zip(lies) {
        let (place, _) = router(last, move |request| Some(lie(request))).await;
        assert_eq!(refusal(place).await, Refusal::Refused(place.gateway), "lie {last}");
    }
}

#[test]
fn only_addresses_that_others_can_send_to_are_candidates() {
    for private in [
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.1.1",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        assert!(!is_public(private.parse().expect("an address")), "{private}");
    }
    assert!(!is_public("2001:db8::1".parse().expect("an address")));
    assert!(is_public(PUBLIC.into()) && is_public([100, 128, 0, 1].into()));
}

/// The router of this test is never the default gateway, as one that was left behind.
#[tokio::test]
async fn a_mapping_of_a_router_that_was_left_behind_is_given_up_at_once() {
    let (place, asked) = router(12, |request| Some(pcp(request, PUBLIC, PORT, LIFETIME_S))).await;
    let (mapping, granted) = Mapping::request(place).await.expect("granted");
    let (commands, mut told) = mpsc::channel(4);
    let (observed, network, is_over) = (watch::Sender::default(), watch::Sender::default(), watch::Sender::new(false));
    let mut keeper = Keeper {
        commands: commands.downgrade(),
        listen: place.client,
        observed: observed.subscribe(),
        network: network.subscribe(),
        is_over: is_over.subscribe(),
        report: watch::Sender::default(),
    };
    let mut report = keeper.report.subscribe();
    let held = tokio::spawn(async move { keeper.hold(place, mapping, granted).await });
    assert!(told.recv().await.is_some(), "the node is told of the mapping");
    network.send_replace(vec![place.client]);
    assert!(told.recv().await.is_some(), "and of its end");
    let is_withdrawn = report.wait_for(|report| *report == Report::Unknown).await.is_ok();
    assert!(is_withdrawn && matches!(held.await.expect("no panic"), Woken::Moved));
    let last = asked.lock().expect("no panic").pop().expect("asked");
    assert_eq!(number(&last, LIFETIME_AT[0]), 0, "given back");
    drop((observed, is_over));
}
