// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where tests find the binary, the tools and the real images that `cargo xtask setup` has made, and room for what they mount.
//!
//! ```text
//! CACHE/                     $STOS_TEST_CACHE, else $XDG_CACHE_HOME/stos-test, else ~/.cache/stos-test
//!   registry/                storage of a docker-registry that holds the images; served by docker_registry
//!   oci/                     the same images as one OCI image layout, a tag for each (deb-12, sci-2, many-100)
//!   images/NAME-TAG.digest   the image's manifest digest; written last, so it says that the image is whole
//!   erofs-utils/bin/         fsck.erofs, dump.erofs and mkfs.erofs, at least version 1.8
//!   peers/sid/               the newest podman, containerd, crun … (only with `setup --peers`)
//! ```

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Names the release binary under test.
pub const BINARY: &str = "STOS_BIN";
/// Names the cache directory.
pub const CACHE: &str = "STOS_TEST_CACHE";
/// When set to anything but the empty string or `0`, a test that cannot run fails instead of being skipped.
pub const REQUIRED: &str = "STOS_REQUIRED";

/// The three real images.
pub const IMAGES: [&str; 5] = ["deb:12", "sci:2", "many:100", "redis:1", "redis:2"];

/// The cache directory, whether it exists or not.
pub fn cache() -> PathBuf {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable(CACHE).unwrap_or_else(|| {
        let base = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        base.unwrap_or_else(|| "/var/cache".into()).join("stos-test")
    })
}

/// A new directory for what a test mounts; it goes when dropped. Below `$TMPDIR`, else in `/var/tmp`.
///
/// Not in `/tmp`, which is a tmpfs on many systems (Debian since 13): EROFS cannot be mounted from a file on one.
///
/// # Panics
/// Where it cannot be made.
pub fn scratch() -> tempfile::TempDir {
    let parent = env::var_os("TMPDIR").filter(|value| !value.is_empty()).unwrap_or_else(|| "/var/tmp".into());
    let made = tempfile::Builder::new().prefix("stos-test-").tempdir_in(&parent);
    made.unwrap_or_else(|error| panic!("no directory in {}: {error}", Path::new(&parent).display()))
}

/// The binary under test: `$STOS_BIN`, else `stos` beside the directory of the running test (`target/PROFILE/deps`).
pub fn stos() -> PathBuf {
    if let Some(path) = env::var_os(BINARY) {
        return path.into();
    }
    let test = env::current_exe().unwrap_or_default();
    let profile = test.ancestors().nth(2).unwrap_or(Path::new("target/release"));
    profile.join("stos")
}

/// Whether a test that cannot run is a failure ([`REQUIRED`]).
pub fn is_required() -> bool {
    env::var(REQUIRED).is_ok_and(|value| !value.is_empty() && value != "0")
}

/// The storage of the docker-registry that holds the real images.
pub fn registry_storage() -> PathBuf {
    cache().join("registry")
}

/// The OCI image layout of the real images.
pub fn layout() -> PathBuf {
    cache().join("oci")
}

/// The tag of an image in [`layout`]: `deb:12` is `deb-12`.
pub fn layout_tag(image: &str) -> String {
    image.replace(':', "-")
}

/// The manifest digest of a real image as it was when it was pushed, or `None` where the image is not there.
pub fn image_digest(image: &str) -> Option<String> {
    let path = cache().join("images").join(format!("{}.digest", layout_tag(image)));
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// An executable: from erofs-utils of the cache, else from `PATH`, the system's `sbin` directories and that of podman's helpers.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/libexec/podman", "/usr/lib/podman"].map(PathBuf::from);
    let cached = name.ends_with(".erofs").then(|| cache().join("erofs-utils/bin"));
    let mut directories = cached.into_iter().chain(env::split_paths(&path)).chain(system);
    directories.find_map(|directory| Some(directory.join(name)).filter(|file| is_executable(file)))
}

/// Debian's Python, which its packages' modules are for: another one in the path does not have them.
pub const PYTHON: &str = "/usr/bin/python3";

/// Whether a module of Debian's Python is installed, as a package of its own.
pub fn has_python_module(name: &str) -> bool {
    Path::new("/usr/lib/python3/dist-packages").join(name).is_dir()
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_is_found_and_nonsense_is_not() {
        assert!(tool("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(tool("no-such-tool"), None);
        assert_eq!(tool("../etc"), None);
        assert!(!has_python_module("no_such_module"));
    }

    #[test]
    fn scratch_is_not_in_tmp_unasked() {
        let directory = scratch();
        let parent = env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        assert_eq!(directory.path().parent(), Some(Path::new(&parent)));
    }

    #[test]
    fn an_image_has_a_layout_tag() {
        assert_eq!(IMAGES.map(layout_tag), ["deb-12", "sci-2", "many-100", "redis-1", "redis-2"]);
        assert_eq!(image_digest("no:image"), None);
    }

    #[test]
    fn the_binary_stands_beside_the_tests() {
        if env::var_os(BINARY).is_none() {
            assert!(stos().ends_with("stos"));
            assert!(stos().parent().is_some_and(Path::is_dir));
        }
    }
}
