//! Who the router at home is: the default gateway, and the address by which it knows this machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crab_nat::GATEWAY_PORT;

/// Where a mapping is asked for, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) gateway: Ipv4Addr,
    /// This machine towards it, and the port of the agent's socket.
    pub(super) client: SocketAddr,
}

impl Place {
    /// The place of this moment; none without a default gateway, or if the agent's socket is bound to an address that the gateway does not lead to.
    pub(super) fn now(listen: SocketAddr) -> Option<Self> {
        let gateway = default_gateway()?;
        let ip = towards(gateway).ok()?;
        let is_heard = listen.ip().is_unspecified() || listen.ip() == ip;
        is_heard.then(|| Self { gateway, client: SocketAddr::new(ip, listen.port()) })
    }
}

/// The address that the system sends from to the gateway. Nothing is sent.
fn towards(gateway: Ipv4Addr) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((gateway, GATEWAY_PORT))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(target_os = "linux")]
fn default_gateway() -> Option<Ipv4Addr> {
    in_table(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// Other systems do not say it in a file: there is no port mapping.
#[cfg(not(target_os = "linux"))]
fn default_gateway() -> Option<Ipv4Addr> {
    None
}

/// The gateway of the default route with the smallest metric, in the table of `/proc/net/route`: name, destination, gateway, flags, references,
/// use, metric, mask, with addresses as the machine's memory has them.
#[cfg(any(target_os = "linux", test))]
fn in_table(table: &str) -> Option<Ipv4Addr> {
    /// The route is up, and leads to a gateway.
    const UP_AND_GATEWAY: u32 = 0x3;
    let hex = |field: &str| u32::from_str_radix(field, 16).ok();
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, flags, _, _, metric, mask, ..] = fields[..] else { return None };
        let is_default = hex(destination)? == 0 && hex(mask)? == 0;
        let leads_on = hex(flags)? & UP_AND_GATEWAY == UP_AND_GATEWAY;
        let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes());
        (is_default && leads_on).then_some((metric.parse::<u32>().ok()?, gateway))
    };
    table.lines().filter_map(route).min().map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_that_the_system_prefers_names_the_gateway() {
        let hex = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let (one, two, mask) = (hex([192, 0, 2, 1]), hex([192, 0, 2, 2]), hex([255, 255, 255, 0]));
        let none = hex([0, 0, 0, 0]);
        let heading = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT";
        let worse = format!("wlan0 {none} {two} 0003 0 0 600 {none} 0 0 0");
        let better = format!("eth0 {none} {one} 0003 0 0 100 {none} 0 0 0");
        let local = format!("eth0 {one} {none} 0001 0 0 0 {mask} 0 0 0");
        let down = format!("eth1 {none} {two} 0002 0 0 0 {none} 0 0 0");
        let table = [heading, &worse, &better, &local, &down].join("\n");
        assert_eq!(in_table(&table), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(in_table(&[heading, &local, &down].join("\n")), None);
        assert_eq!(in_table("eth0 x y z"), None);
    }
}
