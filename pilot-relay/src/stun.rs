//! The STUN server: Binding requests, answered with the address they came from (RFC 8489; spec/backbone.md §2).
//!
//! It is stateless and open to strangers, so it answers only well-formed requests, and with too little to be of use for reflection: a
//! response has at most [`RESPONSE_LEN_MAX`] bytes, and each source prefix has a [`RATE`]. With RESPONSE-PORT (RFC 5780 §7.5) it answers to
//! another port of the address that has asked, by a response that is no longer than the request: so an agent finds out how long its NAT
//! keeps a mapping.

use std::net::SocketAddr;

use bytecodec::{DecodeExt, EncodeExt};
use pilot_core::time::Mono;
use stun_codec::rfc5389::attributes::{ErrorCode, Fingerprint, Software, UnknownAttributes, XorMappedAddress};
use stun_codec::rfc5389::{Attribute, methods};
use stun_codec::{Attribute as _, AttributeType, Message, MessageClass, MessageDecoder, MessageEncoder, TransactionId};

use crate::limits::{PrefixLimiter, Rate};

/// A Binding request has few attributes; the decoder's work grows with the square of their number.
pub const REQUEST_LEN_MAX: usize = 548;
/// Header, XOR-MAPPED-ADDRESS of IPv6, SOFTWARE, FINGERPRINT; or header, ERROR-CODE, UNKNOWN-ATTRIBUTES, SOFTWARE, FINGERPRINT.
pub const RESPONSE_LEN_MAX: usize = 112;
/// Each source prefix may ask so often: a network behind one address checks its mapping every 25 s, so this serves hundreds of hosts.
pub const RATE: Rate = Rate { per_second: 50, burst: 200 };

/// Value of SOFTWARE in our responses; without a version, which would only help an attacker (RFC 8489 §16.1.2).
const SOFTWARE: &str = "Pilot";
/// Unknown attributes that a 420 response lists.
const UNKNOWN_ATTRIBUTES_MAX: usize = 8;
/// Fixed part of every message (RFC 8489 §5).
const HEADER_LEN: usize = 20;
/// RFC 8489 §14.8.
const UNKNOWN_ATTRIBUTE: u16 = 420;
/// RFC 5780 §7.5: a port, with or without its padding.
const RESPONSE_PORT: u16 = 0x0027;

/// Why a STUN datagram has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// Not a STUN message, or its FINGERPRINT does not match.
    #[error("malformed STUN message")]
    Malformed,
    /// A response, an indication, or another method.
    #[error("not a Binding request")]
    NotBindingRequest,
    /// It wants an answer at another port that would be longer than itself.
    #[error("too short for an answer at another port")]
    TooShort,
    /// The source prefix asked too often.
    #[error("too many STUN requests from this prefix")]
    RateLimited,
}

/// The server: answers within a rate.
#[derive(Debug)]
pub struct StunServer {
    limiter: PrefixLimiter,
}

impl StunServer {
    /// A server with the default [`RATE`].
    pub fn new() -> Self {
        Self { limiter: PrefixLimiter::new(RATE) }
    }

    /// Answers a datagram from `remote`: to which port of that address, and what.
    ///
    /// # Errors
    /// [`StunError`] when it is to be dropped.
    pub fn handle_datagram(
        &mut self,
        now: Mono,
        remote: SocketAddr,
        datagram: &[u8],
    ) -> Result<(u16, Vec<u8>), StunError> {
        if !self.limiter.take(now, remote.ip()) {
            return Err(StunError::RateLimited);
        }
        respond(remote, datagram)
    }
}

impl Default for StunServer {
    fn default() -> Self {
        Self::new()
    }
}

/// The response to one datagram, if it is a well-formed Binding request.
fn respond(remote: SocketAddr, datagram: &[u8]) -> Result<(u16, Vec<u8>), StunError> {
    let request = decode(datagram)?;
    if request.class() != MessageClass::Request || request.method() != methods::BINDING {
        return Err(StunError::NotBindingRequest);
    }
    let unknown = unknown_required(&request);
    if !unknown.is_empty() {
        let error = unknown_attribute_error(request.transaction_id(), unknown);
        return Ok((remote.port(), encode(&request, with_software(error))));
    }
    let success = success(request.transaction_id(), remote);
    match response_port(&request)? {
        None => Ok((remote.port(), encode(&request, with_software(success)))),
        Some(port) => {
            let response = encode(&request, success);
            if response.len() > datagram.len() { Err(StunError::TooShort) } else { Ok((port, response)) }
        }
    }
}

/// The port to which the response is to go, if that is not where the request came from.
fn response_port(request: &Message<Attribute>) -> Result<Option<u16>, StunError> {
    let mut attributes = request.unknown_attributes();
    let Some(attribute) = attributes.find(|attribute| attribute.get_type().as_u16() == RESPONSE_PORT) else {
        return Ok(None);
    };
    match *attribute.value() {
        [high, low] | [high, low, _, _] if (high, low) != (0, 0) => Ok(Some(u16::from_be_bytes([high, low]))),
        _ => Err(StunError::Malformed),
    }
}

fn with_software(mut response: Message<Attribute>) -> Message<Attribute> {
    response.add_attribute(Software::new(SOFTWARE.to_owned()).expect("within the length of RFC 8489 §14.14"));
    response
}

/// The bytes of a response, with FINGERPRINT if the request has it.
fn encode(request: &Message<Attribute>, mut response: Message<Attribute>) -> Vec<u8> {
    if request.get_attribute::<Fingerprint>().is_some() {
        let fingerprint = Fingerprint::new(&response).expect("our own response encodes");
        response.add_attribute(fingerprint);
    }
    MessageEncoder::new().encode_into_bytes(response).expect("our own response encodes")
}

/// Decodes after the checks of RFC 8489 §6.3: lengths, and with the codec the magic cookie, attributes and FINGERPRINT.
fn decode(datagram: &[u8]) -> Result<Message<Attribute>, StunError> {
    if !(HEADER_LEN..=REQUEST_LEN_MAX).contains(&datagram.len()) {
        return Err(StunError::Malformed);
    }
    let attributes_len = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
    if attributes_len != datagram.len() - HEADER_LEN || attributes_len % 4 != 0 {
        return Err(StunError::Malformed);
    }
    match MessageDecoder::new().decode_from_bytes(datagram) {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(_)) | Err(_) => Err(StunError::Malformed),
    }
}

/// The comprehension-required attributes that we do not comprehend (RFC 8489 §6.3.1).
fn unknown_required(request: &Message<Attribute>) -> Vec<AttributeType> {
    let types = request.unknown_attributes().map(|attribute| attribute.get_type());
    let is_unknown = |kind: &AttributeType| kind.is_comprehension_required() && kind.as_u16() != RESPONSE_PORT;
    types.filter(is_unknown).take(UNKNOWN_ATTRIBUTES_MAX).collect()
}

fn success(transaction_id: TransactionId, remote: SocketAddr) -> Message<Attribute> {
    let mut response = Message::new(MessageClass::SuccessResponse, methods::BINDING, transaction_id);
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    response.add_attribute(XorMappedAddress::new(remote));
    response
}

fn unknown_attribute_error(transaction_id: TransactionId, unknown: Vec<AttributeType>) -> Message<Attribute> {
    let mut response = Message::new(MessageClass::ErrorResponse, methods::BINDING, transaction_id);
    let error = ErrorCode::new(UNKNOWN_ATTRIBUTE, "Unknown Attribute".to_owned()).expect("a code of RFC 8489 §14.8");
    response.add_attribute(error);
    response.add_attribute(UnknownAttributes::new(unknown));
    response
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use pilot_core::stun;
    use stun_codec::Method;

    use super::*;

    const REMOTE: &str = "192.0.2.1:32853";
    /// Binding request, no attributes, transaction id of RFC 5769 §2.1.
    const BARE_REQUEST: &[u8] = &[
        0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xA4, 0x42, 0xB7, 0xE7, 0xA7, 0x01, 0xBC, 0x34, 0xD6, 0x86, 0xFA, 0x87,
        0xDF, 0xAE,
    ];

    fn remote() -> SocketAddr {
        REMOTE.parse().unwrap()
    }

    fn request_with(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = BARE_REQUEST.to_vec();
        bytes[3] = u8::try_from(attributes.len()).unwrap();
        bytes.extend_from_slice(attributes);
        bytes
    }

    fn request_with_fingerprint() -> Vec<u8> {
        let mut request =
            Message::<Attribute>::new(MessageClass::Request, methods::BINDING, TransactionId::new([7; 12]));
        request.add_attribute(Fingerprint::new(&request).unwrap());
        MessageEncoder::new().encode_into_bytes(request).unwrap()
    }

    fn decoded(bytes: &[u8]) -> Message<Attribute> {
        MessageDecoder::new().decode_from_bytes(bytes).unwrap().unwrap()
    }

    #[test]
    fn responses_are_those_of_the_vectors() {
        let mut exchanges = 0;
        for line in include_str!("../../spec/vectors/stun.txt").lines().filter(|line| !line.starts_with('#')) {
            let [from, request, response, ref port @ ..] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            let [request, response] = [request, response].map(|hex| HEXLOWER.decode(hex.as_bytes()).unwrap());
            let from: SocketAddr = from.parse().unwrap();
            let port = port.first().map_or(from.port(), |port| port.parse().unwrap());
            assert_eq!(respond(from, &request), Ok((port, response)), "{line}");
            exchanges += 1;
        }
        assert_eq!(exchanges, 5);
    }

    #[test]
    fn a_binding_request_learns_where_it_came_from() {
        let (port, response) = respond(remote(), BARE_REQUEST).unwrap();
        assert_eq!(port, remote().port());
        // XOR-MAPPED-ADDRESS of 192.0.2.1:32853, as in RFC 5769 §2.2.
        let xor_mapped = [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        assert_eq!(&response[..2], [0x01, 0x01]);
        assert_eq!(&response[4..20], &BARE_REQUEST[4..20]);
        assert_eq!(&response[20..32], xor_mapped);
        assert_eq!(decoded(&response).get_attribute::<Software>().unwrap().description(), SOFTWARE);
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_told_as_ipv4() {
        let mapped = "[::ffff:192.0.2.1]:32853".parse().unwrap();
        assert_eq!(respond(mapped, BARE_REQUEST), respond(remote(), BARE_REQUEST));
    }

    #[test]
    fn every_truncation_is_dropped() {
        let request = request_with_fingerprint();
        for len in 0..request.len() {
            assert_eq!(respond(remote(), &request[..len]), Err(StunError::Malformed), "length {len}");
        }
    }

    #[test]
    fn every_bit_flip_of_a_request_with_fingerprint_is_dropped() {
        let request = request_with_fingerprint();
        assert!(decoded(&respond(remote(), &request).unwrap().1).get_attribute::<Fingerprint>().is_some());
        for bit in 0..request.len() * 8 {
            let mut flipped = request.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let answer = respond(remote(), &flipped);
            // A flip in the type of FINGERPRINT makes it another attribute, and the message one without fingerprint.
            assert!(answer.is_err() || (20..22).contains(&(bit / 8)), "bit {bit}");
        }
    }

    #[test]
    fn an_unknown_required_attribute_is_error_420() {
        // CHANGE-REQUEST (RFC 5780), which only servers with two addresses know.
        let response = decoded(&respond(remote(), &request_with(&[0x00, 0x03, 0x00, 0x04, 0, 0, 0, 6])).unwrap().1);
        assert_eq!(response.class(), MessageClass::ErrorResponse);
        assert_eq!(response.get_attribute::<ErrorCode>().unwrap().code(), 420);
        assert_eq!(response.get_attribute::<UnknownAttributes>().unwrap().unknowns(), [AttributeType::new(3)]);
    }

    #[test]
    fn an_answer_at_another_port_goes_to_the_askers_address_and_is_no_longer_than_what_was_asked() {
        let asked = stun::request_to_port(&[7; 12], 40_000);
        for remote in [REMOTE, "[2001:db8::1]:1"].map(|remote| remote.parse().unwrap()) {
            let (port, response) = respond(remote, &asked).unwrap();
            assert_eq!(port, 40_000);
            assert!(response.len() <= asked.len());
            assert_eq!(stun::response(&response), Ok(([7; 12], remote)));
        }
        // 0x0027: RESPONSE-PORT, here alone, so that the answer would be longer.
        assert_eq!(respond(remote(), &request_with(&[0, 0x27, 0, 4, 0x9c, 0x40, 0, 0])), Err(StunError::TooShort));
        let nowhere = request_with(&[0, 0x27, 0, 4, 0, 0, 0, 0, 0x80, 0x22, 0, 0]);
        assert_eq!(respond(remote(), &nowhere), Err(StunError::Malformed));
        // What it does not comprehend besides, it says to who has asked.
        let unknown = request_with(&[0, 0x27, 0, 4, 0x9c, 0x40, 0, 0, 0, 3, 0, 4, 0, 0, 0, 6]);
        let (port, error) = respond(remote(), &unknown).unwrap();
        assert_eq!((port, decoded(&error).class()), (remote().port(), MessageClass::ErrorResponse));
    }

    #[test]
    fn an_unknown_optional_attribute_is_ignored() {
        let answer = respond(remote(), &request_with(&[0x80, 0x99, 0x00, 0x03, 1, 2, 3, 0])).unwrap();
        assert_eq!(decoded(&answer.1).class(), MessageClass::SuccessResponse);
    }

    #[test]
    fn responses_and_other_methods_are_not_answered() {
        for (class, method) in [
            (MessageClass::SuccessResponse, methods::BINDING),
            (MessageClass::Indication, methods::BINDING),
            (MessageClass::Request, Method::new(3).unwrap()),
        ] {
            let message = Message::<Attribute>::new(class, method, TransactionId::new([7; 12]));
            let bytes = MessageEncoder::new().encode_into_bytes(message).unwrap();
            assert_eq!(respond(remote(), &bytes), Err(StunError::NotBindingRequest));
        }
    }

    #[test]
    fn no_response_is_longer_than_its_bound() {
        let many_unknown: Vec<u8> = (1..=40).flat_map(|i| [0x01, i, 0, 0]).collect();
        let (_, error) = respond(remote(), &request_with(&many_unknown)).unwrap();
        let mut longest =
            Message::<Attribute>::new(MessageClass::Request, methods::BINDING, TransactionId::new([7; 12]));
        longest.add_attribute(Fingerprint::new(&longest).unwrap());
        let longest = MessageEncoder::new().encode_into_bytes(longest).unwrap();
        let (_, success) = respond("[2001:db8::1]:1".parse().unwrap(), &longest).unwrap();
        assert!(error.len() + 8 <= RESPONSE_LEN_MAX, "{}", error.len());
        assert!(success.len() <= RESPONSE_LEN_MAX, "{}", success.len());
    }

    #[test]
    fn a_prefix_that_asks_too_often_is_not_answered() {
        let mut server = StunServer::new();
        let answered = (0..1_000).filter(|_| server.handle_datagram(Mono(0), remote(), BARE_REQUEST).is_ok()).count();
        assert_eq!(answered as u64, RATE.burst);
        assert_eq!(server.handle_datagram(Mono(0), remote(), BARE_REQUEST), Err(StunError::RateLimited));
    }
}
