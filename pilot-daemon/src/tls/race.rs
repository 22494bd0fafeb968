//! Several ways to one end, begun one after the other, the first that gets there wins (RFC 8305 §5).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

/// Head start of each attempt over the next: the time in which a way that works mostly answers.
const STAGGER: Duration = Duration::from_millis(200);

/// What came of the attempts: the first success, or every failure in the order in which they ended. A failure lets the next one begin at once; those
/// that are behind when one wins are dropped.
pub(super) async fn first<A, T, E>(attempts: impl IntoIterator<Item = A>) -> Result<T, Vec<E>>
where
    A: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let mut waiting = attempts.into_iter();
    let (mut running, mut failures) = (JoinSet::new(), Vec::new());
    let mut has_more = true;
    loop {
        match waiting.next() {
            Some(attempt) => drop(running.spawn(attempt)),
            None => has_more = false,
        }
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(Ok(Ok(won))) => return Ok(won),
                Some(Ok(Err(error))) => failures.push(error),
                Some(Err(error)) => tracing::debug!(%error, "attempt broken off"),
                None if has_more => {}
                None => return Err(failures),
            },
            () = sleep(STAGGER), if has_more => {}
        }
    }
}

/// The addresses of a proxy or a node, in the order in which they are tried (RFC 8305 §4): the resolver's first, then the families in turn.
pub(super) fn interleaved(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let all: Vec<SocketAddr> = addresses.collect();
    let is_v6_first = all.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|address| address.is_ipv6() == is_v6_first);
    first.reverse();
    second.reverse();
    let mut sorted = Vec::new();
    while let Some(address) = first.pop().or_else(|| second.pop()) {
        sorted.push(address);
        sorted.extend(second.pop());
    }
    sorted
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use tokio::sync::oneshot;

    use super::*;

    type Attempt = Pin<Box<dyn Future<Output = Result<&'static str, &'static str>> + Send>>;

    fn ends(result: Result<&'static str, &'static str>) -> Attempt {
        Box::pin(std::future::ready(result))
    }

    #[tokio::test]
    async fn one_that_hangs_keeps_nobody_from_winning_and_is_dropped() {
        let (held, mut dropped) = oneshot::channel::<()>();
        let hangs: Attempt = Box::pin(async move {
            let _held = held;
            std::future::pending().await
        });
        assert_eq!(first([hangs, ends(Ok("second"))]).await, Ok("second"));
        assert!((&mut dropped).await.is_err());
    }

    #[tokio::test]
    async fn all_failures_are_told() {
        assert_eq!(first([ends(Err("one")), ends(Err("two"))]).await, Err(vec!["one", "two"]));
        assert_eq!(first(Vec::<Attempt>::new()).await, Err(vec![]));
    }

    #[test]
    fn addresses_are_tried_family_by_family_in_turn() {
        let addresses = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "192.0.2.1:1"]
            .map(|text| text.parse().expect("an address"));
        let order: Vec<bool> = interleaved(addresses.into_iter()).iter().map(SocketAddr::is_ipv6).collect();
        assert_eq!(order, [true, false, true, true]);
        let order: Vec<bool> = interleaved(addresses.into_iter().rev()).iter().map(SocketAddr::is_ipv6).collect();
        assert_eq!(order, [false, true, true, true]);
    }
}
