//! What every scenario starts with: its seeds.

use crate::invariants::Failure;

/// The environment variable that replaces the seeds of every scenario by one.
const SEED_VARIABLE: &str = "PILOT_SIM_SEED";

/// The seeds of a scenario: those fixed here, or the one from the environment.
///
/// # Panics
/// If the variable is there and is no number.
pub fn seeds(fixed: &[u64]) -> Vec<u64> {
    match std::env::var(SEED_VARIABLE) {
        Ok(seed) => vec![seed.parse().expect("PILOT_SIM_SEED is a number")],
        Err(_) => fixed.to_vec(),
    }
}

/// Runs a scenario on each of its seeds, until one fails.
///
/// # Errors
/// The failure of the first seed that fails.
pub fn for_each_seed(fixed: &[u64], scenario: impl Fn(u64) -> Result<(), Failure>) -> Result<(), Failure> {
    seeds(fixed).into_iter().try_for_each(scenario)
}
