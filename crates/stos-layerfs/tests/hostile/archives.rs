// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Archives that end early, late or not at all, and what they are compressed with.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use stos_erofs::TarProblem;
use stos_layerfs::Error;
use stos_spec::LayerCompression;
use stos_testkit::tar_builder::{Entry, RawHeader};

use super::case::{Aim, Case, Layer, Problem, Refusal, file, names, refusal, tar};

const TAR: &str = "POSIX.1-1988, ustar Interchange Format";

fn sample() -> Vec<u8> {
    tar().entry(Entry::file("f", "data")).entry(Entry::file("g", "x".repeat(3000))).finish()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

fn gzipped(blob: Vec<u8>, tar: Vec<u8>) -> Layer {
    Layer { blob, compression: LayerCompression::Gzip, tar }
}

fn zstd_layer(blob: Vec<u8>, tar: Vec<u8>) -> Layer {
    Layer { blob, compression: LayerCompression::Zstd, tar }
}

fn whole(source: &'static str, layer: impl Into<Layer>) -> Case {
    Case::shown(source, [layer], [file("f", "data"), file("g", "x".repeat(3000)), names(&["f", "g"])])
}

fn cut(at: usize) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::Truncated { .. }), "the tar ends within its");
    Case::refused(TAR, [sample()[..at].to_vec()], kind)
}

pub fn cut_in_a_header(_: &Aim) -> Case {
    cut(1024 + 511)
}

pub fn cut_in_data(_: &Aim) -> Case {
    cut(1536 + 2999)
}

pub fn cut_in_an_extended_header(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::Truncated { part: "extended header", .. }), "extended header");
    let layer = tar().entry(Entry::file("f", "").pax("comment", "x".repeat(2000))).finish_unterminated();
    Case::refused(TAR, [layer[..1500].to_vec()], kind)
}

pub fn cut_after_an_extended_header(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::DanglingExtendedHeader), "followed by no entry");
    let layer = tar().entry(Entry::file("f", "").pax("comment", "x")).finish_unterminated();
    Case::refused(TAR, [layer[..1024].to_vec()], kind)
}

/// The kernel reads a tar in blocks: of the last one, cut, it could show nothing. Go's archive/tar takes it for the end.
pub fn cut_in_the_last_padding(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::Truncated { part: "padding", expected: 72, found: 0 }), "padding");
    Case::refused(TAR, [sample()[..1536 + 3000].to_vec()], kind)
}

pub fn no_end_of_archive(_: &Aim) -> Case {
    whole("Go archive/tar: io.EOF between entries is the end", sample()[..1536 + 3072].to_vec())
}

pub fn one_zero_block_at_the_end(_: &Aim) -> Case {
    whole("GNU tar, A lone zero block", sample()[..1536 + 3072 + 512].to_vec())
}

/// They count in the digest, for they are part of the layer.
pub fn bytes_after_the_end(_: &Aim) -> Case {
    let inner = tar().entry(Entry::file("h", "never seen")).finish();
    whole(
        "image-spec, config.md, diff_ids: the digest of the uncompressed tar",
        [sample(), b"odd".to_vec(), inner].concat(),
    )
}

pub fn zeros_after_the_end(_: &Aim) -> Case {
    whole("GNU tar, blocking factor", [sample(), vec![0; 1 << 20]].concat())
}

/// Two readers see two archives: one stops there, one goes on.
pub fn lone_zero_block_within(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::LoneZeroBlock), "a single zero block");
    let hidden = tar().entry(Entry::file("hidden", "")).finish();
    Case::refused("GNU tar, A lone zero block", [[sample()[..1024].to_vec(), vec![0; 512], hidden].concat()], kind)
}

pub fn wrong_checksum(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::Checksum { .. }), "header checksum");
    Case::refused(TAR, [tar().raw_entry(&RawHeader::ustar("f").set(0, b"g"), b"")], kind)
}

pub fn no_tar_at_all(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::Checksum { .. } | TarProblem::Number { .. }), "byte 0");
    Case::refused(TAR, [b"<html>".repeat(200)], kind)
}

/// A reader that keeps it in memory needs that much.
pub fn extended_header_of_a_gigabyte(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::ExtendedHeaderTooLarge { .. }), "at most 1048576");
    let layer = tar().raw_entry(&RawHeader::ustar("x").kind(b'x').size(1 << 30), b"");
    Case::refused("Go archive/tar, maxSpecialFileSize", [layer], kind)
}

pub fn uncompressed(_: &Aim) -> Case {
    whole("image-spec, media-types.md: layer.v1.tar", sample())
}

pub fn gzip_of_several_members(_: &Aim) -> Case {
    let members = sample().chunks(700).flat_map(gzip).collect();
    whole("RFC 1952, 2.2: members follow one another", gzipped(members, sample()))
}

pub fn zstd_with_skippable_frames(_: &Aim) -> Case {
    let skippable = [&0x184d_2a5f_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
    let frames = sample().chunks(700).flat_map(|part| [skippable.clone(), zstd(part)].concat()).collect::<Vec<_>>();
    whole("RFC 8878, 3.1.2: skippable frames", zstd_layer([frames, skippable].concat(), sample()))
}

fn broken(source: &'static str, layer: Layer) -> Case {
    Case::refused(source, [layer], refusal!(Problem::Other(Error::Decompress { .. }), "cannot decompress"))
}

pub fn garbage_after_gzip(_: &Aim) -> Case {
    broken("RFC 1952, 2.2; gzip(1) warns", gzipped([gzip(&sample()), b"garbage".to_vec()].concat(), sample()))
}

/// GNU gzip takes zeros for the padding of a tape.
pub fn zeros_after_gzip(_: &Aim) -> Case {
    broken("RFC 1952, 2.2; gzip(1) takes zeros", gzipped([gzip(&sample()), vec![0; 512]].concat(), sample()))
}

pub fn gzip_cut_short(_: &Aim) -> Case {
    let blob = gzip(&sample());
    broken("RFC 1952, 2.3: a member ends in CRC-32 and size", gzipped(blob[..blob.len() - 4].to_vec(), sample()))
}

pub fn gzip_with_a_wrong_checksum(_: &Aim) -> Case {
    let mut blob = gzip(&sample());
    let at = blob.len() - 8;
    blob[at] ^= 1;
    broken("RFC 1952, 2.3: a member ends in CRC-32 and size", gzipped(blob, sample()))
}

pub fn garbage_after_zstd(_: &Aim) -> Case {
    broken("RFC 8878, 3.1: frames", zstd_layer([zstd(&sample()), b"garbage".to_vec()].concat(), sample()))
}

pub fn gzip_that_says_zstd(_: &Aim) -> Case {
    broken("image-spec, media-types.md", zstd_layer(gzip(&sample()), sample()))
}

/// Two zero blocks: what builders write for an instruction that changes nothing.
pub fn empty_layer(_: &Aim) -> Case {
    let empty = vec![0; 1024];
    Case::shown("image-spec, config.md, empty_layer; moby's empty layer", [gzipped(gzip(&empty), empty)], [names(&[])])
}

pub fn layer_of_no_bytes(_: &Aim) -> Case {
    Case::shown("Go archive/tar: io.EOF at once", [gzipped(gzip(b""), Vec::new())], [names(&[])])
}

pub fn empty_layer_over_another(_: &Aim) -> Case {
    Case::shown(
        "image-spec, config.md, empty_layer",
        [sample(), vec![0; 1024]],
        [file("f", "data"), names(&["f", "g"])],
    )
}

fn too_large() -> Refusal {
    refusal!(Problem::Other(Error::TooLarge { limit: 4_194_304, .. }), "grows beyond 4194304 bytes")
}

/// 64 MiB of a file's zeros, of what may be 4 MiB: the output is bounded, not the input.
fn bomb() -> Vec<u8> {
    tar().entry(Entry::file("bomb", vec![0; 64 << 20])).finish()
}

pub fn gzip_bomb(_: &Aim) -> Case {
    Case::refused("CWE-409", [gzipped(gzip(&bomb()), bomb())], too_large()).within(4 << 20)
}

pub fn zstd_bomb(_: &Aim) -> Case {
    Case::refused("CWE-409", [zstd_layer(zstd(&bomb()), bomb())], too_large()).within(4 << 20)
}

/// After the end of the archive, where nobody unpacks them.
pub fn gzip_bomb_after_the_end(_: &Aim) -> Case {
    let bomb = [sample(), vec![0; 64 << 20]].concat();
    Case::refused("CWE-409", [gzipped(gzip(&bomb), bomb)], too_large()).within(4 << 20)
}
