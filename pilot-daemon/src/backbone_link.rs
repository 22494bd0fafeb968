//! The agent as a client of its backbone node: calls to the directory, and the registration that keeps it findable.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pilot_core::id::ServicePort;
use pilot_core::identity::Certificate;
use pilot_core::node::PeerInfo;
use pilot_core::record::{Home, IdentityRecord, Offer, PresenceRecord, RecordError};
use pilot_core::ticket::BackboneTicket;
use pilot_core::time::UnixTime;
use pilot_core::wire::directory::{REPLY_LEN_MAX, Reply, Request};
use pilot_core::wire::stream_header::StreamHeader;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::agent::{Inner, Profile};
use crate::api::types::{ApiError, ErrorCode, Transport};
use crate::clock;

/// A look-up that nobody answers fails after this, whatever the reason: who asked is told within 3 s, the way to here and back included.
const CALL_TIMEOUT: Duration = Duration::from_millis(2_500);
/// But not before so many round trips of the home tunnel: question and answer may be lost, and each is repaired after three (RFC 9002 §6.2).
const CALL_ROUND_TRIPS: u32 = 10;
/// Nor later than this: a local caller waits a second longer.
const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(9);
/// How long a name stays ours without a sign of life.
const NAME_LEASE: Duration = Duration::from_secs(3 * 86_400);
/// What the agent says of itself is signed anew after this, changed or not, long before it runs out. Refreshes in between repeat it to the
/// byte, so that the directory has nothing to write (spec/backbone.md §5).
const IDENTITY_RENEWAL: Duration = Duration::from_secs(86_400);
/// The same for an ephemeral agent, should it not be able to say goodbye: as long as its presence, and renewed with it.
const EPHEMERAL_LEASE: Duration = PRESENCE_LIFETIME;
/// How long presence is believed without a refresh.
const PRESENCE_LIFETIME: Duration = Duration::from_secs(2 * 3_600);
/// Refreshes come at a quarter of that, so that three may fail.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// First pause after a registration that failed; doubles.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// While the home node does not answer, its host name is looked up again after this.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(30);

/// Whether the directory has this agent's records, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Registration {
    /// Nothing has been answered yet.
    Pending,
    /// It has these.
    Registered(Said),
    /// It has refused these, or could not be asked.
    Failed(ApiError, Said),
}

/// What the records say that the user or a program has chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    profile: Profile,
    offers: Vec<Offer>,
}

/// Where a backbone ticket leads, as the node wants it.
///
/// # Errors
/// If its host name leads nowhere.
pub(crate) async fn look_up(ticket: &BackboneTicket) -> Result<PeerInfo, ApiError> {
    Ok(PeerInfo { key: ticket.identity, certificate: None, addresses: look_up_host(ticket).await?, homes: Vec::new() })
}

/// A backbone node of which nobody here knows the address.
pub(crate) fn unresolved(ticket: &BackboneTicket) -> PeerInfo {
    PeerInfo { key: ticket.identity, certificate: None, addresses: Vec::new(), homes: Vec::new() }
}

/// One call to the directory of the agent's backbone node.
///
/// # Errors
/// That there is none, or that it has not answered in time.
pub(crate) async fn call(inner: &Inner, request: &Request) -> Result<Reply, ApiError> {
    let Some(backbone) = &inner.backbone else {
        return Err(ApiError::new(ErrorCode::Unreachable, "this agent has no backbone node to ask")
            .hint("give it one with --backbone TICKET, or use the other agent's ticket (pilotctl ticket)"));
    };
    match timeout(patience(inner, backbone).await?, exchange(inner, backbone, request)).await {
        Ok(result) => result,
        Err(_) => Err(no_answer(backbone)),
    }
}

/// How long the home node has for an answer.
async fn patience(inner: &Inner, backbone: &BackboneTicket) -> Result<Duration, ApiError> {
    let key = backbone.identity;
    let status = inner.ask(move |core, _| core.node.peer_status(&key)).await?;
    Ok(patience_over(status.filter(|status| status.connected).and_then(|status| status.rtt)))
}

fn patience_over(rtt: Option<Duration>) -> Duration {
    (rtt.unwrap_or_default() * CALL_ROUND_TRIPS).clamp(CALL_TIMEOUT, CALL_TIMEOUT_MAX)
}

/// Waits until the directory has what the agent says of itself now; without a backbone node, `None` at once. A failure is waited out, for
/// registration is tried again and again.
pub(crate) async fn published(inner: &Inner, patience: Duration) -> Option<Result<(), ApiError>> {
    let backbone = inner.backbone.as_ref()?;
    let mut registration = inner.registration.clone();
    let is_published =
        |known: &Registration| matches!(known, Registration::Registered(said) if *said == Said::by(inner));
    let published = timeout(patience, registration.wait_for(is_published)).await.is_ok_and(|waited| waited.is_ok());
    if published {
        return Some(Ok(()));
    }
    let failure = match &*inner.registration.borrow() {
        Registration::Failed(error, said) if *said == Said::by(inner) => error.clone(),
        Registration::Pending | Registration::Registered(_) | Registration::Failed(..) => no_answer(backbone),
    };
    Some(Err(failure))
}

/// Keeps the records at the directory up to date until the agent is gone.
pub(crate) async fn keep_registered(agent: Weak<Inner>, state: watch::Sender<Registration>) {
    let mut retry = RETRY_MIN;
    let mut registered = None;
    loop {
        let Some(inner) = agent.upgrade() else { return };
        let mut news = News::subscribe(&inner);
        if !news.link_is_up() {
            drop(inner);
            if !wait_for_home(&agent, &mut news).await {
                return;
            }
            continue;
        }
        let registration = register(&inner, Said::by(&inner), &mut registered).await;
        drop(inner);
        let pause;
        (pause, retry) = match &registration {
            Registration::Registered(_) => (REFRESH_INTERVAL, RETRY_MIN),
            Registration::Pending | Registration::Failed(..) => (retry, (retry * 2).min(RETRY_MAX)),
        };
        state.send_if_modified(|known| {
            let is_new = *known != registration;
            *known = registration;
            is_new
        });
        if !pause_until_news(&agent, &mut news, pause).await {
            return;
        }
    }
}

/// What a registration depends on.
struct News {
    link: watch::Receiver<crate::driver::HomeLink>,
    profile: watch::Receiver<Profile>,
    offers: watch::Receiver<Vec<Offer>>,
    certificate: watch::Receiver<Certificate>,
}

impl Said {
    fn by(inner: &Inner) -> Self {
        Self { profile: inner.profile.borrow().clone(), offers: inner.offers.borrow().clone() }
    }
}

impl News {
    fn subscribe(inner: &Inner) -> Self {
        let mut news = Self {
            link: inner.home_link.clone(),
            profile: inner.profile.subscribe(),
            offers: inner.offers.clone(),
            certificate: inner.certificate.subscribe(),
        };
        news.link.mark_unchanged();
        news.offers.mark_unchanged();
        news
    }

    fn link_is_up(&self) -> bool {
        self.link.borrow().connected
    }

    /// Waits for a change; false if there will be none any more.
    async fn changed(&mut self) -> bool {
        let result = tokio::select! {
            result = self.link.changed() => result,
            result = self.profile.changed() => result,
            result = self.offers.changed() => result,
            result = self.certificate.changed() => result,
        };
        result.is_ok()
    }
}

/// Waits for something to say anew, for so long at most. False if the agent has ended.
async fn pause_until_news(agent: &Weak<Inner>, news: &mut News, pause: Duration) -> bool {
    let looking_up = async {
        // A node that TLS reaches may be at another address by now, where UDP reaches it too.
        loop {
            sleep(LOOKUP_INTERVAL).await;
            if agent.upgrade().is_some_and(|inner| inner.home_link.borrow().transport == Some(Transport::Tls)) {
                look_up_again(agent).await;
            }
        }
    };
    tokio::select! {
        is_change = news.changed() => is_change,
        () = sleep(pause) => true,
        () = looking_up => true,
    }
}

/// Waits until the tunnel to the home node is up; looks its host name up again meanwhile. False if the agent has ended.
async fn wait_for_home(agent: &Weak<Inner>, news: &mut News) -> bool {
    match timeout(LOOKUP_INTERVAL, news.link.wait_for(|link| link.connected)).await {
        Ok(result) => return result.is_ok(),
        Err(_) => tracing::debug!("home node does not answer"),
    }
    look_up_again(agent).await;
    agent.strong_count() > 0
}

/// Tells the node where its home node is now.
async fn look_up_again(agent: &Weak<Inner>) {
    let Some(inner) = agent.upgrade() else { return };
    let Some(backbone) = &inner.backbone else { return };
    if let Ok(home) = look_up(backbone).await {
        // It fails only with the agent.
        inner.apply(move |core, now| core.node.set_home(now, Some(home))).await.ok();
    }
}

/// The identity record that the directory has.
#[derive(Clone)]
struct SignedIdentity {
    /// What this home had to say then. Another home of the identity may have said something else since, which is in the record.
    said: Said,
    record: IdentityRecord,
    bytes: Vec<u8>,
}

impl SignedIdentity {
    fn sign(inner: &Inner, said: &Said, record: IdentityRecord) -> Result<Self, ApiError> {
        let bytes = record.sign(&inner.identity).map_err(invalid)?;
        Ok(Self { said: said.clone(), record, bytes })
    }

    fn is_young(&self, renewal: Duration, now: UnixTime) -> bool {
        (self.record.issued..self.record.issued + renewal).contains(&now)
    }
}

/// Registers, with the identity record that the directory has already if that still says it. After a failure, what was in force before still is.
async fn register(inner: &Arc<Inner>, said: Said, registered: &mut Option<SignedIdentity>) -> Registration {
    let has_news = registered.as_ref().is_none_or(|known| known.said != said);
    let result = match identity_record(inner, &said, registered.clone()) {
        Ok(identity) => agree(inner, &said, identity, has_news).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(identity) => {
            tracing::info!(name = identity.record.name, "registered");
            *registered = Some(identity);
            Registration::Registered(said)
        }
        Err(error) => Registration::Failed(error, said),
    }
}

/// Registers, and tells what is in force then: another home of the identity may have said something else. If this one has news, it says
/// them above that; else it repeats that from now on. So the two never take turns.
async fn agree(
    inner: &Inner,
    said: &Said,
    identity: SignedIdentity,
    has_news: bool,
) -> Result<SignedIdentity, ApiError> {
    let Some(in_force) = send_registration(inner, &identity).await? else { return Ok(identity) };
    let theirs = believed(inner, said, &identity, in_force)?;
    let identity = if has_news { identity_record(inner, said, None)? } else { theirs };
    match send_registration(inner, &identity).await? {
        None => Ok(identity),
        Some(in_force) => believed(inner, said, &identity, in_force),
    }
}

/// Sends the identity record and a new presence record; gives the identity record that is in force in place of ours, if one is.
async fn send_registration(inner: &Inner, identity: &SignedIdentity) -> Result<Option<Vec<u8>>, ApiError> {
    let presence = presence_record(inner).await?;
    let reply = call(inner, &Request::Register { identity: identity.bytes.clone(), presence }).await?;
    let Reply::Registered { in_force, .. } = reply else { return Err(refusal(inner, &reply)) };
    Ok(in_force)
}

/// Checks the identity record that the directory has in place of ours: our own key has signed it, and not before ours.
fn believed(inner: &Inner, said: &Said, ours: &SignedIdentity, bytes: Vec<u8>) -> Result<SignedIdentity, ApiError> {
    let record = IdentityRecord::verify(&bytes, clock::now().unix).ok();
    let is_later = |record: &IdentityRecord| record.key == ours.record.key && record.sequence >= ours.record.sequence;
    let record = record.filter(is_later).ok_or_else(|| {
        ApiError::new(ErrorCode::Failed, "the directory has a record of this agent that the agent did not sign")
    })?;
    inner.note_sequence(record.sequence);
    if record.name == inner.name() {
        tracing::info!("another home of this agent has said something new of it");
    } else {
        tracing::warn!(name = record.name, "another home of this agent has changed its name");
    }
    Ok(SignedIdentity { said: said.clone(), record, bytes })
}

/// What is known to be in force, signed anew if it is old; or what this home has to say, if that is new.
fn identity_record(inner: &Inner, said: &Said, known: Option<SignedIdentity>) -> Result<SignedIdentity, ApiError> {
    let now = clock::now().unix;
    let known = known.filter(|known| known.said == *said);
    let (lease, renewal) =
        if inner.is_ephemeral { (EPHEMERAL_LEASE, REFRESH_INTERVAL) } else { (NAME_LEASE, IDENTITY_RENEWAL) };
    let record = match known {
        Some(known) if known.is_young(renewal, now) => return Ok(known),
        Some(known) => known.record,
        None => own_record(inner, now, said),
    };
    let sequence = inner.next_sequence(now);
    SignedIdentity::sign(inner, said, IdentityRecord { sequence, issued: now, expires: now + lease, ..record })
}

fn own_record(inner: &Inner, now: UnixTime, Said { profile, offers }: &Said) -> IdentityRecord {
    IdentityRecord {
        key: inner.identity.key(),
        modifier: inner.identity.modifier(),
        sequence: 0,
        name: inner.name().to_owned(),
        tags: profile.tags.clone(),
        groups: profile.groups.clone(),
        description: profile.description.clone(),
        offers: offers.clone(),
        issued: now,
        expires: now,
    }
}

async fn presence_record(inner: &Inner) -> Result<Vec<u8>, ApiError> {
    let homes = own_homes(inner).await;
    let now = clock::now().unix;
    let certificate = inner.certificate.borrow().clone();
    let presence = PresenceRecord {
        key: inner.identity.key(),
        instance: certificate.instance,
        sequence: inner.next_sequence(now),
        certificate: certificate.encode().to_vec(),
        homes,
        issued: now,
        expires: now + PRESENCE_LIFETIME,
    };
    presence.sign(&inner.identity).map_err(invalid)
}

fn invalid(error: RecordError) -> ApiError {
    ApiError::new(ErrorCode::Usage, format!("the directory would not take this agent's record: {error}"))
        .hint("tags and groups are lower-case words of up to 63 characters, 16 at most")
}

/// The backbone nodes where this agent can be asked for.
pub(crate) async fn own_homes(inner: &Inner) -> Vec<Home> {
    let Some(backbone) = &inner.backbone else { return Vec::new() };
    let addresses = look_up_host(backbone).await.unwrap_or_default();
    vec![Home { key: backbone.identity, addresses }]
}

async fn look_up_host(ticket: &BackboneTicket) -> Result<Vec<SocketAddr>, ApiError> {
    let found = timeout(CALL_TIMEOUT, tokio::net::lookup_host((ticket.host.as_str(), ticket.port))).await;
    let reason = match found {
        Ok(Ok(addresses)) => return Ok(addresses.take(pilot_core::record::HOME_ADDRESSES_MAX).collect()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the name servers do not answer".to_owned(),
    };
    Err(ApiError::new(ErrorCode::Unreachable, format!("the backbone's host '{}' is not known: {reason}", ticket.host)))
}

async fn exchange(inner: &Inner, backbone: &BackboneTicket, request: &Request) -> Result<Reply, ApiError> {
    if inner.home_link.clone().wait_for(|link| link.connected).await.is_err() {
        return Err(no_answer(backbone));
    }
    let header = StreamHeader::new(ServicePort::DIRECTORY);
    let mut stream = inner.open(backbone.identity, header).await?;
    let reply = stream.exchange(request.encode(), REPLY_LEN_MAX).await?;
    let too_long = || ApiError::new(ErrorCode::Failed, "the directory's reply is longer than any can be");
    let reply = reply.ok_or_else(too_long)?;
    Reply::decode(&reply).map_err(|error| {
        ApiError::new(ErrorCode::Failed, format!("the directory's reply makes no sense: {error}"))
            .hint("backbone and agent are perhaps of different versions")
    })
}

fn refusal(inner: &Inner, reply: &Reply) -> ApiError {
    match reply {
        Reply::NameTaken { .. } => {
            ApiError::new(ErrorCode::Failed, format!("the name '{}' belongs to another agent", inner.name()))
                .hint("choose another: pilotctl daemon start --hostname NAME")
        }
        Reply::AddressTaken => {
            let next = inner.agent_home.take_next_address(&inner.identity);
            let error = ApiError::new(ErrorCode::Failed, "another agent has this address already");
            match next {
                Ok(()) => error.hint("restart this agent: it will take its next address"),
                Err(error) => ApiError::new(ErrorCode::Failed, error.to_string()).hint(error.hint()),
            }
        }
        Reply::Error { message, .. } => refused(message),
        Reply::Registered { .. }
        | Reply::Resolved(_)
        | Reply::Found(_)
        | Reply::Withdrawn
        | Reply::HandedOver
        | Reply::RulesKept
        | Reply::Rules(_)
        | Reply::Status(_)
        | Reply::NotFound { .. } => unexpected(reply),
    }
}

/// A reply that says why not.
pub(crate) fn refused(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Failed, format!("the directory refused: {message}"))
}

/// A reply that answers another question.
pub(crate) fn unexpected(reply: &Reply) -> ApiError {
    tracing::debug!(?reply, "unexpected reply of the directory");
    ApiError::new(ErrorCode::Failed, "the directory answered another question than was asked")
}

fn no_answer(backbone: &BackboneTicket) -> ApiError {
    let BackboneTicket { host, port, .. } = backbone;
    ApiError::new(ErrorCode::Unreachable, format!("the backbone node at {host}:{port} does not answer"))
        .hint("see whether it runs (pilotctl backbone status) and UDP gets through; names resolved before still work")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_line_has_time_for_what_is_lost_on_it_and_a_fast_one_tells_soon_that_nobody_is_there() {
        let ms = Duration::from_millis;
        for (rtt, patience) in [(None, 2_500), (Some(20), 2_500), (Some(600), 6_000), (Some(1_600), 9_000)] {
            assert_eq!(patience_over(rtt.map(ms)), ms(patience), "{rtt:?}");
        }
    }
}
