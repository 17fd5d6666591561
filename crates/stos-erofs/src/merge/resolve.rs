// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the directory that an entry's parent path means: symbolic links are followed within the image's root.

use super::bounds::STEPS_TO_MAKE;
use super::tree::{Content, DentryId, LayerId, ROOT, Tree, mark};
use crate::error::{MergeProblem, printable};
use crate::path::{MAX_COMPONENT, MAX_PATH};

/// How many symbolic links Linux follows in one path (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// How long all their targets together may be. Linux has no such bound, but without it every entry of a few bytes can
/// ask for a walk of 40 full targets, 77,500 components; with it 10,000 with the path's own, some 0.4 ms. All entries'
/// walks together have a bound of their own ([`Bounds`](super::bounds::Bounds)).
const MAX_FOLLOWED: usize = 4 * MAX_PATH;

/// Where a parent path leads.
#[derive(Debug)]
pub(super) enum Resolved {
    /// To a directory.
    Directory(DentryId),
    /// To one that is missing: these components below an existing directory.
    Missing(DentryId, Vec<Vec<u8>>),
}

/// Resolves a path to a directory, if there is one.
///
/// # Errors
/// [`MergeProblem::ParentNotDirectory`], [`MergeProblem::TooManyLinks`], [`MergeProblem::LinksTooLong`].
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
            tree.count_steps(STEPS_TO_MAKE * missing.len() as u64);
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
pub(super) fn resolve(tree: &Tree, path: &[u8]) -> Result<Resolved, MergeProblem> {
    let mut at = ROOT;
    let mut missing: Vec<&[u8]> = Vec::new();
    let mut rest = Rest::new(path);
    while let Some(name) = rest.next() {
        tree.count_steps(1);
        match name {
            b"" | b"." => {}
            b".." if missing.pop().is_none() => at = tree.parent(at),
            b".." => {}
            _ if !missing.is_empty() => missing.push(checked(name)?),
            _ => match tree.find(at, name) {
                None => missing.push(checked(name)?),
                Some(found) if tree.has(found, mark::WHITEOUT) => missing.push(checked(name)?),
                // It may be a symbolic link, to who knows where.
                Some(found) if tree.has(found, mark::FOREIGN) => {
                    return Err(MergeProblem::DependsOnLower { path: printable(&tree.path(found)) });
                }
                Some(found) => match tree.inode(found).content {
                    Content::Directory => at = found,
                    Content::Symlink { at: target, len } => {
                        let target = tree.symlink_target(target, len);
                        if target.starts_with(b"/") {
                            at = ROOT;
                        }
                        rest.follow(target)?;
                    }
                    _ => return Err(not_directory(tree, found)),
                },
            },
        }
    }
    if missing.is_empty() {
        return Ok(Resolved::Directory(at));
    }
    // Owned, because to make them changes the tree that the targets stand in.
    Ok(Resolved::Missing(at, missing.into_iter().map(<[u8]>::to_vec).collect()))
}

fn not_directory(tree: &Tree, found: DentryId) -> MergeProblem {
    MergeProblem::ParentNotDirectory { parent: printable(&tree.path(found)) }
}

/// A link's target may hold names that no directory can.
fn checked(name: &[u8]) -> Result<&[u8], MergeProblem> {
    if name.len() > MAX_COMPONENT {
        return Err(MergeProblem::ParentNotDirectory { parent: printable(name) });
    }
    Ok(name)
}

/// What is still to be walked: the last link's target, then what each earlier target, and the path, had left.
struct Rest<'a> {
    current: &'a [u8],
    outer: Vec<&'a [u8]>,
    links: u32,
    followed: usize,
}

impl<'a> Rest<'a> {
    fn new(path: &'a [u8]) -> Self {
        Self { current: path, outer: Vec::new(), links: 0, followed: 0 }
    }

    /// Takes the next component; an empty one where slashes follow each other.
    fn next(&mut self) -> Option<&'a [u8]> {
        while self.current.is_empty() {
            self.current = self.outer.pop()?;
        }
        let (name, rest) = match self.current.iter().position(|&byte| byte == b'/') {
            Some(slash) => (&self.current[..slash], &self.current[slash + 1..]),
            None => (self.current, &[][..]),
        };
        self.current = rest;
        Some(name)
    }

    /// Goes on with a link's target.
    fn follow(&mut self, target: &'a [u8]) -> Result<(), MergeProblem> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(MergeProblem::TooManyLinks { limit: MAX_LINKS });
        }
        self.followed += target.len();
        if self.followed > MAX_FOLLOWED {
            return Err(MergeProblem::LinksTooLong { limit: MAX_FOLLOWED });
        }
        self.outer.push(std::mem::replace(&mut self.current, target));
        Ok(())
    }
}
