//! stub
#![allow(missing_docs, unused)]
pub mod replay { use crate::id::*; pub struct ReplayWindow; impl ReplayWindow { pub fn new()->Self{Self} pub fn check(&self,_p:PacketNumber)->bool{true} pub fn mark(&mut self,_p:PacketNumber){} } }
use crate::id::*;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct OpenError;
pub struct Session;
impl Session { pub fn new(e: crate::handshake::Established, i: SessionIndex)->Self{Self}
 pub fn seal(&mut self, packet:&mut Vec<u8>, start: usize, pn: PacketNumber){}
 pub fn open<'a>(&mut self, packet:&'a mut [u8])->Result<(PacketNumber,&'a mut [u8]),OpenError>{Err(OpenError)} }
