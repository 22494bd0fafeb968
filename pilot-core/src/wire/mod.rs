//! Every layout that Pilot puts on the wire (spec/wire.md).

pub mod codec;
pub mod varint;
