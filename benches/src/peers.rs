//! quinn, the QUIC library that Pilot's own transport has to be level with: same AEAD, same runtime, a thread an end.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use pilot_daemon::clock;
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};

use crate::error::BenchError;
use crate::exchange::{BLOCK_LEN, on_this_thread};

/// Credit as ours is, so that neither is held back by its windows.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

const SERVER_NAME: &str = "localhost";

/// How large quinn's packets may become.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packets {
    /// As it comes: its search ends at 1,452 bytes.
    Default,
    /// This large from the start, which its user has to know that the path carries.
    Of(u16),
}

/// The time that `len` bytes take over one stream between two threads, connecting included.
pub(crate) fn quinn_bulk(len: usize, packets: Packets) -> Result<Duration, BenchError> {
    let certified = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).map_err(wrong)?;
    let certificate = certified.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let server = server_config(certificate.clone(), key.into(), packets)?;
    let (address_tx, address_rx) = mpsc::channel();
    let taker = thread::spawn(move || on_this_thread(take(server, address_tx)));
    let address = address_rx.recv().map_err(wrong)?;
    let start = clock::now().mono;
    on_this_thread(send(client_config(certificate, packets)?, address, len))?;
    let time = clock::now().mono.since(start);
    taker.join().map_err(|_| BenchError::Wrong("the taker panicked".to_owned()))??;
    Ok(time)
}

async fn send(config: ClientConfig, address: SocketAddr, len: usize) -> Result<(), BenchError> {
    let endpoint = bind(None)?;
    let connection = endpoint.connect_with(config, address, SERVER_NAME).map_err(wrong)?.await.map_err(wrong)?;
    let (mut sender, mut receiver) = connection.open_bi().await.map_err(wrong)?;
    let block = Bytes::from(vec![7; BLOCK_LEN]);
    let mut left = len;
    while left > 0 {
        let chunk = block.slice(..left.min(BLOCK_LEN));
        left -= chunk.len();
        sender.write_chunk(chunk).await.map_err(wrong)?;
    }
    sender.finish().map_err(wrong)?;
    receiver.read_to_end(0).await.map_err(wrong)?;
    connection.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
    Ok(())
}

async fn take(config: ServerConfig, address: mpsc::Sender<SocketAddr>) -> Result<(), BenchError> {
    let endpoint = bind(Some(config))?;
    address.send(endpoint.local_addr()?).map_err(wrong)?;
    let incoming = endpoint.accept().await.ok_or_else(|| BenchError::Wrong("the endpoint closed".to_owned()))?;
    let connection = incoming.await.map_err(wrong)?;
    let (mut sender, mut receiver) = connection.accept_bi().await.map_err(wrong)?;
    while receiver.read_chunk(usize::MAX, true).await.map_err(wrong)?.is_some() {}
    sender.finish().map_err(wrong)?;
    connection.closed().await;
    Ok(())
}

/// An endpoint that takes datagrams of any size, which the library's own constructors do not allow.
fn bind(server: Option<ServerConfig>) -> Result<Endpoint, BenchError> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(u16::MAX - 8).map_err(wrong)?;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?)
}

fn server_config(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    packets: Packets,
) -> Result<ServerConfig, BenchError> {
    let mut config = ServerConfig::with_single_cert(vec![certificate], key).map_err(wrong)?;
    config.transport_config(transport_config(packets));
    Ok(config)
}

fn client_config(certificate: CertificateDer<'static>, packets: Packets) -> Result<ClientConfig, BenchError> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(wrong)?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).map_err(wrong)?;
    config.transport_config(transport_config(packets));
    Ok(config)
}

fn transport_config(packets: Packets) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config.stream_receive_window(VarInt::from_u32(STREAM_WINDOW));
    config.receive_window(VarInt::from_u32(CONNECTION_WINDOW));
    config.send_window(u64::from(STREAM_WINDOW));
    if let Packets::Of(len) = packets {
        config.initial_mtu(len).mtu_discovery_config(None);
    }
    Arc::new(config)
}

fn wrong(error: impl std::fmt::Display) -> BenchError {
    BenchError::Wrong(error.to_string())
}
