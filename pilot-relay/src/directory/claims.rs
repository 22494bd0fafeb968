//! What a caller claims, checked: its records become an [`Operation`] on the store, or the reply that says why not.
//!
//! Nothing here looks at what is stored. Records are verified as any client would, so that no client has to refuse what is served, and each
//! caller speaks for its own key only.

use std::time::Duration;

use minicbor::bytes::ByteVec;
use pilot_core::id::{IdentityKey, Instance};
use pilot_core::org::charter::CHARTERS_MAX;
use pilot_core::record::{HandOver, IdentityRecord, PresenceRecord, RecordError, Withdrawal};
use pilot_core::time::UnixTime;
use pilot_core::wire::directory::{ErrorCode, Reply};

use super::error;
use crate::store::{KeepRules, Operation, Present, Registration};

/// What the records ask for, or why they are not taken.
pub(super) fn registration(
    now: UnixTime,
    caller: &IdentityKey,
    identity: Vec<u8>,
    presence: Vec<u8>,
) -> Result<Operation, Reply> {
    let registration = verify(now, identity, presence).map_err(|reason| bad_record(&reason))?;
    if registration.identity.key != *caller {
        return Err(error(ErrorCode::NotYours, "the records belong to another key"));
    }
    Ok(Operation::Register(Box::new(registration)))
}

/// What is withdrawn: the agent, or one instance of it.
pub(super) fn withdrawal(now: UnixTime, caller: &IdentityKey, signed: &[u8]) -> Result<Operation, Reply> {
    let withdrawal = Withdrawal::verify(signed, now).map_err(|reason| bad_record(&reason))?;
    let Withdrawal { key, sequence, instance, .. } = withdrawal;
    if key != *caller {
        return Err(error(ErrorCode::NotYours, "the withdrawal belongs to another key"));
    }
    Ok(match instance {
        Some(id) => Operation::Leave { instance: Instance { key, id }, sequence },
        None => Operation::Withdraw { key, sequence },
    })
}

/// The hand-over, if the caller is one of the two.
pub(super) fn hand_over(now: UnixTime, caller: &IdentityKey, signed: Vec<u8>) -> Result<Operation, Reply> {
    let record = HandOver::verify(&signed, now).map_err(|reason| bad_record(&reason))?;
    if record.from != *caller && record.to != *caller {
        return Err(error(ErrorCode::NotYours, "the hand-over is between two other keys"));
    }
    Ok(Operation::HandOver { record, bytes: signed.into() })
}

/// A list to be held, from whoever has it: the store judges it by what it holds of the organisation.
pub(super) fn rules(
    caller: &IdentityKey,
    org: IdentityKey,
    charters: Vec<ByteVec>,
    list: Vec<u8>,
    proof: Option<Vec<u8>>,
) -> Result<Operation, Reply> {
    if charters.len() > CHARTERS_MAX {
        return Err(error(ErrorCode::BadRequest, "an organisation has no more than 16 charters"));
    }
    let (list, proof) = (list.into(), proof.map(ByteVec::from));
    Ok(Operation::KeepRules(Box::new(KeepRules { org, by: *caller, charters, list, proof })))
}

/// Verifies both records as a client would, and converts their dates to our clock.
fn verify(now: UnixTime, identity_bytes: Vec<u8>, presence_bytes: Vec<u8>) -> Result<Registration, RecordError> {
    let identity = IdentityRecord::verify(&identity_bytes, now)?;
    let presence = PresenceRecord::verify(&presence_bytes, now)?;
    if presence.key != identity.key {
        return Err(RecordError::ForeignKey);
    }
    let address = identity.address().ok_or(RecordError::Address)?;
    let lease_until = until(now, identity.issued, identity.expires);
    let until = until(now, presence.issued, presence.expires);
    let presences = vec![Present { record: presence, bytes: presence_bytes, until }];
    Ok(Registration { identity, identity_bytes, address, presences, lease_until, hand_overs: Vec::new() })
}

/// When a validity of the same length ends if it begins now, by our clock.
fn until(now: UnixTime, issued: UnixTime, expires: UnixTime) -> UnixTime {
    now + Duration::from_nanos(expires.0.saturating_sub(issued.0))
}

fn bad_record(reason: &RecordError) -> Reply {
    error(ErrorCode::BadRequest, &reason.to_string())
}
