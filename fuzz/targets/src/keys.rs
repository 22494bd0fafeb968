//! Identities that are always the same, so that an input means the same in every run.

use std::sync::OnceLock;

use pilot_core::config::Keys;
use pilot_core::id::InstanceId;
use pilot_core::identity::{Certificate, Identity, TransportKey};
use pilot_core::time::{Mono, Now, UnixTime};

/// Both clocks when an input begins.
pub(crate) const START: Now = Now { mono: Mono(1_000_000_000_000), unix: UnixTime(1_800_000_000_000_000_000) };

/// Modifiers of the identities whose secret is the byte of their position, plus one, 32 times: found once, since each search takes a
/// million hashes (spec/address.md §2).
const MODIFIERS: [u64; 2] = [1_459_568, 115_065];

struct Party {
    identity: Identity,
    transport: TransportKey,
    certificate: Certificate,
}

impl Party {
    fn new(position: usize) -> Self {
        let byte = position as u8 + 1;
        let identity =
            Identity::restore([byte; 32], MODIFIERS[position]).expect("the committed modifier gives an address");
        let transport = TransportKey::from_secret([byte + 10; 32]);
        let certificate = Certificate::issue(&identity, &transport, InstanceId([byte; 8]), 1, START.unix);
        Self { identity, transport, certificate }
    }
}

/// The keys of the party at this position, 0 or 1.
pub(crate) fn keys(position: usize) -> Keys {
    static PARTIES: OnceLock<[Party; 2]> = OnceLock::new();
    let Party { identity, transport, certificate } = &PARTIES.get_or_init(|| [Party::new(0), Party::new(1)])[position];
    Keys { identity: identity.clone(), transport: vec![transport.clone()], certificate: certificate.clone() }
}
