// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Blobs that are not what was promised, in bytes that lie and bytes without end: each its own error, nothing stored.

mod fixture;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use fixture::{Fixture, noise};
use flate2::Compression;
use flate2::write::GzEncoder;
use stos_erofs::{Error as TarError, TarProblem};
use stos_layerfs::ingest::ingest_layer;
use stos_layerfs::{Error, IngestRequest, LayerLabel};
use stos_layerfs::{LayerOutcome, NewLayer};
use stos_spec::media_type::OCI_LAYER;
use stos_spec::{BlobDigest, Descriptor, DiffId, LayerCompression};
use stos_sys::mount::{FsParameter, new_filesystem};
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn sample() -> Vec<u8> {
    TarBuilder::new().entry(Entry::file("f", "x".repeat(3000))).finish()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

/// Ingests a blob that must fail, and looks that nothing of it is kept.
#[track_caller]
fn refused(descriptor: &Descriptor, blob: &[u8], compression: LayerCompression, diff_id: DiffId) -> Error {
    let fixture = Fixture::new();
    let error = fixture.ingest_as(descriptor, blob, compression, diff_id).unwrap_err();
    for directory in ["layers/sha256", "staging", "locks"] {
        let left = std::fs::read_dir(fixture.data_root().join(directory)).unwrap().count();
        assert_eq!(left, 0, "{directory} after {error}");
    }
    assert!(error.to_string().contains(&descriptor.digest.to_string()), "{error}");
    error
}

fn descriptor(blob: &[u8]) -> Descriptor {
    Descriptor::new(OCI_LAYER, BlobDigest::of(blob), blob.len() as u64)
}

#[test]
fn digest_size_and_diff_id_must_match() {
    let (tar, none) = (sample(), LayerCompression::None);
    let diff_id = DiffId::of(&tar);
    let other = Descriptor::new(OCI_LAYER, BlobDigest::of(b"other"), tar.len() as u64);
    let error = refused(&other, &tar, none, diff_id);
    assert!(matches!(error, Error::BlobDigest { found, .. } if found == BlobDigest::of(&tar)), "{error}");

    let size = tar.len() as u64;
    for promised in [size - 1, size + 1] {
        let error = refused(&Descriptor { size: promised, ..descriptor(&tar) }, &tar, none, diff_id);
        let fits = |expected, found| expected == promised && found == size;
        assert!(matches!(error, Error::BlobSize { expected, found, .. } if fits(expected, found)), "{error}");
    }
    let wrong = DiffId::of(b"another tar");
    let error = refused(&descriptor(&tar), &tar, none, wrong);
    let fits = |expected, found| expected == wrong && found == diff_id;
    assert!(matches!(error, Error::DiffId { expected, found, .. } if fits(expected, found)), "{error}");
    let zipped = gzip(&tar);
    let error = refused(&descriptor(&zipped), &zipped, LayerCompression::Gzip, wrong);
    assert!(matches!(error, Error::DiffId { found, .. } if found == diff_id), "{error}");
}

#[test]
fn a_wrong_digest_is_told_before_what_it_caused() {
    // Flipped within gzip: the inflater fails as well, and is not the cause.
    let tar = sample();
    let mut zipped = gzip(&tar);
    let honest = descriptor(&zipped);
    let middle = zipped.len() / 2;
    zipped[middle] ^= 0x10;
    let error = refused(&honest, &zipped, LayerCompression::Gzip, DiffId::of(&tar));
    assert!(matches!(error, Error::BlobDigest { .. }), "{error}");
}

#[test]
fn what_does_not_inflate_is_refused() {
    let tar = sample();
    let zipped = gzip(&tar);
    let mut wrong_checksum = zipped.clone();
    let at = wrong_checksum.len() - 8;
    wrong_checksum[at] ^= 1;
    // More than a buffer comes out before it breaks: what has come looks like a tar that ends early.
    let long = gzip(&TarBuilder::new().entry(Entry::file("f", noise(2 << 20))).finish());
    let cut_late = long[..long.len() / 2].to_vec();
    let cases = [
        ("cut in its trailer", zipped[..zipped.len() - 3].to_vec()),
        ("cut in its data", zipped[..zipped.len() / 2].to_vec()),
        ("cut after the writer has begun", cut_late),
        ("a wrong checksum", wrong_checksum),
        ("garbage after it", [&zipped[..], b"garbage that is no member"].concat()),
        ("no gzip", tar.clone()),
        ("nothing", Vec::new()),
    ];
    for (case, blob) in cases {
        let error = refused(&descriptor(&blob), &blob, LayerCompression::Gzip, DiffId::of(&tar));
        assert!(matches!(error, Error::Decompress { .. }), "{case}: {error}");
    }
}

#[test]
fn tars_that_end_early_are_refused_and_odd_ends_are_not() {
    let tar = sample();
    // The last of them lacks padding alone: the kernel reads whole blocks.
    for cut in [100, 512 + 1000, 512 + 2999, 512 + 3000] {
        let tar = &tar[..cut];
        let error = refused(&descriptor(tar), tar, LayerCompression::None, DiffId::of(tar));
        let Error::Tar { source: TarError::Tar { problem: TarProblem::Truncated { .. }, .. }, .. } = error else {
            panic!("{cut}: {error}");
        };
    }
    let fixture = Fixture::new();
    let whole = TarBuilder::new().entry(Entry::file("f", "x"));
    let ends = [
        ("without an end", whole.clone().finish_unterminated()),
        ("bytes after the end", [whole.clone().finish(), b"bytes that count in the digest".to_vec()].concat()),
        ("zeros after the end", [whole.finish(), vec![0; 10_240]].concat()),
        ("an empty layer", TarBuilder::new().finish()),
    ];
    for (case, tar) in ends {
        let diff_id = fixture.add(&tar).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(std::fs::read(fixture.layer_file(diff_id, "layer.tar")).unwrap(), tar, "{case}");
    }
}

#[test]
fn members_of_gzip_are_one_stream() {
    let tar = sample();
    let members: Vec<u8> = tar.chunks(700).flat_map(gzip).collect();
    let fixture = Fixture::new();
    let outcome = fixture.ingest(&members, LayerCompression::Gzip, DiffId::of(&tar)).unwrap();
    assert!(matches!(outcome, LayerOutcome::Fetched(_)));
    assert_eq!(std::fs::read(fixture.layer_file(DiffId::of(&tar), "layer.tar")).unwrap(), tar);
    let again = fixture.ingest(&gzip(&tar), LayerCompression::Gzip, DiffId::of(&tar)).unwrap();
    assert!(matches!(again, LayerOutcome::Present));
}

#[test]
fn a_bomb_stops_at_its_bound() {
    let header = TarBuilder::new().entry(Entry::file("f", "")).finish_unterminated();
    let bomb = gzip(&[header, vec![0; 64 << 20]].concat());
    assert!(bomb.len() < 1 << 20);
    let blob = descriptor(&bomb);
    let limit = 4 << 20;
    let request = IngestRequest {
        label: &blob.digest.into(),
        blob: Some(&blob),
        compression: LayerCompression::Gzip,
        diff_id: Some(DiffId::of(b"")),
        max_size: limit,
        reserve: 0,
    };
    let dir = tempfile::tempdir().unwrap();
    let error = ingest_layer(request, &bomb[..], dir.path(), &|_| {}).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: found, .. } if found == limit), "{error}");
    let written = std::fs::metadata(dir.path().join("layer.tar")).unwrap().len();
    assert!(written <= limit, "{written} bytes are on disk");
}

#[test]
fn a_zstd_bomb_stops_at_the_same_bound() {
    let header = TarBuilder::new().entry(Entry::file("f", "")).finish_unterminated();
    let bomb = zstd(&[header, vec![0; 64 << 20]].concat());
    assert!(bomb.len() < 64 << 10);
    let blob = descriptor(&bomb);
    let limit = 4 << 20;
    let request = IngestRequest {
        label: &blob.digest.into(),
        blob: Some(&blob),
        compression: LayerCompression::Zstd,
        diff_id: Some(DiffId::of(b"")),
        max_size: limit,
        reserve: 0,
    };
    let dir = tempfile::tempdir().unwrap();
    let error = ingest_layer(request, &bomb[..], dir.path(), &|_| {}).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: found, .. } if found == limit), "{error}");
}

#[test]
fn data_of_sparse_files_count_for_the_bound_as_well() {
    let data = noise(3 << 20);
    let tar = TarBuilder::new().sparse_pax("f", 1 << 40, &[(1 << 39, &data)]).finish();
    let blob = descriptor(&tar);
    let ingest = |max_size| {
        let request = IngestRequest {
            label: &blob.digest.into(),
            blob: Some(&blob),
            compression: LayerCompression::None,
            diff_id: Some(DiffId::of(&tar)),
            max_size,
            reserve: 0,
        };
        ingest_layer(request, &tar[..], tempfile::tempdir().unwrap().path(), &|_| {})
    };
    let report = ingest(7 << 20).unwrap();
    assert_eq!(report.extra.unwrap().size, 1 << 40, "holes do not count");
    assert!(matches!(ingest(4 << 20).unwrap_err(), Error::TooLarge { .. }));
}

#[test]
fn zeros_without_end_cost_no_disk_and_are_there() {
    use std::os::unix::fs::MetadataExt;
    let data = [vec![1; 1000], vec![0; 20 << 20], vec![2; 1000], vec![0; 10 << 20]].concat();
    for (compression, compress) in
        [(LayerCompression::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (LayerCompression::Zstd, zstd)]
    {
        for end in [0, 3 << 20] {
            let tar = TarBuilder::new().entry(Entry::file("zeros", &data)).finish();
            let tar = [tar, vec![0; end]].concat();
            let fixture = Fixture::new();
            fixture.ingest(&compress(&tar), compression, DiffId::of(&tar)).unwrap();
            let path = fixture.layer_file(DiffId::of(&tar), "layer.tar");
            assert!(std::fs::read(&path).unwrap() == tar, "{compression:?} {end}");
            let taken = std::fs::metadata(&path).unwrap().blocks() * 512;
            assert!(taken < 2 << 20, "{taken} bytes of the disk, {compression:?} {end}");
        }
    }
}

#[test]
fn frames_of_zstd_are_one_stream_and_what_is_none_is_refused() {
    let tar = sample();
    let skippable = [&0x184d_2a50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
    let frames: Vec<u8> = tar.chunks(700).flat_map(|part| [skippable.clone(), zstd(part)].concat()).collect();
    let fixture = Fixture::new();
    fixture.ingest(&frames, LayerCompression::Zstd, DiffId::of(&tar)).unwrap();
    assert_eq!(std::fs::read(fixture.layer_file(DiffId::of(&tar), "layer.tar")).unwrap(), tar);
    let whole = zstd(&tar);
    let mut window = zstd(&tar);
    // A window descriptor of 2 GiB instead of the content's size.
    window.splice(4..6, [0, 21 << 3]);
    let cases = [
        ("cut in its data", whole[..whole.len() - 3].to_vec()),
        ("cut in its header", whole[..5].to_vec()),
        ("garbage after it", [&whole[..], b"garbage"].concat()),
        ("no zstd", gzip(&tar)),
        ("a window of 2 GiB", window),
        ("nothing", Vec::new()),
    ];
    for (case, blob) in cases {
        let error = refused(&descriptor(&blob), &blob, LayerCompression::Zstd, DiffId::of(&tar));
        assert!(matches!(error, Error::Decompress { .. }), "{case}: {error}");
        assert!(case != "a window of 2 GiB" || error.to_string().contains("2147483648"), "{case}: {error}");
    }
}

/// Counts what is read of it.
struct Counted<'a, R>(R, &'a AtomicU64);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(into)?;
        self.1.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[test]
fn a_layer_leaves_room_on_the_disk_and_is_named_where_there_is_none() {
    stos_testkit::require!(Need::Root);
    let tar = TarBuilder::new().entry(Entry::file("f", vec![1; 48 << 20])).finish();
    let blob = descriptor(&tar);
    let label = LayerLabel::from(blob.digest);
    let request = |reserve| IngestRequest {
        label: &label,
        blob: Some(&blob),
        compression: LayerCompression::None,
        diff_id: Some(DiffId::of(&tar)),
        max_size: u64::MAX,
        reserve,
    };
    let ingest = |reserve, dir: &std::path::Path| {
        let count = AtomicU64::new(0);
        let error = ingest_layer(request(reserve), Counted(&tar[..], &count), dir, &|_| {}).unwrap_err();
        // Nothing explains a full disk: what has not come yet need not come.
        assert!(count.into_inner() < 32 << 20, "{error}");
        error
    };
    let dir = tempfile::tempdir().unwrap();
    let error = ingest(u64::MAX, dir.path());
    // It is looked at with every buffer.
    let fits = |written| (1..1 << 20).contains(&written);
    assert!(
        matches!(error, Error::NoRoom { layer: ref named, written, reserve: u64::MAX, .. } if *named == label && fits(written)),
        "{error}"
    );

    // A filesystem of a megabyte, which nothing but its descriptor names.
    let size = FsParameter::String("size".into(), "1m".into());
    let small = new_filesystem("tmpfs", &[size], rustix::mount::MountAttrFlags::empty()).unwrap();
    let path = std::path::PathBuf::from(format!("/proc/self/fd/{}", small.as_raw_fd()));
    let error = ingest(0, &path);
    assert!(matches!(&error, Error::Write { layer: named, source } if *named == label && source.is_full()), "{error}");
    assert!(error.to_string().contains(&blob.digest.to_string()), "{error}");
}

#[test]
fn a_source_that_fails_is_told_as_such() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
    }
    let tar = sample();
    let blob = descriptor(&tar);
    let request = IngestRequest {
        label: &blob.digest.into(),
        blob: Some(&blob),
        compression: LayerCompression::None,
        diff_id: Some(DiffId::of(&tar)),
        max_size: 1 << 20,
        reserve: 0,
    };
    let source = (&tar[..600]).chain(Broken);
    let error = ingest_layer(request, source, tempfile::tempdir().unwrap().path(), &|_| {}).unwrap_err();
    let Error::Source { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_layer_of_no_promised_digest_is_added_under_what_it_hashes_to() {
    let fixture = Fixture::new();
    let tar = sample();
    let label = LayerLabel::Origin("commit of web".to_owned());
    let new = NewLayer {
        label: &label,
        compression: LayerCompression::Gzip,
        diff_id: None,
        media_type: OCI_LAYER,
        source: "commit",
    };
    let zipped = gzip(&tar);
    for _ in 0..2 {
        let record = fixture.layerfs.add_layer(new, &zipped[..]).unwrap();
        assert_eq!((record.diff_id, record.blob), (DiffId::of(&tar), BlobDigest::of(&zipped)));
        assert_eq!(record.blob_size, zipped.len() as u64);
        assert!(fixture.layerfs.erofs().has_layer(record.diff_id).unwrap());
    }
    assert_eq!(std::fs::read_dir(fixture.data_root().join("staging")).unwrap().count(), 0);
    // What it must be is checked where it is known, and errors call it by what it comes from.
    let other = NewLayer { diff_id: Some(DiffId::of(b"other")), ..new };
    let error = fixture.layerfs.add_layer(other, &zipped[..]).unwrap_err();
    assert!(matches!(error, Error::DiffId { .. }) && error.to_string().contains("commit of web"), "{error}");
    let error = fixture.layerfs.add_layer(new, &zipped[..40]).unwrap_err();
    assert!(matches!(error, Error::Decompress { .. }), "{error}");
}

#[test]
fn a_blob_is_kept_in_the_same_pass_or_fetched_alone() {
    let tar = sample();
    let (zipped, layer) = (gzip(&tar), DiffId::of(&tar));
    let blob = Descriptor::new(OCI_LAYER, BlobDigest::of(&zipped), zipped.len() as u64);
    let wrong = [&zipped[..zipped.len() - 1], b"x"].concat();
    let fixture = Fixture::new();
    let store = fixture.layerfs.store();
    let nothing = || {
        let names = |directory: &str| std::fs::read_dir(fixture.data_root().join(directory)).unwrap().count();
        (names("images/blobs/sha256"), names("staging")) == (0, 0)
    };
    // A blob that is not the promised one is not kept, whether it comes with its layer or alone.
    for has_layer in [false, true] {
        if has_layer {
            fixture.ingest(&zipped, LayerCompression::Gzip, layer).unwrap();
        }
        let error = fixture.keep(&blob, &wrong, layer).unwrap_err();
        assert!(matches!(error, Error::BlobDigest { .. }) && nothing(), "{error}");
        let error = fixture.keep(&blob, &zipped[..40], layer).unwrap_err();
        assert!(matches!(error, Error::BlobSize { .. }) && nothing(), "{error}");
    }
    assert!(matches!(fixture.keep(&blob, &zipped, layer).unwrap(), LayerOutcome::BlobFetched));
    assert!(matches!(fixture.keep(&blob, &zipped, layer).unwrap(), LayerOutcome::Present));
    assert_eq!(store.read_blob(blob.digest).unwrap().get(), &zipped);
    store.remove_blob(blob.digest).unwrap();
    fixture.layerfs.remove_layer(layer).unwrap();
    assert!(matches!(fixture.keep(&blob, &zipped, layer).unwrap(), LayerOutcome::Fetched(_)));
    assert_eq!(store.read_blob(blob.digest).unwrap().get(), &zipped);
    assert!(fixture.layerfs.erofs().has_layer(layer).unwrap());
}
