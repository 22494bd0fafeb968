//! `netlab mtu`: which packets are sent where longer ones vanish. Two agents exchange a megabyte over lines of some MTU, and what arrives at
//! the host of the one that is called is measured: nobody is asked. Lines of the lab say nothing when a packet is too long, as routers do
//! whose ICMP is dropped; gateways of the kernel say so.

use std::time::Duration;

use pilot_sim::link::LinkConfig;
use pilot_sim::meeting::{DIRECT_WITHIN, Network, Pair};

use super::agents::Agents;
use super::engine::Punctuality;
use super::lab::MTU;
use super::nats::{GATEWAYS, Ground, Site, access};
use super::router::Way;
use super::{Findings, Rig};
use crate::error::BenchError;
use crate::exchange::on_this_thread;

/// Bytes that are to arrive.
const LEN: usize = 1_000_000;
/// How soon: a black hole costs a few probe timeouts.
const ARRIVED_WITHIN: Duration = Duration::from_secs(20);
/// How soon a direct path that has failed is in use again (spec/paths.md §2).
const DIRECT_AGAIN_WITHIN: Duration = Duration::from_secs(10);
/// Headers of IPv4 and UDP.
const HEADERS_LEN: u16 = 28;
/// That of Ethernet with long frames.
const JUMBO: u16 = 9_000;
/// The least that IPv6 asks of a line (RFC 8200 §5).
const LEAST: u16 = 1_280;

/// What stands between two agents.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    ground: Ground,
    interfaces: u16,
    line: u16,
    /// What the line is after the first bytes have arrived.
    later: Option<u16>,
    /// The longest datagram that is to be found (spec/paths.md §5), at last.
    found: usize,
}

const CASES: [Case; 9] = [
    case("Ethernet", MTU, MTU, 1_452),
    case("PPPoE behind Ethernet", MTU, 1_492, 1_452),
    case("a tunnel behind Ethernet", MTU, 1_400, 1_357),
    case("the least behind Ethernet", MTU, LEAST, 1_231),
    case("the least", LEAST, LEAST, 1_231),
    case("long frames", JUMBO, JUMBO, 8_952),
    case("Ethernet behind long frames", JUMBO, MTU, 1_452),
    Case { later: Some(LEAST), ..case("Ethernet, then the least", MTU, MTU, 1_231) },
    Case { ground: Ground::Kernel, ..case("the least behind Ethernet, and routers that say so", MTU, LEAST, 1_231) },
];

const fn case(name: &'static str, interfaces: u16, line: u16, found: usize) -> Case {
    Case { name, ground: Ground::Emulated, interfaces, line, later: None, found }
}

/// Tries every case.
///
/// # Errors
/// If a lab could not be built.
pub(crate) fn run(rig: &Rig) -> Result<Findings, BenchError> {
    let mut page = String::from(
        "| between two agents | MTU of interfaces | of the line | longest datagram | 1 MB, s |\n| --- | --- | --- | --- | --- |\n",
    );
    let (mut wrong, mut least_punctual) = (Vec::new(), Punctuality::default());
    for case in CASES {
        let Case { name, interfaces, line, .. } = case;
        match on_this_thread(through(rig, case)) {
            Ok((longest, time, punctuality)) => {
                least_punctual = least_punctual.worse(punctuality);
                let row = format!("| {name} | {interfaces} | {line} | {longest} | {:.2} |\n", time.as_secs_f64());
                eprint!("{row}");
                page += &row;
                if longest != case.found {
                    wrong.push(format!("{name}: {longest} bytes instead of {}", case.found));
                }
            }
            Err(error) => {
                page += &format!("| {name} | {interfaces} | {line} | | no |\n");
                wrong.push(format!("{name}: {error}"));
            }
        }
    }
    page += &format!("\nThe least punctual of the labs: {}.\n", least_punctual.sentence());
    Ok(Findings { page, wrong })
}

/// The longest datagram that arrived, how long the bytes took, and how well the lab kept time.
async fn through(rig: &Rig, case: Case) -> Result<(usize, Duration, Punctuality), BenchError> {
    let pair = Pair::Apart(Network::PortRestricted, Network::PortRestricted);
    let lines = [(); 2].map(|()| access().mtu(datagram_len(case.line)));
    let site = Site { ground: case.ground, lines, mtu: case.interfaces, ..Site::new(pair) };
    let agents = Agents::start(&rig.pilotctl, &site, rig.seed)?;
    let agents = agents.ok_or_else(|| BenchError::Wrong("the daemons did not start".to_owned()))?;
    if case.ground == Ground::Kernel {
        GATEWAYS.iter().try_for_each(|name| agents.lab.host(name).set_mtu(case.line))?;
    }
    agents.rest().await;
    if agents.meet(rig.slack * DIRECT_WITHIN, rig.strays_max()).await?.direct.is_none() {
        return Err(BenchError::Wrong("not direct".to_owned()));
    }
    let mut time = agents.transfer(LEN, rig.slack * ARRIVED_WITHIN).await?;
    if let Some(later) = case.later {
        agents.shrink_lines(later);
        time = agents.transfer(LEN, rig.slack * ARRIVED_WITHIN).await?;
        // The direct path may have failed with its long packets: it is proved again, and only what comes then counts.
        agents.meet(rig.slack * DIRECT_AGAIN_WITHIN, rig.strays_max()).await?;
        agents.take_longest();
        agents.transfer(LEN, rig.slack * ARRIVED_WITHIN).await?;
    }
    Ok((agents.take_longest(), time, agents.lab.engine.punctuality()))
}

impl Agents {
    /// Gives both lines a smaller MTU.
    fn shrink_lines(&self, mtu: u16) {
        let gateways = self.gateways;
        self.lab.engine.with(move |router| {
            for gateway in gateways.into_iter().flatten() {
                for way in [Way::Up, Way::Down] {
                    router.change_link(gateway, way, |line: LinkConfig| line.mtu(datagram_len(mtu)));
                }
            }
        });
    }

    /// Bytes of the longest datagram that has come to the called agent's host since this was asked last.
    fn take_longest(&self) -> usize {
        let called = self.called.host.node;
        self.lab.engine.with(move |router| router.take_longest(called))
    }
}

/// The longest datagram that a line carries.
fn datagram_len(mtu: u16) -> usize {
    usize::from(mtu - HEADERS_LEN)
}
