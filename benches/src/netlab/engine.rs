//! The router in real time: one thread that moves packets between the hosts' TUN devices and a [`Router`].
//!
//! The thread asks for a real-time priority, and says how late it was and how much it had to do ([`Punctuality`]): a report that does not
//! know what its network did to it is worth nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use pilot_daemon::clock;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tun_rs::SyncDevice;

use super::packet::Packet;
use super::router::{NodeId, Router};

/// Packets taken from one host before the others have their turn.
const BATCH_MAX: usize = 64;
/// The longest packet that a device gives.
const PACKET_LEN_MAX: usize = 65_536;
/// Above most of what runs on the machine, below the kernel's own threads.
const PRIORITY: &str = "20";

type Order = Box<dyn FnOnce(&mut Router, &mut Punctuality) + Send>;

/// The running network.
#[derive(Debug)]
pub(crate) struct Engine {
    orders: Option<Sender<Order>>,
    bell: OwnedFd,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// The device of a host.
pub(crate) struct Port {
    pub(crate) host: NodeId,
    pub(crate) device: SyncDevice,
}

/// How well the lab kept time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Punctuality {
    /// Times that something was due.
    pub(crate) turns: u64,
    /// By how much they were late, together.
    pub(crate) late_sum: Duration,
    /// The latest.
    pub(crate) late_max: Duration,
    /// Packets that arrived.
    pub(crate) delivered: u64,
    /// Packets that a host did not take.
    pub(crate) refused: u64,
    /// Whether the thread has its priority.
    pub(crate) is_real_time: bool,
}

impl Engine {
    /// Starts the thread.
    pub(crate) fn start(router: Router, ports: Vec<Port>) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let heard = bell.try_clone()?;
        let (orders, receiver) = mpsc::channel();
        let run =
            move || Loop { router, ports, orders: receiver, bell: heard, punctuality: Punctuality::default() }.run();
        let thread = std::thread::Builder::new().name("netlab-router".to_owned()).spawn(run)?;
        Ok(Self { orders: Some(orders), bell, thread: Some(thread) })
    }

    /// Looks at the network, or changes it, between two packets.
    pub(crate) fn with<T: Send + 'static>(&self, order: impl FnOnce(&mut Router) -> T + Send + 'static) -> T {
        self.order(|router, _| order(router))
    }

    /// How well it kept time since it was asked last.
    pub(crate) fn punctuality(&self) -> Punctuality {
        self.order(|_, punctuality| {
            let is_real_time = punctuality.is_real_time;
            std::mem::replace(punctuality, Punctuality { is_real_time, ..Punctuality::default() })
        })
    }

    fn order<T: Send + 'static>(&self, order: impl FnOnce(&mut Router, &mut Punctuality) -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::sync_channel(1);
        let order: Order = Box::new(move |router, punctuality| drop(sender.send(order(router, punctuality))));
        self.orders
            .as_ref()
            .expect("taken when dropped")
            .send(order)
            .expect("the router's thread ends with its engine");
        self.ring();
        receiver.recv().expect("the router's thread answers")
    }

    fn ring(&self) {
        // It fails only when it has been rung 2^64 times.
        let _rung = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.ring();
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            eprintln!("the lab's router failed: {error}");
        }
    }
}

impl Punctuality {
    /// Of two labs the one that was late by more.
    pub(crate) fn worse(self, other: Self) -> Self {
        if other.late_max >= self.late_max { other } else { self }
    }

    /// One line for a report.
    pub(crate) fn sentence(&self) -> String {
        let mean = self.late_sum.checked_div(u32::try_from(self.turns).unwrap_or(u32::MAX)).unwrap_or_default();
        let priority = if self.is_real_time { "with" } else { "WITHOUT" };
        format!(
            "router {priority} real-time priority: {} packets delivered, {} refused; late by {:.0} µs on average, {:.2} ms at most",
            self.delivered,
            self.refused,
            mean.as_secs_f64() * 1e6,
            self.late_max.as_secs_f64() * 1e3
        )
    }
}

/// What the thread owns.
struct Loop {
    router: Router,
    ports: Vec<Port>,
    orders: Receiver<Order>,
    bell: OwnedFd,
    punctuality: Punctuality,
}

impl Loop {
    fn run(mut self) -> io::Result<()> {
        self.punctuality.is_real_time = ask_for_priority();
        let mut buffer = vec![0; PACKET_LEN_MAX];
        loop {
            let ready = self.wait()?;
            self.move_on();
            for port in ready {
                self.take_from(port, &mut buffer)?;
            }
            loop {
                match self.orders.try_recv() {
                    Ok(order) => order(&mut self.router, &mut self.punctuality),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
                }
            }
            self.move_on();
        }
    }

    /// Sleeps until a host has sent, something is due, or the bell rings. Returns the ports that have something.
    fn wait(&self) -> io::Result<Vec<usize>> {
        let timeout = self.router.poll_timeout().map(|due| timespec(due.since(clock::now().mono)));
        let mut fds: Vec<_> = self.ports.iter().map(|port| PollFd::new(&port.device, PollFlags::IN)).collect();
        fds.push(PollFd::new(&self.bell, PollFlags::IN));
        poll(&mut fds, timeout.as_ref())?;
        let is_ready = |fd: &PollFd<'_>| fd.revents().contains(PollFlags::IN);
        if fds.last().is_some_and(is_ready) {
            rustix::io::read(self.bell.as_fd(), &mut [0; 8])?;
        }
        Ok((0..self.ports.len()).filter(|&port| is_ready(&fds[port])).collect())
    }

    /// Lets pass what is due, and hands out what has arrived.
    fn move_on(&mut self) {
        let now = clock::now().mono;
        if let Some(due) = self.router.poll_timeout().filter(|&due| due <= now) {
            let late = now.since(due);
            self.punctuality.turns += 1;
            self.punctuality.late_sum += late;
            self.punctuality.late_max = self.punctuality.late_max.max(late);
        }
        self.router.handle_timeout(now);
        while let Some((host, packet)) = self.router.poll_arrived() {
            let port = self.ports.iter().find(|port| port.host == host);
            match port.map(|port| port.device.send(packet.bytes())) {
                Some(Ok(_)) => self.punctuality.delivered += 1,
                Some(Err(_)) | None => self.punctuality.refused += 1,
            }
        }
    }

    fn take_from(&mut self, port: usize, buffer: &mut [u8]) -> io::Result<()> {
        let Port { host, device } = &self.ports[port];
        for _ in 0..BATCH_MAX {
            let len = match device.recv(buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if let Some(packet) = Packet::parse(&buffer[..len]) {
                self.router.handle_packet(clock::now().mono, *host, packet);
            }
        }
        Ok(())
    }
}

/// Tells whether the calling thread runs before others from now on.
fn ask_for_priority() -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut chrt = Command::new("chrt");
    chrt.args(["-f", "-p", PRIORITY, &thread]).stdout(Stdio::null()).stderr(Stdio::null());
    chrt.status().is_ok_and(|status| status.success())
}

fn timespec(time: Duration) -> Timespec {
    Timespec::try_from(time).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
