//! NATs of the kernel, as rules of nftables: the ground truth beside the emulated ones. A real table of connections behaves in ways that
//! nobody would think of when he writes an emulator.

use pilot_sim::link::LinkConfig;
use pilot_sim::meeting::Network;

use super::lab::{INSIDE, Plan};

/// Those that there are rules for.
pub(crate) const NETWORKS: [Network; 7] = [
    Network::FullCone,
    Network::AddressRestricted,
    Network::PortRestricted,
    Network::Answering,
    Network::AddressDependent,
    Network::Sequential,
    Network::Random,
];
/// Ports that a sequence goes through before it begins again.
const SEQUENCE: std::ops::Range<u16> = 20_000..22_000;

/// What the rules of one NAT have that those of others have not.
#[derive(Default)]
struct Behaviour {
    /// Maps and sets.
    tables: &'static str,
    /// What is noted of a packet that goes out.
    note: &'static str,
    /// Where one that comes in goes, if it belongs to nothing that is known.
    inbound: &'static str,
    /// The outside address of one that goes out; without it, the kernel's own choice.
    outbound: Option<String>,
    /// Which of those that come in pass, besides answers.
    admit: &'static str,
    /// Whether the router answers strangers who call itself.
    answers: bool,
}

/// Plans a host behind a gateway of the kernel. `number` makes its addresses its own.
pub(crate) fn plan(network: Network, plan: &mut Plan, names: [&'static str; 2], number: u8, line: &LinkConfig) {
    let [gateway, host] = names;
    let public = format!("198.51.100.{number}");
    plan.gateway(gateway, &public, rules(network, &public), line);
    plan.host_behind(host, gateway, &format!("192.168.{number}.2"));
}

/// The NAT of that kind, between `eth0` outside and hosts inside.
///
/// # Panics
/// If there are no rules for it ([`NETWORKS`]).
pub(crate) fn rules(network: Network, public: &str) -> String {
    let Behaviour { tables, note, inbound, outbound, admit, answers } = behaviour(network, public);
    let outbound = outbound.unwrap_or_else(|| "masquerade".to_owned());
    let strangers = if answers { "accept" } else { "drop" };
    format!(
        r#"
table ip lab {{
    {tables}
    chain note {{
        type filter hook postrouting priority 99;
        {note}
    }}
    chain inbound {{
        type nat hook prerouting priority dstnat;
        {inbound}
    }}
    chain outbound {{
        type nat hook postrouting priority srcnat;
        oifname "eth0" meta l4proto udp {outbound}
        oifname "eth0" meta l4proto tcp masquerade
    }}
    chain pass {{
        type filter hook forward priority filter; policy drop;
        iifname "{INSIDE}*" accept
        ct state established,related accept
        {admit}
    }}
    chain own {{
        type filter hook input priority filter; policy {strangers};
        iifname "{INSIDE}*" accept
        ct state established,related accept
    }}
}}
"#
    )
}

/// Endpoint-independent mapping: where a port leads is noted as often as it is used, since chains of the kind `nat` see only the first
/// packet of a flow.
fn cone() -> Behaviour {
    Behaviour {
        tables: r"map inside {
        type inet_service : ipv4_addr . inet_service
        flags dynamic,timeout
    }
    set called {
        type ipv4_addr . inet_service . ipv4_addr
        flags dynamic,timeout
    }",
        note: r#"oifname "eth0" meta l4proto udp update @inside { udp sport timeout 120s : ip saddr . udp sport }
        oifname "eth0" meta l4proto udp update @called { ip saddr . udp sport . ip daddr timeout 120s }"#,
        inbound: r#"iifname "eth0" meta l4proto udp dnat to udp dport map @inside"#,
        ..Behaviour::default()
    }
}

fn behaviour(network: Network, public: &str) -> Behaviour {
    match network {
        Network::FullCone => Behaviour { admit: "ct status dnat accept", ..cone() },
        Network::AddressRestricted => {
            Behaviour { admit: r#"iifname "eth0" ip daddr . udp dport . ip saddr @called accept"#, ..cone() }
        }
        Network::PortRestricted => Behaviour::default(),
        Network::Answering => Behaviour { answers: true, ..Behaviour::default() },
        Network::AddressDependent => {
            let ports = "jhash ip saddr . udp sport . ip daddr mod 50000 seed 0x5eed offset 10000";
            Behaviour { outbound: Some(format!("snat to {public} : {ports}")), ..Behaviour::default() }
        }
        Network::Sequential => {
            // A number would be taken in the byte order of the host: a map tells each port as it is.
            let ports: Vec<_> = SEQUENCE.zip(0..).map(|(port, count)| format!("{count} : {port}")).collect();
            let ports = format!("numgen inc mod {} map {{ {} }}", SEQUENCE.len(), ports.join(", "));
            Behaviour { outbound: Some(format!("snat to {public} : {ports}")), ..Behaviour::default() }
        }
        Network::Random => Behaviour { outbound: Some("masquerade fully-random".to_owned()), ..Behaviour::default() },
        Network::Open
        | Network::PortSet
        | Network::Double
        | Network::DoubleRandom
        | Network::Blocked
        | Network::Ipv6Only
        | Network::Dual
        | Network::BrokenIpv6 => panic!("no rules for {network}"),
    }
}
