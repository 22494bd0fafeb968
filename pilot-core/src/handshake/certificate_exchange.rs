//! How an initiator without a current certificate gets one, in one round trip (spec/handshake.md §5).
//!
//! Answering needs no state and sends less than it was sent. The answer is believed for its signature; the nonce only keeps out
//! packets of those who did not see the question.

use crate::handshake::HandshakeError;
use crate::id::{IdentityKey, SessionIndex};
use crate::identity::Certificate;
use crate::time::UnixTime;
use crate::wire::handshake::{Cert, CertRequest, Mac1Key};

/// The datagram that asks the owner of `identity` for its certificate.
pub fn certificate_request(identity: &IdentityKey, nonce: [u8; 8]) -> Vec<u8> {
    CertRequest { nonce }.encode(&Mac1Key::new(identity))
}

/// The answer to a CERT_REQUEST.
///
/// # Errors
/// If it is malformed or for another identity.
pub fn answer_certificate_request(datagram: &[u8], own: &Certificate) -> Result<Vec<u8>, HandshakeError> {
    let request = CertRequest::decode(datagram, &Mac1Key::new(&own.identity))?.ok_or(HandshakeError::Mac1)?;
    Ok(Cert { nonce: request.nonce, certificate: &own.encode() }.encode())
}

/// The answer to an INIT under a transport key that is not in use any more.
pub fn answer_stale_init(initiator: SessionIndex, own: &Certificate) -> Vec<u8> {
    Cert { nonce: Cert::nonce_for(initiator), certificate: &own.encode() }.encode()
}

/// Checks that a CERT answers the question with this nonce and holds a good certificate of `identity`.
pub fn accept_certificate(
    datagram: &[u8],
    nonce: [u8; 8],
    identity: &IdentityKey,
    now: UnixTime,
) -> Result<Certificate, HandshakeError> {
    let answer = Cert::decode(datagram)?;
    if answer.nonce != nonce {
        return Err(HandshakeError::Unasked);
    }
    if Certificate::claimed_identity(answer.certificate) != *identity {
        return Err(HandshakeError::ForeignIdentity);
    }
    Ok(Certificate::verify(answer.certificate, now)?)
}
