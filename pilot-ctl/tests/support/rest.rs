//! What a process costs that has nothing to do, by what the system counts.

use std::fs;
use std::time::Duration;

/// Between two looks at the counters.
const WATCH: Duration = Duration::from_secs(5);
/// Looks until what was begun before has ended.
const LOOKS_MAX: usize = 12;

/// Waits until these processes rest, and looks that they go on with it: none wakes more than twice a second, three times in a row.
pub(crate) fn assert_rests(pids: &[u32]) {
    let rests = |wakes: &[u64]| wakes.iter().all(|&wakes| wakes <= 2 * WATCH.as_secs());
    assert!((0..LOOKS_MAX).any(|_| rests(&watch(pids))), "they do not rest");
    for _ in 0..2 {
        let wakes = watch(pids);
        assert!(rests(&wakes), "woken {wakes:?} times in {WATCH:?}");
    }
}

fn watch(pids: &[u32]) -> Vec<u64> {
    let before: Vec<_> = pids.iter().map(|&pid| wakes(pid)).collect();
    std::thread::park_timeout(WATCH);
    pids.iter().zip(before).map(|(&pid, before)| wakes(pid).saturating_sub(before)).collect()
}

/// How often the threads were woken that a process has: each sleeps by its own will before that.
fn wakes(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let statuses = threads.map(|thread| fs::read_to_string(thread.expect("a thread").path().join("status")));
    let count = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:").map(str::to_owned));
        line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or_default()
    };
    statuses.map(|status| count(status.unwrap_or_default())).sum()
}
