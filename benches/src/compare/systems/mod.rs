//! The systems, each set up as its best users would.
//!
//! Windows are 16 MiB a stream and 32 MiB a connection wherever they can be set, so that nobody waits for credit on a path of a gigabit and
//! 40 ms; TLS is 1.3 with AES-256-GCM, X25519 and one P-256 certificate that the client verifies; AEADs are those of aws-lc.

mod certificate;
mod crowd;
mod daemons;
mod http1;
mod http2;
mod http3;
mod http_body;
mod iroh;
mod pilot;
mod quinn;
mod s2n;
mod tcp;
mod tls;

pub(crate) use certificate::{Authority, Certificate};
pub(crate) use crowd::{Crowd, identities};
pub(crate) use daemons::Daemons;
pub(crate) use http1::Http1;
pub(crate) use http2::Http2;
pub(crate) use http3::Http3;
pub(crate) use iroh::Iroh;
pub(crate) use pilot::Pilot;
pub(crate) use quinn::{Quinn, accept as accept_quic, listen as listen_for_quic};
pub(crate) use s2n::S2n;
pub(crate) use tcp::Tcp;
pub(crate) use tls::Tls;

/// Credit of a stream, in bytes.
pub(crate) const STREAM_WINDOW: u32 = 16 << 20;
/// Credit of a connection, in bytes.
pub(crate) const CONNECTION_WINDOW: u32 = 32 << 20;
/// What certificates are for.
const SERVER_NAME: &str = "localhost";
/// Application protocol of systems that must name one.
const PROTOCOL: &[u8] = b"exchange";
