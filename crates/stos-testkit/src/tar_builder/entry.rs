// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One entry of a tar and how each of the three formats writes it.

use super::header::{RawHeader, extension, fits_octal, padded, pax_record};

/// How an entry's long names, large numbers and xattrs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Plain POSIX.1-1988: what does not fit is cut; xattrs and nanoseconds are lost. Long names use the prefix field.
    Ustar,
    /// PAX extended headers where a value needs them. What Go's archive/tar, and so docker and buildah, write.
    #[default]
    Pax,
    /// GNU `././@LongLink` entries and base-256 numbers; xattrs and nanoseconds are lost.
    Gnu,
}

/// One entry: made by a constructor per type, refined by the methods, all with plain defaults (owner 0:0, mtime 0).
#[derive(Clone, Debug)]
pub struct Entry {
    path: Vec<u8>,
    kind: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    seconds: i64,
    nanoseconds: u32,
    link: Vec<u8>,
    data: Vec<u8>,
    device: (u32, u32),
    names: (String, String),
    format: Format,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    fn new(kind: u8, path: impl AsRef<[u8]>, mode: u32) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            seconds: 0,
            nanoseconds: 0,
            link: Vec::new(),
            data: Vec::new(),
            device: (0, 0),
            names: (String::new(), String::new()),
            format: Format::default(),
            records: Vec::new(),
        }
    }

    /// A regular file, mode 0644.
    pub fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self { data: data.as_ref().to_vec(), ..Self::new(b'0', path, 0o644) }
    }

    /// A directory, mode 0755; a closing `/` is added, as every writer does.
    pub fn directory(path: impl AsRef<[u8]>) -> Self {
        let mut path = path.as_ref().to_vec();
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        Self::new(b'5', path, 0o755)
    }

    /// A symlink, mode 0777.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(b'2', path, 0o777) }
    }

    /// A hard link to the entry `target`, a path from the root of the tar.
    pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(b'1', path, 0o644) }
    }

    /// A character device, mode 0666.
    pub fn char_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..Self::new(b'3', path, 0o666) }
    }

    /// A block device, mode 0660.
    pub fn block_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..Self::new(b'4', path, 0o660) }
    }

    /// A FIFO, mode 0644.
    pub fn fifo(path: impl AsRef<[u8]>) -> Self {
        Self::new(b'6', path, 0o644)
    }

    /// An entry with any type flag: for the types that a layer must not or need not have.
    pub fn of_kind(kind: u8, path: impl AsRef<[u8]>) -> Self {
        Self::new(kind, path, 0o644)
    }

    /// Sets the permission bits, setuid, setgid and sticky among them.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// Sets the owner; what exceeds the octal fields goes to PAX or base-256 by the format.
    #[must_use]
    pub fn owner(self, uid: u64, gid: u64) -> Self {
        Self { uid, gid, ..self }
    }

    /// Sets the names of owner and group, which an image ignores.
    #[must_use]
    pub fn owner_names(self, user: &str, group: &str) -> Self {
        Self { names: (user.into(), group.into()), ..self }
    }

    /// Sets the time of modification: seconds since 1970, which may be negative, and nanoseconds on top.
    #[must_use]
    pub fn mtime(self, seconds: i64, nanoseconds: u32) -> Self {
        Self { seconds, nanoseconds, ..self }
    }

    /// Sets the link name of an entry that is no link.
    #[must_use]
    pub fn link(self, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..self }
    }

    /// Sets the data of an entry that is no regular file.
    #[must_use]
    pub fn data(self, data: impl AsRef<[u8]>) -> Self {
        Self { data: data.as_ref().to_vec(), ..self }
    }

    /// Adds an extended attribute, as `SCHILY.xattr.NAME`. Only [`Format::Pax`] can carry it.
    #[must_use]
    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(format!("SCHILY.xattr.{name}"), value)
    }

    /// Adds a PAX record as it is, after those that the values ask for, so that it wins over them.
    #[must_use]
    pub fn pax(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.records.push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Chooses the format; PAX where not said.
    #[must_use]
    pub fn format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        match self.format {
            Format::Ustar => {}
            Format::Pax => self.write_pax_header(out),
            Format::Gnu => self.write_gnu_long_names(out),
        }
        out.extend_from_slice(self.header().as_bytes());
        padded(out, &self.data);
    }

    fn header(&self) -> RawHeader {
        let mut header = RawHeader::ustar(&self.path);
        match self.format {
            Format::Gnu => header = header.gnu(),
            Format::Ustar => {
                if let Some(at) = prefix_split(&self.path) {
                    header.put(345, 155, &self.path[..at]);
                    header.put(0, 100, &self.path[at + 1..]);
                }
            }
            Format::Pax => {}
        }
        header.put(157, 100, &self.link);
        header.put(265, 31, self.names.0.as_bytes());
        header.put(297, 31, self.names.1.as_bytes());
        let numbers = [
            (100, 8, i128::from(self.mode)),
            (108, 8, i128::from(self.uid)),
            (116, 8, i128::from(self.gid)),
            (124, 12, self.data.len() as i128),
            (136, 12, i128::from(self.seconds)),
            (329, 8, i128::from(self.device.0)),
            (337, 8, i128::from(self.device.1)),
        ];
        for (offset, width, value) in numbers {
            let octal = u64::try_from(value).is_ok_and(|value| fits_octal(value, width));
            header.number(offset, width, if octal || self.format == Format::Gnu { value } else { 0 });
        }
        header.kind(self.kind)
    }

    fn write_pax_header(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        if self.path.len() > 100 || !self.path.is_ascii() {
            pax_record(&mut body, b"path", &self.path);
        }
        if self.link.len() > 100 || !self.link.is_ascii() {
            pax_record(&mut body, b"linkpath", &self.link);
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if !fits_octal(id, 8) {
                pax_record(&mut body, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        if self.nanoseconds != 0 || u64::try_from(self.seconds).map_or(true, |seconds| !fits_octal(seconds, 12)) {
            pax_record(&mut body, b"mtime", decimal_time(self.seconds, self.nanoseconds).as_bytes());
        }
        for (key, value) in &self.records {
            pax_record(&mut body, key, value);
        }
        if !body.is_empty() {
            extension(out, b'x', b"PaxHeaders.0/entry", &body);
        }
    }

    fn write_gnu_long_names(&self, out: &mut Vec<u8>) {
        for (kind, name) in [(b'K', &self.link), (b'L', &self.path)] {
            if name.len() > 100 {
                extension(out, kind, b"././@LongLink", &[name.as_slice(), b"\0"].concat());
            }
        }
    }
}

/// Where ustar cuts a path longer than 100 bytes: the slash that leaves at most 155 bytes before and 100 after it.
fn prefix_split(path: &[u8]) -> Option<usize> {
    if path.len() <= 100 {
        return None;
    }
    (0..path.len() - 1).rev().find(|&at| path[at] == b'/' && at <= 155 && path.len() - at - 1 <= 100)
}

/// A PAX time: decimal, the fraction counted towards later times, so -1.5 s is second -2 and 500,000,000 ns.
fn decimal_time(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    if seconds >= 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
}
