//! Anything in any order: agents move, die and return, the backbone with them; links lose, double, damage, slow down, shrink and go
//! silent; tunnels are so old that their keys are renewed. A seed decides all of it.
//!
//! Whatever happened, once it is over every stream has come to an end, and everybody reaches everybody.

use std::time::Duration;

use pilot_core::rng::Rng;

use crate::application::Plan;
use crate::invariants::Failure;
use crate::link::{Chance, LinkConfig};
use crate::topology::{Village, village};
use crate::world::{HostId, Job};

/// By then whatever waits for a peer that has forgotten it has been told, or has given up: the idle timeout is three minutes.
const AFTERMATH: Duration = Duration::from_secs(240);
/// A request to an agent that has restarted meanwhile may end with `peer_restarted`, once at each end of the tunnel.
const ATTEMPTS: usize = 3;
/// Time in which one request on a healed network is answered.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// Longest pause between two changes, mostly.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Longest pause of the few in which keys grow old: they are renewed after two minutes of use.
const LONG_PAUSE_MAX: Duration = Duration::from_secs(150);
/// Longest time in which a host hears nothing at all.
const BLACKOUT_MAX: Duration = Duration::from_secs(30);

/// How bad it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storm {
    /// Agents, beside one backbone node.
    pub agents: usize,
    /// Things that happen in one run.
    pub changes: usize,
    /// Pairs of agents of which each asks the other afterwards; all of them, if there are not more.
    pub pairs_asked: usize,
}

/// A village in a storm, and dice.
struct Weather {
    village: Village,
    rng: Rng,
    jobs: Vec<Job>,
}

impl Storm {
    /// Three agents and sixty changes: small enough for very many seeds.
    pub const SMALL: Self = Self { agents: 3, changes: 60, pairs_asked: usize::MAX };
    /// Fifty agents.
    pub const LARGE: Self = Self { agents: 50, changes: 400, pairs_asked: 100 };

    /// Lets it happen.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn run(self, seed: u64) -> Result<(), Failure> {
        let village = village(seed, LinkConfig::default(), self.agents)?;
        let mut seed_bytes = [0; 32];
        seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut weather = Weather { village, rng: Rng::new(seed_bytes).child("storm"), jobs: Vec::new() };
        for _ in 0..self.changes {
            weather.change()?;
        }
        weather.heal()?;
        weather.village.world.run_for(AFTERMATH)?;
        weather.village.world.settle()?;
        for (from, to) in weather.pairs(self.pairs_asked) {
            weather.request_works(from, to)?;
            weather.request_works(to, from)?;
        }
        weather.village.world.settle()
    }
}

impl Weather {
    fn draw(&mut self, below: usize) -> usize {
        u32::from_le_bytes(self.rng.array()) as usize % below
    }

    fn draw_time(&mut self, below: Duration) -> Duration {
        Duration::from_millis(self.draw(below.as_millis() as usize) as u64)
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

    /// Pairs of agents: all, or as many as asked for.
    fn pairs(&mut self, count_max: usize) -> Vec<(HostId, HostId)> {
        let agents = &self.village.agents;
        let from = |position: usize| agents[position + 1..].iter().map(move |&other| (agents[position], other));
        let all: Vec<_> = (0..agents.len()).flat_map(from).collect();
        if all.len() <= count_max { all } else { (0..count_max).map(|_| all[self.draw(all.len())]).collect() }
    }

    fn change(&mut self) -> Result<(), Failure> {
        match self.draw(20) {
            0..8 => self.start_job()?,
            8..14 => self.change_link(),
            14..16 => {
                let agent = self.any_agent();
                self.village.world.change_address(agent)?;
            }
            16 | 17 => {
                let agent = self.any_agent();
                self.kill_or_boot(agent)?;
            }
            18 => self.black_out()?,
            _ => self.kill_or_boot(self.village.backbone)?,
        }
        let longest = if self.draw(30) == 0 { LONG_PAUSE_MAX } else { PAUSE_MAX };
        let pause = self.draw_time(longest);
        self.village.world.run_for(pause)
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
        let kind = self.draw(9);
        let (rate, queue_len, mtu) =
            (5_000 + self.draw(1_000_000) as u64, 5_000 + self.draw(100_000) as u64, 1_200 + self.draw(8_000));
        self.village.world.change_link(one, other, |link| match kind {
            0 => link.cut(true),
            1 => link.loss(Chance::percent(20)),
            2 => link.overtaking_jitter(Duration::from_millis(40)),
            3 => link.duplication(Chance::percent(20)).corruption(Chance::percent(5)),
            4 => link.rate(rate, queue_len),
            5 | 6 => link.mtu(mtu),
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

    /// Nobody hears an agent for a while, and it hears nobody.
    fn black_out(&mut self) -> Result<(), Failure> {
        let agent = self.any_agent();
        self.change_links_of(agent, |link| link.cut(true));
        let time = self.draw_time(BLACKOUT_MAX);
        self.village.world.run_for(time)?;
        self.change_links_of(agent, |link| link.cut(false));
        Ok(())
    }

    fn change_links_of(&mut self, host: HostId, change: impl Fn(LinkConfig) -> LinkConfig) {
        for other in self.hosts().into_iter().filter(|&other| other != host) {
            self.village.world.change_link(host, other, &change);
        }
    }

    fn hosts(&self) -> Vec<HostId> {
        self.village.agents.iter().chain([&self.village.backbone]).copied().collect()
    }

    fn heal(&mut self) -> Result<(), Failure> {
        for host in self.hosts() {
            self.change_links_of(host, |_| LinkConfig::default());
            if !self.village.world.is_up(host) {
                self.village.world.boot(host)?;
            }
        }
        Ok(())
    }

    fn request_works(&mut self, from: HostId, to: HostId) -> Result<(), Failure> {
        let world = &mut self.village.world;
        let mut outcome = Ok(());
        for _ in 0..ATTEMPTS {
            let request = world.start_job(from, to, Plan::request(1_000, 1_000))?;
            outcome = world.complete(&[request], REQUEST_PATIENCE);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}
