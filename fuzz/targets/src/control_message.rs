//! Calls to a backbone node, and what its clients and the directory answer.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use pilot_core::directory::Pins;
use pilot_core::id::{IdentityKey, Instance, InstanceId, ServicePort};
use pilot_core::node::OpenStreamError;
use pilot_core::org::call;
use pilot_core::org::code::{Ends, OpenCode, Word};
use pilot_core::record::{HandOver, IdentityRecord, PresenceRecord, Withdrawal};
use pilot_core::rng::Rng;
use pilot_core::route::Route;
use pilot_core::time::{Mono, Now};
use pilot_core::transport::{Code, Read, ReadError, WriteError};
use pilot_core::wire::circuit::{self, CircuitAnswer, CircuitOffer, CircuitOpen, CircuitOpened};
use pilot_core::wire::directory::{Reply, Request};
use pilot_core::wire::stream_header::{STREAM_HEADER_LEN_MAX, StreamHeader};
use pilot_relay::control::{Control, Tunnels};
use pilot_relay::relay::Routes;
use pilot_relay::store::memory::MemoryStore;

use crate::keys::{START, keys};

/// Reads the bytes as every message there is, and lets a client send them to a backbone node.
///
/// # Panics
/// If what was read is not what an encoder writes, or a complete call is neither answered nor refused.
pub fn control_message(data: &[u8]) {
    decode(data);
    for port in [ServicePort::DIRECTORY, ServicePort::CIRCUIT] {
        call(port, data);
    }
}

fn decode(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(request.encode(), data);
    }
    if let Ok(reply) = Reply::decode(data) {
        assert_eq!(reply.encode(), data);
    }
    org_call(data);
    macro_rules! circuit_messages {
        ($($message:ty),*) => {$(
            if let Ok(message) = circuit::decode::<$message>(data) {
                assert_eq!(circuit::decode::<$message>(&circuit::encode(&message)), Ok(message));
            }
        )*};
    }
    circuit_messages!(CircuitOpen, CircuitOpened, CircuitOffer, CircuitAnswer);
    if let Ok(Some((header, len))) = StreamHeader::decode(data) {
        assert!(len <= data.len().min(STREAM_HEADER_LEN_MAX + 2));
        let mut encoded = Vec::new();
        header.encode(&mut encoded).expect("what was read is in bounds");
        assert_eq!(StreamHeader::decode(&encoded), Ok(Some((header, encoded.len()))));
    }
    if let Ok(pins) = Pins::from_bytes(data) {
        assert_eq!(pins.to_bytes(), data);
    }
    // Without the key nobody makes a record that verifies; seeds that do lie in the corpus.
    let _verified = (IdentityRecord::verify(data, START.unix), PresenceRecord::verify(data, START.unix));
    let _verified = (Withdrawal::verify(data, START.unix), HandOver::verify(data, START.unix));
}

/// What one agent asks another about an organisation; a share of a code is also answered.
fn org_call(data: &[u8]) {
    if let Ok(reply) = call::Reply::decode(data) {
        assert_eq!(reply.encode(), data);
    }
    let Ok(request) = call::Request::decode(data) else { return };
    assert_eq!(request.encode(), data);
    if let call::Request::Code { share, .. } | call::Request::CodeProof { share, .. } = request {
        let ends = Ends { joiner: IdentityKey([1; 32]), issuer: IdentityKey([2; 32]) };
        let mut code = OpenCode::new(Word::new(0, &[3; 6]), [4; 32], [5; 8]);
        let answer = code.answer(&ends, &share);
        assert!(code.finish(&ends, &share, &[0; 32]).is_err(), "nobody guesses a tag");
        assert_eq!(code.answer(&ends, &share), answer);
    }
}

/// One client calls with the bytes, cut in two, while another is there to be called; then the other answers with them, too.
fn call(port: ServicePort, data: &[u8]) {
    let [caller, callee] = [0, 1].map(|which| {
        let certificate = keys(which).certificate;
        Instance { key: certificate.identity, id: certificate.instance }
    });
    let mut control = Control::new(IdentityKey([9; 32]), MemoryStore::new(), Rng::new([5; 32]), START);
    let mut streams = FakeStreams { clients: [caller, callee], ..FakeStreams::default() };
    control.client_connected(START, caller);
    control.client_connected(START, callee);

    let call = streams.add();
    control.stream_opened(START, call, caller, &StreamHeader::new(port), &mut streams);
    let (first, second) = data.split_at(data.len() / 2);
    for (part, is_last) in [(first, false), (second, true)] {
        streams.feed(call, part, is_last);
        control.stream_readable(START, call, &mut streams);
    }
    let stream = &streams.all[&call];
    assert!(stream.is_outbound_finished != stream.is_aborted, "a call is answered or refused");
    if stream.is_outbound_finished {
        match port {
            ServicePort::DIRECTORY => assert!(Reply::decode(&stream.outbound).is_ok()),
            _ => assert!(circuit::decode::<CircuitOpened>(&stream.outbound).is_ok()),
        }
    }
    for offer in streams.opened.clone() {
        streams.feed(offer, data, true);
        control.stream_readable(START, offer, &mut streams);
        control.stream_over(offer);
    }
    control.stream_over(call);
    control.handle_timeout(START);
    assert!(control.status().circuits <= 1);
    assert!(control.client_gone(START, &caller));
}

/// Streams that are numbered and take everything.
struct FakeStreams {
    clients: [Instance; 2],
    all: BTreeMap<u32, FakeStream>,
    /// Those to a client.
    opened: Vec<u32>,
}

#[derive(Default)]
struct FakeStream {
    inbound: VecDeque<Bytes>,
    is_inbound_finished: bool,
    outbound: Vec<u8>,
    is_outbound_finished: bool,
    is_aborted: bool,
}

impl Default for FakeStreams {
    fn default() -> Self {
        let nobody = Instance { key: IdentityKey([0; 32]), id: InstanceId([0; 8]) };
        Self { clients: [nobody; 2], all: BTreeMap::new(), opened: Vec::new() }
    }
}

impl FakeStreams {
    fn add(&mut self) -> u32 {
        let stream = self.all.len() as u32;
        self.all.insert(stream, FakeStream::default());
        stream
    }

    fn feed(&mut self, stream: u32, data: &[u8], is_last: bool) {
        let stream = self.stream(stream);
        stream.inbound.push_back(Bytes::copy_from_slice(data));
        stream.is_inbound_finished = is_last;
    }

    fn stream(&mut self, stream: u32) -> &mut FakeStream {
        self.all.get_mut(&stream).expect("a stream that was opened")
    }
}

impl Routes for FakeStreams {
    fn validated_remote(&self, client: &Instance) -> Option<Route> {
        let position = self.clients.iter().position(|known| known == client)?;
        Some(Route::to(([192, 0, 2, position as u8], 4_000).into()))
    }

    fn has_validated(&self, _: Mono, client: &Instance, from: &Route) -> bool {
        self.validated_remote(client).as_ref() == Some(from)
    }
}

impl Tunnels for FakeStreams {
    type Stream = u32;

    fn open_stream(&mut self, _: Now, _: &Instance, _: &StreamHeader) -> Result<u32, OpenStreamError> {
        let stream = self.add();
        self.opened.push(stream);
        Ok(stream)
    }

    fn write(&mut self, _: Now, stream: u32, data: &mut Bytes) -> Result<usize, WriteError> {
        let data = std::mem::take(data);
        self.stream(stream).outbound.extend_from_slice(&data);
        Ok(data.len())
    }

    fn finish(&mut self, _: Now, stream: u32) -> Result<(), WriteError> {
        self.stream(stream).is_outbound_finished = true;
        Ok(())
    }

    fn read(&mut self, _: Now, stream: u32, len_max: usize) -> Result<Read, ReadError> {
        let stream = self.stream(stream);
        let Some(front) = stream.inbound.front_mut() else {
            return Ok(if stream.is_inbound_finished { Read::Finished } else { Read::Blocked });
        };
        let data = front.split_to(front.len().min(len_max));
        if front.is_empty() {
            stream.inbound.pop_front();
        }
        Ok(Read::Data(data))
    }

    fn abort(&mut self, _: Now, stream: u32, _: Code, _: &str) {
        self.stream(stream).is_aborted = true;
    }
}
