//! Unreliable messages for programs: who takes those for a port, and what becomes of those that nobody takes (spec/streams.md §10).
//!
//! Nothing is kept for a message that is sent, and nothing for one that nobody takes: a port is in use as long as its [`DatagramReceiver`] lives.

use std::collections::BTreeMap;

use bytes::Bytes;
use pilot_core::address::Address;
use pilot_core::id::{IdentityKey, ServicePort};
use tokio::sync::mpsc;

/// Messages that wait for one program, a quarter of a megabyte at most: what it has not taken by then is late already.
const QUEUE_MAX: usize = 256;
/// Ports in use at once, as there may be services; each needs a local program.
const RECEIVERS_MAX: usize = 256;

/// An unreliable message, with its provenance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it, as the session proves.
    pub peer: IdentityKey,
    /// The address of that key.
    pub address: Option<Address>,
    /// What it says.
    pub data: Bytes,
}

/// Takes the messages for a port; dropped, it gives the port up.
#[derive(Debug)]
pub struct DatagramReceiver {
    queue: mpsc::Receiver<Datagram>,
}

/// Why a program does not get the messages for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("another program takes the datagrams for port {}", .0.0)]
    Taken(ServicePort),
    #[error("programs take the datagrams for {RECEIVERS_MAX} ports already")]
    Full,
}

/// The programs of one agent that take messages.
#[derive(Debug, Default)]
pub(crate) struct Datagrams {
    receivers: BTreeMap<ServicePort, Receiver>,
    dropped: u64,
}

#[derive(Debug)]
struct Receiver {
    public: bool,
    queue: mpsc::Sender<Datagram>,
}

impl DatagramReceiver {
    /// The next message; none once the agent has ended.
    pub async fn recv(&mut self) -> Option<Datagram> {
        self.queue.recv().await
    }
}

impl Datagrams {
    /// Gives the messages for a port to whoever holds the receiver.
    pub(crate) fn receive(&mut self, port: ServicePort, public: bool) -> Result<DatagramReceiver, ReceiveError> {
        self.receivers.retain(|_, receiver| !receiver.queue.is_closed());
        if self.receivers.contains_key(&port) {
            return Err(ReceiveError::Taken(port));
        }
        if self.receivers.len() >= RECEIVERS_MAX {
            return Err(ReceiveError::Full);
        }
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        self.receivers.insert(port, Receiver { public, queue: sender });
        Ok(DatagramReceiver { queue })
    }

    /// Whether the program at that port takes messages from everybody.
    pub(crate) fn is_public(&self, port: ServicePort) -> bool {
        self.receivers.get(&port).is_some_and(|receiver| receiver.public)
    }

    /// Hands a message over. It is dropped where nobody takes it, where its sender may not call, and where too many wait.
    pub(crate) fn deliver(&mut self, port: ServicePort, datagram: Datagram, allowed: bool) {
        let receiver = self.receivers.get(&port).filter(|_| allowed);
        if receiver.is_none_or(|receiver| receiver.queue.try_send(datagram).is_err()) {
            self.dropped += 1;
        }
    }

    /// Messages that no program has got.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: ServicePort = ServicePort(900);

    fn datagram(number: usize) -> Datagram {
        Datagram { peer: IdentityKey([1; 32]), address: None, data: Bytes::from(number.to_string()) }
    }

    #[tokio::test]
    async fn a_program_that_does_not_read_loses_what_is_beyond_its_queue() {
        let mut datagrams = Datagrams::default();
        let mut receiver = datagrams.receive(PORT, false).expect("free");
        (0..QUEUE_MAX + 7).for_each(|number| datagrams.deliver(PORT, datagram(number), true));
        assert_eq!(datagrams.dropped(), 7);
        for number in 0..QUEUE_MAX {
            assert_eq!(receiver.recv().await, Some(datagram(number)));
        }
        datagrams.deliver(PORT, datagram(QUEUE_MAX), true);
        assert_eq!(receiver.recv().await, Some(datagram(QUEUE_MAX)));
    }

    #[tokio::test]
    async fn what_is_allowed_arrives_where_somebody_listens_and_nothing_else() {
        let mut datagrams = Datagrams::default();
        let mut open = datagrams.receive(PORT, true).expect("free");
        assert!(datagrams.is_public(PORT) && !datagrams.is_public(ServicePort(901)));
        datagrams.deliver(PORT, datagram(0), false);
        datagrams.deliver(ServicePort(901), datagram(1), true);
        datagrams.deliver(PORT, datagram(2), true);
        assert_eq!((datagrams.dropped(), open.recv().await), (2, Some(datagram(2))));
    }

    #[test]
    fn trap_25_ports_are_given_up_with_their_program_and_sending_takes_none() {
        let mut datagrams = Datagrams::default();
        for _ in 0..20_000 {
            let held = datagrams.receive(PORT, false).expect("free");
            assert_eq!(datagrams.receive(PORT, false).map(drop), Err(ReceiveError::Taken(PORT)));
            drop(held);
            datagrams.deliver(PORT, datagram(0), true);
        }
        assert!(datagrams.receivers.len() <= 1);
        let held: Vec<_> = (0..RECEIVERS_MAX as u16).map(|port| datagrams.receive(ServicePort(port), false)).collect();
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(datagrams.receive(PORT, false).map(drop), Err(ReceiveError::Full));
    }
}
