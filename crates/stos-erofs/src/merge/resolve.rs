// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the directory that an entry's parent path means: symbolic links are followed within the image's root.

use super::tree::{Content, DentryId, LayerId, ROOT, Tree};
use crate::error::{MergeProblem, printable};
use crate::path::MAX_COMPONENT;

/// How many symbolic links Linux follows in one path (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

/// Where a parent path leads.
#[derive(Debug)]
enum Resolved {
    /// To a directory.
    Directory(DentryId),
    /// To one that is missing: these components below an existing directory.
    Missing(DentryId, Vec<Vec<u8>>),
}

/// Resolves a path to a directory, if there is one.
///
/// # Errors
/// [`MergeProblem::ParentNotDirectory`], [`MergeProblem::TooManyLinks`].
pub(super) fn find_directory(tree: &Tree, path: &[u8]) -> Result<Option<DentryId>, MergeProblem> {
    match resolve(tree, path)? {
        Resolved::Directory(dentry) => Ok(Some(dentry)),
        Resolved::Missing(..) => Ok(None),
    }
}

/// Resolves a path to a directory and makes what is missing of it, as implied directories of that layer.
///
/// # Errors
/// As [`find_directory`], and [`MergeProblem::TooMany`].
pub(super) fn ensure_directory(tree: &mut Tree, path: &[u8], layer: LayerId) -> Result<DentryId, MergeProblem> {
    match resolve(tree, path)? {
        Resolved::Directory(dentry) => Ok(dentry),
        Resolved::Missing(mut dentry, missing) => {
            for name in missing {
                let inode = tree.new_implied_directory()?;
                dentry = tree.insert(dentry, &name, inode, layer)?;
            }
            Ok(dentry)
        }
    }
}

/// Walks a path as `openat2(RESOLVE_IN_ROOT)` does: absolute links restart at the root, `..` stops there.
///
/// Below a missing component the rest is taken by its text, so `..` steps back out of it.
fn resolve(tree: &Tree, path: &[u8]) -> Result<Resolved, MergeProblem> {
    let mut at = ROOT;
    let mut missing: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    let mut rest = Rest::new(path);
    while let Some(name) = rest.next() {
        match name.as_slice() {
            b"" | b"." => {}
            b".." if missing.pop().is_none() => at = tree.parent(at),
            b".." => {}
            _ if !missing.is_empty() => missing.push(checked(name)?),
            _ => match tree.find(at, &name) {
                None => missing.push(checked(name)?),
                Some(found) => match tree.inode(found).content {
                    Content::Directory => at = found,
                    Content::Symlink { at: target, len } => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(MergeProblem::TooManyLinks { limit: MAX_LINKS });
                        }
                        let target = tree.symlink_target(target, len);
                        if target.starts_with(b"/") {
                            at = ROOT;
                        }
                        rest.follow(target);
                    }
                    _ => return Err(MergeProblem::ParentNotDirectory { parent: printable(&tree.path(found)) }),
                },
            },
        }
    }
    Ok(if missing.is_empty() { Resolved::Directory(at) } else { Resolved::Missing(at, missing) })
}

/// A link's target may hold names that no directory can.
fn checked(name: Vec<u8>) -> Result<Vec<u8>, MergeProblem> {
    if name.len() > MAX_COMPONENT {
        return Err(MergeProblem::ParentNotDirectory { parent: printable(&name) });
    }
    Ok(name)
}

/// What is still to be walked: link targets before the path that led to them.
struct Rest {
    path: Vec<u8>,
    at: usize,
}

impl Rest {
    fn new(path: &[u8]) -> Self {
        Self { path: path.to_vec(), at: 0 }
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let rest = &self.path[self.at..];
        if rest.is_empty() {
            return None;
        }
        let len = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        let name = rest[..len].to_vec();
        self.at += (len + 1).min(rest.len());
        Some(name)
    }

    fn follow(&mut self, target: &[u8]) {
        self.path = [target, b"/", &self.path[self.at..]].concat();
        self.at = 0;
    }
}
