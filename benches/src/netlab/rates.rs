//! `netlab rates`: how fast the paths are that pairs of networks end on. Sixteen megabytes go from one agent's program to the other's, over lines
//! that have a delay and nothing else; what limits them is the machine, which emulates the network, too.

use std::time::Duration;

use pilot_sim::meeting::{DIRECT_WITHIN, Expected, Network, Pair};

use super::agents::Agents;
use super::engine::Punctuality;
use super::nats::Site;
use super::{Findings, Rig};
use crate::error::BenchError;
use crate::exchange::on_this_thread;

/// Long against slow start.
const LEN: usize = 16_000_000;
/// How soon the bytes are to be there: at a megabit a second they are.
const ARRIVED_WITHIN: Duration = Duration::from_secs(128);
/// One pair for each kind of path.
const PAIRS: [(Network, Network, &str); 6] = [
    (Network::Open, Network::Open, "direct"),
    (Network::PortRestricted, Network::PortRestricted, "direct, through two NATs"),
    (Network::Ipv6Only, Network::Ipv6Only, "direct, IPv6"),
    (Network::Random, Network::Random, "relayed"),
    (Network::PortRestricted, Network::Blocked, "relayed, one end by TLS over TCP"),
    (Network::Blocked, Network::Blocked, "relayed, both ends by TLS over TCP"),
];

/// What came of a pair.
struct Outcome {
    is_direct: bool,
    arrived: Result<Duration, BenchError>,
    punctuality: Punctuality,
}

/// Measures one pair after the other.
///
/// # Errors
/// If a lab could not be built.
pub(crate) fn run(rig: &Rig) -> Result<Findings, BenchError> {
    let mut page = String::from("| pair | path | 16 MB, s | Mbit/s |\n| --- | --- | --- | --- |\n");
    let (mut wrong, mut least_punctual) = (Vec::new(), Punctuality::default());
    for (one, other, path) in PAIRS {
        let pair = Pair::Apart(one, other);
        let outcome = on_this_thread(measure(rig, pair))?;
        let row = format!("| {one}, {other} | {path} | {} |\n", outcome.cells());
        eprint!("{row}");
        page += &row;
        wrong.extend(outcome.wrong(pair).into_iter().map(|what| format!("{one}, {other}: {what}")));
        least_punctual = least_punctual.worse(outcome.punctuality);
    }
    page += &format!("\nThe least punctual of the labs: {}.\n", least_punctual.sentence());
    Ok(Findings { page, wrong })
}

async fn measure(rig: &Rig, pair: Pair) -> Result<Outcome, BenchError> {
    let agents = Agents::start(&rig.pilotctl, &Site::new(pair), rig.seed)?;
    let agents = agents.ok_or_else(|| BenchError::Wrong(format!("{pair:?}: the daemons did not start")))?;
    agents.rest().await;
    let met = agents.meet(rig.slack * DIRECT_WITHIN, rig.strays_max()).await?;
    let arrived = agents.transfer(LEN, rig.slack * ARRIVED_WITHIN).await;
    Ok(Outcome { is_direct: met.direct.is_some(), arrived, punctuality: agents.lab.engine.punctuality() })
}

impl Outcome {
    fn cells(&self) -> String {
        match &self.arrived {
            Ok(time) => {
                let seconds = time.as_secs_f64();
                format!("{seconds:.2} | {:.0}", LEN as f64 * 8.0 / 1e6 / seconds)
            }
            Err(_) => "no | ".to_owned(),
        }
    }

    fn wrong(&self, pair: Pair) -> Vec<String> {
        let is_as_expected = self.is_direct == (pair.expected() != Expected::Relay);
        let other_path = (!is_as_expected).then(|| format!("direct: {}, which it should not be", self.is_direct));
        other_path.into_iter().chain(self.arrived.as_ref().err().map(ToString::to_string)).collect()
    }
}
