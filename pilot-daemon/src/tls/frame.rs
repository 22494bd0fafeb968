//! Datagrams in a byte stream (spec/tcp.md §2).
//!
//! ```text
//! frame   |length 2, big-endian|datagram ..|      1 to BASE bytes
//! ```
//!
//! Lengths are checked before a byte is handed on; what is wrong ends the link, since nobody can tell where the next frame begins.

use pilot_core::wire::BASE;

/// Bytes before each datagram.
pub const HEADER_LEN: usize = 2;
/// The longest datagram: INNER with the header of a RELAY packet fits, and nothing needs more.
pub const DATAGRAM_LEN_MAX: usize = BASE;

/// A length that no datagram has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub struct FrameError(usize);

/// Appends a datagram as a frame. Returns whether it has a length that a frame can have.
#[must_use]
pub fn push(buf: &mut Vec<u8>, datagram: &[u8]) -> bool {
    let is_frame = (1..=DATAGRAM_LEN_MAX).contains(&datagram.len());
    if let (true, Ok(len)) = (is_frame, u16::try_from(datagram.len())) {
        buf.extend_from_slice(&len.to_be_bytes());
        buf.extend_from_slice(datagram);
    }
    is_frame
}

/// How many bytes of `received` are whole frames.
///
/// # Errors
/// If a frame, whole or not, has a length that none can have.
pub fn whole_len(received: &[u8]) -> Result<usize, FrameError> {
    let mut whole = 0;
    while let Some(len) = len_at(received, whole) {
        if len == 0 || len > DATAGRAM_LEN_MAX {
            return Err(FrameError(len));
        }
        if received.len() < whole + HEADER_LEN + len {
            break;
        }
        whole += HEADER_LEN + len;
    }
    Ok(whole)
}

/// The datagrams of whole frames.
pub fn datagrams(mut frames: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    std::iter::from_fn(move || {
        let len = len_at(frames, 0)?;
        let (frame, rest) = std::mem::take(&mut frames).split_at_mut_checked(HEADER_LEN + len)?;
        frames = rest;
        Some(&mut frame[HEADER_LEN..])
    })
}

fn len_at(bytes: &[u8], at: usize) -> Option<usize> {
    let header = bytes.get(at..at + HEADER_LEN)?;
    Some(usize::from(u16::from_be_bytes([header[0], header[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(lens: &[usize]) -> Vec<u8> {
        let mut buf = Vec::new();
        for (number, len) in lens.iter().enumerate() {
            assert!(push(&mut buf, &vec![number as u8; *len]));
        }
        buf
    }

    #[test]
    fn datagrams_come_out_as_they_went_in() {
        let mut buf = frames(&[1, 1_200, 40]);
        assert_eq!(whole_len(&buf), Ok(buf.len()));
        let got: Vec<(u8, usize)> = datagrams(&mut buf).map(|datagram| (datagram[0], datagram.len())).collect();
        assert_eq!(got, [(0, 1), (1, 1_200), (2, 40)]);
    }

    #[test]
    fn every_truncation_ends_before_the_frame_that_is_cut() {
        let buf = frames(&[3, 5]);
        for len in 0..buf.len() {
            let whole = if len < 5 { 0 } else { 5 };
            assert_eq!(whole_len(&buf[..len]), Ok(whole), "{len} bytes");
            assert_eq!(datagrams(&mut buf[..whole].to_vec()).count(), usize::from(whole > 0));
        }
    }

    #[test]
    fn lengths_that_no_datagram_has_end_the_link_at_once() {
        assert_eq!(whole_len(&[0, 0]), Err(FrameError(0)));
        assert_eq!(whole_len(&[0xff, 0xff]), Err(FrameError(0xffff)));
        let mut buf = frames(&[7]);
        buf.extend_from_slice(&(DATAGRAM_LEN_MAX as u16 + 1).to_be_bytes());
        assert_eq!(whole_len(&buf), Err(FrameError(DATAGRAM_LEN_MAX + 1)), "also behind good ones");
        assert!(!push(&mut buf, &[0; DATAGRAM_LEN_MAX + 1]) && !push(&mut buf, &[]));
    }
}
