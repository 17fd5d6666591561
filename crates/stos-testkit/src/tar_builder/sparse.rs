// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sparse members, in the old GNU form and in PAX 0.0, 0.1 and 1.0.

use super::BLOCK;
use super::header::{RawHeader, extension, padded, pax_record};

/// Entries of the map in the header itself, and in each continuation block.
const IN_HEADER: usize = 4;
const IN_BLOCK: usize = 21;

pub(super) fn gnu(out: &mut Vec<u8>, path: &str, size: u64, segments: &[(u64, &[u8])]) {
    let data = joined(segments);
    let segments = &closed(size, segments);
    let mut header = RawHeader::ustar(path).gnu().size(data.len() as u64);
    let (first, rest) = segments.split_at(segments.len().min(IN_HEADER));
    for (slot, segment) in first.iter().enumerate() {
        header = header.set(386 + 24 * slot, &map_entry(segment));
    }
    header = header.set(482, &[u8::from(!rest.is_empty())]).set(483, format!("{size:011o}\0").as_bytes());
    out.extend_from_slice(header.kind(b'S').as_bytes());
    let mut blocks = rest.chunks(IN_BLOCK).peekable();
    while let Some(chunk) = blocks.next() {
        let mut block = [0; BLOCK];
        for (slot, segment) in chunk.iter().enumerate() {
            block[24 * slot..24 * slot + 24].copy_from_slice(&map_entry(segment));
        }
        block[504] = u8::from(blocks.peek().is_some());
        out.extend_from_slice(&block);
    }
    padded(out, &data);
}

pub(super) fn pax_1_0(out: &mut Vec<u8>, path: &str, size: u64, segments: &[(u64, &[u8])]) {
    let mut records = Vec::new();
    for (key, value) in [("major", "1"), ("minor", "0"), ("name", path), ("realsize", &size.to_string())] {
        pax_record(&mut records, format!("GNU.sparse.{key}").as_bytes(), value.as_bytes());
    }
    extension(out, b'x', b"PaxHeaders.0/sparse", &records);
    let segments = &closed(size, segments);
    let mut map = format!("{}\n", segments.len());
    for (offset, data) in segments {
        map += &format!("{offset}\n{}\n", data.len());
    }
    let mut body = Vec::new();
    padded(&mut body, map.as_bytes());
    body.extend(joined(segments));
    out.extend_from_slice(RawHeader::ustar(format!("GNUSparseFile.0/{path}")).size(body.len() as u64).as_bytes());
    padded(out, &body);
}

pub(super) fn pax_0_0(out: &mut Vec<u8>, path: &str, size: u64, segments: &[(u64, &[u8])]) {
    let data = joined(segments);
    let segments = closed(size, segments);
    let mut records = Vec::new();
    let mut record = |key, value: String| pax_record(&mut records, key, value.as_bytes());
    record(b"GNU.sparse.size", size.to_string());
    record(b"GNU.sparse.numblocks", segments.len().to_string());
    for (offset, data) in segments {
        record(b"GNU.sparse.offset", offset.to_string());
        record(b"GNU.sparse.numbytes", data.len().to_string());
    }
    extension(out, b'x', b"PaxHeaders.0/sparse", &records);
    out.extend_from_slice(RawHeader::ustar(path).size(data.len() as u64).as_bytes());
    padded(out, &data);
}

pub(super) fn pax_0_1(out: &mut Vec<u8>, path: &str, size: u64, segments: &[(u64, &[u8])]) {
    let data = joined(segments);
    let segments = closed(size, segments);
    let map: Vec<_> = segments.iter().map(|(offset, data)| format!("{offset},{}", data.len())).collect();
    let (size, count) = (size.to_string(), segments.len().to_string());
    let mut records = Vec::new();
    for (key, value) in [("name", path), ("size", &size), ("numblocks", &count), ("map", &map.join(","))] {
        pax_record(&mut records, format!("GNU.sparse.{key}").as_bytes(), value.as_bytes());
    }
    extension(out, b'x', b"PaxHeaders.0/sparse", &records);
    out.extend_from_slice(RawHeader::ustar(format!("GNUSparseFile.0/{path}")).size(data.len() as u64).as_bytes());
    padded(out, &data);
}

/// The segments and the empty one at the end that GNU tar adds, so that a trailing hole has its length.
fn closed<'a>(size: u64, segments: &[(u64, &'a [u8])]) -> Vec<(u64, &'a [u8])> {
    segments.iter().copied().chain([(size, &[][..])]).collect()
}

fn joined(segments: &[(u64, &[u8])]) -> Vec<u8> {
    segments.iter().flat_map(|(_, data)| data.iter().copied()).collect()
}

fn map_entry((offset, data): &(u64, &[u8])) -> [u8; 24] {
    let mut entry = [0; 24];
    entry[..12].copy_from_slice(format!("{offset:011o}\0").as_bytes());
    entry[12..].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    entry
}
