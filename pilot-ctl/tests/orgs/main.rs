//! Organisations with real processes (spec/org.md, spec/rules.md): agents in homes of their own, so that nothing but an organisation makes
//! them trust each other.

mod joining;
mod keys;
mod leaving;
mod machines;
mod remedies;
mod rules;
mod starts;
#[path = "../support/mod.rs"]
mod support;
