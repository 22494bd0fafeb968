//! Every kind of network meets every other: the first ping is answered at once, by the relay if need be, and a direct path carries what
//! follows wherever theory allows. Judged by what the relay forwards, not by what the agents say of themselves.

use std::time::Duration;

use pilot_sim::invariants::Failure;
use pilot_sim::link::LinkConfig;
use pilot_sim::meeting::{DIRECT_FOR, DIRECT_WITHIN, Meeting, Network, Outcome, Pair};
use pilot_sim::nat::Hairpin;

/// One way: what lies between two places of one continent.
const DELAY: Duration = Duration::from_millis(20);
/// A round trip from agent to agent by the relay.
const RELAYED_ROUND_TRIP: Duration = Duration::from_millis(80);
/// The first ping is answered within this.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500 + 2 * 80);

/// What theory says of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Direct.
    Direct,
    /// Direct with effort: prediction, or a birthday volley.
    Effort,
    /// By the relay.
    Relay,
}

/// The easiest class that a network is as good as.
fn class(network: Network) -> Network {
    let is_home = [Network::Double, Network::Dual, Network::BrokenIpv6, Network::Answering].contains(&network);
    let is_lottery = [Network::DoubleRandom, Network::PortSet].contains(&network);
    if is_home {
        Network::PortRestricted
    } else if is_lottery {
        Network::Random
    } else {
        network
    }
}

fn has_ipv4(network: Network) -> bool {
    network != Network::Ipv6Only
}

fn has_ipv6(network: Network) -> bool {
    matches!(network, Network::Ipv6Only | Network::Dual)
}

fn expected(one: Network, other: Network) -> Expected {
    if has_ipv6(one) && has_ipv6(other) {
        return Expected::Direct;
    }
    if !(has_ipv4(one) && has_ipv4(other)) {
        return Expected::Relay;
    }
    // From here on by the class of the easier one, and of the harder one.
    let (easy, hard) = (class(one).min(class(other)), class(one).max(class(other)));
    let both = |network| easy == network && hard == network;
    if hard == Network::Blocked {
        Expected::Relay
    } else if easy < Network::PortRestricted || both(Network::PortRestricted) {
        Expected::Direct
    } else if easy == Network::PortRestricted || both(Network::Sequential) {
        Expected::Effort
    } else {
        Expected::Relay
    }
}

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
            let by_relay = answered_by_relay(1, pair)?;
            if outcome.answered > ANSWERED_WITHIN.min(by_relay) {
                broken.push(format!(
                    "{caller} to {callee}: answered after {:?}, by relay {by_relay:?}",
                    outcome.answered
                ));
            }
            let is_direct = outcome.direct.is_some();
            if is_direct == (expected(caller, callee) == Expected::Relay) {
                broken.push(format!(
                    "{caller} to {callee}: {:?}, direct {:?}",
                    expected(caller, callee),
                    outcome.direct
                ));
            }
        }
    }
    println!();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(DIRECT_WITHIN > RELAYED_ROUND_TRIP && DIRECT_FOR > DIRECT_WITHIN);
    Ok(())
}

#[test]
fn neighbours_meet() -> Result<(), Failure> {
    for (pair, is_direct) in [
        (Pair::SameNat(Hairpin::Off), true),
        (Pair::SameNat(Hairpin::ExternalSource), true),
        (Pair::SameNat(Hairpin::InternalSource), true),
        (Pair::SameCarrier(Hairpin::Off), false),
        (Pair::SameCarrier(Hairpin::ExternalSource), true),
        (Pair::SameSymmetricCarrier, false),
    ] {
        let outcome = meet(1, pair)?;
        println!("{pair:?}: direct {} ms, answered {} ms", millis(outcome.direct), outcome.answered.as_millis());
        assert_eq!(outcome.direct.is_some(), is_direct, "{pair:?}");
        assert!(outcome.answered <= ANSWERED_WITHIN.min(answered_by_relay(1, pair)?));
    }
    Ok(())
}
