// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The merge once more, as plainly as possible: whole paths in a map, a layer's deletions before its entries.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::tarball::testing::Tar;

#[derive(Clone)]
pub(super) enum File {
    Directory(u32),
    /// Content; the same `Rc` is the same inode.
    Regular(Rc<String>),
    /// Target; likewise.
    Symlink(Rc<String>),
}

pub(super) type Tree = BTreeMap<String, File>;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Directory(String, u32),
    Regular(String, String),
    Symlink(String, String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

fn remove_below(tree: &mut Tree, path: &str) {
    let below = format!("{path}/");
    tree.retain(|other, _| !other.starts_with(&below));
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(slash, _)| &path[..slash])
}

/// Why a path leads nowhere.
pub(super) enum Astray {
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
pub(super) fn apply(tree: &mut Tree, steps: &[Step]) -> Option<()> {
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

pub(super) fn list(tree: &Tree) -> Vec<String> {
    let mut first: BTreeMap<*const String, &str> = BTreeMap::new();
    let line = |(path, file): (&'_ String, &'_ File)| match file {
        File::Directory(mode) => format!("d {mode:o} {path}"),
        File::Regular(content) => format!("f 644 {path} {content}"),
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

pub(super) fn write(steps: &[Step]) -> Tar {
    steps.iter().fold(Tar::new(), |tar, step| match step {
        Step::Directory(path, mode) => tar.directory(path, *mode),
        Step::Regular(path, content) => tar.file(path, content),
        Step::Symlink(path, target) => tar.symlink(path, target),
        Step::HardLink(path, target) => tar.hard_link(path, target),
        Step::Opaque(path) => tar.file(&format!("{path}/.wh..wh..opq"), ""),
        Step::Whiteout(path) => match path.rsplit_once('/') {
            Some((parent, name)) => tar.file(&format!("{parent}/.wh.{name}"), ""),
            None => tar.file(&format!(".wh.{path}"), ""),
        },
    })
}
