//! The least that a relay can do: whole trains in (GRO), one look-up of 16 bytes for each datagram, whole trains out (GSO).
//!
//! It proves nobody's address, limits nobody and counts nothing, so it is a limit and not a relay. A datagram of 16 bytes makes its sender
//! the receiver of that session.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt;

use super::SESSION_LEN;
use crate::error::BenchError;

/// What one receive call takes, as in our own driver.
const BUFFERS: usize = 8;
const BUFFER_LEN: usize = 64 * 1024;
/// Of the kernel, each way.
const SOCKET_BUFFER_LEN: usize = 4 * 1024 * 1024;
/// Of one send (`UDP_MAX_SEGMENTS`, and the greatest payload).
const SEGMENTS_MAX: usize = 64;
const TRAIN_LEN_MAX: usize = 65_507;

type Session = [u8; SESSION_LEN];

/// Datagrams of one length to one receiver.
struct Train {
    to: SocketAddr,
    segment: usize,
    bytes: Vec<u8>,
}

/// Forwards for ever. Calls `ready` when it listens.
pub(crate) fn serve(
    listen: SocketAddr,
    ready: impl FnOnce(SocketAddr) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let socket = UdpSocket::bind(listen)?;
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_LEN).map_err(io::Error::from)?;
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_LEN).map_err(io::Error::from)?;
    let state = UdpSocketState::new((&socket).into())?;
    ready(socket.local_addr()?)?;
    let mut storage = vec![0; BUFFERS * BUFFER_LEN];
    let mut metas = [RecvMeta::default(); BUFFERS];
    let mut sessions: HashMap<Session, SocketAddr> = HashMap::new();
    let mut train = Train { to: listen, segment: 0, bytes: Vec::with_capacity(TRAIN_LEN_MAX) };
    loop {
        let filled = {
            let mut chunks = storage.chunks_exact_mut(BUFFER_LEN);
            let mut buffers: [IoSliceMut<'_>; BUFFERS] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            match state.recv((&socket).into(), &mut buffers, &mut metas) {
                Ok(filled) => filled,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&socket, PollFlags::IN)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        };
        for (meta, buffer) in metas[..filled].iter().zip(storage.chunks_exact(BUFFER_LEN)) {
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                let Some((session, body)) = datagram.split_first_chunk::<SESSION_LEN>() else { continue };
                if body.is_empty() {
                    sessions.insert(*session, meta.addr);
                } else if let Some(to) = sessions.get(session) {
                    if !train.has_room_for(*to, datagram.len()) {
                        train.send(&socket, &state)?;
                        (train.to, train.segment) = (*to, datagram.len());
                    }
                    train.bytes.extend_from_slice(datagram);
                }
            }
        }
        train.send(&socket, &state)?;
    }
}

impl Train {
    fn has_room_for(&self, to: SocketAddr, len: usize) -> bool {
        self.to == to
            && self.segment == len
            && self.bytes.len() + len <= TRAIN_LEN_MAX
            && self.bytes.len() / len < SEGMENTS_MAX
    }

    /// Sends it, when there is room, and begins anew.
    fn send(&mut self, socket: &UdpSocket, state: &UdpSocketState) -> Result<(), BenchError> {
        let Self { to, segment, bytes } = self;
        if bytes.is_empty() {
            return Ok(());
        }
        let call =
            Transmit { destination: *to, ecn: None, contents: bytes, segment_size: Some(*segment), src_ip: None };
        loop {
            match state.try_send(socket.into(), &call) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(socket, PollFlags::OUT)?,
                sent => {
                    sent?;
                    bytes.clear();
                    return Ok(());
                }
            }
        }
    }
}

fn wait(socket: &UdpSocket, flags: PollFlags) -> Result<(), BenchError> {
    poll(&mut [PollFd::new(socket, flags)], None).map_err(io::Error::from)?;
    Ok(())
}
