// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How snapshots are mounted: what stands below one, and the mounts that containerd makes of that.
//!
//! | the snapshot | is mounted as |
//! |---|---|
//! | to be written, on layers | one overlay: the layers below, its own `fs` above |
//! | to be written, on nothing | its own `fs`, bound |
//! | to be read, of layers of the store alone | the image's mount, bound read-only |
//! | to be read, of anything else | an overlay without an upper directory, or one directory, bound read-only |
//!
//! Layers of the store are one lower directory, the mount of their chain, whatever their number (with the backend `dirs`: their
//! directories; where those are too many for mount(2), the view of their stack). Each layer that containerd has unpacked is one more above it.

use std::path::{Path, PathBuf};

use stos_engine::Engine;
use stos_engine::create::setup_layerfs_for_container;
use stos_layerfs::{Chain, Integrity};
use stos_spec::{ChainId, DiffId};
use stos_store::SnapshotKind;
use stos_sys::mount::UpperDirs;

use crate::api::types::Mount;
use crate::error::{Error, Result};
use crate::metadata::{Metadata, Snapshot};

/// Off whatever the kernel's default, so that an upper directory says all: what `stos` mounts and containerd compares are the same.
const OFF: [&str; 3] = ["index=off", "redirect_dir=off", "metacopy=off"];

/// The most bytes that lower directories may take, with the length of the store's path twice: mount(2) takes a page of options, and
/// the others take some 200 bytes beside that path.
const LOWERS_MAX: usize = 4096 - 256;

/// What a snapshot stands on.
#[derive(Debug, Default)]
pub struct Lower {
    /// Directories of layers that containerd has unpacked, the uppermost first.
    pub directories: Vec<PathBuf>,
    /// The layers of the store below them, the lowest first.
    pub layers: Vec<DiffId>,
}

impl Lower {
    /// Finds what a snapshot whose parent is `parent` stands on.
    ///
    /// # Errors
    /// Where something below it is missing.
    pub fn of(metadata: &Metadata, parent: Option<&str>) -> Result<Self> {
        let mut lower = Self::default();
        let Some(parent) = parent else { return Ok(lower) };
        for Snapshot { number, record } in metadata.with_ancestors(parent)? {
            if !record.layers.is_empty() {
                // They are all layers down to the lowest, whatever is recorded below.
                lower.layers.clone_from(&record.layers);
                break;
            }
            lower.directories.push(metadata.directory(number).join("fs"));
        }
        Ok(lower)
    }

    /// Gives the chain of the layers of the store.
    pub fn chain(&self) -> Option<ChainId> {
        ChainId::of_layers(&self.layers)
    }

    /// Makes sure that the layers of the store can be seen: their chain is sound and mounted.
    pub fn mount(self, engine: &Engine) -> Result<MountedLower> {
        let mut mounted = MountedLower { paths: self.directories, view: None };
        if self.layers.is_empty() {
            return Ok(mounted);
        }
        let layerfs = engine.layerfs();
        let chain = layerfs.ensure_sound_chain(&self.layers, Integrity::Sealed)?;
        let chain = setup_layerfs_for_container(engine, &chain, Integrity::Sealed)?;
        let view = layerfs.chain_mount_point(chain.kind(), chain.chain_id());
        if mounted.paths.is_empty() {
            mounted.view = Some(view.clone());
        }
        let own = mounted.paths.len();
        mounted.paths.extend(directories_of(engine, &chain)?);
        if lower_length(&mounted.paths) + 2 * engine.store().root().as_os_str().len() > LOWERS_MAX {
            // The same tree, as one directory.
            mounted.paths.truncate(own);
            mounted.paths.push(view);
        }
        Ok(mounted)
    }
}

fn directories_of(engine: &Engine, chain: &Chain) -> Result<Vec<PathBuf>> {
    // Only the lower directories are of interest.
    let upper = UpperDirs { upper: PathBuf::new(), work: PathBuf::new(), volatile: false };
    Ok(engine.layerfs().container_plan(chain, upper)?.lowers)
}

/// Gives how many bytes lower directories take in a mount's options, where containerd mounts them from the directory that they have in
/// common (containerd, core/mount/mount_linux.go: `compactLowerdirOption`).
fn lower_length(paths: &[PathBuf]) -> usize {
    let Some(first) = paths.first() else { return 0 };
    let is_above_all = |dir: &&Path| paths.iter().all(|path| path.starts_with(dir));
    let common = first.ancestors().skip(1).find(is_above_all).unwrap_or(Path::new(""));
    paths.iter().map(|path| path.strip_prefix(common).unwrap_or(path).as_os_str().len() + 1).sum()
}

/// What a snapshot stands on, to be seen.
#[derive(Debug)]
pub struct MountedLower {
    /// Lower directories, the uppermost first.
    paths: Vec<PathBuf>,
    /// Where all of it can be seen by itself, if it is layers of the store alone.
    view: Option<PathBuf>,
}

impl MountedLower {
    /// Gives the root of what is below a new snapshot, of which its own takes owner and mode; and whether it is an image's, which has
    /// no attributes of overlayfs's own.
    pub fn root(&self) -> Option<(&Path, bool)> {
        match &self.view {
            Some(view) => Some((view, true)),
            None => self.paths.first().map(|path| (path.as_path(), false)),
        }
    }

    /// Gives the mounts of a snapshot with its own directory `own`.
    pub fn mounts(&self, kind: SnapshotKind, own: &Path) -> Result<Vec<Mount>> {
        let fs = own.join("fs");
        let mount = match (kind, self.paths.as_slice()) {
            (SnapshotKind::Active, []) => bind(&fs, "rw")?,
            (SnapshotKind::View, []) => bind(&fs, "ro")?,
            (SnapshotKind::View, [single]) => bind(self.view.as_deref().unwrap_or(single), "ro")?,
            (SnapshotKind::View, several) => match &self.view {
                Some(view) => bind(view, "ro")?,
                None => overlay(None, several)?,
            },
            (_, several) => overlay(Some(own), several)?,
        };
        Ok(vec![mount])
    }
}

fn bind(source: &Path, how: &str) -> Result<Mount> {
    Ok(Mount {
        r#type: "bind".to_owned(),
        source: text_of(source)?,
        target: String::new(),
        options: vec![how.to_owned(), "rbind".to_owned()],
    })
}

fn overlay(own: Option<&Path>, lowers: &[PathBuf]) -> Result<Mount> {
    let mut options: Vec<String> = OFF.map(str::to_owned).into();
    if let Some(own) = own {
        options.push(format!("workdir={}", option_of(&own.join("work"))?));
        options.push(format!("upperdir={}", option_of(&own.join("fs"))?));
    }
    let lowers: Vec<String> = lowers.iter().map(|lower| option_of(lower)).collect::<Result<_>>()?;
    options.push(format!("lowerdir={}", lowers.join(":")));
    Ok(Mount { r#type: "overlay".to_owned(), source: "overlay".to_owned(), target: String::new(), options })
}

fn text_of(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::UnfitPath { path: path.to_owned() })
}

fn option_of(path: &Path) -> Result<String> {
    check_path(path)?;
    text_of(path)
}

/// Refuses a path that overlayfs would take apart.
///
/// # Errors
/// [`Error::UnfitPath`].
pub fn check_path(path: &Path) -> Result<()> {
    match path.to_str() {
        Some(text) if !text.contains([':', ',', '\\']) => Ok(()),
        _ => Err(Error::UnfitPath { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(paths: &[&str], view: Option<&str>) -> MountedLower {
        MountedLower { paths: paths.iter().map(PathBuf::from).collect(), view: view.map(PathBuf::from) }
    }

    fn shown(lower: &MountedLower, kind: SnapshotKind) -> String {
        let mounts = lower.mounts(kind, Path::new("/s/7")).unwrap();
        assert_eq!(mounts.len(), 1);
        format!("{} {} {}", mounts[0].r#type, mounts[0].source, mounts[0].options.join(","))
    }

    #[test]
    fn each_kind_is_one_mount() {
        use SnapshotKind::{Active, View};
        let off = OFF.join(",");
        for (lower, kind, expected) in [
            (lower(&[], None), Active, "bind /s/7/fs rw,rbind".to_owned()),
            (lower(&[], None), View, "bind /s/7/fs ro,rbind".to_owned()),
            (
                lower(&["/c"], Some("/c")),
                Active,
                format!("overlay overlay {off},workdir=/s/7/work,upperdir=/s/7/fs,lowerdir=/c"),
            ),
            (lower(&["/c"], Some("/c")), View, "bind /c ro,rbind".to_owned()),
            (lower(&["/t", "/l"], Some("/v")), View, "bind /v ro,rbind".to_owned()),
            (lower(&["/s/6/fs"], None), View, "bind /s/6/fs ro,rbind".to_owned()),
            (lower(&["/s/6/fs", "/c"], None), View, format!("overlay overlay {off},lowerdir=/s/6/fs:/c")),
        ] {
            assert_eq!(shown(&lower, kind), expected);
        }
    }

    #[test]
    fn lower_directories_count_from_what_they_have_in_common() {
        let paths = |texts: &[&str]| texts.iter().map(PathBuf::from).collect::<Vec<_>>();
        for (texts, expected) in [
            (&[][..], 0),
            (&["/d/layers/a/diff"], 5),
            (&["/d/layers/a/diff", "/d/layers/b/diff"], 14),
            (&["/d/snapshots/1/fs", "/d/layers/a/diff"], 29),
        ] {
            assert_eq!(lower_length(&paths(texts)), expected, "{texts:?}");
        }
    }

    #[test]
    fn paths_that_overlayfs_takes_apart_are_refused() {
        for path in ["/a:b", "/a,b", "/a\\b"] {
            assert!(matches!(check_path(Path::new(path)), Err(Error::UnfitPath { .. })), "{path}");
            let refused = lower(&[path, "/b"], None).mounts(SnapshotKind::View, Path::new("/s/7"));
            assert!(matches!(refused, Err(Error::UnfitPath { .. })), "{path}");
        }
        check_path(Path::new("/var/lib/stos")).unwrap();
    }
}
