//! Each invariant can fail: a node that breaks the rule on purpose is caught, and the rule is named.

use std::time::Duration;

use pilot_core::config::{Config, Role};
use pilot_core::transport::{Sabotage, TransportConfig};
use pilot_sim::application::Plan;
use pilot_sim::invariants::{Failure, Invariant};
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::topology::{Pair, pair_with};

const MIB: u64 = 1 << 20;

/// A long upload that the receiver first does not read, over a link that loses a little: every rule is put to the test.
fn upload(sabotage: Option<Sabotage>) -> Result<(), Failure> {
    let transport = sabotage.map_or_else(TransportConfig::default, |rule| TransportConfig::default().sabotage(rule));
    let config = Config::new(Role::Agent).transport(transport);
    let link = LinkConfig::default().loss(Chance::percent(1));
    let Pair { mut world, alice, bob } = pair_with(1, link, config.clone(), config);
    world.set_reading(bob, false)?;
    let job = world.start_job(alice, bob, Plan::transfer(24 * MIB, 0))?;
    world.run_for(Duration::from_secs(60))?;
    world.set_reading(bob, true)?;
    world.complete(&[job], Duration::from_secs(120))
}

fn broken_by(sabotage: Sabotage) -> Option<Invariant> {
    upload(Some(sabotage)).err().map(|failure| failure.violation.invariant())
}

#[test]
fn without_sabotage_nothing_is_broken() -> Result<(), Failure> {
    upload(None)
}

#[test]
fn counting_acknowledged_bytes_twice_breaks_bytes_in_flight() {
    assert_eq!(broken_by(Sabotage::DoubleCountAck), Some(Invariant::BytesInFlight));
}

#[test]
fn sending_without_credit_breaks_credit() {
    assert_eq!(broken_by(Sabotage::IgnoreCredit), Some(Invariant::Credit));
}

#[test]
fn handing_out_data_beyond_a_gap_breaks_content() {
    assert_eq!(broken_by(Sabotage::DeliverOutOfOrder), Some(Invariant::Content));
}

#[test]
fn taking_more_than_the_send_buffer_holds_breaks_buffers() {
    assert_eq!(broken_by(Sabotage::UnboundedBuffer), Some(Invariant::Buffers));
}

#[test]
fn a_timer_that_stays_armed_breaks_timers() {
    assert_eq!(broken_by(Sabotage::TimerInThePast), Some(Invariant::Timers));
}

#[test]
fn data_that_is_not_counted_breaks_counts() {
    assert_eq!(broken_by(Sabotage::MiscountData), Some(Invariant::Count));
}

#[test]
fn output_without_end_breaks_progress() {
    assert_eq!(broken_by(Sabotage::EndlessPing), Some(Invariant::Progress));
}
