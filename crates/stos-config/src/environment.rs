// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the process stands in: its variables, its user, and where the system's files are.
//!
//! Everything else in this crate takes an [`Environment`], so that a test needs no global state.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// Variables, user, and the directory that stands for `/`.
///
/// A variable that is set and empty counts as unset, as in Go, in which podman, skopeo and docker are written.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    user: u32,
    system_root: PathBuf,
}

impl Environment {
    /// Takes the process's own. Where `HOME` is not set, as in a system service, it is the home directory of the user
    /// database.
    pub fn of_process() -> Self {
        let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let home = variables.get(OsStr::new("HOME")).filter(|home| !home.is_empty());
        if home.is_none()
            && let Some(home) = std::env::home_dir()
        {
            variables.insert("HOME".into(), home.into());
        }
        Self { variables, user: rustix::process::geteuid().as_raw(), system_root: "/".into() }
    }

    /// Makes one without variables, for `user` (a uid), whose `/etc`, `/run`, `/usr` and `/var` lie below `system_root`.
    pub fn new(system_root: impl Into<PathBuf>, user: u32) -> Self {
        Self { variables: BTreeMap::new(), user, system_root: system_root.into() }
    }

    /// Sets a variable.
    #[must_use]
    pub fn with(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Gives a variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Gives all variables, for a program that is started.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Gives the effective uid.
    pub(crate) fn user(&self) -> u32 {
        self.user
    }

    pub(crate) fn is_root(&self) -> bool {
        self.user == 0
    }

    /// Gives a path of the system: `path` is absolute.
    pub(crate) fn system(&self, path: &str) -> PathBuf {
        self.system_root.join(path.trim_start_matches('/'))
    }

    /// Gives a path below the home directory, where there is one.
    pub(crate) fn home(&self, path: &str) -> Option<PathBuf> {
        self.get("HOME").map(|home| Path::new(home).join(path))
    }

    /// Gives a path below `$XDG_CONFIG_HOME`, else `~/.config`.
    pub(crate) fn config_home(&self, path: &str) -> Option<PathBuf> {
        self.xdg("XDG_CONFIG_HOME", ".config", path)
    }

    /// Gives a path below `$XDG_CACHE_HOME`, else `~/.cache`.
    pub(crate) fn cache_home(&self, path: &str) -> Option<PathBuf> {
        self.xdg("XDG_CACHE_HOME", ".cache", path)
    }

    fn xdg(&self, variable: &str, fallback: &str, path: &str) -> Option<PathBuf> {
        self.get(variable).map(PathBuf::from).or_else(|| self.home(fallback)).map(|base| base.join(path))
    }

    /// Finds a program in `PATH`, as execvp(3) does: a file that someone may execute.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let is_program = |path: &PathBuf| {
            path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        std::env::split_paths(self.get("PATH")?).map(|directory| directory.join(name)).find(is_program)
    }
}

impl fmt::Debug for Environment {
    /// Shows the variables' names alone: a proxy's address holds its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("variables", &self.variables.keys())
            .field("user", &self.user)
            .field("system_root", &self.system_root)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_the_variables() {
        let bare = Environment::new("/r", 0);
        assert_eq!(bare.system("/etc/x"), Path::new("/r/etc/x"));
        assert_eq!((bare.home("x"), bare.config_home("x")), (None, None));
        let home = bare.with("HOME", "/h").with("XDG_CONFIG_HOME", "");
        assert_eq!(home.config_home("x").as_deref(), Some(Path::new("/h/.config/x")));
        assert_eq!(home.cache_home("x").as_deref(), Some(Path::new("/h/.cache/x")));
        let xdg = home.with("XDG_CONFIG_HOME", "/c").with("XDG_CACHE_HOME", "/k");
        assert_eq!(xdg.config_home("x").as_deref(), Some(Path::new("/c/x")));
        assert_eq!(xdg.cache_home("x").as_deref(), Some(Path::new("/k/x")));
    }

    #[test]
    fn values_are_not_shown() {
        let shown = format!("{:?}", Environment::new("/", 0).with("HTTPS_PROXY", "http://u:hunter2@proxy"));
        assert!(shown.contains("HTTPS_PROXY") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn the_process_has_a_home() {
        assert!(Environment::of_process().home("x").is_some());
    }
}
