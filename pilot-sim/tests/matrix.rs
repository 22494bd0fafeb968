//! Every kind of network meets every other: the first ping is answered at once, by the relay if need be, and a direct path carries what
//! follows wherever theory allows. Judged by what the relay forwards, not by what the agents say of themselves.

use std::time::Duration;

use pilot_sim::invariants::Failure;
use pilot_sim::link::LinkConfig;
use pilot_sim::meeting::{DIRECT_FOR, DIRECT_WITHIN, Expected, Meeting, Network, Outcome, Pair, answered_within};

/// One way: what lies between two places of one continent.
const DELAY: Duration = Duration::from_millis(20);
/// A round trip from agent to agent by the relay.
const RELAYED_ROUND_TRIP: Duration = Duration::from_millis(80);

fn link() -> LinkConfig {
    LinkConfig::default().delay(DELAY)
}

fn meet(seed: u64, pair: Pair) -> Result<Outcome, Failure> {
    Meeting::new(seed, link(), pair, true)?.run()
}

/// As the relay alone would answer the first ping.
fn answered_by_relay(seed: u64, pair: Pair) -> Result<Duration, Failure> {
    Meeting::new(seed, link(), pair, false)?.ping()
}

/// What is not as theory says.
fn judge(pair: Pair, outcome: Outcome) -> Result<Vec<String>, Failure> {
    let mut broken = Vec::new();
    let by_relay = answered_by_relay(1, pair)?;
    if outcome.answered > answered_within(RELAYED_ROUND_TRIP).min(by_relay) {
        broken.push(format!("{pair:?}: answered after {:?}, by relay {by_relay:?}", outcome.answered));
    }
    if outcome.direct.is_some() == (pair.expected() == Expected::Relay) {
        broken.push(format!("{pair:?}: {:?}, direct {:?}", pair.expected(), outcome.direct));
    }
    Ok(broken)
}

fn millis(time: Option<Duration>) -> String {
    time.map_or_else(|| "relay".to_owned(), |time| time.as_millis().to_string())
}

#[test]
fn every_network_meets_every_other() -> Result<(), Failure> {
    let mut broken = Vec::new();
    println!("ms to direct, of the first answer in brackets; who calls stands left");
    print!("{:>4}", "");
    Network::ALL.iter().for_each(|callee| print!(" {callee:>11}"));
    for caller in Network::ALL {
        print!("\n{caller:>4}");
        for callee in Network::ALL {
            let pair = Pair::Apart(caller, callee);
            let outcome = meet(1, pair)?;
            print!(" {:>11}", format!("{} ({})", millis(outcome.direct), outcome.answered.as_millis()));
            broken.extend(judge(pair, outcome)?);
        }
    }
    println!();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(DIRECT_WITHIN > RELAYED_ROUND_TRIP && DIRECT_FOR > DIRECT_WITHIN);
    Ok(())
}

/// The same for the mapping that shows itself only to a second address, when nobody has named one: agents as they are by default.
#[test]
fn an_address_dependent_mapping_meets_whom_it_can_by_default() -> Result<(), Failure> {
    let mut broken = Vec::new();
    for other in Network::ALL {
        for pair in [Pair::Apart(Network::AddressDependent, other), Pair::Apart(other, Network::AddressDependent)] {
            let outcome = Meeting::by_default(1, link(), pair)?.run()?;
            println!("{pair:?}: direct {} ms, answered {} ms", millis(outcome.direct), outcome.answered.as_millis());
            broken.extend(judge(pair, outcome)?);
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    Ok(())
}

/// Within the life of a Linux router's mappings, behind that, and when keys have run out too.
const SILENCES: [Duration; 3] = [Duration::from_secs(40), Duration::from_secs(150), Duration::from_secs(600)];
/// Whom theory lets meet, by each of the ways to do so. A router that answers and has forgotten the flow takes the first packet for another one,
/// and so spoils it for the next.
const FRIENDS: [Pair; 9] = [
    Pair::Apart(Network::Open, Network::PortRestricted),
    Pair::Apart(Network::PortRestricted, Network::Open),
    Pair::Apart(Network::PortRestricted, Network::PortRestricted),
    Pair::Apart(Network::AddressDependent, Network::PortRestricted),
    Pair::Apart(Network::Sequential, Network::PortRestricted),
    Pair::Apart(Network::PortRestricted, Network::Random),
    Pair::Apart(Network::PortRestricted, Network::Answering),
    Pair::Apart(Network::Answering, Network::PortRestricted),
    Pair::Apart(Network::Answering, Network::Answering),
];

#[test]
fn a_pair_that_was_silent_goes_on_directly() -> Result<(), Failure> {
    let mut broken = Vec::new();
    for pair in FRIENDS {
        let mut meeting = Meeting::new(1, link(), pair, true)?;
        meeting.run()?;
        for silence in SILENCES {
            meeting.world.run_for(silence)?;
            let outcome = meeting.run()?;
            println!("{pair:?}, {silence:?}: direct {} ms", millis(outcome.direct));
            broken.extend(judge(pair, outcome)?.into_iter().map(|what| format!("after {silence:?}: {what}")));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    Ok(())
}

#[test]
fn neighbours_meet() -> Result<(), Failure> {
    let mut broken = Vec::new();
    for pair in Pair::NEIGHBOURS {
        let outcome = meet(1, pair)?;
        println!("{pair:?}: direct {} ms, answered {} ms", millis(outcome.direct), outcome.answered.as_millis());
        broken.extend(judge(pair, outcome)?);
    }
    assert!(broken.is_empty(), "{broken:#?}");
    Ok(())
}
