//! Bounds and intervals of the node, each with its reason. Those of a single layer stand beside their user.

use std::time::Duration;

/// First retry of a handshake message: above the round trip of most paths (spec/handshake.md §5).
pub const HANDSHAKE_RETRY_MIN: Duration = Duration::from_millis(200);
/// Retries double up to this while somebody waits for the attempt, for [`CONNECT_TIMEOUT`]: over a line that takes a second and loses a fifth each way,
/// six of them in that time are too few, and ten suffice.
pub const HANDSHAKE_RETRY_WAITED_FOR: Duration = Duration::from_secs(1);
/// Then they double up to this.
pub const HANDSHAKE_RETRY_MAX: Duration = Duration::from_secs(5);
/// An attempt to connect that nobody answers ends after this; the home node's never ends.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From this retry on an attempt also asks for a new circuit: the backbone node may have given up the one that the peer is reached by.
pub const RETRIES_BEFORE_NEW_CIRCUIT: u32 = 2;
/// Two handshakes begun at the same time may cross for this long: a few retries of lost messages.
pub const HANDSHAKE_CROSSING: Duration = Duration::from_secs(2);
/// UNKNOWN makes us start at most one handshake per peer in this time.
pub const UNKNOWN_HANDSHAKE_INTERVAL: Duration = Duration::from_secs(2);
/// A session this old is renewed when it is used: forward secrecy, as in WireGuard.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// The responder of a session waits this much longer, so that both rarely begin at once.
pub const REKEY_RESPONDER_DELAY: Duration = Duration::from_secs(10);
/// A session this old neither seals nor opens any more.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// The key before a change of phase still opens what is late for this long: three probe timeouts of most paths.
pub const PREVIOUS_KEYS_LIFETIME: Duration = Duration::from_secs(3);
/// A replaced session still opens what is late for this long.
pub const PREVIOUS_SESSION_LIFETIME: Duration = Duration::from_secs(10);
/// A responder's unconfirmed session is forgotten after this; the initiator retries by then.
pub const UNCONFIRMED_SESSION_LIFETIME: Duration = Duration::from_secs(15);
/// Keepalive to the home node before anything is known: below the 30 s that the most impatient NATs keep a mapping (RFC 4787 REQ-5 asks for
/// two minutes, the field differs).
pub const HOME_KEEPALIVE: Duration = Duration::from_secs(25);
/// The rarest keepalive: keys are renewed that often anyway, so that a longer one would save nothing, and a home node that has died is
/// noticed no later.
pub const HOME_KEEPALIVE_MAX: Duration = REKEY_AFTER_TIME;
/// A NAT is measured when nothing has changed for so long: one that changes more often needs no rare keepalive.
pub const MAPPING_MEASURED_AFTER: Duration = Duration::from_secs(30);
/// Between the two packets that make a mapping last: Linux keeps a flow for two minutes only if it goes on after 2 s, and for 30 s else. So is
/// the mapping made that is measured, and so the tunnel's after a silence, by a second PING: it may have been lost meanwhile, and made anew at
/// the same port by a keepalive that was answered at once.
pub const MAPPING_SETTLES_AFTER: Duration = Duration::from_secs(3);
/// A question about the life of a mapping is repeated after this; nobody waits for the answer.
pub const MAPPING_RETRY: Duration = Duration::from_secs(2);
/// First pause after a trial that has not shown all that is wanted; doubles.
pub const MAPPING_REMEASURE_MIN: Duration = Duration::from_secs(600);
/// Longest pause between trials, and the pause after one that has shown all.
pub const MAPPING_REMEASURE_MAX: Duration = Duration::from_secs(86_400);
/// A home tunnel that is lost after so long was not lost for the sake of a keepalive that had become rarer.
pub const MAPPING_TRUSTED_AFTER: Duration = Duration::from_secs(3_600);
/// While streams are open, silence this long is probed, so that a dead peer shows as stalled and a restarted one answers UNKNOWN.
pub const LIVENESS_PROBE_AFTER: Duration = Duration::from_secs(1);
/// An agent at a new address sends a second PING after this: longer than the 200 ms by which its peers tell a move from a packet that was late.
pub const MOVE_CONFIRMED_AFTER: Duration = Duration::from_millis(250);
/// A direct path that was silent this long may have lost its NAT mapping: the relay is used until it is proved again.
pub const DIRECT_FRESH: Duration = Duration::from_secs(30);
/// Probe timeouts in a row after which another path is taken.
pub const PATH_FAILED_PTO_COUNT: u32 = 3;
/// The same if the peer was heard by another path meanwhile.
pub const PATH_OUTLIVED_PTO_COUNT: u32 = 2;
/// Our own address may have changed when a path falls silent: the home node is asked, once in this time.
pub const MOVE_SUSPECTED_INTERVAL: Duration = Duration::from_secs(1);
/// Probe timeouts in a row after which the home node counts as lost.
pub const HOME_LOST_PTO_COUNT: u32 = 4;
/// Where nothing was heard since the network may have changed one is enough, for the home node and for the path in use, after this: most round
/// trips are over by then.
pub const MISSED_AFTER: Duration = Duration::from_millis(200);
/// What is heard so soon after a sleep may have waited in the socket.
pub const WAITED_IN_SOCKET: Duration = Duration::from_millis(10);
/// A timer that is late by so much shows that the process was stopped, or that the machine slept: the network may be another.
pub const ABSENT_AFTER: Duration = Duration::from_secs(1);
/// Rest between two changes of path that only follow a peer that has moved, at the side with the smaller key.
pub const FOLLOW_AFTER_SMALLER: Duration = Duration::from_secs(5);
/// The same at the side with the greater key: it follows first, so that both end on one path.
pub const FOLLOW_AFTER_GREATER: Duration = Duration::from_secs(1);
/// Paths kept per peer; the direct one that was heard, or named, the longest ago makes room.
pub const PATHS_MAX: usize = 16;
/// Unanswered probes per path in one round of checks.
pub const PROBES_PER_PATH_MAX: u32 = 8;
/// Of these, how many are sent although the tunnel is not in use any more: 375 ms, enough for the round trip of a first short request.
pub const PROBES_WHILE_IDLE_MAX: u32 = 4;
/// A failed direct path is probed again after this, doubling.
pub const REPROBE_MIN: Duration = Duration::from_secs(5);
/// Longest pause between rounds of probes while the tunnel is in use.
pub const REPROBE_MAX: Duration = Duration::from_secs(60);
/// Candidates sent to a peer and taken from one.
pub const CANDIDATES_MAX: usize = 16;
/// Of these, the first that may be probed become paths: none drives another out, nor the path in use and those that relay.
pub const CANDIDATES_PROBED_MAX: usize = PATHS_MAX - 4;
/// Addresses kept from a ticket or a record.
pub const ADDRESSES_MAX: usize = 8;
/// Addresses of a backbone node taken from one record of another agent: each is sent handshakes.
pub const HEARSAY_ADDRESSES_MAX: usize = 4;
/// Messages of handshakes to addresses that only records name, of one peer within [`CONNECT_TIMEOUT`], before one is answered: somebody is there, and
/// perhaps another one. A line that loses a fifth each way leaves some of as many. An attempt would send twelve to each.
pub const HEARSAY_MESSAGES_MAX: usize = 8;
/// Bytes that records can have paid for in advance: an attempt's knocks, twelve of 29 bytes to each of [`ADDRESSES_MAX`].
pub const HEARSAY_CREDIT_MAX: usize = 12 * 29 * ADDRESSES_MAX;
/// Backbone nodes kept per peer.
pub const HOMES_MAX: usize = 4;
/// Peers known at once; beyond it a stranger takes the place of one whose keys have run out. An idle peer costs a few kilobytes.
pub const PEERS_MAX: usize = if cfg!(test) { 1_000 } else { 200_000 };
/// Places looked at for one that can be given to another peer: a handshake costs more than that.
pub const SLOTS_LOOKED_AT: usize = 64;
/// Datagrams waiting to be sent outside of sessions.
pub const CONTROL_QUEUE_MAX: usize = 1_024;
/// CERT and UNKNOWN replies per second; each is smaller than what it answers.
pub const STATELESS_REPLIES_PER_SECOND: u32 = 1_000;
/// Largest train of datagrams in one transmit: the kernel's GSO limit.
pub const TRAIN_LEN_MAX: usize = 65_000;
/// Segments in one train: the kernel's UDP_MAX_SEGMENTS of older kernels.
pub const TRAIN_SEGMENTS_MAX: usize = 64;
/// Largest packet that MTU discovery tries: loopback carries it, and GSO allows no more.
pub const MTU_PROBE_MAX: usize = 65_000;
/// Credit that all tunnels together may have earned (spec/streams.md §4): what slow readers can make a node keep. Eight tunnels could have it all, but
/// each leaves the others their share.
pub const CREDIT_CAP: u64 = 256 << 20;
/// A tunnel earns at most this part of the credit that is left: the first has all that it wants, and the hundredth still finds something.
pub const CREDIT_SHARE: u64 = 8;
/// More first messages in a second than this, and those without a cookie are not looked into: a tenth of a core (spec/handshake.md §9).
pub const UNDER_LOAD_INITS_PER_SECOND: u32 = 256;
/// First messages with a good cookie that each source prefix has in a second under load: a dial and its retries, behind a NAT several.
pub const UNDER_LOAD_INITS_PER_PREFIX: u32 = 8;
/// Source prefixes counted in a second under load; who comes later waits for the next second.
pub const UNDER_LOAD_PREFIXES_MAX: usize = 1_024;
/// Groups into which a secret sorts source prefixes under load, so that a flood from one of them costs few others their cookies: 2 KiB.
pub const UNDER_LOAD_COOKIE_GROUPS: usize = 1_024;
/// Cookies that each group gets in a second. One costs as much as five first messages that are dropped, and 100,000 a second would cost the
/// tunnels that stand their core; a dial asks for one, and a flood that pretends to come from everywhere still leaves most dials theirs.
pub const UNDER_LOAD_COOKIES_PER_GROUP: u16 = 64;
/// A cookie is good for this long at most, as in WireGuard.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);
/// Timestamps of early data kept, one for each transport key of an initiator: half a megabyte. More initiators than this between two of one's
/// handshakes cost that one its early data.
pub const FRESHNESS_KEPT_MAX: usize = 4_096;
/// Early data from further in the future is not taken: else a few forged clocks would raise the floor for all others for long.
pub const EARLY_DATA_AHEAD_MAX: Duration = Duration::from_secs(60);
/// Packets that answer early data before the session is used: with message 2 they are less than three times message 1 (RFC 9000 §8.1).
pub const EARLY_ANSWER_PACKETS_MAX: u32 = 2;
/// Instances kept of one identity: the machines on which somebody runs the same agent. Making more costs an identity nothing.
pub const INSTANCES_MAX: usize = 4;
/// An instance that does not answer for so long is left for the next, if there is one: four retries.
pub const NEXT_INSTANCE_AFTER: Duration = Duration::from_secs(2);
/// Unreliable messages are dropped while so many events wait to be taken: a packet can hold hundreds of empty ones, each of which costs more as an
/// event than on the wire.
pub const EVENTS_BESIDE_MESSAGES_MAX: usize = 1_024;
/// Fresh sockets whose ports show what a NAT does with them (spec/paths.md §7).
pub const SAMPLES: usize = 8;
/// Ports further apart than this are no sequence: others behind the NAT use it too.
pub const SEQUENCE_STEP_MAX: u16 = 16;
/// Ports challenged of a sequence: so many new flows may others behind the NAT begin in between.
pub const SEQUENCE_PROBES: u16 = 8;
/// A STUN question is asked again after this, doubling, as RFC 8489 §6.2.1 says.
pub const STUN_RETRY: Duration = Duration::from_millis(500);
/// Then it was asked in vain: an answer may take 3.5 s.
pub const STUN_TRIES: u32 = 3;
/// What our NAT is like is asked again after this if nobody has told, doubling.
pub const SURVEY_AGAIN_MIN: Duration = Duration::from_secs(30);
/// Longest pause between such questions: an idle agent sends next to nothing.
pub const SURVEY_AGAIN_MAX: Duration = Duration::from_secs(3_600);
/// STUN questions under way at once: one for each socket that learns its port.
pub const STUN_QUESTIONS_MAX: usize = 64;
/// STUN servers asked besides the home node: the first that answers tells enough.
pub const STUN_SERVERS_MAX: usize = 4;
/// Simple challenges have had their time after this: two round trips of most paths.
pub const EFFORT_AFTER: Duration = Duration::from_millis(250);
/// Round trips in which an answer to simple challenges would be here, where nothing but their failure speaks for an effort: the second challenge
/// goes out after 25 ms, the third after 75.
pub const EFFORT_ROUND_TRIPS: u32 = 3;
/// Pause after an effort in vain, doubling.
pub const EFFORT_REST_MIN: Duration = Duration::from_secs(30);
/// Longest pause between efforts.
pub const EFFORT_REST_MAX: Duration = Duration::from_secs(600);
/// An effort whose next step does not come ends after this.
pub const EFFORT_PATIENCE: Duration = Duration::from_secs(3);
/// Sockets that have not met the peer are closed so long after the last challenge.
pub const EFFORT_AFTERMATH: Duration = Duration::from_secs(2);
/// A peer that says that it has moved ends a rest between efforts once in this time: it may say so with every packet.
pub const MOVES_BELIEVED_INTERVAL: Duration = Duration::from_secs(120);
/// Sockets of one effort: with as many ports as a volley tries, they meet in 99.4 of 100 cases.
pub const BIRTHDAY_SOCKETS: u32 = 256;
/// Part of a NAT's port set that the sockets of all efforts may take: the rest is for everybody else behind it.
pub const BIRTHDAY_SHARE: u32 = 4;
/// Fewer sockets than one on so many ports are no effort: a volley meets one of as many in 92 of 100 cases.
pub const BIRTHDAY_PORTS_PER_SOCKET_MAX: u32 = 512;
/// Ports that all efforts may take of however large a set: half of the flows that the smallest home routers can keep.
pub const EFFORT_MAPPINGS_MAX: u32 = 2_048;
/// So long a NAT may keep the port of a socket that is closed: RFC 4787 REQ-5 asks for that much.
pub const MAPPING_COUNTED_FOR: Duration = Duration::from_secs(120);
/// Sockets that a node has besides the main one.
pub const SOCKETS_MAX: usize = 512;
/// A socket by which the peer was met and is not heard any more is kept for so long: by then the keys have run out, and most mappings have too.
pub const SOCKETS_KEPT_FOR: Duration = REJECT_AFTER_TIME;
/// Volleys at one address are counted for so long.
pub const VOLLEYS_COUNTED_FOR: Duration = Duration::from_secs(60);
/// Volleys at one address in that time, whichever peers it is attested for: what a home node that lies can aim at a victim, with as many times
/// the challenges of [`BIRTHDAY_SOCKETS`] 233 kB a minute. A peer causes one in [`EFFORT_REST_MIN`], and one more after each change of network.
pub const VOLLEYS_PER_ADDRESS_MAX: usize = 4;
/// Probes to one address of one peer that are unanswered at a time: two rounds of challenges.
pub const PROBES_PER_ADDRESS_MAX: usize = 16;
/// So long a probe may still be answered; it counts as unanswered until then.
pub const PROBE_COUNTED_FOR: Duration = Duration::from_secs(30);
/// Addresses of one peer at which probes are counted; more are not probed. A full list of candidates and twice as many that others have replaced.
pub const PROBED_ADDRESSES_MAX: usize = 48;
/// Challenges of a volley.
pub const VOLLEY_PROBES: u32 = 1_280;
/// Challenges of a volley at a time.
pub const VOLLEY_BURST: u32 = 10;
/// A volley begins no later than this after it was asked for: two others may go before it. Who waits for it does so for a second longer, and
/// then closes its sockets.
pub const VOLLEY_WAITED_FOR: Duration = Duration::from_millis(2_100);
/// Pause between them: 1,250 packets, 82 kB a second with their headers.
pub const VOLLEY_INTERVAL: Duration = Duration::from_millis(8);
