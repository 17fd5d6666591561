// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which files credentials are in: the table of [the module above](super).

use std::path::{Path, PathBuf};

use super::PassedOver;
use crate::environment::Environment;
use crate::error::Error;

/// A file of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AuthPath {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

/// What is special about a file of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An option names it: it must be there, and may be a pipe.
    Option,
    /// A variable names it: it may be a pipe.
    Variable,
    /// It is in a usual place.
    Usual,
    /// Its top is what elsewhere is `auths`.
    Legacy,
    /// Neither group nor others may read it.
    Private,
}

/// Lists the files, in the order in which they are read.
pub(super) fn to_read(
    environment: &Environment,
    authfile: Option<&Path>,
    passed_over: &mut Vec<PassedOver>,
) -> Vec<AuthPath> {
    if let Some(named) = named(environment, authfile) {
        return vec![named];
    }
    let system = AuthPath { path: environment.system("/etc/containers/auth.json"), kind: Kind::Private };
    let in_service = environment.get("INVOCATION_ID").is_some();
    let mut paths = Vec::new();
    let mut usual = |path: Option<PathBuf>, kind| paths.extend(path.map(|path| AuthPath { path, kind }));
    match of_podman(environment) {
        Ok(path) => usual(Some(path), Kind::Usual),
        // As in podman, an image that anyone may have can be pulled all the same.
        Err(path) => passed_over.push(PassedOver::NoRuntimeDirectory(path)),
    }
    usual(environment.config_home("containers/auth.json"), Kind::Usual);
    let docker = environment.get("DOCKER_CONFIG").map(|directory| Path::new(directory).join("config.json"));
    usual(docker.or_else(|| environment.home(".docker/config.json")), Kind::Usual);
    usual(environment.home(".dockercfg"), Kind::Legacy);
    match (environment.is_root(), in_service) {
        (true, true) => paths.insert(0, system),
        (true, false) => paths.push(system),
        (false, _) => {}
    }
    paths
}

/// Gives the file that is written.
///
/// # Errors
/// [`Error::NoRuntimeDirectory`].
pub(super) fn to_write(environment: &Environment, authfile: Option<&Path>) -> Result<AuthPath, Error> {
    match named(environment, authfile) {
        Some(named) => Ok(named),
        None => of_podman(environment)
            .map(|path| AuthPath { path, kind: Kind::Usual })
            .map_err(|path| Error::NoRuntimeDirectory { path }),
    }
}

fn named(environment: &Environment, authfile: Option<&Path>) -> Option<AuthPath> {
    let option = authfile.map(|path| AuthPath { path: path.to_owned(), kind: Kind::Option });
    let variable =
        || environment.get("REGISTRY_AUTH_FILE").map(|path| AuthPath { path: path.into(), kind: Kind::Variable });
    option.or_else(variable)
}

/// Gives podman's own file, or else the runtime directory that is missing.
fn of_podman(environment: &Environment) -> Result<PathBuf, PathBuf> {
    match environment.get("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(directory) if !directory.exists() => Err(directory),
        Some(directory) => Ok(directory.join("containers/auth.json")),
        None => Ok(environment.system(&format!("/run/containers/{}/auth.json", environment.user()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(environment: &Environment) -> Vec<String> {
        let paths = to_read(environment, None, &mut Vec::new());
        paths.iter().map(|path| path.path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_order_is_the_one_that_is_documented() {
        let root = Environment::new("/", 0).with("HOME", "/h");
        let mut expected = vec![
            "/run/containers/0/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.docker/config.json",
            "/h/.dockercfg",
            "/etc/containers/auth.json",
        ];
        assert_eq!(listed(&root), expected);
        expected.rotate_right(1);
        assert_eq!(listed(&root.clone().with("INVOCATION_ID", "x")), expected);
        let user = Environment::new("/", 1000)
            .with("HOME", "/h")
            .with("XDG_RUNTIME_DIR", "/tmp")
            .with("XDG_CONFIG_HOME", "/c")
            .with("DOCKER_CONFIG", "/d")
            .with("INVOCATION_ID", "x");
        let expected = ["/tmp/containers/auth.json", "/c/containers/auth.json", "/d/config.json", "/h/.dockercfg"];
        assert_eq!(listed(&user), expected);
        assert_eq!(listed(&user.with("REGISTRY_AUTH_FILE", "/a")), ["/a"]);
    }

    #[test]
    fn an_option_comes_before_a_variable() {
        let environment = Environment::new("/", 0).with("REGISTRY_AUTH_FILE", "/a");
        let expected = AuthPath { path: "/b".into(), kind: Kind::Option };
        assert_eq!(to_read(&environment, Some(Path::new("/b")), &mut Vec::new()), std::slice::from_ref(&expected));
        assert_eq!(to_write(&environment, Some(Path::new("/b"))).unwrap(), expected);
        assert_eq!(to_write(&environment, None).unwrap().path, Path::new("/a"));
    }

    #[test]
    fn a_runtime_directory_that_is_not_there_is_told() {
        let environment = Environment::new("/", 0).with("XDG_RUNTIME_DIR", "/no/such");
        let mut passed_over = Vec::new();
        to_read(&environment, None, &mut passed_over);
        assert_eq!(passed_over, [PassedOver::NoRuntimeDirectory("/no/such".into())]);
        assert!(matches!(to_write(&environment, None), Err(Error::NoRuntimeDirectory { .. })));
    }
}
