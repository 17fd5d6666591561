// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The merge of layers once more, as plainly as possible: whole paths in a map, a layer's deletions before its entries.
//!
//! It shares no code with stos-erofs, whose tests and fuzz target hold its merger against this.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::tar_builder::{Entry, TarBuilder};

/// What stands at a path.
#[derive(Debug, Clone)]
pub enum File {
    /// A directory of that mode.
    Directory(u32),
    /// Content; the same `Rc` is the same inode.
    Regular(Rc<String>),
    /// Target; likewise.
    Symlink(Rc<String>),
}

/// What stands at each path, without the root.
pub type Tree = BTreeMap<String, File>;

/// An entry of a layer, its path first.
#[derive(Debug, Clone)]
pub enum Step {
    /// A directory and its mode.
    Directory(String, u32),
    /// A regular file and its content, mode 0644.
    Regular(String, String),
    /// A symbolic link and its target.
    Symlink(String, String),
    /// A hard link and the path of the file that it is one more name of.
    HardLink(String, String),
    /// The removal of the path from the layers below.
    Whiteout(String),
    /// The removal of all that the layers below have in the directory.
    Opaque(String),
}

impl Step {
    /// Tells whether it takes something of the layers below away.
    pub fn is_deletion(&self) -> bool {
        matches!(self, Self::Whiteout(_) | Self::Opaque(_))
    }
}

fn remove_below(tree: &mut Tree, path: &str) {
    let below = format!("{path}/");
    tree.retain(|other, _| !other.starts_with(&below));
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(slash, _)| &path[..slash])
}

/// Why a path leads nowhere.
enum Astray {
    File,
    Loop,
}

/// The directory's path with its links followed; it need not be there.
fn directory(tree: &Tree, path: &str) -> Result<String, Astray> {
    let mut pending: Vec<_> = path.split('/').rev().map(str::to_owned).collect();
    let (mut at, mut links) = (Vec::new(), 0);
    while let Some(component) = pending.pop() {
        match component.as_str() {
            "" | "." => {}
            ".." => drop(at.pop()),
            _ => at.push(component),
        }
        match tree.get(&at.join("/")) {
            Some(File::Regular(_)) => return Err(Astray::File),
            Some(File::Symlink(_)) if links == 40 => return Err(Astray::Loop),
            Some(File::Symlink(target)) => {
                links += 1;
                at.pop();
                if target.starts_with('/') {
                    at.clear();
                }
                pending.extend(target.split('/').rev().map(str::to_owned));
            }
            _ => {}
        }
    }
    Ok(at.join("/"))
}

/// The path with its parents' links followed.
fn resolve(tree: &Tree, path: &str) -> Result<String, Astray> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = directory(tree, parent)?;
    Ok(if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") })
}

fn put(tree: &mut Tree, path: &str, file: File) {
    for parent in parents(path) {
        tree.entry(parent.to_owned()).or_insert(File::Directory(0o755));
    }
    if !matches!((&file, tree.get(path)), (File::Directory(_), Some(File::Directory(_)))) {
        remove_below(tree, path);
    }
    tree.insert(path.to_owned(), file);
}

fn remove_lower(tree: &mut Tree, step: &Step) -> Result<(), Astray> {
    match step {
        Step::Whiteout(path) => {
            let path = resolve(tree, path)?;
            remove_below(tree, &path);
            tree.remove(&path);
        }
        Step::Opaque(path) => match directory(tree, path)?.as_str() {
            "" => tree.clear(),
            path => remove_below(tree, path),
        },
        _ => {}
    }
    Ok(())
}

/// Applies a layer; gives `None` where it is in error.
pub fn apply(tree: &mut Tree, steps: &[Step]) -> Option<()> {
    for step in steps {
        if let Err(Astray::Loop) = remove_lower(tree, step) {
            return None;
        }
    }
    for step in steps {
        let (path, file) = match step {
            Step::Directory(path, mode) => (path, File::Directory(*mode)),
            Step::Regular(path, content) => (path, File::Regular(Rc::new(content.clone()))),
            Step::Symlink(path, target) => (path, File::Symlink(Rc::new(target.clone()))),
            Step::HardLink(path, target) => {
                let target = resolve(tree, target).ok()?;
                match tree.get(&target)? {
                    File::Directory(_) => return None,
                    _ if target.starts_with(&format!("{}/", resolve(tree, path).ok()?)) => return None,
                    file => (path, file.clone()),
                }
            }
            Step::Whiteout(_) | Step::Opaque(_) => continue,
        };
        let path = resolve(tree, path).ok()?;
        put(tree, &path, file);
    }
    Some(())
}

/// One line a path, sorted: type, mode, path, content; of a hard link the first of its names, as
/// [`Image::list`](crate::erofs_image::Image::list) has it.
pub fn list(tree: &Tree) -> Vec<String> {
    let mut first: BTreeMap<*const String, &str> = BTreeMap::new();
    let line = |(path, file): (&'_ String, &'_ File)| match file {
        File::Directory(mode) => format!("d {mode:o} {path}"),
        File::Regular(content) => format!("f 644 {path} {content}").trim_end().to_owned(),
        File::Symlink(target) => format!("l {path} {target}"),
    };
    let mut lines = Vec::new();
    for (path, file) in tree {
        let linked = match file {
            File::Regular(content) | File::Symlink(content) => *first.entry(Rc::as_ptr(content)).or_insert(path),
            File::Directory(_) => path,
        };
        lines.push(if linked == path { line((path, file)) } else { format!("= {path} {linked}") });
    }
    lines
}

/// Gives the layer's tar, its entries in the order of the steps.
pub fn write(steps: &[Step]) -> Vec<u8> {
    let add = |tar: TarBuilder, step: &Step| match step {
        Step::Directory(path, mode) => tar.entry(Entry::directory(path).mode(*mode)),
        Step::Regular(path, content) => tar.entry(Entry::file(path, content)),
        Step::Symlink(path, target) => tar.entry(Entry::symlink(path, target)),
        Step::HardLink(path, target) => tar.entry(Entry::hard_link(path, target)),
        Step::Opaque(path) => tar.opaque(path),
        Step::Whiteout(path) => tar.whiteout(path),
    };
    steps.iter().fold(TarBuilder::new(), add).finish()
}
