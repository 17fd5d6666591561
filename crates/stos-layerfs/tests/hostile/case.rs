// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a case is: where the field learned it, its layers, and what must become of them.

use std::path::{Path, PathBuf};

use stos_erofs::{Error as TarError, MergeProblem, TarProblem};
use stos_layerfs::Error;
use stos_spec::LayerCompression;
use stos_testkit::image_builder::digest;
use stos_testkit::tar_builder::TarBuilder;
use stos_testkit::tree::{Node, Tree};

/// One line of the table.
pub struct Case {
    /// A CVE, an issue or a clause of a specification.
    pub source: &'static str,
    /// The lowest first.
    pub layers: Vec<Layer>,
    pub outcome: Outcome,
    /// Whether an unpacker that joins names to paths would change what lies outside.
    pub is_attack: bool,
    /// How many bytes each layer may take.
    pub bound: Option<u64>,
}

/// A layer as it comes.
pub struct Layer {
    pub blob: Vec<u8>,
    pub compression: LayerCompression,
    /// What it must hash to when it is inflated.
    pub tar: Vec<u8>,
}

impl From<Vec<u8>> for Layer {
    fn from(tar: Vec<u8>) -> Self {
        Self { blob: tar.clone(), compression: LayerCompression::None, tar }
    }
}

impl From<TarBuilder> for Layer {
    fn from(tar: TarBuilder) -> Self {
        tar.finish().into()
    }
}

pub enum Outcome {
    /// With an error of this kind, and nothing is kept of what is wrong.
    Refused(Refusal),
    /// And all of this is to be seen, through either backend.
    Shown(Vec<Sight>),
}

/// What is wrong, without who found it.
pub enum Problem<'a> {
    Tar(&'a TarProblem),
    Merge(&'a MergeProblem),
    Other(&'a Error),
}

impl<'a> From<&'a Error> for Problem<'a> {
    fn from(error: &'a Error) -> Self {
        match error {
            Error::Tar { source: TarError::Tar { problem, .. }, .. } => Self::Tar(problem),
            Error::Merge { source: TarError::Merge { problem, .. }, .. } => Self::Merge(problem),
            other => Self::Other(other),
        }
    }
}

pub struct Refusal {
    pub is: fn(Problem<'_>) -> bool,
    /// The pattern, for people.
    pub kind: &'static str,
    /// A part of the message.
    pub says: String,
}

/// The kind of a refusal, as a pattern of [`Problem`], and a part of its message.
macro_rules! refusal {
    ($kind:pat, $says:expr) => {
        $crate::hostile::case::Refusal {
            is: |problem| matches!(problem, $kind),
            kind: stringify!($kind),
            says: String::from($says),
        }
    };
}
pub(crate) use refusal;

impl Case {
    pub fn shown<L: Into<Layer>>(
        source: &'static str,
        layers: impl IntoIterator<Item = L>,
        sights: impl IntoIterator<Item = Sight>,
    ) -> Self {
        Self::new(source, layers, Outcome::Shown(sights.into_iter().collect()))
    }

    pub fn refused<L: Into<Layer>>(
        source: &'static str,
        layers: impl IntoIterator<Item = L>,
        refusal: Refusal,
    ) -> Self {
        Self::new(source, layers, Outcome::Refused(refusal))
    }

    fn new<L: Into<Layer>>(source: &'static str, layers: impl IntoIterator<Item = L>, outcome: Outcome) -> Self {
        let layers = layers.into_iter().map(Into::into).collect();
        Self { source, layers, outcome, is_attack: false, bound: None }
    }

    /// Says that this aims at the canary and would hit it.
    pub fn attack(self) -> Self {
        Self { is_attack: true, ..self }
    }

    pub fn within(self, bound: u64) -> Self {
        Self { bound: Some(bound), ..self }
    }
}

/// Where attacks aim at: a tree outside the store that nothing may touch.
pub struct Aim(pub PathBuf);

impl Aim {
    /// The absolute path of a name in the canary.
    pub fn absolute(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// The same up from wherever a layer may be unpacked: the root's parent is the root.
    pub fn upward(&self, name: &str) -> String {
        format!("{}{}", "../".repeat(24), self.inside(name))
    }

    /// Where it is when an image's root is taken for the host's.
    pub fn inside(&self, name: &str) -> String {
        self.absolute(name).trim_start_matches('/').to_owned()
    }
}

/// What the kernel shows, and where: what lies below `deep` is not in the tree, for it may be too deep, or too much.
pub struct View<'a> {
    pub tree: &'a Tree,
    pub point: &'a Path,
}

/// Nothing, or the reason why something is not to be seen.
pub type Seen = Result<(), String>;

/// One thing to be seen.
pub struct Sight(Box<dyn Fn(&View<'_>) -> Seen>);

impl Sight {
    pub fn check(&self, view: &View<'_>) -> Seen {
        (self.0)(view)
    }
}

/// Anything.
pub fn sight(check: impl Fn(&View<'_>) -> Seen + 'static) -> Sight {
    Sight(Box::new(check))
}

/// A path that is like that.
pub fn node(path: impl AsRef<[u8]>, what: &'static str, is: impl Fn(&Node) -> bool + 'static) -> Sight {
    let path = path.as_ref().to_vec();
    sight(move |view| match view.tree.nodes.get(&path) {
        Some(node) if is(node) => Ok(()),
        found => Err(format!("/{}: expected {what}, found {found:?}", path.escape_ascii())),
    })
}

/// A regular file and its data.
pub fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Sight {
    let (size, expected) = (data.as_ref().len() as u64, digest(data.as_ref()));
    node(path, "a file with other data", move |node| {
        (node.kind, node.size) == ("file", size) && format!("sha256:{}", node.sha256) == expected
    })
}

pub fn directory(path: impl AsRef<[u8]>) -> Sight {
    node(path, "a directory", |node| node.kind == "directory")
}

pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Sight {
    let target = target.as_ref().to_vec();
    node(path, "a symlink to elsewhere", move |node| node.kind == "symlink" && node.target == target)
}

/// Nothing is there.
pub fn gone(path: impl AsRef<[u8]>) -> Sight {
    let path = path.as_ref().to_vec();
    sight(move |view| match view.tree.nodes.get(&path) {
        None => Ok(()),
        Some(found) => Err(format!("/{}: expected nothing, found {}", path.escape_ascii(), found.kind)),
    })
}

/// Two names of one file.
pub fn linked(one: &'static str, other: &'static str) -> Sight {
    sight(move |view| {
        let group = |path: &str| view.tree.nodes.get(path.as_bytes()).and_then(|node| node.link_group.as_deref());
        match (group(one), group(other)) {
            (Some(first), Some(second)) if first == second => Ok(()),
            found => Err(format!("{one} and {other}: expected one file, found {found:?}")),
        }
    })
}

/// These names and no others.
pub fn names(expected: &'static [&'static str]) -> Sight {
    sight(move |view| {
        let paths = view.tree.nodes.keys().filter(|path| !path.is_empty());
        let found: Vec<_> = paths.map(|path| path.escape_ascii().to_string()).collect();
        if found == expected { Ok(()) } else { Err(format!("names: expected {expected:?}, found {found:?}")) }
    })
}

pub fn tar() -> TarBuilder {
    TarBuilder::new()
}
