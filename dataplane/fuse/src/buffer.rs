//! The bytes of an answer to `read`: shared, or in a buffer that its thread uses again.

use bytes::Bytes;
use std::{cell::Cell, fs::File, io, ops::Deref, os::unix::fs::FileExt};

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The bytes of an answer.
#[derive(Debug)]
pub enum Data {
    /// Received from elsewhere.
    Shared(Bytes),
    /// Read from a descriptor.
    Pooled(Buffer),
}

impl Deref for Data {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Data::Shared(bytes) => bytes,
            Data::Pooled(buffer) => &buffer.bytes[..buffer.len],
        }
    }
}

/// A buffer that goes back to the thread on which it is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// Exactly `len` bytes of `file` at `offset`.
    pub fn read(file: &File, offset: u64, len: usize) -> io::Result<Buffer> {
        let mut bytes = SPARE.take();
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        let mut buffer = Buffer { bytes, len };
        file.read_exact_at(&mut buffer.bytes[..len], offset)?;
        Ok(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        SPARE.set(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn reads_exactly_and_uses_its_memory_again() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let first = Data::Pooled(Buffer::read(&file, 2, 5).unwrap());
        assert_eq!(&*first, b"23456");
        let at = first.as_ptr();
        drop(first);
        let second = Data::Pooled(Buffer::read(&file, 0, 3).unwrap());
        assert_eq!((&*second, second.as_ptr()), (&b"012"[..], at));
        assert!(Buffer::read(&file, 8, 5).is_err());
    }
}
