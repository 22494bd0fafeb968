//! temp
pub(crate) mod demo_server;
