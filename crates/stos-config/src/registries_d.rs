// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `registries.d`: where signatures are (containers-registries.d(5)). Here for one question: is a registry asked for sigstore
//! attachments?
//!
//! | directory | when |
//! |---|---|
//! | `$XDG_CONFIG_HOME/containers/registries.d`, else `~/.config/…` | where it is there |
//! | `/etc/containers/registries.d` | else |
//!
//! All `*.yaml` of the one directory count; two that describe one scope are an error. An image's setting is that of the most
//! specific scope *that sets it*, else of `default-docker`, else no: so upstream's reader does it (`docker/registries_d.go` of
//! containers/image), though its manual has the most specific scope decide alone.

use std::collections::BTreeMap;
use std::path::Path;

use stos_spec::ImageRef;

use crate::document::{Item, Node};
use crate::environment::Environment;
use crate::error::Error;
use crate::file;
use crate::names::scopes;
use crate::place::Place;

/// What the files of `registries.d` say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignatureStores {
    default: Option<Section>,
    /// By scope.
    sections: BTreeMap<String, Section>,
}

/// What one scope says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    place: Place,
    use_sigstore_attachments: Option<bool>,
}

/// Where an image's signatures are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureStore {
    /// Whether the registry is asked for sigstore attachments, and what says so.
    pub use_sigstore_attachments: (bool, Option<Place>),
}

impl SignatureStores {
    /// Reads the directory that applies. Where there is none, no attachments are used.
    ///
    /// # Errors
    /// Where a file cannot be read, is too large or broken, or where two describe one scope.
    pub fn load(environment: &Environment) -> Result<Self, Error> {
        let users = environment.config_home("containers/registries.d").filter(|directory| directory.exists());
        let directory = users.unwrap_or_else(|| environment.system("/etc/containers/registries.d"));
        let mut stores = Self::default();
        for path in file::list(&directory, &[".yaml"])? {
            if let Some(bytes) = file::read(&path)? {
                stores.add(&path, &bytes)?;
            }
        }
        Ok(stores)
    }

    fn add(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let node = Node::of_yaml(path, bytes)?;
        let item = node.item(path);
        if item.is_null() {
            return Ok(());
        }
        let top = item.table()?;
        if let Some(item) = top.set("default-docker") {
            let section = section(&item)?;
            refuse_second(self.default.as_ref(), &section)?;
            self.default = Some(section);
        }
        if let Some(item) = top.set("docker") {
            for (scope, item) in item.table()?.iter() {
                let section = section(&item)?;
                refuse_second(self.sections.get(scope), &section)?;
                self.sections.insert(scope.to_owned(), section);
            }
        }
        Ok(())
    }

    /// Tells where an image's signatures are.
    pub fn of(&self, reference: &ImageRef) -> SignatureStore {
        let scopes = scopes(reference);
        let sections = || scopes.iter().filter_map(|scope| self.sections.get(scope)).chain(&self.default);
        let attachments =
            sections().find_map(|section| Some((section.use_sigstore_attachments?, section.place.clone())));
        SignatureStore {
            use_sigstore_attachments: attachments.map_or((false, None), |(use_them, place)| (use_them, Some(place))),
        }
    }
}

fn section(item: &Item<'_>) -> Result<Section, Error> {
    let mut section = Section { place: item.place(), use_sigstore_attachments: None };
    if item.is_null() {
        return Ok(section);
    }
    let fields = item.table()?;
    section.use_sigstore_attachments = fields.set("use-sigstore-attachments").map(|item| item.boolean()).transpose()?;
    // `sigstore` is what `lookaside` was called before sigstore.dev took the name.
    // Simple signing signatures are not looked for, but a broken file is told.
    fields.set("lookaside").or_else(|| fields.set("sigstore")).map(|item| item.text()).transpose()?;
    Ok(section)
}

fn refuse_second(first: Option<&Section>, second: &Section) -> Result<(), Error> {
    match first {
        Some(first) => Err(Error::Conflict {
            place: second.place.clone(),
            other: first.place.clone(),
            reason: "one scope is described by two files",
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const SYSTEM: &str = "etc/containers/registries.d";

    fn system(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn load(root: &TempDir) -> Result<SignatureStores, Error> {
        SignatureStores::load(&Environment::new(root.path(), 0).with("HOME", root.path().join("home")))
    }

    fn asks(root: &TempDir, text: &str) -> bool {
        load(root).unwrap().of(&text.parse().unwrap()).use_sigstore_attachments.0
    }

    #[test]
    fn the_most_specific_scope_that_says_it_decides() {
        let root = system(&[
            (
                "etc/containers/registries.d/default.yaml",
                "default-docker:\n  use-sigstore-attachments: true\n  lookaside: file:///d\n",
            ),
            (
                "etc/containers/registries.d/hosts.yaml",
                "docker:\n  r.example:5000:\n    use-sigstore-attachments: false\n  r.example:5000/ns/a:\n    lookaside: https://l.example\n  \
                 r.example:5000/ns/a:2:\n    use-sigstore-attachments: yes\n  '*.wild.example':\n    use-sigstore-attachments: false\n  empty.example:\n",
            ),
            ("etc/containers/registries.d/other.yml", "broken: ["),
        ]);
        for (text, expected) in [
            ("quay.io/a", true),
            ("r.example:5000/x", false),
            ("r.example:5000/ns/a:1", false),
            ("r.example:5000/ns/a:2", true),
            ("r.example/x", true),
            ("x.wild.example/x", false),
            ("empty.example/x", true),
        ] {
            assert_eq!(asks(&root, text), expected, "{text}");
        }
        let store = load(&root).unwrap().of(&"r.example:5000/ns/a:1".parse().unwrap());
        let place = store.use_sigstore_attachments.1.unwrap();
        assert!(place.file.ends_with("hosts.yaml") && place.key == r#"docker["r.example:5000"]"#, "{place}");
    }

    #[test]
    fn nothing_means_no() {
        assert!(!asks(&system(&[]), "quay.io/a"));
        assert!(!asks(&system(&[("etc/containers/registries.d/a.yaml", "# nothing\n")]), "quay.io/a"));
    }

    #[test]
    fn a_users_directory_replaces_the_systems() {
        let yes = "default-docker: {use-sigstore-attachments: true}\n";
        let root = system(&[("etc/containers/registries.d/a.yaml", yes)]);
        assert!(asks(&root, "quay.io/a"));
        fs::create_dir_all(root.path().join("home/.config/containers/registries.d")).unwrap();
        assert!(!asks(&root, "quay.io/a"));
    }

    #[test]
    fn two_files_of_one_scope_are_an_error() {
        let default = "default-docker: {lookaside: x}\n";
        let scope = "docker: {quay.io: {lookaside: x}}\n";
        for text in [default, scope] {
            let root = system(&[(&format!("{SYSTEM}/a.yaml"), text), (&format!("{SYSTEM}/b.yaml"), text)]);
            let Err(Error::Conflict { place, other, .. }) = load(&root) else { panic!("{text}") };
            assert!(place.file.ends_with("b.yaml") && other.file.ends_with("a.yaml"));
        }
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        for (text, expected) in [
            ("- a\n", ":1: expected a table, found a list"),
            ("docker: x\n", ":1: docker: expected a table, found a text"),
            ("docker:\n  quay.io: [1]\n", ":2: docker[\"quay.io\"]: expected a table, found a list"),
            (
                "default-docker:\n  use-sigstore-attachments: maybe\n",
                ":2: default-docker.use-sigstore-attachments: expected true or false, found a text",
            ),
            (
                "default-docker:\n  use-sigstore-attachments: 'true'\n",
                ":2: default-docker.use-sigstore-attachments: expected true or false, found a text",
            ),
            ("default-docker:\n  lookaside: [x]\n", ":2: default-docker.lookaside: expected a text, found a list"),
            ("docker:\n  a.b: {}\n  a.b: {}\n", ":3: docker[\"a.b\"] stands there twice"),
            ("docker: {", ":2: expected YAML"),
        ] {
            let root = system(&[(&format!("{SYSTEM}/a.yaml"), text)]);
            let error = load(&root).unwrap_err().to_string();
            assert!(error.ends_with(&format!("a.yaml{expected}")), "{error}");
        }
    }
}
