//! Why streams and tunnels end: the one registry of codes (spec/streams.md §5).

use std::fmt;

/// Why a stream or a tunnel ended: the one registry of RESET, STOP_SENDING and CLOSE (spec/streams.md §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal $text:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The name of a registered code, as it stands in the local API: `peer_restarted`.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    Self(_) => None,
                }
            }

            /// The registered code of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// The end was wanted.
    NO_ERROR = 0 "no_error";
    /// A fault of the implementation that sends it.
    INTERNAL = 1 "internal";
    /// A frame does not decode.
    FRAME_ENCODING = 2 "frame_encoding";
    /// A frame is valid in itself but not in this state.
    PROTOCOL_VIOLATION = 3 "protocol_violation";
    /// More data than the credit allows.
    FLOW_CONTROL = 4 "flow_control";
    /// A stream beyond the limit.
    STREAM_LIMIT = 5 "stream_limit";
    /// A stream whose end moved, or lies before data that was received.
    FINAL_SIZE = 6 "final_size";
    /// The node goes down.
    SHUTDOWN = 7 "shutdown";
    /// Nothing was heard for the idle timeout.
    TIMEOUT = 8 "timeout";
    /// The peer lost its state: streams of the old tunnel end with this.
    PEER_RESTARTED = 9 "peer_restarted";
    /// No tunnel could be made. Given by the local node, never on the wire.
    UNREACHABLE = 10 "unreachable";
    /// Who asked no longer wants the answer.
    CANCELLED = 16 "cancelled";
    /// Policy says no; the reason says how to be let in.
    REFUSED = 17 "refused";
    /// No such service, or no such thing within it.
    NOT_FOUND = 18 "not_found";
    /// A limit of load, not of policy: later may do.
    BUSY = 19 "busy";
    /// The deadline of the request has passed.
    DEADLINE_EXCEEDED = 20 "deadline_exceeded";
    /// The stream header, or the request, is not what the service expects.
    BAD_REQUEST = 21 "bad_request";
    /// The program behind the service failed.
    SERVICE_FAILED = 22 "service_failed";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "code_{}", self.0),
        }
    }
}
