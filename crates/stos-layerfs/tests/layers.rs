// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Blobs that are not what was promised, in bytes that lie and bytes without end: each its own error, nothing stored.

mod fixture;

use std::io::{Read, Write};

use fixture::Fixture;
use flate2::Compression;
use flate2::write::GzEncoder;
use stos_erofs::{Error as TarError, TarProblem};
use stos_layerfs::ingest::ingest_layer;
use stos_layerfs::layer::LayerOutcome;
use stos_layerfs::{Error, IngestRequest};
use stos_spec::media_type::OCI_LAYER;
use stos_spec::{BlobDigest, Descriptor, DiffId, LayerCompression};
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn sample() -> Vec<u8> {
    TarBuilder::new().entry(Entry::file("f", "x".repeat(3000))).finish()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
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
    let cases = [
        ("cut in its trailer", zipped[..zipped.len() - 3].to_vec()),
        ("cut in its data", zipped[..zipped.len() / 2].to_vec()),
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
    for cut in [100, 512 + 1000, 512 + 2999] {
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
        ("without its last padding", tar[..512 + 3000].to_vec()),
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
    let request =
        IngestRequest { blob: &blob, compression: LayerCompression::Gzip, diff_id: DiffId::of(b""), max_size: limit };
    let dir = tempfile::tempdir().unwrap();
    let error = ingest_layer(request, &bomb[..], dir.path(), &|_| {}).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: found, .. } if found == limit), "{error}");
    let written = std::fs::metadata(dir.path().join("layer.tar")).unwrap().len();
    assert!(written <= limit, "{written} bytes are on disk");
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
        blob: &blob,
        compression: LayerCompression::None,
        diff_id: DiffId::of(&tar),
        max_size: 1 << 20,
    };
    let source = (&tar[..600]).chain(Broken);
    let error = ingest_layer(request, source, tempfile::tempdir().unwrap().path(), &|_| {}).unwrap_err();
    let Error::Source { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionReset);
}
