// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sparse files: what GNU tar writes in each of its forms is read as it was, costs no disk for its holes, and heals.

mod fixture;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::Fixture;
use stos_layerfs::erofs::chain::DeviceFile;
use stos_layerfs::{Error, Integrity};
use stos_spec::DiffId;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::tree::{Options, Tree};

const FORMS: [&[&str]; 4] = [
    &["--format=gnu"],
    &["--format=posix", "--sparse-version=0.0"],
    &["--format=posix", "--sparse-version=0.1"],
    &["--format=posix", "--sparse-version=1.0"],
];

/// Data of a sparse file: where, and how many bytes.
type Runs = [(u64, usize)];

fn write_sparse(path: &Path, size: u64, runs: &Runs) {
    let file = File::create_new(path).unwrap();
    file.set_len(size).unwrap();
    for &(offset, len) in runs {
        let data: Vec<u8> = (0..len).map(|at| (at as u64 * 31 + offset + 1) as u8 | 1).collect();
        file.write_all_at(&data, offset).unwrap();
    }
}

fn tar(dir: &Path, form: &[&str], names: &[&str]) -> Vec<u8> {
    let made = Command::new(environment::tool("tar").unwrap())
        .args(form)
        .args(["--sparse", "-cf", "-", "-C"])
        .arg(dir)
        .args(names)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// Compares two files at each run of data with what surrounds it, and at places all over.
#[track_caller]
fn same(expected: &Path, found: &Path, runs: &Runs) {
    const AROUND: u64 = 256 << 10;
    let (expected, found) = (File::open(expected).unwrap(), File::open(found).unwrap());
    let size = expected.metadata().unwrap().len();
    assert_eq!(found.metadata().unwrap().len(), size);
    let windows = runs.iter().map(|&(offset, len)| (offset.saturating_sub(AROUND), len as u64 + 2 * AROUND));
    let samples = (0..64).map(|part| (size / 64 * part, AROUND));
    for (offset, len) in windows.chain(samples) {
        let len = len.min(size - offset) as usize;
        let (mut one, mut other) = (vec![0; len], vec![0; len]);
        expected.read_exact_at(&mut one, offset).unwrap();
        found.read_exact_at(&mut other, offset).unwrap();
        assert!(one == other, "{len} bytes at {offset} differ");
    }
}

fn extra(fixture: &Fixture, layer: DiffId) -> PathBuf {
    fixture.layer_file(layer, "layer.extra")
}

/// What a file takes of the disk, in bytes.
fn taken(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn ten_gigabytes_of_holes_are_read_right_and_cost_no_disk_in_every_form_of_gnu_tar() {
    stos_testkit::require!(Need::Root, Need::Tool("tar"));
    let place = environment::scratch();
    let size = 10 << 30;
    let huge: &Runs = &[(4096, 5000), (3 << 30, 1), (5 << 30, 100_000), (size - 4097, 4097)];
    write_sparse(&place.path().join("huge"), size, huge);
    let many: Vec<_> = (0..300).map(|number| (number * 65_536, 4096)).collect();
    write_sparse(&place.path().join("many"), 400 * 65_536, &many);
    write_sparse(&place.path().join("hole"), 1 << 20, &[]);
    fs::write(place.path().join("plain"), "plain").unwrap();
    for form in FORMS {
        let fixture = Fixture::new();
        let layer = fixture.add(&tar(place.path(), form, &["huge", "plain", "many", "hole"])).unwrap();
        let record = fixture.layerfs.erofs().ensure_chain(&[layer]).unwrap();
        let files: Vec<_> = record.devices.iter().map(|device| device.file).collect();
        assert_eq!(files, [DeviceFile::Tar, DeviceFile::Extra], "{form:?}");
        let point = fixture.mount(&record, Integrity::Full).unwrap();
        same(&place.path().join("huge"), &point.join("huge"), huge);
        for name in ["many", "hole", "plain"] {
            assert!(
                fs::read(place.path().join(name)).unwrap() == fs::read(point.join(name)).unwrap(),
                "{name} {form:?}"
            );
        }
        let taken = taken(&extra(&fixture, layer));
        assert!(taken < 4 << 20, "{taken} bytes of the disk, {form:?}");
    }
}

/// fsck.erofs before 1.8 reads no devices of 512-byte blocks.
fn fsck_is_new_enough() -> bool {
    let output = Command::new(environment::tool("fsck.erofs").unwrap()).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().next().and_then(|line| line.split_whitespace().last()).unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (1, 8)
}

#[test]
fn fsck_reads_what_the_kernel_reads() {
    stos_testkit::require!(Need::Root, Need::Tool("tar"), Need::Tool("fsck.erofs"));
    stos_testkit::require!(Need::Condition(fsck_is_new_enough(), "fsck.erofs of at least 1.8"));
    let place = environment::scratch();
    let runs: &Runs = &[(8192, 700), (1 << 20, 5000)];
    write_sparse(&place.path().join("sparse"), 2 << 20, runs);
    let fixture = Fixture::new();
    let layer = fixture.add(&tar(place.path(), FORMS[3], &["sparse"])).unwrap();
    let record = fixture.layerfs.erofs().ensure_chain(&[layer]).unwrap();
    let out = place.path().join("out");
    let checked = Command::new(environment::tool("fsck.erofs").unwrap())
        .args(
            record
                .devices
                .iter()
                .map(|device| format!("--device={}", fixture.layer_file(device.layer, device.file_name()).display())),
        )
        .arg(format!("--extract={}", out.display()))
        .arg(fixture.chain_file(&record, "image.erofs"))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(fs::read(out.join("sparse")).unwrap() == fs::read(place.path().join("sparse")).unwrap());
}

#[test]
fn umoci_unpacks_what_the_kernel_reads() {
    stos_testkit::require!(Need::Root, Need::Tool("umoci"));
    // Segments of odd lengths stand in the tar without padding between them, as Go's archive/tar reads them.
    let data: Vec<u8> = (1..=200).cycle().take(2345).collect();
    let segments: &[(u64, &[u8])] = &[(0, &data[..1]), (1, &data[..700]), (50_000, &data), (300_000, &data[..3])];
    // It knows no GNU type S.
    let lower = TarBuilder::new()
        .sparse_pax("pax10", 400_000, segments)
        .sparse_pax_0_0("pax00", 400_000, segments)
        .sparse_pax_0_1("d/pax01", 400_000, segments);
    let upper = TarBuilder::new().entry(Entry::hard_link("linked", "pax10")).whiteout("pax00").sparse_pax(
        "pax10",
        70_000,
        &[(69_999, &data[..1])],
    );
    let fixture = Fixture::new();
    let ours = fixture.tree(&[lower.clone(), upper.clone()]);
    let place = environment::scratch();
    let [lower, upper] = [lower, upper].map(|tar| Layer::plain(tar.finish()));
    ImageBuilder::new().layer(lower).layer(upper).build().write_layout(&place.path().join("layout"), "it").unwrap();
    let unpacked = place.path().join("unpacked");
    let status = Command::new(environment::tool("umoci").unwrap())
        .args(["raw", "unpack", "--image"])
        .args([place.path().join("layout:it"), unpacked.clone()])
        .status()
        .unwrap();
    assert!(status.success());
    let theirs = Tree::read(&unpacked, &Options::default()).unwrap();
    for (path, node) in theirs.nodes.iter().filter(|(_, node)| node.kind == "file") {
        assert_eq!(ours.nodes.get(path), Some(node), "{}", path.escape_ascii());
    }
    assert_eq!(theirs.nodes.keys().collect::<Vec<_>>(), ours.nodes.keys().collect::<Vec<_>>());
}

fn sample() -> TarBuilder {
    let data = [7; 5000];
    TarBuilder::new()
        .entry(Entry::file("plain", "plain"))
        .sparse_gnu("gnu", 1 << 20, &[(0, &data), (512 << 10, &data[..1])])
        .sparse_pax("pax", 3 << 20, &[(1 << 20, &data)])
}

/// What the two sparse files of the sample hold.
fn expected(size: usize, runs: &[(usize, usize)]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    runs.iter().for_each(|&(offset, len)| bytes[offset..offset + len].fill(7));
    bytes
}

#[track_caller]
fn reads_right(point: &Path) {
    assert!(fs::read(point.join("gnu")).unwrap() == expected(1 << 20, &[(0, 5000), (512 << 10, 1)]));
    assert!(fs::read(point.join("pax")).unwrap() == expected(3 << 20, &[(1 << 20, 5000)]));
    assert_eq!(fs::read(point.join("plain")).unwrap(), b"plain");
}

#[test]
fn layers_without_sparse_files_have_no_extra_file_and_overwritten_ones_no_device() {
    let fixture = Fixture::new();
    let plain = fixture.merge(&[TarBuilder::new().entry(Entry::file("f", "x"))]).unwrap();
    assert!(!extra(&fixture, plain.layers[0].diff_id).exists());
    let upper = TarBuilder::new().entry(Entry::file("gnu", "")).entry(Entry::file("pax", "y"));
    let record = fixture.merge(&[sample(), upper]).unwrap();
    assert!(record.layers[0].extra.is_some());
    assert!(record.devices.iter().all(|device| device.file == DeviceFile::Tar), "{:?}", record.devices);
}

/// Does something to the file at a path.
type Damage = fn(&Path);

#[test]
fn a_damaged_or_missing_extra_file_is_made_again_from_its_tar() {
    stos_testkit::require!(Need::Root);
    let damages: [(&str, Damage); 4] = [
        ("a flipped byte", |path| File::options().write(true).open(path).unwrap().write_all_at(b"x", 3).unwrap()),
        ("data in a hole", |path| File::options().write(true).open(path).unwrap().write_all_at(b"x", 9000).unwrap()),
        ("another length", |path| File::options().write(true).open(path).unwrap().set_len(4096).unwrap()),
        ("none", |path| fs::remove_file(path).unwrap()),
    ];
    for (case, damage) in damages {
        for integrity in [Integrity::Sealed, Integrity::Full] {
            let fixture = Fixture::new();
            let layers = [fixture.add(&sample().finish()).unwrap()];
            let record = fixture.layerfs.erofs().ensure_chain(&layers).unwrap();
            let good = fs::read(extra(&fixture, layers[0])).unwrap();
            damage(&extra(&fixture, layers[0]));
            let sound = fixture.layerfs.erofs().ensure_sound_chain(&layers, integrity).unwrap();
            assert!(fs::read(extra(&fixture, layers[0])).unwrap() == good, "{case}");
            assert_eq!(sound.image, record.image, "{case}");
            assert_eq!(fixture.layerfs.erofs().chain_record(&layers).unwrap(), Some(sound.clone()), "{case}");
            assert_eq!(
                fixture.layerfs.erofs().layer_record(layers[0]).unwrap().unwrap().extra,
                sound.layers[0].extra,
                "{case}"
            );
            reads_right(&fixture.mount(&sound, integrity).unwrap());
        }
        // A pull looks as well.
        let fixture = Fixture::new();
        let layer = fixture.add(&sample().finish()).unwrap();
        let good = fs::read(extra(&fixture, layer)).unwrap();
        damage(&extra(&fixture, layer));
        fixture.add(&sample().finish()).unwrap();
        assert!(fs::read(extra(&fixture, layer)).unwrap() == good, "{case}");
    }
}

#[test]
fn bits_that_rot_silently_in_an_extra_file_are_found_by_a_full_look_alone() {
    for at in [3, 9000, (1 << 20) - 1] {
        let fixture = Fixture::new();
        let layers = [fixture.add(&sample().finish()).unwrap()];
        let mut record = fixture.layerfs.erofs().ensure_chain(&layers).unwrap();
        let path = extra(&fixture, layers[0]);
        let good = fs::read(&path).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(b"x", at).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let seal = record.layers[0].extra.as_mut().unwrap();
        seal.mtime = (metadata.mtime(), metadata.mtime_nsec());
        seal.ctime = (metadata.ctime(), metadata.ctime_nsec());
        assert_eq!(fixture.layerfs.erofs().verify_chain(&record, Integrity::Sealed).unwrap(), record);
        assert!(fs::read(&path).unwrap() != good);
        fixture.layerfs.erofs().verify_chain(&record, Integrity::Full).unwrap();
        assert!(fs::read(&path).unwrap() == good, "{at}");
    }
}

#[test]
fn a_touched_extra_file_is_healthy_and_sealed_again() {
    let fixture = Fixture::new();
    let layers = [fixture.add(&sample().finish()).unwrap()];
    let record = fixture.layerfs.erofs().ensure_chain(&layers).unwrap();
    let path = extra(&fixture, layers[0]);
    File::options().write(true).open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let renewed = fixture.layerfs.erofs().verify_chain(&record, Integrity::Sealed).unwrap();
    let (old, new) = (record.layers[0].extra.clone().unwrap(), renewed.layers[0].extra.clone().unwrap());
    assert_eq!((new.inode, new.mtime), (old.inode, (0, 0)), "the same file");
    assert_eq!(fixture.layerfs.erofs().layer_record(layers[0]).unwrap().unwrap().extra, Some(new));
}

#[test]
fn an_index_of_the_first_version_is_made_again_from_its_tar() {
    let fixture = Fixture::new();
    let layer = fixture.add(&sample().finish()).unwrap();
    let path = fixture.layer_file(layer, "layer.index");
    let good = fs::read(&path).unwrap();
    // An index as that version wrote it, sealed as it stands; it knew no extra file.
    let old = [b"STOSIDX\n\x01", &good[9..]].concat();
    fs::write(&path, &old).unwrap();
    fs::remove_file(extra(&fixture, layer)).unwrap();
    let mut record = fixture.layerfs.erofs().layer_record(layer).unwrap().unwrap();
    let digest = stos_spec::BlobDigest::of(&old);
    record.index = stos_layerfs::seal::Seal::of(&File::open(&path).unwrap(), digest, &path).unwrap();
    record.extra = None;
    fs::write(fixture.layer_file(layer, "layer.json"), serde_json::to_vec(&record).unwrap()).unwrap();
    assert!(fixture.layerfs.erofs().has_layer(layer).unwrap());
    let chain = fixture.layerfs.erofs().ensure_chain(&[layer]).unwrap();
    assert!(fs::read(&path).unwrap() == good);
    assert!(extra(&fixture, layer).exists());
    assert_eq!(chain.devices.len(), 2);
    fixture.layerfs.erofs().verify_chain(&chain, Integrity::Full).unwrap();

    // A chain's record of that time listed its devices by their layers alone: it is made again.
    let path = fixture.chain_file(&chain, "chain.json");
    let mut old: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    old["devices"] = serde_json::json!([layer]);
    fs::write(&path, old.to_string()).unwrap();
    assert_eq!(fixture.layerfs.erofs().chain_record(&[layer]).unwrap(), None);
    let again = fixture.layerfs.erofs().ensure_sound_chain(&[layer], Integrity::Sealed).unwrap();
    assert_eq!((again.image.sha256, again.devices), (chain.image.sha256, chain.devices));
}

#[test]
fn a_sparse_file_whose_map_lies_is_named() {
    let fixture = Fixture::new();
    let mut tar = sample().finish();
    // The real size of "gnu" in its header, which follows a header and a block of data.
    let header = &mut tar[1024..1536];
    header[483..495].copy_from_slice(b"00000000001\0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = fixture.add(&tar).unwrap_err();
    assert!(matches!(&error, Error::Tar { .. }) && error.to_string().contains("\"gnu\""), "{error}");
}
