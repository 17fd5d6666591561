// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Of what goes wrong with a compressed blob the cause is told, and no more is read than it takes to tell it.

mod fixture;

use std::io::{Read, Write};

use fixture::noise;
use flate2::Compression;
use flate2::write::GzEncoder;
use stos_layerfs::ingest::ingest_layer;
use stos_layerfs::{Error, IngestReport, IngestRequest, LayerLabel, Result};
use stos_spec::media_type::OCI_LAYER;
use stos_spec::{BlobDigest, Descriptor, DiffId, LayerCompression};
use stos_testkit::tar_builder::{Entry, TarBuilder};

const COMPRESSED: [LayerCompression; 2] = [LayerCompression::Gzip, LayerCompression::Zstd];

fn compress(bytes: &[u8], compression: LayerCompression) -> Vec<u8> {
    if compression == LayerCompression::Zstd {
        return zstd::bulk::compress(bytes, 3).unwrap();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// At least `count` bytes that inflate to nothing: members or frames of a stream that goes on.
fn filler(compression: LayerCompression, count: usize) -> Vec<u8> {
    let piece = match compression {
        // A frame to be skipped (RFC 8878 §3.1.2).
        LayerCompression::Zstd => [&0x184d_2a50_u32.to_le_bytes()[..], &4096_u32.to_le_bytes(), &[7; 4096]].concat(),
        // A member with an extra field (RFC 1952 §2.3.1.1) and no data but two empty stored blocks (RFC 1951 §3.2.4).
        _ => {
            let head = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
            let blocks = [0, 0, 0, 255, 255, 1, 0, 0, 255, 255];
            [&head[..], &4096_u16.to_le_bytes(), &[7; 4096], &blocks, &[0; 8]].concat()
        }
    };
    piece.repeat(count.div_ceil(piece.len()))
}

/// Ingests a blob of which `promised` is promised, and gives how much of it was read.
fn ingest(
    blob: &[u8],
    compression: LayerCompression,
    promised: Option<&Descriptor>,
    diff_id: Option<DiffId>,
) -> (Result<IngestReport>, u64) {
    let label = LayerLabel::Origin("the layer".to_owned());
    let request = IngestRequest { label: &label, blob: promised, compression, diff_id, max_size: u64::MAX, reserve: 0 };
    let mut rest = blob;
    let dir = tempfile::tempdir().unwrap();
    let report = ingest_layer(request, Read::by_ref(&mut rest), dir.path(), &|_| {});
    (report, (blob.len() - rest.len()) as u64)
}

fn descriptor(blob: &[u8]) -> Descriptor {
    Descriptor::new(OCI_LAYER, BlobDigest::of(blob), blob.len() as u64)
}

#[test]
fn what_inflates_to_nothing_is_hashed_too() {
    let tar = TarBuilder::new().entry(Entry::file("f", noise(1 << 20))).finish();
    for compression in COMPRESSED {
        let (filler, layer) = (filler(compression, 5 << 20), compress(&tar, compression));
        for blob in [[&filler[..], &layer].concat(), [&layer[..], &filler].concat()] {
            let (report, read) = ingest(&blob, compression, Some(&descriptor(&blob)), Some(DiffId::of(&tar)));
            assert_eq!(report.unwrap().blob, BlobDigest::of(&blob), "{compression:?}");
            assert_eq!(read, blob.len() as u64);
            let mut damaged = blob.clone();
            // Within the filler's own content for zstd, where nothing but the digest tells it.
            let at = if blob.starts_with(&filler) { 2000 } else { blob.len() - 2000 };
            damaged[at] ^= 1;
            let (report, _) = ingest(&damaged, compression, Some(&descriptor(&blob)), Some(DiffId::of(&tar)));
            assert!(matches!(report, Err(Error::BlobDigest { .. })), "{compression:?}: {report:?}");
        }
    }
}

#[test]
fn a_tar_that_is_none_is_the_cause_whatever_follows() {
    for compression in COMPRESSED {
        // No more of a layer comes, so that only the end of the blob ends the inflating.
        let bad = compress(&noise(300 << 10), compression);
        let blob = [&bad[..], &filler(compression, 80 << 20)].concat();
        let (report, read) = ingest(&blob, compression, None, None);
        assert!(matches!(report, Err(Error::Tar { .. })), "{compression:?}: {report:?}");
        // Nobody promised a digest that could be the cause.
        assert!(read < 40 << 20, "{compression:?}: {read}");
        // Not looked at, for not all of the blob is.
        let promised = Descriptor::new(OCI_LAYER, BlobDigest::of(b"another"), blob.len() as u64);
        let (report, read) = ingest(&blob, compression, Some(&promised), None);
        assert!(matches!(report, Err(Error::Tar { .. })), "{compression:?}: {report:?}");
        assert!((64 << 20..blob.len() as u64).contains(&read), "{compression:?}: {read}");
    }
}

#[test]
fn a_wrong_digest_is_the_cause_of_a_tar_that_is_none_and_of_what_does_not_inflate() {
    for compression in COMPRESSED {
        let good = compress(&TarBuilder::new().entry(Entry::file("f", noise(2 << 20))).finish(), compression);
        let bad_tar = compress(&noise(2 << 20), compression);
        let mut broken = good.clone();
        broken[300 << 10..][..64].fill(0xff);
        for blob in [bad_tar, broken] {
            let mut promised = descriptor(&blob);
            promised.digest = BlobDigest::of(&good);
            let (report, _) = ingest(&blob, compression, Some(&promised), None);
            let found = BlobDigest::of(&blob);
            assert!(matches!(report, Err(Error::BlobDigest { found: it, .. }) if it == found), "{report:?}");
        }
    }
}

#[test]
fn a_layer_that_is_too_large_is_not_read_on() {
    let tar = TarBuilder::new().entry(Entry::file("f", noise(24 << 20))).finish();
    for compression in COMPRESSED {
        let blob = compress(&tar, compression);
        let promised = descriptor(&blob);
        let label = LayerLabel::from(promised.digest);
        let request = IngestRequest {
            label: &label,
            blob: Some(&promised),
            compression,
            diff_id: None,
            max_size: 1 << 20,
            reserve: 0,
        };
        let mut rest = &blob[..];
        let dir = tempfile::tempdir().unwrap();
        let error = ingest_layer(request, Read::by_ref(&mut rest), dir.path(), &|_| {}).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        assert!(rest.len() > 8 << 20, "{compression:?}: {} bytes are left", rest.len());
    }
}
