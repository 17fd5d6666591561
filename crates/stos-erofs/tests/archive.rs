// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tar writer writes is what other readers of tars unpack: GNU tar, Python's tarfile, umoci.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use stos_erofs::{DataRange, Entry, EntryKind, Metadata, Namespace, TarWriter, Timestamp, Xattr};
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::tar_builder::file_capability;
use stos_testkit::tree::{Options, Tree};

/// The length of the sparse file: umoci writes all of it.
const SPARSE_SIZE: u64 = 64 << 20;

fn metadata(mode: u16) -> Metadata {
    let mtime = Timestamp { seconds: 1_600_000_000, nanoseconds: 123_456_789 };
    Metadata { mode, uid: 3_000_000, gid: 7, mtime, xattrs: Vec::new() }
}

fn entry(path: impl AsRef<[u8]>, kind: EntryKind) -> Entry {
    Entry { path: path.as_ref().to_vec(), kind }
}

/// A tree with a name, number and type of each kind that needs words of its own.
fn write_tree() -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    let capability = Xattr { namespace: Namespace::Security, name: b"capability".to_vec(), value: file_capability(1) };
    let user = Xattr { namespace: Namespace::User, name: b"binary".to_vec(), value: b"a\0b\n=".to_vec() };
    let deep = vec!["d".repeat(120); 3].join("/");
    let negative = Metadata { mtime: Timestamp { seconds: -2, nanoseconds: 250_000_000 }, ..metadata(0o600) };
    for directory in ["", "d", &deep[..120], &deep[..241], &deep] {
        writer.append(&entry(directory, EntryKind::Directory(metadata(0o1777))), io::empty()).unwrap();
    }
    let tagged = Metadata { xattrs: vec![user, capability], ..metadata(0o4755) };
    for (path, metadata, size) in [
        (&b"d/plain"[..], metadata(0o644), 700),
        (format!("{deep}/file").as_bytes(), metadata(0o644), 1),
        ("d/é".as_bytes(), metadata(0o644), 2),
        (b"d/\xff\xfe", metadata(0o644), 3),
        (b"tagged", tagged.clone(), 4),
        (b"before", negative, 0),
    ] {
        writer.append_file(path, &metadata, size, io::repeat(b'y')).unwrap();
    }
    writer.append_link(b"d/tagged too", &tagged, b"tagged").unwrap();
    writer.append_link(b"far", &metadata(0o644), format!("{deep}/file").as_bytes()).unwrap();
    for (path, target) in [(&b"symlink"[..], &b"d/plain"[..]), (b"far symlink", &[b't'; 300]), (b"odd", b"\xff")] {
        let kind = EntryKind::Symlink { metadata: metadata(0o777), target: target.to_vec() };
        writer.append(&entry(path, kind), io::empty()).unwrap();
    }
    writer.append(&entry("fifo", EntryKind::Fifo(metadata(0o600))), io::empty()).unwrap();
    let device = EntryKind::CharacterDevice { metadata: metadata(0o666), major: 1, minor: 3 };
    writer.append(&entry("null", device), io::empty()).unwrap();
    let device = EntryKind::BlockDevice { metadata: metadata(0o660), major: 259, minor: 70_000 };
    writer.append(&entry("disk", device), io::empty()).unwrap();
    write_sparse(&mut writer);
    writer.finish().unwrap()
}

fn write_sparse(writer: &mut TarWriter<Vec<u8>>) {
    let (metadata, run) = (metadata(0o640), |offset, len| DataRange { offset, len });
    let last = run(SPARSE_SIZE - 4096, 4096);
    for (path, size, ranges) in [
        (&b"sparse"[..], SPARSE_SIZE, &[run(0, 4096), run(1 << 20, 5120), last][..]),
        (b"ends in a hole", 1 << 20, &[run(4096, 10)]),
        (b"all hole", 1 << 20, &[]),
        (b"d/sp\xff", 8192, &[run(4096, 4096)]),
    ] {
        writer.append_sparse(path, &metadata, size, ranges, io::repeat(b's')).unwrap();
    }
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(tar: &[u8]) -> Self {
        let dir = environment::scratch();
        std::fs::write(dir.path().join("layer.tar"), tar).unwrap();
        Self { dir }
    }

    fn tar(&self) -> PathBuf {
        self.dir.path().join("layer.tar")
    }

    /// Unpacks with a command that is told the tar and the new directory `name`.
    fn unpack(&self, name: &str, program: &str, arguments: &[&str]) -> PathBuf {
        let into = self.dir.path().join(name);
        std::fs::create_dir(&into).unwrap();
        let mut command = Command::new(program);
        let tar = self.tar();
        for argument in arguments {
            command.arg(argument.replace("TAR", tar.to_str().unwrap()).replace("INTO", into.to_str().unwrap()));
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.is_empty(), "{program}: {}: {told}", output.status);
        into
    }
}

fn read(root: &Path) -> Tree {
    Tree::read(root, &Options::default()).unwrap()
}

/// GNU tar forgets the time of a directory into which it unpacks once more, after others.
fn without_times(mut tree: Tree) -> Tree {
    tree.nodes.values_mut().filter(|node| node.kind == "directory").for_each(|node| node.mtime = (0, 0));
    tree
}

/// Checks by hand what the comparison of two unpackers could miss.
fn check(root: &Path) {
    let tree = read(root);
    let node = |path: &[u8]| &tree.nodes[path];
    assert_eq!(tree.nodes.len(), 23);
    assert_eq!((node(b"tagged").mode, node(b"tagged").uid, node(b"tagged").gid), (0o4755, 3_000_000, 7));
    assert_eq!(node(b"tagged").xattrs[&b"user.binary"[..]], b"a\0b\n=");
    assert_eq!(node(b"tagged").xattrs[&b"security.capability"[..]], file_capability(1));
    assert_eq!(node(b"tagged").link_group, node(b"d/tagged too").link_group);
    assert_eq!(node(b"d/plain").mtime, (1_600_000_000, 123_456_789));
    assert_eq!((node(b"disk").device, node(b"disk").kind), ((259, 70_000), "block device"));
    assert_eq!(node(b"far symlink").target, [b't'; 300]);
    assert_eq!((node(b"d/\xff\xfe").size, node("d/é".as_bytes()).size), (3, 2));
    assert_eq!(node(b"all hole").size, 1 << 20);
    let mut hole = vec![0; 1 << 20];
    assert_eq!(std::fs::read(root.join("all hole")).unwrap(), hole);
    hole[4096..4106].fill(b's');
    assert_eq!(std::fs::read(root.join("ends in a hole")).unwrap(), hole);
}

fn check_sparse(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), SPARSE_SIZE);
    for (at, byte) in [(0, b's'), (4096, 0), ((1 << 20) + 5119, b's'), ((1 << 20) + 5120, 0), (SPARSE_SIZE - 1, b's')] {
        let mut found = [1];
        file.read_exact_at(&mut found, at).unwrap();
        assert_eq!(found, [byte], "at {at}");
    }
}

const GNU: [&str; 10] = [
    "--warning=no-timestamp",
    "--xattrs",
    "--xattrs-include=*",
    "--numeric-owner",
    "-p",
    "-x",
    "-f",
    "TAR",
    "-C",
    "INTO",
];

#[test]
fn gnu_tar_unpacks_it() {
    stos_testkit::require!(Need::Root, Need::Tool("tar"));
    let bench = Bench::new(&write_tree());
    let root = bench.unpack("gnu", "tar", &GNU);
    check(&root);
    check_sparse(&root.join("sparse"));
}

/// Python's tarfile lists names, types, sizes, and reads the data through the holes.
#[test]
fn python_reads_it() {
    stos_testkit::require!(Need::Tool("python3"));
    const PROGRAM: &str = r#"
import sys, tarfile, os
with tarfile.open(sys.argv[1]) as tar:
    members = {os.fsencode(m.name): m for m in tar}
    assert len(members) == 23, len(members)
    sparse = members[b"sparse"]
    assert sparse.issparse() and sparse.size == 64 << 20, sparse.size
    data = tar.extractfile(members[b"ends in a hole"]).read()
    assert data == bytes(4096) + b"s" * 10 + bytes((1 << 20) - 4106)
    assert tar.extractfile(members[b"all hole"]).read() == bytes(1 << 20)
    assert members[b"tagged"].uid == 3000000 and members[b"before"].mtime == -1.75
    assert members[b"d/tagged too"].islnk() and members[b"disk"].devminor == 70000
    assert members[b"d/sp\xff"].size == 8192
"#;
    let bench = Bench::new(&write_tree());
    let output = Command::new("python3").arg("-c").arg(PROGRAM).arg(bench.tar()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// umoci stands for all that read with Go's archive/tar; whiteouts act there too.
#[test]
fn umoci_unpacks_what_gnu_tar_does() {
    stos_testkit::require!(Need::Root, Need::Tool("umoci"), Need::Tool("tar"));
    let tar = write_tree();
    let bench = Bench::new(&tar);
    let gnu = bench.unpack("gnu", "tar", &GNU);
    let mut lower = TarWriter::new(Vec::new());
    let mut upper = TarWriter::new(Vec::new());
    for directory in ["d", "opaque"] {
        let directory = entry(directory, EntryKind::Directory(metadata(0o700)));
        lower.append(&directory, io::empty()).unwrap();
    }
    for path in ["d/gone", "opaque/x", "gone"] {
        lower.append_file(path.as_bytes(), &metadata(0o644), 1, io::repeat(1)).unwrap();
    }
    upper.append(&entry("opaque", EntryKind::Opaque), io::empty()).unwrap();
    for path in ["d/gone", "gone", "opaque"] {
        upper.append(&entry(path, EntryKind::Whiteout), io::empty()).unwrap();
    }
    let layers = [lower.finish().unwrap(), upper.finish().unwrap(), tar];
    let image = layers.into_iter().fold(ImageBuilder::new(), |image, tar| image.layer(Layer::plain(tar))).build();
    let layout = bench.dir.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    image.write_layout(&layout, "t").unwrap();
    let umoci = bench.dir.path().join("umoci");
    let source = format!("{}:t", layout.display());
    let output = Command::new("umoci").args(["raw", "unpack", "--image", &source]).arg(&umoci).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    check(&umoci);
    let umoci_tree = read(&umoci);
    let directories = umoci_tree.nodes.values().filter(|node| node.kind == "directory" && node.mode == 0o1777);
    assert!(directories.map(|node| node.mtime).eq([(1_600_000_000, 123_456_789); 5]));
    without_times(read(&gnu)).assert_same(&without_times(umoci_tree));
    check_sparse(&umoci.join("sparse"));
}
