// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One header block, its fields and its checksum; extension headers (PAX, GNU long names) and padding.

use super::BLOCK;

/// A header block whose every byte can be set: for the headers that no writer should make.
///
/// A new one is a correct ustar header of an empty regular file; after the last change call [`RawHeader::checksum`], or do
/// not, for a header whose checksum is wrong.
#[derive(Clone, Debug)]
pub struct RawHeader {
    block: [u8; BLOCK],
}

impl RawHeader {
    /// Starts a ustar header of an empty regular file `name` (at most 100 bytes are kept), mode 0644, all else zero.
    pub fn ustar(name: impl AsRef<[u8]>) -> Self {
        let mut header = Self { block: [0; BLOCK] };
        header.put(0, 100, name.as_ref());
        for (offset, width, value) in [(100, 8, 0o644), (108, 8, 0), (116, 8, 0), (124, 12, 0), (136, 12, 0)] {
            header.octal(offset, width, value);
        }
        header.block[156] = b'0';
        header.block[257..265].copy_from_slice(b"ustar\x0000");
        header.checksum()
    }

    /// Makes this a GNU header: magic and version are `ustar  `.
    #[must_use]
    pub fn gnu(mut self) -> Self {
        self.block[257..265].copy_from_slice(b"ustar  \0");
        self.checksum()
    }

    /// Sets the bytes from `offset` on. Does not touch the checksum.
    ///
    /// # Panics
    /// Where the bytes do not fit into the block.
    #[must_use]
    pub fn set(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.block[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Sets the type flag: `b'0'` file, `b'5'` directory, and so on.
    #[must_use]
    pub fn kind(self, flag: u8) -> Self {
        self.set(156, &[flag]).checksum()
    }

    /// Sets the size field, which may disagree with the data that follow.
    #[must_use]
    pub fn size(mut self, size: u64) -> Self {
        self.number(124, 12, i128::from(size));
        self.checksum()
    }

    /// Sets the link name (at most 100 bytes are kept).
    #[must_use]
    pub fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.put(157, 100, target.as_ref());
        self.checksum()
    }

    /// Computes the checksum over the block as it is now.
    #[must_use]
    pub fn checksum(mut self) -> Self {
        self.block[148..156].fill(b' ');
        let sum: u32 = self.block.iter().map(|byte| u32::from(*byte)).sum();
        self.block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self
    }

    /// The 512 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.block
    }

    /// Writes a byte string into a field, cut where it is longer, zero-filled where it is shorter.
    pub(super) fn put(&mut self, offset: usize, width: usize, value: &[u8]) {
        let length = value.len().min(width);
        self.block[offset..offset + width].fill(0);
        self.block[offset..offset + length].copy_from_slice(&value[..length]);
    }

    /// Writes an octal number with its closing NUL.
    fn octal(&mut self, offset: usize, width: usize, value: u64) {
        self.put(offset, width, format!("{value:0digits$o}\0", digits = width - 1).as_bytes());
    }

    /// Writes a number in octal where it fits, else in GNU's base-256 form (first byte 0x80, or 0xff for a negative one).
    pub(super) fn number(&mut self, offset: usize, width: usize, value: i128) {
        match u64::try_from(value) {
            Ok(small) if fits_octal(small, width) => self.octal(offset, width, small),
            _ => {
                let bytes = value.to_be_bytes();
                self.put(offset, width, &bytes[bytes.len() - width..]);
                self.block[offset] = if value < 0 { 0xff } else { 0x80 };
            }
        }
    }
}

/// Whether `value` and its closing NUL fit into an octal field of `width` bytes.
pub(super) fn fits_octal(value: u64, width: usize) -> bool {
    value < 1 << (3 * (width - 1))
}

/// Appends `data` and zeroes up to the next block.
pub(super) fn padded(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// Appends an extension header (`x`, `g`, `L`, `K`) with its body.
pub(super) fn extension(out: &mut Vec<u8>, kind: u8, name: &[u8], body: &[u8]) {
    let header = RawHeader::ustar(name);
    let header = if matches!(kind, b'L' | b'K') { header.gnu() } else { header };
    out.extend_from_slice(header.kind(kind).size(body.len() as u64).as_bytes());
    padded(out, body);
}

/// Appends one PAX record, `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
pub(super) fn pax_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}
