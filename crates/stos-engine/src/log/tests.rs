// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A log that is written and read, bounded and put aside.

use super::*;

fn read_all(reader: &mut LogReader) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut take = |stream, bytes: &[u8]| {
        match stream {
            Stream::Stdout => out.extend_from_slice(bytes),
            Stream::Stderr => err.extend_from_slice(bytes),
        }
        Ok(())
    };
    reader.read_available(&mut take).unwrap();
    (out, err)
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut reader = LogReader::new(&path);
    assert_eq!(read_all(&mut reader), (vec![], vec![]));
    let mut writer = LogWriter::open(&path, LOG_MAX).unwrap();
    writer.write(Stream::Stdout, b"one\ntwo\npar", "T").unwrap();
    writer.write(Stream::Stderr, b"bad\n", "T").unwrap();
    writer.write(Stream::Stdout, b"t\n\n", "T").unwrap();
    assert_eq!(read_all(&mut reader), (b"one\ntwo\npart\n\n".to_vec(), b"bad\n".to_vec()));
    assert_eq!(read_all(&mut reader), (vec![], vec![]));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("T stdout F one\nT stdout F two\nT stdout P par\nT stderr F bad\n"), "{text}");
}

#[test]
fn a_log_is_bounded_and_read_across_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = LogWriter::open(&path, 200).unwrap();
    let mut reader = LogReader::new(&path);
    writer.write(Stream::Stdout, b"first\n", "T").unwrap();
    let mut seen = read_all(&mut reader).0;
    for number in 0..10 {
        writer.write(Stream::Stdout, format!("{number:050}\n").as_bytes(), "T").unwrap();
        seen.extend(read_all(&mut reader).0);
    }
    assert_eq!(seen.iter().filter(|&&byte| byte == b'\n').count(), 11);
    let is_bounded = || ["log", "log.1"].iter().all(|name| dir.path().join(name).metadata().unwrap().len() <= 200);
    // What another test has just forked reads it too, until it has become its program.
    for _ in 0..6000 {
        if is_bounded() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        writer.write(Stream::Stdout, b"more\n", "T").unwrap();
        read_all(&mut reader);
    }
    assert!(is_bounded());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn what_comes_at_once_is_kept_in_files_of_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = LogWriter::open(&path, 200).unwrap();
    let lines: String = (0..100).map(|number| format!("{number:04}\n")).collect();
    writer.write(Stream::Stdout, lines.as_bytes(), "T").unwrap();
    writer.write(Stream::Stdout, format!("{}\nend\n", "x".repeat(500)).as_bytes(), "T").unwrap();
    assert!(std::fs::metadata(dir.path().join("log.1")).unwrap().len() > 500, "a long line has a file of its own");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "T stdout F end\n");
    writer.write(Stream::Stdout, lines.as_bytes(), "T").unwrap();
    let kept = read_all(&mut LogReader::new(&path)).0;
    assert!(lines.as_bytes().ends_with(&kept) && kept.len() >= 10 * 5, "{}", kept.len());
    assert!(std::fs::metadata(dir.path().join("log.1")).unwrap().len() <= 200);
}

#[test]
fn what_a_reader_has_not_read_is_not_put_aside_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = LogWriter::open(&path, 200).unwrap();
    let mut write = |number: u32| writer.write(Stream::Stdout, format!("{number:04}\n").as_bytes(), "T").unwrap();
    let lines = |range: std::ops::Range<u32>| range.map(|number| format!("{number:04}\n")).collect::<String>();
    write(0);
    let mut reader = LogReader::new(&path);
    assert_eq!(read_all(&mut reader).0, lines(0..1).as_bytes());
    // Several files' worth while it reads nothing.
    (1..40).for_each(&mut write);
    assert_eq!(read_all(&mut reader).0, lines(1..40).as_bytes());
    // Then it is bounded again; and one who never reads on is not waited for without end.
    let large = format!("{}\n", "x".repeat(1 << 20));
    (0..40).for_each(|_| writer.write(Stream::Stdout, large.as_bytes(), "T").unwrap());
    for name in ["log", "log.1"] {
        let size = std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size <= PATIENCE.1 + (2 << 20), "{name}: {size}");
    }
    drop(reader);
    (0..9).for_each(|number| writer.write(Stream::Stdout, format!("{number}\n").as_bytes(), "T").unwrap());
    assert!(std::fs::metadata(&path).unwrap().len() <= 200);
}

#[test]
fn what_was_put_aside_is_read_whenever_that_happens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = LogWriter::open(&path, 45).unwrap();
    let mut write = |number: u32| writer.write(Stream::Stdout, format!("line {number:04}\n").as_bytes(), "T").unwrap();
    // Two lines a file: two in `log.1`, one in `log`, which is put aside while the first is read.
    write(0);
    write(1);
    write(2);
    let mut reader = LogReader::new(&path);
    let mut seen = Vec::new();
    let mut take = |_, bytes: &[u8]| {
        if seen.is_empty() {
            write(3);
            write(4);
        }
        seen.extend_from_slice(bytes);
        Ok(())
    };
    reader.read_available(&mut take).unwrap();
    // Two files later: the one between is `log.1`.
    for number in 5..9 {
        write(number);
    }
    seen.extend(read_all(&mut reader).0);
    let expected: String = (0..9).map(|number| format!("line {number:04}\n")).collect();
    assert_eq!(String::from_utf8(seen).unwrap(), expected);
}

#[test]
fn a_reader_that_keeps_up_loses_nothing() {
    use std::sync::atomic::{AtomicU32, Ordering};
    const LINES: u32 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = LogWriter::open(&path, 200).unwrap();
    let (seen, deadline) = (AtomicU32::new(0), std::time::Instant::now() + Duration::from_secs(300));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..LINES {
                // Never a whole file ahead of its reader: what is put aside twice is gone for good.
                while number > seen.load(Ordering::SeqCst) + 5 && std::time::Instant::now() < deadline {
                    std::thread::yield_now();
                }
                writer.write(Stream::Stdout, format!("{number:06}\n").as_bytes(), "T").unwrap();
            }
        });
        let mut reader = LogReader::new(&path);
        while seen.load(Ordering::SeqCst) < LINES && std::time::Instant::now() < deadline {
            let mut take = |_, bytes: &[u8]| {
                assert_eq!(bytes, format!("{:06}\n", seen.fetch_add(1, Ordering::SeqCst)).as_bytes());
                Ok(())
            };
            reader.read_available(&mut take).unwrap();
        }
    });
    assert_eq!(seen.into_inner(), LINES);
}

#[test]
fn a_record_that_was_cut_short_is_not_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "T stdout F one\nT stdout F tw").unwrap();
    LogWriter::open(&path, LOG_MAX).unwrap().write(Stream::Stdout, b"three\n", "T").unwrap();
    assert_eq!(read_all(&mut LogReader::new(&path)).0, b"one\ntw\nthree\n");
}

#[test]
fn what_was_put_aside_without_a_new_log_is_followed_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = LogWriter::open(&path, 20).unwrap();
    writer.write(Stream::Stdout, b"one\n", "T").unwrap();
    // As it is where there was no inode for the new one.
    std::fs::rename(&path, older(&path)).unwrap();
    for line in ["two\n", "three\n"] {
        writer.write(Stream::Stdout, line.as_bytes(), "T").unwrap();
    }
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    assert_eq!((text(&older(&path)).as_str(), text(&path).as_str()), ("T stdout F two\n", "T stdout F three\n"));
}

#[test]
fn a_log_that_cannot_be_opened_is_named() {
    let error = LogWriter::open(Path::new("/no/such/log"), 1).unwrap_err();
    assert!(error.to_string().contains("/no/such/log"), "{error}");
}
