// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The files that say how registries are reached and which images may come in.

use std::fs;
use std::path::{Path, PathBuf};

use stos_config::credentials::{CredentialKey, CredentialOptions, Login};
use stos_config::policy::PolicyImage;
use stos_config::{Credentials, Environment, Policy, Registries};
use stos_spec::ImageRef;
use tempfile::TempDir;

use crate::check_message;

/// References that the files are asked about.
const REFERENCES: [&str; 6] =
    ["a", "team/a:1", "example.com/a", "example.com/b/c:2", "x.example.com:5000/a", "docker.io/library/a"];

fn references() -> impl Iterator<Item = ImageRef> {
    REFERENCES.iter().map(|text| text.parse().unwrap())
}

/// Writes the file into a directory that stands for `/`, and gives that directory.
fn with_file(path: &str, data: &[u8], look: impl FnOnce(&Environment, PathBuf)) {
    thread_local!(static ROOT: TempDir = TempDir::new().unwrap());
    ROOT.with(|root| {
        let file = root.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, data).unwrap();
        look(&Environment::new(root.path(), 0), file);
    });
}

/// Reads a `registries.conf`, and asks it the way to some images.
///
/// It is read or refused by a message that moves no cursor. What blocks an image or cannot make its name says so; every
/// other image has at least one place to come from and one to go to, and every candidate of a short name is a full one.
pub fn registries_conf(data: &[u8]) {
    with_file("etc/containers/registries.conf", data, |environment, _| {
        let registries = match Registries::load(environment) {
            Ok(registries) => registries,
            Err(error) => return check_message(&error),
        };
        for reference in references() {
            match registries.route(&reference) {
                Ok(route) => assert!(!route.endpoints.is_empty()),
                Err(error) => check_message(&error),
            }
            if let Err(error) = registries.destination(&reference) {
                check_message(&error);
            }
            match registries.candidates(&reference) {
                Ok(candidates) => assert!(candidates.iter().all(|candidate| !candidate.reference.is_short())),
                Err(error) => check_message(&error),
            }
            if let Some(table) = registries.table(&reference.name()) {
                let is_wildcard = table.prefix.starts_with("*.");
                assert!(is_wildcard || reference.name().starts_with(&table.prefix), "{}", table.prefix);
            }
        }
    });
}

/// Reads a `policy.json`, and asks it about some images.
///
/// It is read or refused by a message that moves no cursor; a decision about an image is one, or says why it is none.
pub fn policy_json(data: &[u8]) {
    let policy = match Policy::parse(Path::new("/etc/containers/policy.json"), data) {
        Ok(policy) => policy,
        Err(error) => return check_message(&error),
    };
    let files = ["/srv/a", "/", ""].map(|path| PolicyImage::Dir(path.into()));
    for image in references().map(PolicyImage::Docker).chain(files).chain([PolicyImage::DockerArchive]) {
        if let Err(error) = policy.decision(&image).verdict() {
            check_message(&error);
        }
    }
}

/// Reads an `auth.json`, and asks it for logins.
///
/// It is read or refused by a message that moves no cursor and holds no password; a login has a name and a password, or a token.
pub fn auth_json(data: &[u8]) {
    with_file("auth.json", data, |environment, file| {
        let options = CredentialOptions { authfile: Some(file), ..CredentialOptions::default() };
        let credentials = Credentials::new(environment, &Registries::default(), options);
        for reference in references() {
            let found = match credentials.find(&CredentialKey::of(&reference)) {
                Ok(found) => found,
                Err(error) => {
                    check_message(&error);
                    continue;
                }
            };
            match found.credential.map(|credential| credential.login) {
                Some(Login::Password { user, .. }) => assert!(!user.contains(':'), "{user:?}"),
                Some(Login::IdentityToken { token, .. }) => assert!(!token.expose().is_empty()),
                None => {}
            }
        }
    });
}
