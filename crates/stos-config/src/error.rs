// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is wrong with a configuration: file, line and key, what was expected and what was found. Secrets never.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use stos_spec::ReferenceError;
use stos_spec::text::shown;

use crate::place::Place;

/// A configuration that cannot be read or followed, a credential that cannot be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that was named outright is not there.
    #[error("{} is not there: {named_by} names it", path.display())]
    NotThere {
        /// The file.
        path: PathBuf,
        /// What names it: an option, a variable.
        named_by: &'static str,
    },
    /// Something else stands where a file was expected.
    #[error("{}: expected a regular file", path.display())]
    NotAFile {
        /// What stands there.
        path: PathBuf,
    },
    /// A file is larger than any real one.
    #[error("{}: expected at most {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes.
        limit: u64,
    },
    /// A directory has more files than any real one.
    #[error("{}: expected at most {limit} files", directory.display())]
    TooManyFiles {
        /// The directory.
        directory: PathBuf,
        /// The most files.
        limit: usize,
    },
    /// Others than its user may read a file of credentials that all users of the system share.
    #[error("{}: expected that neither group nor others may read it, found mode {mode:04o}", path.display())]
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file breaks its format's grammar.
    #[error("{place}: {reason}")]
    Syntax {
        /// File and line.
        place: Place,
        /// What was expected. No text of the file.
        reason: String,
    },
    /// A value has the wrong type.
    #[error("{place}: expected {expected}, found {found}")]
    Type {
        /// Where it stands.
        place: Place,
        /// The type that is expected.
        expected: &'static str,
        /// The type that is there.
        found: &'static str,
    },
    /// A text has the wrong form.
    #[error("{place}: expected {expected}, found {found:?}")]
    Value {
        /// Where it stands.
        place: Place,
        /// What is expected.
        expected: &'static str,
        /// What is there, cut.
        found: String,
    },
    /// A secret has the wrong form.
    #[error("{place}: expected {expected}")]
    BadSecret {
        /// Where it stands.
        place: Place,
        /// What is expected.
        expected: &'static str,
    },
    /// Something that must be there is not.
    #[error("{place}{}{key} is missing", after(place))]
    Missing {
        /// The table.
        place: Place,
        /// The key.
        key: &'static str,
    },
    /// A key stands twice in one table.
    #[error("{place} stands there twice")]
    Duplicate {
        /// The key.
        place: Place,
    },
    /// A key that the format does not have, in a file that is read strictly.
    #[error("{place} is not known here: expected {}", known.join(", "))]
    UnknownKey {
        /// The key.
        place: Place,
        /// The keys that are known there.
        known: &'static [&'static str],
    },
    /// Two settings exclude each other.
    #[error("{place}: {reason} (see {other})")]
    Conflict {
        /// The one that was read later.
        place: Place,
        /// The one that was read before.
        other: Place,
        /// What does not fit.
        reason: &'static str,
    },
    /// `registries.conf` is of version 1.
    #[error("{place}: expected registries.conf of version 2, found version 1 (a table [registries])")]
    OldFormat {
        /// The table.
        place: Place,
    },
    /// `registries.conf` forbids the image.
    #[error("{reference} is blocked: {place} has blocked = true for {prefix}")]
    Blocked {
        /// The image.
        reference: String,
        /// The prefix of the table.
        prefix: String,
        /// The table.
        place: Place,
    },
    /// The location of a table does not make a reference of an image.
    #[error("{place}: {reference} becomes {found:?} there, expected {expected}")]
    Rewrite {
        /// The location.
        place: Place,
        /// The image.
        reference: String,
        /// What it becomes.
        found: String,
        /// What it should become.
        expected: &'static str,
    },
    /// A text is no image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A short name has no alias, and no registries are searched.
    #[error("the short name {name:?} has no alias, and {place} has no unqualified-search-registries")]
    ShortNameUnresolved {
        /// The name as written.
        name: String,
        /// The file that was read, or set them to none.
        place: Place,
    },
    /// A short name could mean several images, and `short-name-mode` is `enforcing`.
    #[error(
        "the short name {name:?} could be in {}: {place} has short-name-mode = \"enforcing\", and stos does not ask",
        registries.join(" or ")
    )]
    ShortNameAmbiguous {
        /// The name as written.
        name: String,
        /// The registries that would be searched.
        registries: Vec<String>,
        /// Where the mode is set.
        place: Place,
    },
    /// A text is no name and password.
    #[error("expected USER or USER:PASSWORD with a user that is not empty")]
    Creds,
    /// A text cannot be the key of a credential.
    #[error("{found:?}: expected {expected}")]
    LoginKey {
        /// What was given.
        found: String,
        /// What is expected.
        expected: &'static str,
    },
    /// A credential helper keeps credentials of whole registries.
    #[error("{key:?} cannot be stored by the credential helper {helper:?}: it stores by registry, not by namespace")]
    NamespaceInHelper {
        /// The key.
        key: String,
        /// The helper's name.
        helper: String,
    },
    /// There is nothing to log out of.
    #[error("not logged in to {key}")]
    NotLoggedIn {
        /// The registry or namespace.
        key: String,
    },
    /// The directory in which credentials are stored is not there.
    #[error("{} is not there: XDG_RUNTIME_DIR names it", path.display())]
    NoRuntimeDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A file of credentials cannot be written.
    #[error("cannot {action} {}: {source}", path.display())]
    Write {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A credential helper is not installed.
    #[error("the program {program} is not in PATH: {named_by} names it")]
    HelperMissing {
        /// `docker-credential-NAME`.
        program: String,
        /// What names it.
        named_by: Place,
    },
    /// A credential helper cannot be run.
    #[error("cannot run {program}: {source}")]
    HelperStart {
        /// `docker-credential-NAME`.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// A credential helper failed.
    #[error("{program} {verb} failed for {server} ({status}): {message}")]
    HelperFailed {
        /// `docker-credential-NAME`.
        program: String,
        /// `get`, `store`, `erase` or `list`.
        verb: &'static str,
        /// The registry that it was asked about.
        server: String,
        /// How it ended.
        status: String,
        /// What it says on stderr, cut.
        message: String,
    },
    /// A credential helper does not end.
    #[error("{program} {verb} for {server} took longer than {} s", limit.as_secs_f32())]
    HelperTimeout {
        /// `docker-credential-NAME`.
        program: String,
        /// `get`, `store`, `erase` or `list`.
        verb: &'static str,
        /// The registry that it was asked about.
        server: String,
        /// How long was waited.
        limit: Duration,
    },
    /// A credential helper answers something else.
    #[error("{program} {verb} for {server}: expected {expected}")]
    HelperAnswer {
        /// `docker-credential-NAME`.
        program: String,
        /// `get`, `store`, `erase` or `list`.
        verb: &'static str,
        /// The registry that it was asked about.
        server: String,
        /// What was expected. The answer itself may be a secret.
        expected: &'static str,
    },
    /// A certificate or key cannot be used.
    #[error("{}: expected {expected}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
    },
    /// A client certificate without its key, or a key without its certificate.
    #[error("{}: its {what} {} is missing", path.display(), partner.display())]
    MissingPartner {
        /// The file that is there.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
        /// Where it was expected.
        partner: PathBuf,
    },
    /// A host that no directory is named by.
    #[error("{host:?}: expected a host name or address, and maybe a port")]
    Host {
        /// What was given.
        host: String,
    },
    /// A variable names no proxy that can be used.
    #[error("{variable} is no proxy: expected {expected}")]
    Proxy {
        /// The variable. Its value may hold a password.
        variable: String,
        /// What is expected.
        expected: &'static str,
    },
    /// The policy rejects the image.
    #[error("{image} is rejected by the policy: {place} has {{\"type\": \"reject\"}}")]
    Rejected {
        /// The image.
        image: String,
        /// The requirements.
        place: Place,
    },
    /// The policy has a requirement that cannot be checked, so that nothing it applies to is accepted.
    #[error("{image} is not accepted: {place} requires {what}, which stos cannot check")]
    UnsupportedRequirement {
        /// The image.
        image: String,
        /// The requirement.
        place: Place,
        /// What it wants.
        what: &'static str,
    },
}

/// What stands between a place and a key in it.
fn after(place: &Place) -> &'static str {
    if place.key.is_empty() { ": " } else { "." }
}

impl Error {
    /// Gives a hint for people, where there is something that they can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::OldFormat { .. } => Some(
                "write unqualified-search-registries = [\"HOST\"] for [registries.search], and [[registry]] tables with \
                 insecure or blocked for the others: containers-registries.conf(5)",
            ),
            Self::ShortNameUnresolved { .. } => {
                Some("name the registry (docker.io/library/NAME), or set unqualified-search-registries")
            }
            Self::ShortNameAmbiguous { .. } => Some("name the registry, or give the name an alias under [aliases]"),
            Self::HelperMissing { .. } => Some("install the credential helper, or remove it from that file"),
            Self::NoRuntimeDirectory { .. } => Some("make the directory, unset XDG_RUNTIME_DIR, or use --authfile"),
            Self::MissingPartner { .. } => {
                Some("a client needs NAME.cert and NAME.key; certificates of authorities end in .crt")
            }
            Self::NamespaceInHelper { .. } => Some("log in to the registry alone"),
            Self::UnsupportedRequirement { .. } => {
                Some("stos checks sigstoreSigned with keyPath, keyPaths, keyData or keyDatas, and without Rekor")
            }
            _ => None,
        }
    }

    pub(crate) fn write(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Write { action, path: path.into(), source }
    }
}

/// Makes text of a program fit to be shown on one line.
pub(crate) fn message(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "it says nothing".to_owned() } else { shown(&line) }
}
