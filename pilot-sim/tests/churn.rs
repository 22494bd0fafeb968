//! Anything in any order: agents move, die and return, the relay with them, links go bad and are cut. Whatever happened, once it is over
//! every stream has come to an end, and everybody reaches everybody.

use std::time::Duration;

use pilot_core::rng::Rng;
use pilot_sim::application::Plan;
use pilot_sim::invariants::Failure;
use pilot_sim::link::{Chance, LinkConfig};
use pilot_sim::scenario::for_each_seed;
use pilot_sim::topology::{Village, village};
use pilot_sim::world::{HostId, Job};

const SEEDS: &[u64] = &[1, 2, 3, 4, 166, 267];
/// Things that happen in one run.
const CHANGES: u32 = 60;
/// By then whatever waits for a peer that has forgotten it has been told, or has given up: the idle timeout is three minutes.
const AFTERMATH: Duration = Duration::from_secs(240);
/// A request to an agent that has restarted meanwhile may end with `peer_restarted`, once at each end of the tunnel.
const ATTEMPTS: usize = 3;

/// A village, and dice.
struct Churn {
    village: Village,
    rng: Rng,
    jobs: Vec<Job>,
}

impl Churn {
    fn draw(&mut self, below: usize) -> usize {
        u32::from_le_bytes(self.rng.array()) as usize % below
    }

    fn any_agent(&mut self) -> HostId {
        let position = self.draw(self.village.agents.len());
        self.village.agents[position]
    }

    fn any_pair(&mut self) -> (HostId, HostId) {
        let (count, from) = (self.village.agents.len(), self.draw(self.village.agents.len()));
        let to = (from + 1 + self.draw(count - 1)) % count;
        (self.village.agents[from], self.village.agents[to])
    }

    fn start_job(&mut self) -> Result<(), Failure> {
        let (from, to) = self.any_pair();
        let len = self.draw(200_000) as u64;
        let plan = [Plan::echo(len), Plan::transfer(len, len), Plan::request(len, 100)][self.draw(3)];
        self.jobs.push(self.village.world.start_job(from, to, plan)?);
        Ok(())
    }

    fn change_link(&mut self) {
        let (one, other) = self.any_pair();
        let other = if self.draw(2) == 0 { other } else { self.village.backbone };
        let kind = self.draw(6);
        self.village.world.change_link(one, other, |link| match kind {
            0 => link.cut(true),
            1 => link.loss(Chance::percent(20)),
            2 => link.overtaking_jitter(Duration::from_millis(40)),
            3 => link.duplication(Chance::percent(20)).corruption(Chance::percent(5)),
            _ => LinkConfig::default(),
        });
    }

    fn kill_or_boot(&mut self, host: HostId) -> Result<(), Failure> {
        if self.village.world.is_up(host) {
            self.village.world.kill(host);
            return Ok(());
        }
        self.village.world.boot(host)
    }

    fn change(&mut self) -> Result<(), Failure> {
        match self.draw(10) {
            0..4 => self.start_job()?,
            4..7 => self.change_link(),
            7 => {
                let agent = self.any_agent();
                self.village.world.change_address(agent)?;
            }
            8 => {
                let agent = self.any_agent();
                self.kill_or_boot(agent)?;
            }
            _ => self.kill_or_boot(self.village.backbone)?,
        }
        let pause = Duration::from_millis(self.draw(3_000) as u64);
        self.village.world.run_for(pause)
    }

    fn heal(&mut self) -> Result<(), Failure> {
        let Village { world, agents, backbone } = &mut self.village;
        let hosts: Vec<HostId> = agents.iter().chain([&*backbone]).copied().collect();
        for (position, &one) in hosts.iter().enumerate() {
            for &other in &hosts[position + 1..] {
                world.change_link(one, other, |_| LinkConfig::default());
            }
            if !world.is_up(one) {
                world.boot(one)?;
            }
        }
        Ok(())
    }

    fn request_works(&mut self, from: HostId, to: HostId) -> Result<(), Failure> {
        let world = &mut self.village.world;
        let mut outcome = Ok(());
        for _ in 0..ATTEMPTS {
            let request = world.start_job(from, to, Plan::request(1_000, 1_000))?;
            outcome = world.complete(&[request], Duration::from_secs(10));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

#[test]
fn after_the_storm_every_stream_has_ended_and_everybody_is_reached() -> Result<(), Failure> {
    for_each_seed(SEEDS, |seed| {
        let village = village(seed, LinkConfig::default(), 3)?;
        let mut seed_bytes = [0; 32];
        seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut churn = Churn { village, rng: Rng::new(seed_bytes).child("churn"), jobs: Vec::new() };
        for _ in 0..CHANGES {
            churn.change()?;
        }
        churn.heal()?;
        churn.village.world.run_for(AFTERMATH)?;
        churn.village.world.settle()?;
        for from in churn.village.agents.clone() {
            for to in churn.village.agents.clone() {
                if from != to {
                    churn.request_works(from, to)?;
                }
            }
        }
        churn.village.world.settle()
    })
}
