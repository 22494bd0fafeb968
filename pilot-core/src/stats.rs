//! Counters of one node, by name, for `daemon status --json`.

/// Why a datagram, or a message in it, was dropped. Nothing that is dropped has changed any state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DropReason {
    /// First byte is none of ours, or the length does not fit the type.
    Malformed,
    /// A protocol version or suite that this node does not speak.
    Version,
    /// STUN, which nothing here waits for.
    UnexpectedStun,
    /// No session has this index; answered with UNKNOWN within the rate limit.
    UnknownSession,
    /// The AEAD refused the packet.
    Authentication,
    /// The packet number was seen before or is too old, or message 1 is older than the one that was answered last.
    Replay,
    /// The session is past its lifetime.
    ExpiredSession,
    /// MAC1 does not match our identity key.
    Mac1,
    /// A handshake message that does not decrypt.
    Handshake,
    /// A certificate that is malformed or whose signature does not match.
    Certificate,
    /// A certificate whose modifier gives its key no address: the work is missing.
    CertificateAddress,
    /// A valid certificate of another transport key than the one in use.
    ForeignTransportKey,
    /// A valid certificate of another identity than the one asked for.
    ForeignIdentity,
    /// A certificate outside its dates.
    CertificateExpired,
    /// Names a transport key that this node no longer has; answered with CERT within the rate limit.
    UnknownKey,
    /// An answer to no request that is open.
    Unsolicited,
    /// The certificate of another instance than the one that is asked, with which there is a tunnel.
    OtherInstance,
    /// A handshake that lost against our own simultaneous one.
    SimultaneousInitiation,
    /// A reply suppressed by a rate limit.
    RateLimited,
    /// A relayed packet from an address that is not the backbone node's.
    RelaySource,
    /// A direct packet while policy allows the relay only.
    DirectForbidden,
    /// No room: a table is at its bound.
    TableFull,
    /// Message 1 without a good cookie while there are too many; answered with COOKIE.
    UnderLoad,
    /// An unreliable message (DATAGRAM) that came while too many events waited.
    EventsFull,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 24] = [
        Self::Malformed,
        Self::Version,
        Self::UnexpectedStun,
        Self::UnknownSession,
        Self::Authentication,
        Self::Replay,
        Self::ExpiredSession,
        Self::Mac1,
        Self::Handshake,
        Self::Certificate,
        Self::CertificateAddress,
        Self::ForeignTransportKey,
        Self::ForeignIdentity,
        Self::CertificateExpired,
        Self::UnknownKey,
        Self::Unsolicited,
        Self::OtherInstance,
        Self::SimultaneousInitiation,
        Self::RateLimited,
        Self::RelaySource,
        Self::DirectForbidden,
        Self::TableFull,
        Self::UnderLoad,
        Self::EventsFull,
    ];

    /// The reason's name in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::UnexpectedStun => "unexpected_stun",
            Self::UnknownSession => "unknown_session",
            Self::Authentication => "authentication",
            Self::Replay => "replay",
            Self::ExpiredSession => "expired_session",
            Self::Mac1 => "mac1",
            Self::Handshake => "handshake",
            Self::Certificate => "certificate",
            Self::CertificateAddress => "certificate_address",
            Self::ForeignTransportKey => "foreign_transport_key",
            Self::ForeignIdentity => "foreign_identity",
            Self::CertificateExpired => "certificate_expired",
            Self::UnknownKey => "unknown_key",
            Self::Unsolicited => "unsolicited",
            Self::OtherInstance => "other_instance",
            Self::SimultaneousInitiation => "simultaneous_initiation",
            Self::RateLimited => "rate_limited",
            Self::RelaySource => "relay_source",
            Self::DirectForbidden => "direct_forbidden",
            Self::TableFull => "table_full",
            Self::UnderLoad => "under_load",
            Self::EventsFull => "events_full",
        }
    }
}

/// What a node has counted since it started.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Datagrams handed to the node.
    pub datagrams_received: u64,
    /// Datagrams the node has sent, each segment of a train counted.
    pub datagrams_sent: u64,
    /// Bytes of those received.
    pub bytes_received: u64,
    /// Bytes of those sent.
    pub bytes_sent: u64,
    /// Handshakes completed, in either role, rekeys included.
    pub handshakes: u64,
    /// First messages whose early data was taken (spec/handshake.md §10).
    pub early_data: u64,
    /// Streams in it that were handed out at once, whether they are a replay or not.
    pub early_streams: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Stats {
    /// Counts one drop.
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Drops for this reason so far.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Every counter but the drops, by name.
    pub fn counters(&self) -> [(&'static str, u64); 7] {
        [
            ("datagrams_received", self.datagrams_received),
            ("datagrams_sent", self.datagrams_sent),
            ("bytes_received", self.bytes_received),
            ("bytes_sent", self.bytes_sent),
            ("handshakes", self.handshakes),
            ("early_data", self.early_data),
            ("early_streams", self.early_streams),
        ]
    }

    /// Every drop counter, by name.
    pub fn drop_counters(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason.name(), self.drops(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut stats = Stats::default();
        for (position, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, position);
            stats.drop(reason);
        }
        let mut names: Vec<_> =
            stats.drop_counters().inspect(|&(_, count)| assert_eq!(count, 1)).map(|c| c.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
