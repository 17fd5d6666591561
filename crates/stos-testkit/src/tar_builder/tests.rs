// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is built here is read back by the `tar` crate, which knows nothing of us.

use std::io::Read;

use super::*;

/// (path, type flag, mode, uid, mtime, link, data, PAX records)
type Read1 = (Vec<u8>, u8, u32, u64, u64, Option<Vec<u8>>, Vec<u8>, Vec<(String, Vec<u8>)>);

fn read(tar: &[u8]) -> Vec<Read1> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut pax = Vec::new();
        if let Some(extensions) = entry.pax_extensions().unwrap() {
            for extension in extensions {
                let extension = extension.unwrap();
                pax.push((extension.key().unwrap().into(), extension.value_bytes().to_vec()));
            }
        }
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        let header = entry.header();
        (
            entry.path_bytes().into_owned(),
            header.entry_type().as_byte(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.mtime().unwrap(),
            entry.link_name_bytes().map(|name| name.into_owned()),
            data,
            pax,
        )
    });
    entries.collect()
}

#[test]
fn every_type_is_read_back() {
    let tar = TarBuilder::new()
        .entry(Entry::directory("d").mode(0o1777))
        .entry(Entry::file("d/f", "data").owner(1000, 100).mtime(77, 0))
        .entry(Entry::symlink("d/s", "f"))
        .entry(Entry::hard_link("d/h", "d/f"))
        .entry(Entry::char_device("d/c", 1, 3))
        .entry(Entry::block_device("d/b", 8, 300))
        .entry(Entry::fifo("d/p"))
        .finish();
    let entries = read(&tar);
    let kinds: Vec<u8> = entries.iter().map(|entry| entry.1).collect();
    assert_eq!(kinds, b"5021346");
    assert_eq!((entries[0].0.as_slice(), entries[0].2), (&b"d/"[..], 0o1777));
    assert_eq!((entries[1].3, entries[1].4, entries[1].6.as_slice()), (1000, 77, &b"data"[..]));
    assert_eq!(entries[3].5.as_deref(), Some(&b"d/f"[..]));
    let mut archive = tar::Archive::new(tar.as_slice());
    let block = archive.entries().unwrap().nth(5).unwrap().unwrap();
    assert_eq!(block.header().device_major().unwrap(), Some(8));
    assert_eq!(block.header().device_minor().unwrap(), Some(300));
}

#[test]
fn long_names_survive_in_each_format() {
    let long = format!("{}/{}", "p".repeat(90), "n".repeat(90));
    for format in [Format::Ustar, Format::Pax, Format::Gnu] {
        let tar = TarBuilder::new().entry(Entry::file(&long, "x").format(format)).finish();
        let entries = read(&tar);
        assert_eq!(entries.len(), 1, "{format:?}");
        assert_eq!(entries[0].0, long.as_bytes(), "{format:?}");
    }
    let target = "t".repeat(300);
    for format in [Format::Pax, Format::Gnu] {
        let tar = TarBuilder::new().entry(Entry::symlink("s", &target).format(format)).finish();
        assert_eq!(read(&tar)[0].5.as_deref(), Some(target.as_bytes()), "{format:?}");
    }
}

#[test]
fn large_numbers_go_to_pax_or_base_256() {
    let entry = Entry::file("f", "").owner(4_000_000_000, 3_000_000).mtime(-2, 500_000_000);
    let pax = &read(&TarBuilder::new().entry(entry.clone()).finish())[0].7;
    let value = |key: &str| pax.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_slice());
    assert_eq!(value("uid"), Some(&b"4000000000"[..]));
    assert_eq!(value("gid"), Some(&b"3000000"[..]));
    assert_eq!(value("mtime"), Some(&b"-1.500000000"[..]));

    let gnu = TarBuilder::new().entry(entry.format(Format::Gnu)).finish();
    assert_eq!(read(&gnu)[0].3, 4_000_000_000);
    assert_eq!(gnu[108], 0x80);
    assert_eq!(&gnu[136..148], &[&[0xff_u8; 11][..], &[0xfe]].concat()[..]);
}

#[test]
fn xattrs_and_records_are_binary_safe() {
    let value = b"\x00=\n\xff 12";
    let tar = TarBuilder::new().entry(Entry::file("f", "").xattr("user.k", value).pax("comment", "9")).finish();
    // The tar crate splits records at newlines, so it cannot be the judge here.
    let expected = [b"31 SCHILY.xattr.user.k=".as_slice(), value, b"\n13 comment=9\n"].concat();
    assert_eq!(tar[156], b'x');
    assert_eq!(&tar[512..512 + expected.len()], expected);
    assert_eq!(&tar[124..135], format!("{:011o}", expected.len()).as_bytes());
}

#[test]
fn a_pax_length_counts_its_own_digits() {
    for size in [0, 1, 90, 91, 92, 93, 94, 95, 990, 991, 992, 993, 994] {
        let mut record = Vec::new();
        header::pax_record(&mut record, b"k", &vec![b'v'; size]);
        let text = String::from_utf8(record.clone()).unwrap();
        assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), record.len(), "{size}");
    }
}

#[test]
fn whiteouts_are_named_as_the_image_spec_says() {
    let names: Vec<_> = read(&TarBuilder::new().whiteout("a").whiteout("d/e/f").opaque("d").finish())
        .into_iter()
        .map(|entry| String::from_utf8(entry.0).unwrap())
        .collect();
    assert_eq!(names, [".wh.a", "d/e/.wh.f", "d/.wh..wh..opq"]);
}

#[test]
fn sparse_files_expand_to_what_was_asked() {
    let segments: Vec<(u64, Vec<u8>)> = (0..30).map(|i| (i * 4096, vec![i as u8 + 1; 512])).collect();
    let borrowed: Vec<(u64, &[u8])> = segments.iter().map(|(offset, data)| (*offset, data.as_slice())).collect();
    let mut expected = vec![0_u8; 200_000];
    for (offset, data) in &segments {
        expected[*offset as usize..*offset as usize + data.len()].copy_from_slice(data);
    }
    let entries = read(&TarBuilder::new().sparse_gnu("s", 200_000, &borrowed).entry(Entry::file("after", "")).finish());
    assert_eq!(entries[0].1, b'S');
    assert!(entries[0].6 == expected, "the old GNU form did not expand");
    assert_eq!(entries[1].0, b"after");

    let tar = TarBuilder::new().sparse_pax("s", 200_000, &borrowed).entry(Entry::file("after", "")).finish();
    let entries = read(&tar);
    let realsize = entries[0].7.iter().find(|(key, _)| key == "GNU.sparse.realsize").unwrap();
    assert_eq!(realsize.1, b"200000");
    assert_eq!(entries.last().unwrap().0, b"after");
}

#[test]
fn gnu_tar_unpacks_every_form_of_sparse_file() {
    crate::require!(crate::guard::Need::Tool("tar"));
    // Of all but the last segment whole blocks: GNU tar has each one start at a block of the tar, others do not.
    let data = [5; 1024];
    let segments: &[(u64, &[u8])] = &[(4096, &data), (90_000, &data[..1])];
    let tar = TarBuilder::new()
        .sparse_gnu("gnu", 100_000, segments)
        .sparse_pax("1.0", 100_000, segments)
        .sparse_pax_0_0("0.0", 100_000, segments)
        .sparse_pax_0_1("0.1", 100_000, segments)
        .finish();
    let place = crate::environment::scratch();
    std::fs::write(place.path().join("tar"), tar).unwrap();
    let status = std::process::Command::new(crate::environment::tool("tar").unwrap())
        .args(["-xf", "tar"])
        .current_dir(place.path())
        .status()
        .unwrap();
    assert!(status.success());
    let mut expected = vec![0; 100_000];
    segments.iter().for_each(|(at, data)| expected[*at as usize..][..data.len()].copy_from_slice(data));
    for name in ["gnu", "1.0", "0.0", "0.1"] {
        assert!(std::fs::read(place.path().join(name)).unwrap() == expected, "{name}");
    }
}

#[test]
fn a_raw_header_can_lie() {
    let honest = RawHeader::ustar("f").size(4);
    assert_eq!(read(&TarBuilder::new().raw_entry(&honest, b"data").finish())[0].6, b"data");
    let wrong_checksum = TarBuilder::new().raw_entry(&honest.set(0, b"g"), b"data").finish();
    assert!(tar::Archive::new(wrong_checksum.as_slice()).entries().unwrap().next().unwrap().is_err());
    let cut = TarBuilder::new().raw_entry(&RawHeader::ustar("f").size(1 << 20), b"data").finish_unterminated();
    assert_eq!(cut.len(), 1024);
}

#[test]
fn capability_and_acl_values_have_the_kernels_layout() {
    assert_eq!(file_capability(1 << 10 | 1 << 33), [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(posix_acl(&[(2, 6, 1000)]), [2, 0, 0, 0, 2, 0, 6, 0, 0xe8, 3, 0, 0]);
}
