// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tar whose members are looked up by name. Nothing of it is unpacked.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tar::{EntryType, Header, PaxExtensions};

use super::files::{SourceFile, bad_archive};
use crate::error::{Error, Result};

const BLOCK: u64 = 512;
/// The largest extended header, in bytes: what a long name and a few notes take, and no more memory.
const EXTENSION_MAX: u64 = 64 << 10;
/// The most members: an image of a thousand layers has five thousand.
const MEMBERS_MAX: usize = 100_000;
/// The most bytes of names and link targets in all.
const NAMES_MAX: usize = 16 << 20;
/// The longest name, in bytes (`PATH_MAX`).
const NAME_MAX: usize = 4096;
/// How many symlinks one name may lead through.
const LINKS_MAX: usize = 16;

/// A tar, and where in it each member lies.
pub(crate) struct Archive {
    label: String,
    file: Arc<File>,
    members: HashMap<String, Member>,
    /// The bytes of their names and targets.
    names: usize,
}

enum Member {
    File {
        at: u64,
        size: u64,
    },
    /// A link to the member of this name.
    Link(String),
    /// What has no bytes to give, and why.
    Other(&'static str),
}

/// What extended headers say of the member after them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    is_sparse: bool,
}

impl Archive {
    /// Reads every header of the tar in `file`, from its start; `label` is what people call it.
    ///
    /// Of a name that is there twice the last counts, as for whoever unpacks it.
    ///
    /// # Errors
    /// [`Error::BadArchive`] for what is no tar or ends early, and for names and links that lead out of it.
    pub fn scan(file: File, label: &str) -> Result<Self> {
        let length = file.metadata().map_err(stos_store::Error::io("stat", label))?.len();
        let mut archive = Self { label: label.to_owned(), file: Arc::new(file), members: HashMap::new(), names: 0 };
        let (mut at, mut extension) = (0, Extension::default());
        while at < length {
            let Some(header) = archive.header(at, length)? else { break };
            let kind = header.entry_type();
            let is_extension = matches!(
                kind,
                EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink
            );
            let size = header.entry_size().map_err(|error| archive.bad_at(at, "a size", &error.to_string()))?;
            let size = if is_extension { size } else { extension.size.unwrap_or(size) };
            let data = at + BLOCK;
            let end = data.checked_add(size).filter(|end| *end <= length);
            let end = end.ok_or_else(|| archive.bad_at(at, "a whole member", "the end of the archive"))?;
            if is_extension {
                archive.read_extension(kind, data, size, &mut extension)?;
            } else {
                archive.add(&header, std::mem::take(&mut extension), (data, size))?;
            }
            at = end.next_multiple_of(BLOCK);
        }
        Ok(archive)
    }

    pub fn label(&self) -> &str {
        &self.label
    }

    /// Opens the member `name`, through links within the archive; `None` where there is none.
    pub fn find(&self, name: &str) -> Result<Option<SourceFile>> {
        let mut wanted = self.normalise(name)?;
        for _ in 0..LINKS_MAX {
            match self.members.get(&wanted) {
                None => return Ok(None),
                Some(Member::File { at, size }) => {
                    return Ok(Some(SourceFile::part(self.file.clone(), *at, *size)));
                }
                Some(Member::Link(target)) => wanted.clone_from(target),
                Some(Member::Other(kind)) => return Err(bad_archive(&self.label, name, "a regular file", *kind)),
            }
        }
        Err(bad_archive(&self.label, name, "a file", "links without end"))
    }

    /// Reads the header at `at`; `None` for the end-of-archive marker.
    fn header(&self, at: u64, length: u64) -> Result<Option<Header>> {
        if length - at < BLOCK {
            return Err(self.bad_at(at, "a tar header", "the end of the archive"));
        }
        let mut header = Header::new_old();
        self.file.read_exact_at(header.as_mut_bytes(), at).map_err(stos_store::Error::io("read", &self.label))?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The checksum counts its own field as spaces (POSIX ustar).
        let sum = |range: &[u8]| range.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let expected = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
        match header.cksum() {
            Ok(found) if found == expected => Ok(Some(header)),
            _ => Err(self.bad_at(at, "a tar header", "other bytes")),
        }
    }

    fn read_extension(&self, kind: EntryType, at: u64, size: u64, into: &mut Extension) -> Result<()> {
        if size > EXTENSION_MAX {
            let (expected, found) = (format!("an extended header of at most {EXTENSION_MAX} bytes"), format!("{size}"));
            return Err(self.bad_at(at, expected, &found));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, at).map_err(stos_store::Error::io("read", &self.label))?;
        let text = |bytes: Vec<u8>| bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        match kind {
            EntryType::GNULongName => into.path = Some(text(bytes)),
            EntryType::GNULongLink => into.link = Some(text(bytes)),
            EntryType::XHeader => {
                for record in PaxExtensions::new(&bytes) {
                    let record = record.map_err(|error| self.bad_at(at, "PAX records", &error.to_string()))?;
                    match record.key_bytes() {
                        b"path" => into.path = Some(record.value_bytes().to_vec()),
                        b"linkpath" => into.link = Some(record.value_bytes().to_vec()),
                        b"size" => {
                            let size = record.value().ok().and_then(|text| text.parse().ok());
                            into.size = Some(size.ok_or_else(|| self.bad_at(at, "a size", "another PAX record"))?);
                        }
                        key if key.starts_with(b"GNU.sparse.") => into.is_sparse = true,
                        _ => {}
                    }
                }
            }
            // What is said of all members (git writes a comment there) concerns none of ours.
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, header: &Header, extension: Extension, (at, size): (u64, u64)) -> Result<()> {
        let own = || header.path_bytes().into_owned();
        let Ok(name) = String::from_utf8(extension.path.unwrap_or_else(own)) else {
            // Nobody can ask for it.
            return Ok(());
        };
        let normal = self.normalise(&name)?;
        let member = match header.entry_type() {
            _ if extension.is_sparse => Member::Other("a sparse file"),
            EntryType::GNUSparse => Member::Other("a sparse file"),
            EntryType::Regular | EntryType::Continuous if name.ends_with('/') => Member::Other("a directory"),
            EntryType::Regular | EntryType::Continuous => Member::File { at, size },
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let target = extension.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
                let target = String::from_utf8_lossy(&target.unwrap_or_default()).into_owned();
                // A hard link's target counts from the top, a symlink's from where it lies.
                let base = if kind == EntryType::Symlink { parent_of(&normal) } else { "" };
                Member::Link(self.resolve_link(&name, base, &target)?)
            }
            EntryType::Directory => Member::Other("a directory"),
            _ => Member::Other("a special file"),
        };
        self.names += normal.len() + if let Member::Link(target) = &member { target.len() } else { 0 };
        if self.members.len() == MEMBERS_MAX || self.names > NAMES_MAX {
            let expected = format!("at most {MEMBERS_MAX} members, and {NAMES_MAX} bytes of names");
            return Err(bad_archive(&self.label, &name, expected, "more of them"));
        }
        self.members.insert(normal, member);
        Ok(())
    }

    /// Gives a name without `.` and empty components; refuses one that leads out of the archive, or might.
    fn normalise(&self, name: &str) -> Result<String> {
        if name.split('/').any(|part| part == "..") {
            return Err(self.leads_out(name));
        }
        if name.starts_with('/') || name.len() > NAME_MAX {
            let expected = format!("a relative name of at most {NAME_MAX} bytes");
            return Err(bad_archive(&self.label, name, expected, "another"));
        }
        let is_named = |part: &&str| !part.is_empty() && *part != ".";
        Ok(name.split('/').filter(is_named).collect::<Vec<_>>().join("/"))
    }

    /// Resolves the target of the link `name`, which counts from the directory `base`.
    fn resolve_link(&self, name: &str, base: &str, target: &str) -> Result<String> {
        if target.starts_with('/') {
            return Err(bad_archive(&self.label, name, "a link within the archive", format!("{target:?}")));
        }
        let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
        for part in target.split('/') {
            match part {
                "" | "." => {}
                ".." if parts.pop().is_none() => return Err(self.leads_out(name)),
                ".." => {}
                part => parts.push(part),
            }
        }
        Ok(parts.join("/"))
    }

    fn leads_out(&self, name: &str) -> Error {
        bad_archive(&self.label, name, "a name within the archive", "one that leads out")
    }

    fn bad_at(&self, at: u64, expected: impl Into<String>, found: &str) -> Error {
        bad_archive(&self.label, &format!("at byte {at}"), expected, found)
    }
}

fn parent_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use stos_testkit::tar_builder::{Entry, TarBuilder};

    use super::*;

    fn scan(tar: &[u8]) -> Result<Archive> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(tar).unwrap();
        file.rewind().unwrap();
        Archive::scan(file, "test.tar")
    }

    fn read(archive: &Archive, name: &str) -> Option<String> {
        let mut text = String::new();
        archive.find(name).unwrap()?.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn members_are_found_by_name_and_through_links() {
        let long = format!("{}/f", "d".repeat(200));
        let tar = TarBuilder::new()
            .entry(Entry::directory("x"))
            .entry(Entry::file("./a", "one"))
            .entry(Entry::file("x/b", "two"))
            .entry(Entry::symlink("x/up", "../a"))
            .entry(Entry::symlink("x/beside", "b"))
            .entry(Entry::hard_link("hard", "x/b"))
            .entry(Entry::symlink("chain", "x/up"))
            .entry(Entry::symlink("dangling", "nowhere"))
            .entry(Entry::file(&*long, "long"))
            .entry(Entry::file("a", "again"))
            .finish();
        let archive = scan(&tar).unwrap();
        for (name, expected) in [
            ("a", Some("again")),
            ("./x//b", Some("two")),
            ("x/up", Some("again")),
            ("x/beside", Some("two")),
            ("hard", Some("two")),
            ("chain", Some("again")),
            ("dangling", None),
            ("none", None),
            (long.as_str(), Some("long")),
        ] {
            assert_eq!(read(&archive, name).as_deref(), expected, "{name}");
        }
        assert!(matches!(archive.find("x"), Err(Error::BadArchive { found, .. }) if found == "a directory"));
        assert!(archive.find("../a").is_err() && archive.find("/a").is_err());
    }

    #[test]
    fn hostile_archives_are_refused_by_what_is_wrong() {
        let tar = |entry: Entry| TarBuilder::new().entry(entry).finish();
        let good = tar(Entry::file("a", "x".repeat(2000)));
        let mut flipped = good.clone();
        flipped[0] ^= 1;
        for (case, tar, said) in [
            ("..", tar(Entry::file("../a", "")), "leads out"),
            (".. within", tar(Entry::file("x/../a", "")), "leads out"),
            ("absolute", tar(Entry::file("/a", "")), "relative name"),
            ("symlink out", tar(Entry::symlink("x/a", "../../b")), "leads out"),
            ("absolute symlink", tar(Entry::symlink("a", "/etc/passwd")), "a link within"),
            ("hard link out", tar(Entry::hard_link("x/a", "../b")), "leads out"),
            ("checksum", flipped, "other bytes"),
            ("cut in data", good[..1000].to_vec(), "a whole member"),
            ("cut in header", good[..300].to_vec(), "the end of the archive"),
            ("no tar", b"x".repeat(2048), "other bytes"),
        ] {
            match scan(&tar) {
                Err(error @ Error::BadArchive { .. }) => assert!(error.to_string().contains(said), "{case}: {error}"),
                Err(error) => panic!("{case}: {error}"),
                Ok(_) => panic!("{case} was accepted"),
            }
        }
        let archive = scan(&tar(Entry::symlink("loop", "loop"))).unwrap();
        assert!(archive.find("loop").err().unwrap().to_string().contains("links without end"));
        assert!(scan(b"").unwrap().find("a").unwrap().is_none());
    }

    #[test]
    fn names_take_no_more_memory_than_images_need() {
        let long = "d".repeat(4000);
        let links = (0..2200).map(|at| Entry::symlink(format!("{at}"), &*long).pax("linkpath", format!("{long}{at}")));
        let tar = links.fold(TarBuilder::new(), TarBuilder::entry);
        assert!(scan(&tar.clone().finish()).is_ok());
        let tar = (2200..4500)
            .map(|at| Entry::symlink(format!("{at}"), "x").pax("linkpath", format!("{long}{at}")))
            .fold(tar, TarBuilder::entry);
        assert!(scan(&tar.finish()).err().unwrap().to_string().contains("bytes of names"));
    }

    #[test]
    fn an_extended_header_takes_no_more_memory_than_a_name_needs() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 30);
        header.set_cksum();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len(2 << 30).unwrap();
        assert!(Archive::scan(file, "x").err().unwrap().to_string().contains("at most 65536 bytes"));
    }
}
