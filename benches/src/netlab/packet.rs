//! IP packets as a router sees them: where they go, and how they are rewritten.
//!
//! A rewrite changes checksums by the difference only (RFC 1624), so that what was wrong stays wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pilot_core::wire::{self, PacketKind};

/// Numbers of the protocols that have ports.
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;

/// What a NAT keeps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Udp,
    Tcp,
}

/// A whole IPv4 or IPv6 packet that carries UDP or TCP. Others, and fragments, are not routed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    bytes: Vec<u8>,
    protocol: Protocol,
}

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, Debug)]
enum End {
    Source,
    Destination,
}

impl Packet {
    /// Takes what a host has sent; nothing, if it is nothing that this router carries.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (number, header_len) = match bytes.first()? >> 4 {
            4 if bytes.len() >= IPV4_HEADER_LEN && bytes[0] & 15 == 5 && !is_fragment(bytes) => {
                (bytes[9], IPV4_HEADER_LEN)
            }
            6 if bytes.len() >= IPV6_HEADER_LEN => (bytes[6], IPV6_HEADER_LEN),
            _ => return None,
        };
        let (protocol, transport_len) = match number {
            UDP => (Protocol::Udp, 8),
            TCP => (Protocol::Tcp, 20),
            _ => return None,
        };
        (bytes.len() >= header_len + transport_len).then(|| Self { bytes: bytes.to_vec(), protocol })
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What a link may damage: no address, and no port.
    pub(crate) fn payload_mut(&mut self) -> &mut [u8] {
        let start = self.transport() + 8;
        &mut self.bytes[start..]
    }

    pub(crate) fn source(&self) -> SocketAddr {
        self.end(End::Source)
    }

    pub(crate) fn destination(&self) -> SocketAddr {
        self.end(End::Destination)
    }

    /// Puts another source address in place, of the same family.
    pub(crate) fn set_source(&mut self, address: SocketAddr) {
        self.rewrite(End::Source, address);
    }

    /// Puts another destination address in place, of the same family.
    pub(crate) fn set_destination(&mut self, address: SocketAddr) {
        self.rewrite(End::Destination, address);
    }

    /// Bytes of a UDP packet behind its header; nothing for TCP.
    pub(crate) fn datagram_len(&self) -> Option<usize> {
        (self.protocol == Protocol::Udp).then(|| self.bytes.len() - self.transport() - 8)
    }

    /// Whether it may carry what a backbone node forwards: a packet of a circuit, or bytes of a TLS link, which nobody can look into.
    pub(crate) fn may_be_relayed(&self) -> bool {
        let transport = &self.bytes[self.transport()..];
        match self.protocol {
            Protocol::Udp => wire::peek(&transport[8..]) == Ok(PacketKind::Relay),
            Protocol::Tcp => transport.len() > usize::from(transport[12] >> 4) * 4,
        }
    }

    /// Makes the checksum right for the bytes that are there, so that damage passes for what was sent.
    pub(crate) fn make_checksum_right(&mut self) {
        let at = self.checksum_at();
        self.bytes[at..at + 2].fill(0);
        let transport = self.transport();
        let number = if self.protocol == Protocol::Udp { UDP } else { TCP };
        // The addresses stand right before the transport's header, in both families.
        let addresses = if self.is_v4() { 8 } else { 32 };
        let covered = &self.bytes[transport - addresses..];
        let words = covered.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
        let mut sum = words.sum::<u64>() + u64::from(number) + (covered.len() - addresses) as u64;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // Zero would mean that there is none (RFC 768).
        let checksum = Some(!u16::try_from(sum).expect("folded above")).filter(|sum| *sum != 0).unwrap_or(0xffff);
        self.bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The hop limit that is left.
    pub(crate) fn ttl(&self) -> u8 {
        if self.is_v4() { self.bytes[8] } else { self.bytes[7] }
    }

    /// Passes one router; tells whether the packet lives on.
    pub(crate) fn hop(&mut self) -> bool {
        let left = self.ttl().saturating_sub(1);
        if self.is_v4() {
            let before = self.bytes[8..10].to_vec();
            self.bytes[8] = left;
            let after = self.bytes[8..10].to_vec();
            self.update_checksum(10, &before, &after);
        } else {
            self.bytes[7] = left;
        }
        left > 0
    }

    fn is_v4(&self) -> bool {
        self.bytes[0] >> 4 == 4
    }

    fn transport(&self) -> usize {
        if self.is_v4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN }
    }

    fn checksum_at(&self) -> usize {
        self.transport() + if self.protocol == Protocol::Udp { 6 } else { 16 }
    }

    /// Where the address and the port of an end stand.
    fn fields(&self, end: End) -> (usize, usize, usize) {
        let (source, len) = if self.is_v4() { (12, 4) } else { (8, 16) };
        match end {
            End::Source => (source, len, self.transport()),
            End::Destination => (source + len, len, self.transport() + 2),
        }
    }

    fn end(&self, end: End) -> SocketAddr {
        let (at, len, port_at) = self.fields(end);
        let address = &self.bytes[at..at + len];
        let ip: IpAddr = match <[u8; 4]>::try_from(address) {
            Ok(v4) => Ipv4Addr::from(v4).into(),
            Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(address).expect("the length of an IPv6 address")).into(),
        };
        SocketAddr::new(ip, u16::from_be_bytes([self.bytes[port_at], self.bytes[port_at + 1]]))
    }

    fn rewrite(&mut self, end: End, address: SocketAddr) {
        let (at, len, port_at) = self.fields(end);
        let octets = match address.ip() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        assert_eq!(octets.len(), len, "a rewrite keeps the family");
        let before = [&self.bytes[at..at + len], &self.bytes[port_at..port_at + 2]].concat();
        let after = [&octets[..], &address.port().to_be_bytes()].concat();
        self.bytes[at..at + len].copy_from_slice(&octets);
        self.bytes[port_at..port_at + 2].copy_from_slice(&address.port().to_be_bytes());
        if self.is_v4() {
            self.update_checksum(10, &before[..4], &after[..4]);
        }
        let checksum_at = self.checksum_at();
        let has_none = self.protocol == Protocol::Udp && self.bytes[checksum_at..checksum_at + 2] == [0, 0];
        if !has_none {
            self.update_checksum(checksum_at, &before, &after);
        }
    }

    /// RFC 1624 §3, equation 3: the checksum after some words have changed.
    fn update_checksum(&mut self, at: usize, before: &[u8], after: &[u8]) {
        let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        let mut sum = !word(&self.bytes[at..at + 2]) & 0xffff;
        sum += before.chunks_exact(2).map(|pair| !word(pair) & 0xffff).sum::<u32>();
        sum += after.chunks_exact(2).map(word).sum::<u32>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let checksum = !u16::try_from(sum).expect("folded above");
        self.bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Whether this is a part of an IPv4 packet: it has an offset, or more follows.
fn is_fragment(bytes: &[u8]) -> bool {
    u16::from_be_bytes([bytes[6], bytes[7]]) & 0x3fff != 0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A UDP packet over IPv4 with right checksums.
    pub(crate) fn udp(source: &str, destination: &str, payload: &[u8]) -> Packet {
        let (source, destination): (SocketAddr, SocketAddr) = (source.parse().unwrap(), destination.parse().unwrap());
        let (IpAddr::V4(from), IpAddr::V4(to)) = (source.ip(), destination.ip()) else { panic!("IPv4") };
        let len = u16::try_from(IPV4_HEADER_LEN + 8 + payload.len()).unwrap();
        let mut bytes = vec![0x45, 0];
        bytes.extend(len.to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(destination.port().to_be_bytes());
        bytes.extend((len - 20).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        let header = checksum(&bytes[..20], 0);
        bytes[10..12].copy_from_slice(&header.to_be_bytes());
        let transport = udp_checksum(&bytes);
        bytes[26..28].copy_from_slice(&transport.to_be_bytes());
        Packet::parse(&bytes).unwrap()
    }

    fn checksum(bytes: &[u8], start: u32) -> u16 {
        let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
        let mut sum = start + words.sum::<u32>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn udp_checksum(bytes: &[u8]) -> u16 {
        let pseudo: u32 = bytes[12..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        checksum(&bytes[20..], pseudo + u32::from(UDP) + (bytes.len() - 20) as u32)
    }

    #[test]
    fn a_rewritten_packet_has_the_checksums_of_one_that_was_made_so() {
        let mut packet = udp("192.168.1.2:5000", "203.0.113.10:3478", b"odd");
        packet.set_source("198.51.100.1:40000".parse().unwrap());
        packet.set_destination("192.168.7.9:1".parse().unwrap());
        assert_eq!(packet, udp("198.51.100.1:40000", "192.168.7.9:1", b"odd"));
    }

    #[test]
    fn damage_survives_a_rewrite() {
        let mut packet = udp("192.168.1.2:5000", "203.0.113.10:3478", b"payload");
        packet.payload_mut()[0] ^= 1;
        packet.set_source("198.51.100.1:40000".parse().unwrap());
        let whole = udp("198.51.100.1:40000", "203.0.113.10:3478", b"qayload");
        assert_ne!(packet.bytes()[26..28], whole.bytes()[26..28], "the checksum tells");
        assert_eq!(packet.bytes()[28..], whole.bytes()[28..]);
    }

    #[test]
    fn damage_can_pass_for_what_was_sent() {
        let mut packet = udp("192.168.1.2:5000", "203.0.113.10:3478", b"payload");
        packet.payload_mut()[0] ^= 1;
        packet.make_checksum_right();
        assert_eq!(packet, udp("192.168.1.2:5000", "203.0.113.10:3478", b"qayload"));
    }

    #[test]
    fn a_packet_lives_as_many_hops_as_its_limit_says() {
        let mut packet = udp("192.168.1.2:5000", "203.0.113.10:3478", b"");
        assert_eq!((1..).take_while(|_| packet.hop()).count(), 63);
        assert_eq!(checksum(&packet.bytes()[..20], 0), 0);
    }

    #[test]
    fn what_is_no_whole_udp_or_tcp_packet_is_not_taken() {
        let whole = udp("192.168.1.2:5000", "203.0.113.10:3478", b"x");
        let with = |at: usize, byte: u8| {
            let mut bytes = whole.bytes().to_vec();
            bytes[at] = byte;
            Packet::parse(&bytes)
        };
        assert_eq!(Packet::parse(&[]), None);
        assert_eq!(Packet::parse(&whole.bytes()[..27]), None);
        assert_eq!(with(9, 1), None, "ICMP");
        assert_eq!(with(0, 0x46), None, "options");
        assert_eq!(with(6, 0x20), None, "a fragment");
        assert_eq!(with(0, 0x55), None, "no such version");
    }
}
