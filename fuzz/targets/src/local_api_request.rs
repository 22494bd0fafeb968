//! placeholder
/// placeholder
pub fn local_api_request(_: &[u8]) {}
