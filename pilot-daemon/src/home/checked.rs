//! Files that end with a checksum of what stands before it, so that a changed byte is noticed and not believed (spec/failures.md §3).
//!
//! ```text
//! contents
//! sha256 HEX
//! ```

use data_encoding::HEXLOWER;
use pilot_core::crypto::sha256;
use zeroize::Zeroizing;

use super::{AgentHome, HomeError};

const LABEL: &[u8] = b"sha256 ";
/// The label, 32 bytes in hexadecimal, the end of the line.
const TRAILER_LEN: usize = LABEL.len() + 64 + 1;

impl AgentHome {
    /// The contents of a file that [`Self::write_checked`] wrote; `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be read, or is not as it was written.
    pub(crate) fn read_checked(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, HomeError> {
        let Some(mut bytes) = self.read(name)?.map(Zeroizing::new) else { return Ok(None) };
        let len = bytes.len().checked_sub(TRAILER_LEN);
        match len.filter(|len| bytes[*len..] == trailer(&bytes[..*len])) {
            Some(len) => {
                bytes.truncate(len);
                Ok(Some(bytes))
            }
            None => Err(self.damaged(name, &"its checksum is wrong")),
        }
    }

    /// Replaces a file in the directory, readable by its owner alone.
    ///
    /// # Errors
    /// If that is not possible; the old file is still there then.
    pub(crate) fn write_checked(&self, name: &str, contents: &[u8]) -> Result<(), HomeError> {
        let bytes = Zeroizing::new([contents, &trailer(contents)].concat());
        self.write(name, &bytes, 0o600)
    }
}

fn trailer(contents: &[u8]) -> Vec<u8> {
    [LABEL, HEXLOWER.encode(&sha256(&[contents])).as_bytes(), b"\n"].concat()
}
