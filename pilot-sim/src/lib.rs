//! A deterministic network that drives pilot-core and pilot-relay in virtual time.
#![forbid(unsafe_code)]
