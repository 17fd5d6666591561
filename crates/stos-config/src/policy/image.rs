// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a policy is asked about: an image, and how it comes.

use std::fmt;
use std::path::{Path, PathBuf};

use stos_spec::ImageRef;

use crate::names;

/// An image by its transport. Paths are absolute and without symlinks ([`std::fs::canonicalize`]): scopes are such. An empty path
/// stands for a stream, which is in no scope but the transport's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyImage {
    /// `docker:`, from a registry. By the name that it has, a short one's [candidate](crate::registries::Candidate) in full: not
    /// by the location or the mirror that it is read from.
    Docker(ImageRef),
    /// `oci:`, a layout in a directory. Which of its images does not count, as upstream: a name there proves nothing.
    Oci(PathBuf),
    /// `oci-archive:`, a layout in a tar.
    OciArchive(PathBuf),
    /// `docker-archive:`. It has no scopes but the transport's.
    DockerArchive,
    /// `dir:`, skopeo's directories.
    Dir(PathBuf),
}

impl PolicyImage {
    pub(super) fn transport(&self) -> &'static str {
        match self {
            Self::Docker(_) => "docker",
            Self::Oci(_) => "oci",
            Self::OciArchive(_) => "oci-archive",
            Self::DockerArchive => "docker-archive",
            Self::Dir(_) => "dir",
        }
    }

    /// Gives the scopes that it is in, the most specific first, without the transport's.
    pub(super) fn scopes(&self) -> Vec<String> {
        match self {
            Self::Docker(reference) => names::scopes(reference),
            Self::Oci(path) | Self::OciArchive(path) | Self::Dir(path) => of_path(path),
            Self::DockerArchive => Vec::new(),
        }
    }

    /// Gives the reference that a signature may be for, where there is one.
    pub fn reference(&self) -> Option<&ImageRef> {
        match self {
            Self::Docker(reference) => Some(reference),
            _ => None,
        }
    }
}

/// The path and its parents. `/` is no scope. What is not UTF-8 cannot stand in JSON, but its parents may.
fn of_path(path: &Path) -> Vec<String> {
    let parents = path.ancestors().filter(|path| path.parent().is_some());
    parents.filter_map(|path| path.to_str().map(str::to_owned)).collect()
}

impl fmt::Display for PolicyImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(reference) => write!(f, "{reference}"),
            Self::Oci(path) | Self::OciArchive(path) | Self::Dir(path) if path.as_os_str().is_empty() => {
                write!(f, "an {} that is a stream", self.transport())
            }
            Self::Oci(path) | Self::OciArchive(path) | Self::Dir(path) => {
                write!(f, "{}:{}", self.transport(), path.display())
            }
            Self::DockerArchive => f.write_str("a docker-archive"),
        }
    }
}
