// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The files with several names that a walk has met, until the last of their names has come.
//!
//! A container that runs removes files and makes others, and filesystems give the number of a removed inode to the next one.
//! So a further name counts only where nothing tells that it is another file's: neither its birth time (statx(2)), where the
//! filesystem keeps one, nor its type, size, time, mode and owner.
//!
//! A container also chooses how many names it never shows: of each path the last name alone is kept, and the sum is bounded.

use std::collections::HashMap;
use std::rc::Rc;

use super::node::{Identity, Looks, Node};
use crate::error::{Error, Result};

/// What the names of files whose other names have not come may take together, in bytes: some 400,000 files.
pub(super) const LINKS_MAX: usize = 128 << 20;

/// About what an entry of the table takes beside its name, and a directory.
const ENTRY_COST: usize = 2 * size_of::<(Identity, First)>() + 16;
const DIRECTORY_COST: usize = size_of::<Directory>() + 48;

/// A directory in which a first name lies.
#[derive(Debug)]
struct Directory {
    parent: Option<Rc<Directory>>,
    name: Box<[u8]>,
}

/// The first name of a file.
#[derive(Debug)]
struct First {
    directory: Option<Rc<Directory>>,
    name: Box<[u8]>,
    /// How many names are still to come.
    left: u64,
    looks: Looks,
}

/// The first names of files.
#[derive(Debug)]
pub(super) struct Links {
    tree: String,
    firsts: HashMap<Identity, First>,
    /// The directories on the way to the file that was met last, each with the length of its path.
    way: Vec<(usize, Rc<Directory>)>,
    /// The path of the last of them.
    path: Vec<u8>,
    /// What all that takes, about.
    bytes: usize,
    limit: usize,
}

impl Links {
    /// `tree` is what people call the tree.
    pub(super) fn new(tree: String, limit: usize) -> Self {
        Self { tree, firsts: HashMap::new(), way: Vec::new(), path: Vec::new(), bytes: 0, limit }
    }

    /// Takes a name of a file that has several, and gives the name under which the file has come already; `None` where this is
    /// the first. The walk goes through each directory once, with all that lies below.
    pub(super) fn take(&mut self, path: &[u8], node: &Node) -> Result<Option<Vec<u8>>> {
        let (identity, names) = (node.identity()?, node.names_of_file());
        if let Some(first) = self.firsts.get_mut(&identity)
            && first.looks == node.looks()
        {
            let target = path_of(first.directory.as_deref(), &first.name);
            first.left -= 1;
            if first.left == 0 {
                self.forget(&identity);
            }
            return Ok(Some(target));
        }
        // Another file's number, or the file has changed since: from here on it is a new one.
        self.forget(&identity);
        self.remember(path, identity, names - 1, node.looks())?;
        Ok(None)
    }

    fn remember(&mut self, path: &[u8], identity: Identity, left: u64, looks: Looks) -> Result<()> {
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let directory = self.directory(parent);
        self.bytes += ENTRY_COST + name.len();
        self.firsts.insert(identity, First { directory, name: name.into(), left, looks });
        if self.bytes > self.limit {
            return Err(Error::TooManyLinks { tree: self.tree.clone(), limit: self.limit });
        }
        Ok(())
    }

    fn forget(&mut self, identity: &Identity) {
        if let Some(first) = self.firsts.remove(identity) {
            self.bytes -= ENTRY_COST + first.name.len();
            self.release(first.directory);
        }
    }

    /// Gives the directory of that path, the one that there is where files in it were met before.
    fn directory(&mut self, path: &[u8]) -> Option<Rc<Directory>> {
        while let Some(&(len, _)) = self.way.last() {
            let is_above = path.len() >= len && path[..len] == self.path[..len];
            if is_above && path.get(len).is_none_or(|&byte| byte == b'/') {
                break;
            }
            let left = self.way.pop().map(|(_, directory)| directory);
            self.path.truncate(self.way.last().map_or(0, |&(len, _)| len));
            self.release(left);
        }
        while self.path.len() < path.len() {
            let start = if self.path.is_empty() { 0 } else { self.path.len() + 1 };
            let end = path[start..].iter().position(|&byte| byte == b'/').map_or(path.len(), |at| start + at);
            let name = &path[start..end];
            self.bytes += DIRECTORY_COST + name.len();
            let parent = self.way.last().map(|(_, directory)| Rc::clone(directory));
            self.way.push((end, Rc::new(Directory { parent, name: name.into() })));
            self.path = path[..end].to_vec();
        }
        self.way.last().map(|(_, directory)| Rc::clone(directory))
    }

    /// Gives a directory up, and with it those above that nothing else needs.
    fn release(&mut self, mut directory: Option<Rc<Directory>>) {
        while let Some(last) = directory.and_then(Rc::into_inner) {
            self.bytes -= DIRECTORY_COST + last.name.len();
            directory = last.parent;
        }
    }
}

/// Puts a path together from its end.
fn path_of(mut directory: Option<&Directory>, name: &[u8]) -> Vec<u8> {
    let mut names = vec![name];
    while let Some(above) = directory {
        names.push(&above.name);
        directory = above.parent.as_deref();
    }
    names.reverse();
    names.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The nodes of `names` files that all have a second name elsewhere.
    fn linked(names: &[&str]) -> (tempfile::TempDir, Vec<Node>) {
        let dir = stos_testkit::environment::scratch();
        let nodes = names.iter().enumerate().map(|(at, name)| {
            let (file, other) = (dir.path().join(name), dir.path().join(format!("other{at}")));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, name).unwrap();
            fs::hard_link(&file, other).unwrap();
            let root = Node::root(file.parent().unwrap()).unwrap();
            root.child(file.file_name().unwrap().as_encoded_bytes()).unwrap().unwrap()
        });
        let nodes = nodes.collect();
        (dir, nodes)
    }

    #[test]
    fn first_names_come_back_whole_and_leave_nothing() {
        let names = ["a", "d/b", "d/e/c", "d/e.x", "d/f", "dd/g", "h"];
        let (_dir, nodes) = linked(&names);
        let mut links = Links::new("t".to_owned(), LINKS_MAX);
        for (name, node) in names.iter().zip(&nodes) {
            assert_eq!(links.take(name.as_bytes(), node).unwrap(), None, "{name}");
        }
        for (name, node) in names.iter().zip(&nodes).rev() {
            let first = links.take(b"z/other", node).unwrap();
            assert_eq!(first.as_deref(), Some(name.as_bytes()));
        }
        links.directory(b"");
        assert_eq!((links.bytes, links.firsts.len()), (0, 0));
    }

    #[test]
    fn a_long_way_is_kept_once_and_the_sum_is_bounded() {
        let deep = vec!["d"; 1000].join("/");
        let names: Vec<String> = (0..200).map(|number| format!("f{number}")).collect();
        let (_dir, nodes) = linked(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let fill = |limit| {
            let mut links = Links::new("t".to_owned(), limit);
            names.iter().zip(&nodes).try_for_each(|(name, node)| {
                links.take(format!("{deep}/{name}").as_bytes(), node).map(|first| assert_eq!(first, None))
            })?;
            Ok::<_, Error>(links.bytes)
        };
        let taken = fill(LINKS_MAX).unwrap();
        assert!(taken < 200 * 400 + 1000 * 200, "{taken} bytes for 200 names");
        assert!(matches!(fill(taken - 1), Err(Error::TooManyLinks { limit, .. }) if limit == taken - 1));
    }
}
