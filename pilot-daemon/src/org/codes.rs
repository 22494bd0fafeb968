//! Codes that people read to each other (spec/org.md §6): a key exchange in two calls, and then the invite that the code stands for.

use std::sync::Arc;

use pilot_core::id::IdentityKey;
use pilot_core::node::PeerInfo;
use pilot_core::org::call::{Reply, Request};
use pilot_core::org::code::{Answer, Asker, Block, CODES_MAX, Ends, Word, WrongCode};
use pilot_core::org::invite::Invite;
use pilot_core::org::issuer::{EnrolError, Invites};
use pilot_core::time::UnixTime;

use super::calls::{call, unexpected};
use super::{Org, Orgs, failed};
use crate::agent::Inner;
use crate::api::types::{ApiError, ErrorCode};
use crate::home::entropy;

/// Gives a code for the invite that it stands for.
///
/// # Errors
/// If nobody answers, or whoever does has not made this code.
pub(crate) async fn ask(inner: &Inner, word: &Word, issuer: PeerInfo) -> Result<Invite, ApiError> {
    let ends = Ends { joiner: inner.identity.key(), issuer: issuer.key };
    let asker = Asker::new(word, &ends, &entropy()?);
    let (number, share) = (word.number(), asker.share());
    let first = call(inner, issuer.clone(), &Request::Code { number, share }).await.map_err(with_hint)?;
    let Reply::CodeShare { share: theirs, tag } = first else { return Err(unexpected()) };
    let tag = asker.confirm(&Answer { share: theirs, tag }).map_err(|WrongCode| wrong_code())?;
    let second = call(inner, issuer, &Request::CodeProof { number, share, tag }).await.map_err(with_hint)?;
    let Reply::Invited { invite } = second else { return Err(unexpected()) };
    let invite = invite.parse::<Invite>().ok().filter(|invite| invite.issuer.identity == ends.issuer);
    invite.ok_or_else(unexpected)
}

/// Answers the first half of a run. The try is on disk by then.
pub(super) async fn answer(
    inner: &Arc<Inner>,
    joiner: IdentityKey,
    (number, share): (u8, Block),
    now: UnixTime,
) -> Result<Reply, ApiError> {
    let ends = Ends { joiner, issuer: inner.identity.key() };
    let name = inner.orgs.of_code(number, now)?;
    let answered = attempt(inner, &name, |invites| invites.answer_code((number, &share), &ends, now)).await;
    let is_spent = |org: &mut Org| org.invites.codes(now).any(|code| code.number() == number && code.tries_left() == 0);
    if inner.orgs.with(&name, is_spent)? {
        tracing::warn!(org = name, ?joiner, "a code was tried as often as it may be");
    }
    let Answer { share, tag } = answered?;
    Ok(Reply::CodeShare { share, tag })
}

/// Answers the second half: with the invite, if the joiner has the code.
pub(super) async fn finish(
    inner: &Arc<Inner>,
    joiner: IdentityKey,
    (number, share, tag): (u8, Block, Block),
    now: UnixTime,
) -> Result<Reply, ApiError> {
    let ends = Ends { joiner, issuer: inner.identity.key() };
    let name = inner.orgs.of_code(number, now)?;
    let issuer = inner.ticket().await?;
    let (id, secret) = attempt(inner, &name, |invites| invites.finish_code((number, &share, &tag), &ends, now)).await?;
    let org = inner.orgs.with(&name, |org| org.roster.org())?;
    let invite = Invite { org, name, issuer, id, secret };
    Ok(Reply::Invited { invite: invite.to_string() })
}

/// Tries something with the invites of an organisation. What it changes is on disk when this returns; who asks in vain, however often, has
/// nothing written.
async fn attempt<T>(
    inner: &Inner,
    name: &str,
    attempt: impl Fn(&mut Invites) -> Result<T, EnrolError>,
) -> Result<T, ApiError> {
    let before = inner.orgs.with(name, |org| org.invites.clone())?;
    let mut after = before.clone();
    let result = attempt(&mut after);
    if after == before {
        return result.map_err(|error| refused(&error));
    }
    inner.orgs.change(name, |org| attempt(&mut org.invites).map_err(|error| refused(&error))).await
}

impl Orgs {
    /// The organisation that the code of that number leads to.
    fn of_code(&self, number: u8, now: UnixTime) -> Result<String, ApiError> {
        let table = self.table();
        let of_code = table.iter().find(|(_, org)| org.invites.codes(now).any(|code| code.number() == number));
        of_code.map(|(name, _)| name.clone()).ok_or_else(|| refused(&EnrolError::Code(WrongCode)))
    }

    /// A number that no open code of this agent has, the first from `start`. Whoever takes it holds `coding`.
    ///
    /// # Errors
    /// If all are taken.
    pub(crate) fn free_number(&self, start: u8, now: UnixTime) -> Result<u8, ApiError> {
        let table = self.table();
        let taken: Vec<_> = table.values().flat_map(|org| org.invites.codes(now)).map(|code| code.number()).collect();
        let numbers = (0..CODES_MAX).filter_map(|step| u8::try_from((usize::from(start) + step) % CODES_MAX).ok());
        numbers.into_iter().find(|number| !taken.contains(number)).ok_or_else(|| {
            failed(&format_args!("{CODES_MAX} codes are open, which is the most that there can be"))
                .hint("they end by themselves, soon")
        })
    }
}

fn refused(error: &EnrolError) -> ApiError {
    ApiError::new(ErrorCode::Refused, error.to_string())
}

fn wrong_code() -> ApiError {
    with_hint(refused(&EnrolError::Code(WrongCode)))
}

fn with_hint(error: ApiError) -> ApiError {
    if error.code != ErrorCode::Refused {
        return error;
    }
    error.hint(
        "ask for a new one: each is for one person, for a short time, and ends after three wrong tries. \
         If that fails too, somebody may be in between: use an invite instead",
    )
}
