//! PORTS: which ports the sender's NAT gives to its sockets (spec/streams.md §1, spec/paths.md §7).

use bytes::BufMut;

use super::{Frame, kind};
use crate::wire::codec::{DecodeError, Reader};
use crate::wire::varint;

/// Codes of the kinds.
const RANDOM: u8 = 0;
const SEQUENCE: u8 = 1;

/// Ports that have these bits in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    mask: u16,
    value: u16,
}

/// What is known of the ports that a NAT will give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Nobody knows which of a set.
    Random {
        /// The set.
        set: PortSet,
        /// Sockets that wait for the peer there; none if this only announces that the ports are random.
        sockets: u64,
    },
    /// Each new one this far behind the one before.
    Sequence {
        /// The next one; 0 if this only announces that there is a sequence.
        next: u16,
        /// How far; never 0.
        step: i16,
    },
}

impl PortSet {
    /// The ports that agree with `value` in the bits of `mask`.
    pub fn new(mask: u16, value: u16) -> Self {
        Self { mask, value: value & mask }
    }

    /// How many ports it has.
    pub fn ports_len(self) -> u32 {
        1 << self.mask.count_zeros()
    }

    /// The port at this position of the set, counted modulo its length.
    pub fn port(self, position: u32) -> u16 {
        let free = (0..u16::BITS).filter(|bit| self.mask & 1 << bit == 0);
        let bits = free.enumerate().map(|(nth, bit)| ((position >> nth & 1) << bit) as u16);
        bits.fold(self.value, |port, bit| port | bit)
    }
}

pub(super) fn decode_ports<'a>(reader: &mut Reader<'a>) -> Result<Frame<'a>, DecodeError> {
    let generation = reader.varint()?;
    let ports = match reader.u8()? {
        RANDOM => {
            let (mask, value) = (reader.u16()?, reader.u16()?);
            if value & !mask != 0 {
                return Err(DecodeError::Invalid("port set"));
            }
            Ports::Random { set: PortSet { mask, value }, sockets: reader.varint()? }
        }
        SEQUENCE => {
            let (next, step) = (reader.u16()?, reader.u16()?.cast_signed());
            if step == 0 {
                return Err(DecodeError::Invalid("port step"));
            }
            Ports::Sequence { next, step }
        }
        _ => return Err(DecodeError::Invalid("ports kind")),
    };
    Ok(Frame::Ports { generation, ports })
}

/// Appends PORTS.
pub fn put_ports(buf: &mut Vec<u8>, generation: u64, ports: Ports) {
    buf.push(kind::PORTS);
    varint::put(buf, generation);
    match ports {
        Ports::Random { set: PortSet { mask, value }, sockets } => {
            buf.put_u8(RANDOM);
            buf.put_u16(mask);
            buf.put_u16(value);
            varint::put(buf, sockets);
        }
        Ports::Sequence { next, step } => {
            buf.put_u8(SEQUENCE);
            buf.put_u16(next);
            buf.put_i16(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_each_of_its_ports_once() {
        let set = PortSet::new(0x03fc, 0x00d0);
        assert_eq!(set.ports_len(), 256);
        let ports: std::collections::BTreeSet<_> = (0..set.ports_len()).map(|position| set.port(position)).collect();
        assert_eq!(ports.len(), 256);
        assert!(ports.iter().all(|port| port & 0x03fc == 0x00d0));
        assert_eq!((PortSet::default().ports_len(), PortSet::default().port(65_535)), (65_536, 65_535));
    }
}
