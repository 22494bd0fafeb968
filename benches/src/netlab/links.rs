//! `netlab links`: what bad links leave of a tunnel. The line of one of two agents is bad in both ways, from the start of its daemon on:
//! does a tunnel form, is a ping answered, does a megabyte arrive as it was sent?
//!
//! Losses come one by one, but for the last line, where they come in bursts. The first three are the worst that iroh's tests have (`iroh/tests/patchbay/degrade.rs`), of which it skips the second and the third as
//! "not yet passing reliably". Jitter lets packets overtake each other there and here.

use std::time::Duration;

use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::meeting::{Network, Pair};

use super::agents::Agents;
use super::engine::Punctuality;
use super::nats::{Site, access};
use super::{Findings, Rig};
use crate::error::BenchError;
use crate::exchange::on_this_thread;

/// Bytes that are to arrive.
const LEN: usize = 1_000_000;
/// How soon the first ping is to be answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
/// How soon a direct path is to be found. iroh's tests wait for 60 and 70 seconds.
const DIRECT_WITHIN: Duration = Duration::from_secs(60);
/// Relayed packets in ten seconds that are no traffic: two lost probes of a direct path in a row ask by the relay too (spec/paths.md §4). A ping
/// by the relay is two packets at least, and there are six in that time on the worst of these lines.
const STRAYS_MAX: u64 = 4;
/// How soon the bytes are to be there: a fifth of them gets lost on a way of a second and a half.
const ARRIVED_WITHIN: Duration = Duration::from_secs(600);

/// A bad line, and its name.
struct Bad {
    name: &'static str,
    line: LinkConfig,
}

/// One agent's line, and which.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Caller,
    Called,
}

/// What came through.
struct Outcome {
    answered: Option<Duration>,
    direct: Option<Duration>,
    arrived: Result<Duration, BenchError>,
    punctuality: Punctuality,
}

fn bad() -> [Bad; 6] {
    // The jitter is to both sides of the delay.
    let degraded = |delay: u64, jitter: u64, percent: u32| {
        LinkConfig::default()
            .delay(Duration::from_millis(delay - jitter))
            .overtaking_jitter(Duration::from_millis(2 * jitter))
            .loss(Chance::percent(percent))
            .reordering(Chance::percent(percent))
    };
    [
        Bad { name: "300 ± 80 ms, 8 % lost, 8 % out of order", line: degraded(300, 80, 8) },
        Bad { name: "500 ± 100 ms, 12 % lost, 12 % out of order", line: degraded(500, 100, 12) },
        Bad { name: "800 ± 200 ms, 20 % lost, 20 % out of order", line: degraded(800, 200, 20) },
        Bad { name: "10 % damaged, with right checksums", line: access().corruption(Chance::percent(10)) },
        Bad { name: "30 % twice", line: access().duplication(Chance::percent(30)) },
        Bad { name: "2 % lost, in bursts of 8 on average", line: access().burst_loss(Chance::percent(2), 8) },
    ]
}

/// Tries each bad line on either side.
///
/// # Errors
/// If a lab could not be built.
pub(crate) fn run(rig: &Rig, only: &[usize]) -> Result<Findings, BenchError> {
    let mut page = String::from(
        "| line | whose | first ping, ms | direct, ms | 1 MB, s | bytes/s |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    let (mut wrong, mut least_punctual) = (Vec::new(), Punctuality::default());
    let chosen = bad().into_iter().zip(1..).filter(|(_, number)| only.is_empty() || only.contains(number));
    for (Bad { name, line }, _) in chosen {
        for whose in [Whose::Caller, Whose::Called] {
            let outcome = on_this_thread(through(rig, whose, &line))?;
            let row = format!("| {name} | {whose:?} | {} |\n", outcome.cells());
            eprint!("{row}");
            page += &row;
            least_punctual = least_punctual.worse(outcome.punctuality);
            wrong.extend(outcome.wrong(rig.slack).into_iter().map(|what| format!("{name}, {whose:?}: {what}")));
        }
    }
    page += &format!("\nThe least punctual of the labs: {}.\n", least_punctual.sentence());
    Ok(Findings { page, wrong })
}

async fn through(rig: &Rig, whose: Whose, line: &LinkConfig) -> Result<Outcome, BenchError> {
    let mut site = Site::new(Pair::Apart(Network::PortRestricted, Network::PortRestricted));
    site.lines[match whose {
        Whose::Caller => 0,
        Whose::Called => 1,
    }] = line.clone();
    let agents = Agents::start(&rig.pilotctl, &site, rig.seed)?;
    let agents = agents.ok_or_else(|| BenchError::Wrong("the daemons did not start".to_owned()))?;
    agents.rest().await;
    let met = agents.meet(rig.slack * DIRECT_WITHIN, STRAYS_MAX).await?;
    let arrived = agents.transfer(LEN, rig.slack * ARRIVED_WITHIN).await;
    let punctuality = agents.lab.engine.punctuality();
    Ok(Outcome { answered: met.answered, direct: met.direct, arrived, punctuality })
}

impl Outcome {
    fn cells(&self) -> String {
        let millis = |time: Option<Duration>| time.map_or_else(|| "no".to_owned(), |time| time.as_millis().to_string());
        let arrived = match &self.arrived {
            Ok(time) => format!("{:.1} | {:.0}", time.as_secs_f64(), LEN as f64 / time.as_secs_f64()),
            Err(_) => "no | ".to_owned(),
        };
        format!("{} | {} | {arrived}", millis(self.answered), millis(self.direct))
    }

    fn wrong(&self, slack: u32) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.answered.is_none_or(|time| time > slack * ANSWERED_WITHIN) {
            wrong.push(format!("the first ping was answered after {:?}", self.answered));
        }
        if self.direct.is_none() {
            wrong.push("not direct".to_owned());
        }
        wrong.extend(self.arrived.as_ref().err().map(ToString::to_string));
        wrong
    }
}
