// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an examination of layers and chains finds. Nothing is healed by it; see [`repair`](crate::repair) for that.
//!
//! Each backend examines its own: [`Backend::examine_layer`](crate::Backend::examine_layer) and
//! [`Backend::examine_chain`](crate::Backend::examine_chain). What is found of one object is not told of another: a chain of a
//! damaged layer is sound by itself.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::seal::{Examination, Problem, Seal, Wrong};

/// A file or directory that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which, absolute.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
    /// What was expected: a size, a digest, an attribute.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl Fault {
    pub(crate) fn new(path: PathBuf, Wrong { problem, expected, found }: Wrong) -> Self {
        Self { path, problem, expected, found }
    }

    /// Makes a fault of an error that tells damage of an object in `dir`; all other errors are given back.
    pub(crate) fn of_error(error: Error, dir: &Path) -> Result<Self> {
        let (Error::DamagedLayer { path, expected, found, .. } | Error::DamagedChain { path, expected, found, .. }) =
            error
        else {
            return Err(error);
        };
        // Some errors name what lies in the object's directory as it is called there.
        let path = dir.join(path);
        let is_missing = path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let problem = if is_missing { Problem::Missing } else { Problem::Altered };
        Ok(Self { path, problem, expected, found })
    }
}

/// What the examination of a layer or a chain gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// What is wrong; nothing where the object is sound, as closely as was looked.
    pub faults: Vec<Fault>,
    /// What nobody can decide in a store that can only be read: no damage.
    pub undecided: Vec<Fault>,
    /// How many bytes were hashed for it.
    pub hashed: u64,
}

impl Examined {
    /// Tells whether nothing was found.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn add(&mut self, path: &Path, wrong: Wrong) {
        self.faults.push(Fault::new(path.to_owned(), wrong));
    }

    /// Adds what an error tells of the object in `dir`: damage, or what could not be decided. All others are given back.
    pub(crate) fn add_error(&mut self, error: Error, dir: &Path) -> Result<()> {
        match error {
            Error::Undecided { path, expected, found } => {
                self.undecided.push(Fault { path, problem: Problem::Altered, expected, found });
            }
            error => self.faults.push(Fault::of_error(error, dir)?),
        }
        Ok(())
    }

    /// Says of a sealed file that is wrong that its size is, where that is so.
    pub(crate) fn tell_size(&mut self, path: &Path, seal: &Seal) {
        let is_wrong = |fault: &Fault| fault.path == path && fault.problem == Problem::Altered;
        for fault in self.faults.iter_mut().filter(|fault| is_wrong(fault)) {
            if std::fs::metadata(path).is_ok_and(|file| file.len() != seal.size) {
                fault.problem = Problem::Size;
            }
        }
    }

    /// Examines a sealed file, and tells whether it is right. Its seal is renewed in memory.
    pub(crate) fn examine_file(&mut self, seal: &mut Seal, path: &Path, how: Examination) -> Result<bool> {
        let report = seal.examine(path, how)?;
        self.hashed += report.hashed;
        let is_right = report.wrong.is_none();
        self.faults.extend(report.wrong.map(|wrong| Fault::new(path.to_owned(), wrong)));
        Ok(is_right)
    }
}

#[cfg(test)]
mod tests {
    use stos_spec::DiffId;

    use super::*;

    #[test]
    fn only_damage_is_a_fault_and_names_its_file_whole() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("there"), b"x").unwrap();
        let error = |path: &str| Error::DamagedLayer {
            layer: DiffId::of(b"x"),
            path: path.into(),
            expected: "a".to_owned(),
            found: "b".to_owned(),
        };
        for (name, problem) in [("there", Problem::Altered), ("gone", Problem::Missing)] {
            let fault = Fault::of_error(error(name), dir.path()).unwrap();
            assert_eq!((fault.path, fault.problem), (dir.path().join(name), problem));
        }
        assert!(matches!(Fault::of_error(Error::NoLayers, dir.path()), Err(Error::NoLayers)));
    }
}
