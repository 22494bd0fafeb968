//! What very many streams and attempts leave behind. Alone in its process, since it counts the descriptors of the process.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use pilot_daemon::agent::{Agent, AgentConfig, Resolved};
use pilot_daemon::home::Home;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// More than there are ephemeral ports by default (28,232 of them, of which a system in use has fewer).
const STREAMS: usize = 30_000;
/// Attempts to reach an agent that is not there.
const DIALS: usize = 1_000;
/// Tasks that ask at once.
const ASKERS: usize = 50;
/// Nothing here takes a tenth of it; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long each attempt to reach nobody is kept up.
const DIAL_TIME: Duration = Duration::from_millis(50);

async fn start(home: &TempDir, name: &str) -> Agent {
    let config = AgentConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        ..AgentConfig::new(Home::at(home.path()), name)
    };
    Agent::start(config).await.expect("the agent starts")
}

async fn find(from: &Agent, to: &Agent) -> Resolved {
    from.resolve(&to.ticket().await.unwrap().to_string()).await.unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Pings `count` times, each time over a stream of its own, and tells how often somebody answered.
async fn ping_often(from: &Agent, to: &Resolved, count: usize, time_allowed: Duration) -> usize {
    let mut askers = JoinSet::new();
    for _ in 0..ASKERS {
        let (from, to) = (from.clone(), to.clone());
        askers.spawn(async move {
            let mut answered = 0;
            for _ in 0..count / ASKERS {
                answered += usize::from(from.ping(&to, time_allowed).await.is_ok());
            }
            answered
        });
    }
    askers.join_all().await.into_iter().sum()
}

#[tokio::test]
async fn trap_25_streams_and_dials_beyond_the_number_of_ports_leave_no_descriptor() {
    let home = tempfile::tempdir().unwrap();
    let (alpha, beta, gone) = (start(&home, "alpha").await, start(&home, "beta").await, start(&home, "gone").await);
    let (to_beta, to_nobody) = (find(&alpha, &beta).await, find(&alpha, &gone).await);
    gone.shutdown().await;
    drop(gone);
    assert_eq!(ping_often(&alpha, &to_beta, ASKERS, PATIENCE).await, ASKERS);

    let before = descriptors();
    assert_eq!(ping_often(&alpha, &to_beta, STREAMS, PATIENCE).await, STREAMS);
    assert_eq!(ping_often(&alpha, &to_nobody, DIALS, DIAL_TIME).await, 0);
    assert_eq!(descriptors(), before);
    assert_eq!(ping_often(&alpha, &to_beta, ASKERS, PATIENCE).await, ASKERS, "and all goes on");
}
