// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A reader of the EROFS images that stos writes, made from the format's description and sharing no code with the writer.

use std::collections::BTreeMap;

/// A file as an image has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number, which all its names share.
    pub nid: u64,
    /// Type and permission bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// How many names it has.
    pub links: u32,
    /// The length in bytes.
    pub size: u64,
    /// The device number, where the file is a device.
    pub device: u32,
    /// Content of a regular file or link; empty for directories.
    pub data: Vec<u8>,
    /// By EROFS name index and rest of the name.
    pub xattrs: BTreeMap<(u8, Vec<u8>), Vec<u8>>,
}

/// An image and what its data lie in.
#[derive(Debug)]
pub struct Image {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The bytes of its devices, in the order of its device table.
    pub devices: Vec<Vec<u8>>,
}

impl Image {
    fn number(&self, at: u64, len: usize) -> u64 {
        number(&self.bytes[at as usize..], len)
    }

    /// All paths, the root as an empty one.
    pub fn tree(&self) -> BTreeMap<String, Node> {
        let meta = self.number(1024 + 0x28, 4) * 512;
        let root = self.number(1024 + 0x0e, 2);
        let mut tree = BTreeMap::new();
        let mut pending = vec![(String::new(), root, root)];
        while let Some((path, nid, parent)) = pending.pop() {
            let (mut node, data) = self.node(meta, nid);
            if node.mode & 0o170_000 == 0o040_000 {
                let names = self.directory(&data, &node);
                assert_eq!((names["."], names[".."]), (nid, parent), "{path}");
                for (name, child) in names {
                    if name != "." && name != ".." {
                        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                        pending.push((path, child, nid));
                    }
                }
            } else {
                node.data = data;
            }
            assert!(tree.insert(path, node).is_none());
        }
        tree
    }

    fn node(&self, meta: u64, nid: u64) -> (Node, Vec<u8>) {
        let at = meta + 32 * nid;
        let format = self.number(at, 2);
        assert_eq!((format & 1, self.number(at + 6, 2)), (1, 0), "an extended inode");
        let xattr_count = self.number(at + 2, 2);
        let xattr_len = if xattr_count == 0 { 0 } else { 12 + 4 * (xattr_count - 1) };
        let mode = self.number(at + 4, 2) as u16;
        let size = self.number(at + 8, 8);
        let data = self.number(at + 16, 4);
        let is_device = matches!(mode & 0o170_000, 0o020_000 | 0o060_000);
        let node = Node {
            nid,
            mode,
            uid: self.number(at + 24, 4) as u32,
            gid: self.number(at + 28, 4) as u32,
            mtime: (self.number(at + 32, 8) as i64, self.number(at + 40, 4) as u32),
            links: self.number(at + 44, 4) as u32,
            size,
            device: if is_device { data as u32 } else { 0 },
            data: Vec::new(),
            xattrs: self.xattrs(at + 64, xattr_len),
        };
        let after = at + 64 + xattr_len;
        let bytes = match (format >> 1, size) {
            _ if is_device => Vec::new(),
            (_, 0) => Vec::new(),
            (0, _) => self.bytes[(data * 512) as usize..][..size as usize].to_vec(),
            (2, _) => self.inline(after, data, size),
            (4, _) => self.chunks(after, data, size),
            (layout, _) => panic!("data layout {layout}"),
        };
        (node, bytes)
    }

    fn inline(&self, after: u64, block: u64, size: u64) -> Vec<u8> {
        let (full, tail) = (size / 512 * 512, size % 512);
        assert!(tail != 0 && after / 512 == (after + tail - 1) / 512, "the tail lies in one block");
        let mut data = Vec::new();
        if full > 0 {
            data.extend_from_slice(&self.bytes[(block * 512) as usize..][..full as usize]);
        }
        data.extend_from_slice(&self.bytes[after as usize..][..tail as usize]);
        data
    }

    fn chunks(&self, after: u64, format: u64, size: u64) -> Vec<u8> {
        assert_eq!(format & !0x1f, 0x20, "8-byte indexes");
        let chunk = 512u64 << (format & 0x1f);
        let mut data = Vec::new();
        for number in 0..size.div_ceil(chunk) {
            let at = after.next_multiple_of(8) + 8 * number;
            assert_eq!(self.number(at, 2), 0);
            let (device, block) = (self.number(at + 2, 2) as usize, self.number(at + 4, 4));
            let len = chunk.min(size - number * chunk);
            data.extend_from_slice(&self.devices[device - 1][(block * 512) as usize..][..len as usize]);
        }
        data
    }

    fn xattrs(&self, mut at: u64, len: u64) -> BTreeMap<(u8, Vec<u8>), Vec<u8>> {
        let end = at + len;
        let mut xattrs = BTreeMap::new();
        at += if len == 0 { 0 } else { 12 };
        while at < end {
            let (name_len, index) = (self.number(at, 1) as usize, self.number(at + 1, 1) as u8);
            let value_len = self.number(at + 2, 2) as usize;
            let name = &self.bytes[at as usize + 4..][..name_len];
            let value = &self.bytes[at as usize + 4 + name_len..][..value_len];
            assert!(xattrs.insert((index, name.to_vec()), value.to_vec()).is_none());
            at += (4 + name_len + value_len).next_multiple_of(4) as u64;
        }
        assert_eq!(at, end);
        xattrs
    }

    /// Reads a directory as the kernel does, and looks each name up in the sorted order that the kernel relies on.
    fn directory(&self, data: &[u8], node: &Node) -> BTreeMap<String, u64> {
        let mut last = Vec::new();
        let mut names = BTreeMap::new();
        for block in data.chunks(512) {
            let count = number(&block[8..], 2) as usize / 12;
            for entry in 0..count {
                let name_at = number(&block[12 * entry + 8..], 2) as usize;
                let name_end = match entry + 1 < count {
                    true => number(&block[12 * entry + 20..], 2) as usize,
                    false => block.iter().skip(name_at).position(|&b| b == 0).map_or(block.len(), |len| name_at + len),
                };
                let name = &block[name_at..name_end];
                assert!(last.as_slice() < name, "{:?} stands before {:?}", last.escape_ascii(), name.escape_ascii());
                last = name.to_vec();
                names.insert(String::from_utf8_lossy(name).into_owned(), number(&block[12 * entry..], 8));
            }
        }
        assert_eq!(node.size, data.len() as u64);
        names
    }

    /// One line a path: type, mode, path, content; of a hard link the first of its names.
    pub fn list(&self) -> Vec<String> {
        let tree = self.tree();
        let mut first: BTreeMap<u64, &str> = BTreeMap::new();
        let line = |(path, node): (&'_ String, &Node), first: &str| {
            let text = String::from_utf8_lossy(&node.data);
            let mode = node.mode & 0o7777;
            match node.mode & 0o170_000 {
                _ if first != path => format!("= {path} {first}"),
                0o040_000 => format!("d {mode:o} {path}"),
                0o100_000 => format!("f {mode:o} {path} {text}"),
                0o120_000 => format!("l {path} {text}"),
                0o010_000 => format!("p {mode:o} {path}"),
                _ => format!("dev {mode:o} {path} {:#x}", node.device),
            }
        };
        let mut lines = Vec::new();
        for (path, node) in &tree {
            let first = *first.entry(node.nid).or_insert(path);
            lines.push(line((path, node), first).trim_end().to_owned());
        }
        lines
    }
}

fn number(bytes: &[u8], len: usize) -> u64 {
    bytes[..len].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}
