//! Every layout that Pilot puts on the wire (spec/wire.md).

pub mod codec;
pub mod frame;
pub mod stream_header;
pub mod varint;
