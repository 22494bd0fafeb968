//! The keys of an agent on disk: its identity, its transport keys, the name of its installation (spec/address.md, spec/handshake.md §5).

use data_encoding::HEXLOWER;
use pilot_core::address;
use pilot_core::config::Keys;
use pilot_core::id::{IdentityKey, InstanceId};
use pilot_core::identity::{CERTIFICATE_LIFETIME, CLOCK_SKEW, Certificate, Identity, TransportKey};
use pilot_core::time::UnixTime;
use zeroize::Zeroizing;

use super::{AgentHome, HomeError, entropy};

/// After this a new transport key is made (spec/handshake.md).
pub(super) const TRANSPORT_KEY_ROTATION_SECS: u64 = 24 * 3600;
/// After this a transport key is forgotten: on its last day a last certificate was issued for it, which others may hold until it has
/// ended, by clocks that go wrong by the skew allowed (spec/address.md §4).
const TRANSPORT_KEY_HONOURED_SECS: u64 =
    TRANSPORT_KEY_ROTATION_SECS + CERTIFICATE_LIFETIME.as_secs() + CLOCK_SKEW.as_secs();

impl AgentHome {
    /// The keys to run with; what is missing is made. Takes about a tenth of a second for a new identity.
    ///
    /// # Errors
    /// If a file is unreadable, damaged or unwritable. An identity is never replaced.
    pub fn keys(&self, now: UnixTime) -> Result<Keys, HomeError> {
        let identity = self.identity()?;
        self.renewed_keys(identity, self.instance()?, now)
    }

    /// The keys to go on with while the node runs: a fresh certificate, and once a day a fresh transport key. Who it is stays as it
    /// was at its start, whatever has become of those files since.
    ///
    /// # Errors
    /// If the file of transport keys is unreadable, damaged or unwritable.
    pub fn renewed_keys(&self, identity: Identity, instance: InstanceId, now: UnixTime) -> Result<Keys, HomeError> {
        let transport = self.transport_keys(now)?;
        // Seconds since the epoch grow from one to the next, and nobody else issues for this instance.
        let certificate = Certificate::issue(&identity, &transport[0], instance, now.as_secs(), now);
        Ok(Keys { identity, transport, certificate })
    }

    /// Goes on to the key's next address, for the next start: the directory knows this one under another key.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn take_next_address(&self, identity: &Identity) -> Result<(), HomeError> {
        self.write_public_identity(&identity.next_address())
    }

    /// The identity that is kept here; `None` for an agent that has not had one yet.
    ///
    /// # Errors
    /// If it is unreadable or damaged.
    pub fn stored_identity(&self) -> Result<Option<Identity>, HomeError> {
        if self.has_identity() { self.identity().map(Some) } else { Ok(None) }
    }

    /// Keeps an identity that comes from elsewhere, for an agent that has none.
    ///
    /// # Errors
    /// [`HomeError::HasIdentity`] if it has one, [`HomeError::AlreadyRunning`] if it is just starting, or why nothing can be written.
    pub fn adopt_identity(&self, identity: &Identity) -> Result<(), HomeError> {
        let free =
            || if self.has_identity() { Err(HomeError::HasIdentity { name: self.name.clone() }) } else { Ok(()) };
        free()?;
        let lock = self.lock()?;
        // A start may have made one meanwhile.
        free()?;
        // The key comes last: with it, the agent is there, and at this address.
        self.write_public_identity(identity)?;
        self.write("identity.pem", identity.to_pem().as_bytes(), 0o600)?;
        drop(lock);
        Ok(())
    }

    /// Keeps an identity in place of whichever is there: for keys that are no agent's.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn replace_identity(&self, identity: &Identity) -> Result<(), HomeError> {
        self.write_public_identity(identity)?;
        self.write("identity.pem", identity.to_pem().as_bytes(), 0o600)
    }

    /// Whether this agent has ever been: something stands where its key belongs, readable or not.
    pub fn has_identity(&self) -> bool {
        self.dir.join("identity.pem").symlink_metadata().is_ok()
    }

    fn identity(&self) -> Result<Identity, HomeError> {
        let Some(pem) = self.read("identity.pem")? else {
            return self.new_identity();
        };
        let pem = secret_text(pem).map_err(|what| self.damaged("identity.pem", &what))?;
        let public = self.public_identity().ok().flatten();
        if let Some((_, modifier)) = public
            && let Ok(identity) = Identity::from_pem_at(&pem, modifier)
        {
            return self.same_key(identity, public);
        }
        let identity = Identity::from_pem(&pem).map_err(|error| self.damaged("identity.pem", &error))?;
        let identity = self.same_key(identity, public)?;
        self.write_public_identity(&identity)?;
        Ok(identity)
    }

    /// The private key has no check of its own: with a byte changed it is another agent's. The public one beside it has, and tells.
    fn same_key(&self, identity: Identity, public: Option<(IdentityKey, u64)>) -> Result<Identity, HomeError> {
        match public {
            Some((key, _)) if key != identity.key() => {
                Err(self.damaged("identity.pem", &"it is not the key of identity.pub, which stands beside it"))
            }
            Some(_) | None => Ok(identity),
        }
    }

    fn new_identity(&self) -> Result<Identity, HomeError> {
        let identity = Identity::generate(entropy()?);
        self.write("identity.pem", identity.to_pem().as_bytes(), 0o600)?;
        self.write_public_identity(&identity)?;
        Ok(identity)
    }

    fn write_public_identity(&self, identity: &Identity) -> Result<(), HomeError> {
        self.write("identity.pub", format!("{} {}\n", identity.key(), identity.modifier()).as_bytes(), 0o644)
    }

    /// Key and modifier.
    pub(super) fn public_identity(&self) -> Result<Option<(IdentityKey, u64)>, HomeError> {
        let Some(bytes) = self.read("identity.pub")? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&bytes);
        let parsed = text.trim().split_once(' ').and_then(|(key, modifier)| {
            let (key, modifier) = (key.parse().ok()?, modifier.parse().ok()?);
            address::verify(&key, modifier).map(|_| (key, modifier))
        });
        parsed.map(Some).ok_or_else(|| self.damaged("identity.pub", &"not a key and its modifier"))
    }

    fn instance(&self) -> Result<InstanceId, HomeError> {
        if let Some(bytes) = self.read("instance")? {
            let decoded = HEXLOWER.decode(bytes.trim_ascii()).ok().and_then(|bytes| bytes.try_into().ok());
            return decoded.map(InstanceId).ok_or_else(|| self.damaged("instance", &"not eight bytes in hexadecimal"));
        }
        let id = entropy()?;
        self.write("instance", HEXLOWER.encode(&id).as_bytes(), 0o644)?;
        Ok(InstanceId(id))
    }

    /// The keys still honoured, with a fresh one in front once a day.
    fn transport_keys(&self, now: UnixTime) -> Result<Vec<TransportKey>, HomeError> {
        let stored = self.read_checked("transport.keys")?.unwrap_or_default();
        let text = std::str::from_utf8(&stored).map_err(|error| self.damaged("transport.keys", &error))?;
        let mut keys = Vec::new();
        for line in text.lines() {
            keys.push(
                parse_transport_key(line).ok_or_else(|| self.damaged("transport.keys", &"not a key and its date"))?,
            );
        }
        keys.retain(|(_, made)| now.as_secs() < made.saturating_add(TRANSPORT_KEY_HONOURED_SECS));
        // A date in the future is that of a clock which was wrong: such a key would otherwise stay current for as long.
        let is_current = |made: u64| {
            let made_at = UnixTime::from_secs(made);
            made_at <= now + CLOCK_SKEW && now.as_secs() < made.saturating_add(TRANSPORT_KEY_ROTATION_SECS)
        };
        if !keys.first().is_some_and(|&(_, made)| is_current(made)) {
            keys.insert(0, (TransportKey::from_secret(entropy()?), now.as_secs()));
            let lines = keys.iter().map(|(key, made)| format!("{} {made}\n", HEXLOWER.encode(&key.secret()[..])));
            let text = Zeroizing::new(lines.collect::<String>());
            self.write_checked("transport.keys", text.as_bytes())?;
        }
        Ok(keys.into_iter().map(|(key, _)| key).collect())
    }
}

fn secret_text(bytes: Vec<u8>) -> Result<Zeroizing<String>, &'static str> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            Zeroizing::new(error.into_bytes());
            Err("not text")
        }
    }
}

fn parse_transport_key(line: &str) -> Option<(TransportKey, u64)> {
    let (secret, made) = line.split_once(' ')?;
    let secret = Zeroizing::new(HEXLOWER.decode(secret.as_bytes()).ok()?);
    let secret: [u8; 32] = secret.as_slice().try_into().ok()?;
    Some((TransportKey::from_secret(secret), made.parse().ok()?))
}
