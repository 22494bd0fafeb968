//! A STUN client (RFC 8489): Binding requests out of the node's own sockets, and the mapped address in what comes back.
//!
//! ```text
//! 0    type                    2    0x0001 request, 0x0101 success
//! 2    length of attributes    2
//! 4    magic cookie            4
//! 8    transaction id         12    ours; an answer without it is nobody's
//! 20   attributes                   type (2), length (2), value, padded to four bytes
//! ```
//!
//! A request with RESPONSE-PORT (RFC 5780 §7.5) is answered to that port of the asker's address, by an answer that is no longer than the
//! request: it has SOFTWARE beside, which makes it as long as an answer with an IPv6 address.

use std::net::{IpAddr, SocketAddr};

use crate::wire::codec::{DecodeError, Reader};

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const MAGIC_COOKIE: u32 = 0x2112_A442;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const RESPONSE_PORT: u16 = 0x0027;
const SOFTWARE: u16 = 0x8022;
/// Value of SOFTWARE where a request is to have a length: a multiple of four.
const SOFTWARE_VALUE: &[u8; 12] = b"Pilot's node";
const HEADER_LEN: usize = 20;

/// By which an answer is known to be one.
pub type TransactionId = [u8; 12];

/// A Binding request without attributes.
pub fn request(transaction: &TransactionId) -> Vec<u8> {
    header(transaction, 0)
}

/// A Binding request that is to be answered to another port of our address.
pub fn request_to_port(transaction: &TransactionId, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    // Two bytes and the padding of RFC 5780 §7.5.
    let attributes: [(u16, &[u8]); 2] = [(RESPONSE_PORT, &[high, low, 0, 0]), (SOFTWARE, SOFTWARE_VALUE)];
    let len: usize = attributes.iter().map(|(_, value)| 4 + value.len()).sum();
    let mut bytes = header(transaction, len as u16);
    for (attribute, value) in attributes {
        bytes.extend_from_slice(&attribute.to_be_bytes());
        bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

fn header(transaction: &TransactionId, attributes_len: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + usize::from(attributes_len));
    bytes.extend_from_slice(&BINDING_REQUEST.to_be_bytes());
    bytes.extend_from_slice(&attributes_len.to_be_bytes());
    bytes.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
    bytes.extend_from_slice(transaction);
    bytes
}

/// The transaction and the XOR-MAPPED-ADDRESS of a success response.
///
/// # Errors
/// If it is none, or not well-formed.
pub fn response(datagram: &[u8]) -> Result<(TransactionId, SocketAddr), DecodeError> {
    let mut reader = Reader::new(datagram);
    if reader.u16()? != BINDING_SUCCESS {
        return Err(DecodeError::Invalid("STUN message type"));
    }
    if usize::from(reader.u16()?) + HEADER_LEN != datagram.len() || reader.u32()? != MAGIC_COOKIE {
        return Err(DecodeError::Invalid("STUN header"));
    }
    let transaction = reader.array()?;
    while !reader.is_empty() {
        let attribute = reader.u16()?;
        let len = usize::from(reader.u16()?);
        let value = reader.bytes(len)?;
        if attribute == XOR_MAPPED_ADDRESS {
            return Ok((transaction, mapped_address(value, &transaction)?));
        }
        reader.bytes((4 - len % 4) % 4)?;
    }
    Err(DecodeError::Invalid("STUN response without a mapped address"))
}

/// The address under the mask of RFC 8489 §14.2.
fn mapped_address(value: &[u8], transaction: &TransactionId) -> Result<SocketAddr, DecodeError> {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(transaction);
    let mut reader = Reader::new(value);
    let family = reader.u16()? & 0xff;
    let port = reader.u16()? ^ u16::from_be_bytes([mask[0], mask[1]]);
    let ip = match family {
        1 => {
            let bytes: [u8; 4] = reader.array()?;
            IpAddr::from(std::array::from_fn::<u8, 4, _>(|at| bytes[at] ^ mask[at]))
        }
        2 => {
            let bytes: [u8; 16] = reader.array()?;
            IpAddr::from(std::array::from_fn::<u8, 16, _>(|at| bytes[at] ^ mask[at]))
        }
        _ => return Err(DecodeError::Invalid("STUN address family")),
    };
    reader.finish()?;
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER_PERMISSIVE;
    use proptest::prelude::*;

    use super::*;

    /// RFC 5769 §2.2 and §2.3: sample responses, with SOFTWARE before the address, MESSAGE-INTEGRITY and FINGERPRINT behind it.
    const SAMPLE_IPV4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a6430008001\
                               42b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
    const SAMPLE_IPV6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f17\
                               9bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";
    const TRANSACTION: TransactionId = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    fn bytes(hex: &str) -> Vec<u8> {
        HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).unwrap()
    }

    #[test]
    fn sample_responses_tell_their_mapped_addresses() {
        let ipv4 = "192.0.2.1:32853".parse().unwrap();
        assert_eq!(response(&bytes(SAMPLE_IPV4)), Ok((TRANSACTION, ipv4)));
        let ipv6 = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(response(&bytes(SAMPLE_IPV6)), Ok((TRANSACTION, ipv6)));
    }

    #[test]
    fn a_request_is_a_header_and_nothing_else() {
        let request = request(&TRANSACTION);
        assert_eq!(request, bytes("000100002112a442b7e7a701bc34d686fa87dfae"));
        assert!(response(&request).is_err());
    }

    #[test]
    fn a_request_to_another_port_names_it_and_is_as_long_as_its_answer() {
        let request = request_to_port(&TRANSACTION, 0x8055);
        let expected = "000100182112a442b7e7a701bc34d686fa87dfae0027000480550000\
                        8022000c50696c6f742773206e6f6465";
        assert_eq!(request, bytes(expected));
        let ipv6_answer_len = HEADER_LEN + 4 + 20;
        assert_eq!(request.len(), ipv6_answer_len);
    }

    #[test]
    fn every_truncation_is_refused() {
        let sample = bytes(SAMPLE_IPV4);
        assert!((0..sample.len()).all(|len| response(&sample[..len]).is_err()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_mean_something(datagram: Vec<u8>) {
            prop_assert!(response(&datagram).is_err() || datagram.len() > HEADER_LEN);
        }
    }
}
