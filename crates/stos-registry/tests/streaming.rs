// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A large blob passes through, and none of it stays. Alone in its process, for it measures the whole of it.

mod common;

use std::io::Read;

use common::*;
use stos_spec::{BlobDigest, Descriptor, DigestHasher};
use stos_testkit::proxy::{Options, Proxy};
use stos_testkit::registry::{Auth, Blob};

const SIZE: u64 = 256 << 20;

/// The most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_large_blob_streams_in_little_memory() {
    for (tls, reset_after) in [(false, None), (true, None), (false, Some(1 << 20))] {
        let registry = registry(tls, Auth::Open);
        let digest = registry.put_blob(Blob::Pattern(SIZE)).parse().unwrap();
        let proxy =
            reset_after.map(|_| Proxy::start(registry.address(), Options { reset_after, ..Options::default() }));
        let client = match &proxy {
            Some(proxy) => client_at(&proxy.address(), &patient()),
            None => client(&registry),
        };
        // The first request loads the system's certificates, which are not the stream's.
        client.fetch_manifest(REPOSITORY, "1", None).unwrap();
        let before = peak();
        let mut reader = client.open_blob(REPOSITORY, &Descriptor::new("x", digest, SIZE)).unwrap();
        let mut hasher = DigestHasher::default();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        assert_eq!(BlobDigest::from_bytes(hasher.finish()), digest);
        assert_eq!((reader.received(), reader.wire_bytes()), (SIZE, SIZE));
        assert_eq!(reader.resumes() > 0, proxy.is_some());
        let grown = peak() - before;
        assert!(grown < 16 << 20, "{grown} bytes of memory for {SIZE} bytes of blob");
    }
}
