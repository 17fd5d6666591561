// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes an index entry of a header and the extended headers before it.

use super::header::Header;
use super::pax::Pax;
use super::sparse::SparseForm;
use crate::BLOCK;
use crate::acl;
use crate::error::TarProblem;
use crate::index::{DataPlace, Entry, EntryKind, MAX_MAJOR, MAX_MINOR, Metadata, Timestamp};
use crate::path::{MAX_SYMLINK, Named, classify, normalise};
use crate::xattr::{self, Holder, Xattr};

/// The largest user or group id: 2³² − 1 is `(uid_t)-1`, which to Linux is no id.
const MAX_ID: u32 = u32::MAX - 1;

/// Where the data of a regular file will be found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Data {
    /// In the tar from that byte on.
    Tar { at: u64 },
    /// In the extra file from that byte on, with the holes of a sparse file of that size.
    Extra { at: u64, real_size: u64 },
}

/// What stands before a header and belongs to it.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) pax: Option<Pax>,
    /// GNU `L`: wins over PAX and header, as in Go's archive/tar.
    pub(super) long_name: Option<Vec<u8>>,
    /// GNU `K`, likewise.
    pub(super) long_link: Option<Vec<u8>>,
}

impl Extended {
    /// The entry's name: GNU's wins over PAX's, and a sparse file's own over both.
    pub(super) fn name(&self, header: &Header<'_>, sparse: Option<SparseForm>) -> Vec<u8> {
        let pax = self.pax.as_ref();
        if let (Some(pax), Some(SparseForm::Pax0 | SparseForm::Pax1)) = (pax, sparse)
            && !pax.sparse.name.is_empty()
        {
            return pax.sparse.name.clone();
        }
        let name = self.long_name.as_ref().or(pax.and_then(|pax| pax.path.as_ref()));
        name.cloned().unwrap_or_else(|| header.name())
    }

    /// The length of the data that follow the header.
    ///
    /// PAX wins over the header (CVE-2025-62518: who believes the header takes a file's data for further entries).
    /// Links, devices, directories and FIFOs have no data whatever their header says, as in Go's archive/tar.
    pub(super) fn data_len(&self, header: &Header<'_>) -> Result<u64, TarProblem> {
        if matches!(header.type_flag(), b'1'..=b'6') {
            return Ok(0);
        }
        match self.pax.as_ref().and_then(|pax| pax.size) {
            Some(size) => Ok(size),
            None => non_negative("size", header.size()?),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

/// A header with its overrides applied.
#[derive(Debug)]
pub(super) struct Member<'a> {
    header: &'a Header<'a>,
    pax: Pax,
    name: &'a [u8],
    link: Vec<u8>,
    data_len: u64,
}

impl<'a> Member<'a> {
    /// `name` and `data_len` are what `extended` has said of them.
    pub(super) fn new(header: &'a Header<'a>, name: &'a [u8], data_len: u64, extended: Extended) -> Self {
        let mut pax = extended.pax.unwrap_or_default();
        let link = extended.long_link.or(pax.link_path.take()).unwrap_or_else(|| header.link_name().to_vec());
        Self { header, pax, name, link, data_len }
    }

    /// The entry for the index; `None` for those that an image has no use for.
    pub(super) fn entry(mut self, data: Data) -> Result<Option<Entry>, TarProblem> {
        let type_flag = self.header.type_flag();
        if type_flag == b'V' {
            return Ok(None);
        }
        if !matches!(type_flag, 0 | b'0'..=b'7' | b'D' | b'S') {
            return Err(TarProblem::UnknownType { found: char::from(type_flag) });
        }
        // A directory without a name is the root, as in Go's archive/tar and umoci.
        let name = if type_flag == b'5' && self.name.is_empty() { b"." } else { self.name };
        let path = match classify(name)? {
            Named::Path(path) => path,
            Named::Whiteout(path) => return Ok(Some(Entry { path, kind: EntryKind::Whiteout })),
            Named::Opaque(path) => return Ok(Some(Entry { path, kind: EntryKind::Opaque })),
            Named::AufsMetadata => return Ok(None),
        };
        let kind = self.kind(type_flag, data)?;
        if path.is_empty() && !matches!(kind, EntryKind::Directory(_)) {
            return Err(TarProblem::RootNotDirectory { found: char::from(type_flag) });
        }
        Ok(Some(Entry { path, kind }))
    }

    fn kind(&mut self, type_flag: u8, data: Data) -> Result<EntryKind, TarProblem> {
        // Only directories end in a slash; old tars have no other way to say it.
        let is_file = matches!(type_flag, 0 | b'0' | b'7' | b'S') && !self.name.ends_with(b"/");
        Ok(match type_flag {
            _ if is_file => self.regular(data)?,
            b'1' => EntryKind::HardLink { target: self.hard_link_target()? },
            b'2' => EntryKind::Symlink { metadata: self.metadata(Holder::Symlink)?, target: self.symlink_target()? },
            b'3' | b'4' => self.device(type_flag)?,
            b'6' => EntryKind::Fifo(self.metadata(Holder::Special)?),
            // `5`, a file whose name ends in a slash, and GNU's `D`, whose data are the names that were there.
            _ => EntryKind::Directory(self.metadata(Holder::Directory)?),
        })
    }

    fn regular(&mut self, data: Data) -> Result<EntryKind, TarProblem> {
        let (size, place, at) = match data {
            Data::Tar { at } => (self.data_len, DataPlace::Tar, at),
            Data::Extra { at, real_size } => (real_size, DataPlace::Extra, at),
        };
        let (place, block) = if size == 0 { (DataPlace::Tar, 0) } else { (place, at / BLOCK) };
        Ok(EntryKind::Regular { metadata: self.metadata(Holder::Regular)?, size, place, block })
    }

    /// A character device 0:0 is how overlayfs itself writes a whiteout; as a file it would act as one there.
    fn device(&mut self, type_flag: u8) -> Result<EntryKind, TarProblem> {
        let (major, minor) = self.header.device()?;
        let major = bounded("devmajor", major, MAX_MAJOR, "0 to 4095")?;
        let minor = bounded("devminor", minor, MAX_MINOR, "0 to 1048575")?;
        if type_flag == b'3' && (major, minor) == (0, 0) {
            return Ok(EntryKind::Whiteout);
        }
        let metadata = self.metadata(Holder::Special)?;
        Ok(match type_flag {
            b'3' => EntryKind::CharacterDevice { metadata, major, minor },
            _ => EntryKind::BlockDevice { metadata, major, minor },
        })
    }

    fn hard_link_target(&self) -> Result<Vec<u8>, TarProblem> {
        let what = "hard link target";
        let target = normalise(&self.link, what)?;
        if target.is_empty() { Err(TarProblem::EmptyTarget { what }) } else { Ok(target) }
    }

    fn symlink_target(&mut self) -> Result<Vec<u8>, TarProblem> {
        let what = "symbolic link target";
        match self.link.len() {
            0 => Err(TarProblem::EmptyTarget { what }),
            1..=MAX_SYMLINK => Ok(std::mem::take(&mut self.link)),
            found => Err(TarProblem::PathTooLong { what, limit: MAX_SYMLINK, found }),
        }
    }

    fn metadata(&mut self, holder: Holder) -> Result<Metadata, TarProblem> {
        let id = |field, pax: Option<u64>, header: Result<i64, TarProblem>| match pax {
            // A PAX id is at most 63 bits.
            Some(id) => bounded(field, id as i64, MAX_ID, "0 to 4294967294"),
            None => bounded(field, header?, MAX_ID, "0 to 4294967294"),
        };
        let mut mode = (self.header.mode()? & 0o7777) as u16;
        let xattrs = self.xattrs(holder, &mut mode)?;
        Ok(Metadata {
            mode,
            uid: id("uid", self.pax.uid, self.header.uid())?,
            gid: id("gid", self.pax.gid, self.header.gid())?,
            mtime: match self.pax.mtime {
                Some(mtime) => mtime,
                None => Timestamp { seconds: self.header.mtime()?, nanoseconds: 0 },
            },
            xattrs,
        })
    }

    /// Gives the attributes; an access ACL changes the mode.
    fn xattrs(&mut self, holder: Holder, mode: &mut u16) -> Result<Vec<Xattr>, TarProblem> {
        let mut all = std::mem::take(&mut self.pax.xattrs);
        // GNU tar writes the text alone unless it is told `--xattrs` too; where both are there, they say the same.
        for (name, text) in std::mem::take(&mut self.pax.text_acls) {
            if !all.contains_key(name.as_bytes())
                && let Some(value) = acl::from_text(&text)
            {
                all.insert(name.into(), value);
            }
        }
        let mut xattrs = Vec::new();
        for (name, value) in all {
            xattrs.extend(xattr::admit(&name, &value, holder, mode)?);
        }
        xattr::finish(&mut xattrs)?;
        Ok(xattrs)
    }
}

/// Takes a size that the header states.
pub(super) fn non_negative(field: &'static str, value: i64) -> Result<u64, TarProblem> {
    u64::try_from(value).map_err(|_| TarProblem::Number {
        field,
        expected: "a number that is not negative",
        found: value.to_string(),
    })
}

fn bounded(field: &'static str, value: i64, limit: u32, expected: &'static str) -> Result<u32, TarProblem> {
    u32::try_from(value).ok().filter(|&value| value <= limit).ok_or_else(|| TarProblem::Number {
        field,
        expected,
        found: value.to_string(),
    })
}
