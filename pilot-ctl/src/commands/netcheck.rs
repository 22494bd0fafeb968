//! `pilotctl netcheck` (spec/cli.md §5.14).

use clap::Args;
use pilot_daemon::api::network::{
    Family, Filtering, Lifetime, Mapping, MappingKind, MappingProtocol, MappingState, NetCheck, PortMapping, Relay,
};

use crate::context::Context;
use crate::hint::Result;
use crate::output::milliseconds;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pilotctl netcheck
  pilotctl netcheck --json | jq -r .mapping.kind

A mapping that is endpoint-independent, or none, lets others reach this agent directly. One that
depends on the destination can be met by most others too, with more effort. Without UDP everything
goes through the backbone, over TLS.")]
pub(crate) struct NetCheckArgs {}

pub(crate) async fn run(_args: &NetCheckArgs, context: &Context) -> Result<()> {
    let found = context.daemon().await?.netcheck().await?;
    context.output.result(&found, || lines(&found))
}

fn lines(found: &NetCheck) -> String {
    let udp = match found.udp {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown (there is no backbone to ask)",
    };
    let mut lines = vec![
        format!("UDP: {udp}"),
        format!("IPv4: {}", family(&found.ipv4)),
        format!("IPv6: {}", family(&found.ipv6)),
        format!("Mapping: {}", mapping(&found.mapping)),
        format!("Filtering: {}", filtering(found.filtering)),
        format!("Mapping lifetime: {}", lifetime(found.mapping_lifetime)),
        format!("Port mapping: {}", port_mapping(&found.port_mapping)),
    ];
    if found.relays.is_empty() {
        lines.push("Relay: none".to_owned());
    }
    lines.extend(found.relays.iter().map(|relay| format!("Relay: {}", self::relay(relay))));
    lines.extend(found.findings.iter().map(|finding| format!("Finding: {}", finding.message)));
    lines.join("\n")
}

fn family(family: &Family) -> String {
    match (family.answered, family.observed) {
        (Some(true), Some(observed)) => format!("yes, seen at {observed}"),
        (Some(true), None) => "yes".to_owned(),
        (Some(false) | None, _) if family.local.is_empty() => "no address".to_owned(),
        (Some(false), _) => "no answer".to_owned(),
        (None, _) => "unknown (no server of this family is known)".to_owned(),
    }
}

/// In the words of RFC 4787 §4.1.
fn mapping(mapping: &Mapping) -> String {
    match (mapping.kind, mapping.step, mapping.ports) {
        (MappingKind::None, ..) => "none (there is no NAT)".to_owned(),
        (MappingKind::Independent, ..) => "endpoint-independent".to_owned(),
        (MappingKind::PortIndependent, ..) => {
            "one port for the backbone, unknown for others (needs a STUN server at a second address)".to_owned()
        }
        (MappingKind::Sequence, Some(step), _) => format!("by destination, ports in sequence ({step:+})"),
        (MappingKind::Sequence, ..) => "by destination, ports in sequence".to_owned(),
        (MappingKind::Random, _, Some(ports)) => format!("by destination, one of {ports} ports at random"),
        (MappingKind::Random, ..) => "by destination, ports at random".to_owned(),
        (MappingKind::Unknown, ..) => match mapping.reason {
            Some(reason) => format!("unknown ({})", reason.phrase()),
            None => "unknown".to_owned(),
        },
    }
}

fn filtering(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::Unknown => "unknown (needs a second address)",
    }
}

fn lifetime(lifetime: Lifetime) -> String {
    let keepalive = format!("keepalive every {} s", lifetime.keepalive_s);
    match lifetime.at_least_s {
        Some(seconds) => format!("at least {seconds} s ({keepalive})"),
        None => format!("not measured yet ({keepalive})"),
    }
}

fn port_mapping(mapping: &PortMapping) -> String {
    let protocol = match mapping.protocol {
        Some(MappingProtocol::Pcp) => " by PCP",
        Some(MappingProtocol::NatPmp) => " by NAT-PMP",
        Some(MappingProtocol::Upnp) => " by UPnP",
        None => "",
    };
    match (mapping.state, mapping.address, &mapping.reason) {
        (MappingState::Mapped, Some(address), _) => format!("{address}{protocol}"),
        (MappingState::Mapped, None, _) => format!("yes{protocol}"),
        (MappingState::None, _, Some(reason)) => format!("none ({reason})"),
        (MappingState::None, _, None) => "none".to_owned(),
        (MappingState::Off, ..) => "off".to_owned(),
        (MappingState::Asking, ..) => "the router is being asked".to_owned(),
        (MappingState::Unneeded, ..) => "not needed (no NAT is known)".to_owned(),
        (MappingState::Unknown, ..) => "unknown (no backbone sees this agent by UDP)".to_owned(),
    }
}

fn relay(relay: &Relay) -> String {
    let place = relay.remote.map_or_else(|| relay.key.clone(), |remote| remote.to_string());
    let path = relay.path.map(|path| format!(", {path}")).unwrap_or_default();
    let home = if relay.home { " (home)" } else { "" };
    let rtt = relay.rtt_ms.map(|rtt_ms| format!(", {}", milliseconds(rtt_ms))).unwrap_or_default();
    format!("{place}{home}{path}{rtt}")
}

#[cfg(test)]
mod tests {
    use pilot_daemon::api::network::MappingGap;

    use super::*;

    #[test]
    fn what_nobody_has_told_is_unknown_and_no_guess() {
        let unknown = NetCheck {
            udp: None,
            ipv4: Family::default(),
            ipv6: Family { local: vec!["2001:db8::1".parse().expect("an address")], ..Family::default() },
            observed_address: None,
            mapping: Mapping::default(),
            filtering: Filtering::Unknown,
            mapping_lifetime: Lifetime { at_least_s: None, keepalive_s: 25 },
            port_mapping: PortMapping::default(),
            relays: Vec::new(),
            findings: Vec::new(),
        };
        let expected = "UDP: unknown (there is no backbone to ask)
IPv4: no address
IPv6: unknown (no server of this family is known)
Mapping: unknown
Filtering: unknown (needs a second address)
Mapping lifetime: not measured yet (keepalive every 25 s)
Port mapping: unknown (no backbone sees this agent by UDP)
Relay: none";
        assert_eq!(lines(&unknown), expected);
    }

    #[test]
    fn a_measured_mapping_tells_how_long_it_lasts_at_least() {
        let measured = Lifetime { at_least_s: Some(150), keepalive_s: 120 };
        assert_eq!(lifetime(measured), "at least 150 s (keepalive every 120 s)");
    }

    #[test]
    fn a_sequence_tells_its_step_and_a_lottery_its_tickets() {
        let sequence = Mapping { kind: MappingKind::Sequence, step: Some(-2), ..Mapping::default() };
        assert_eq!(mapping(&sequence), "by destination, ports in sequence (-2)");
        let random = Mapping { kind: MappingKind::Random, ports: Some(256), ..Mapping::default() };
        assert_eq!(mapping(&random), "by destination, one of 256 ports at random");
    }

    #[test]
    fn an_unknown_mapping_says_what_was_found_out() {
        let unknown = |reason| mapping(&Mapping { reason: Some(reason), ..Mapping::default() });
        assert_eq!(unknown(MappingGap::NotAsked), "unknown (no backbone sees this agent by UDP)");
        assert_eq!(unknown(MappingGap::NoAnswer), "unknown (no second STUN server answers)");
        assert_eq!(unknown(MappingGap::NoSockets), "unknown (the system gives no further sockets to ask from)");
    }
}
