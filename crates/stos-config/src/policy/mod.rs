// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `policy.json`: which images are accepted (containers-policy.json(5)). All of it but the cryptography.
//!
//! | file | when |
//! |---|---|
//! | `--signature-policy FILE` | alone, where it is given; it must be there |
//! | `$CONTAINERS_POLICY_CONF` | else alone, where it is set; it must be there |
//! | `$XDG_CONFIG_HOME/containers/policy.json`, else `~/.config/…` | else, where it is there |
//! | `/etc/containers/policy.json` | else, where it is there |
//! | `/usr/share/containers/policy.json` | else |
//!
//! Where there is none everything is accepted; podman refuses to pull then. A file is read strictly: an unknown key, a key that
//! stands twice, an unknown type of requirement, an empty list make it an error, whatever image is asked about.
//!
//! What a requirement wants and stos cannot check is told by [`Decision::verdict`], and is never a pass. Signatures are fetched and checked
//! by `stos-engine`.

mod identity;
mod image;
mod parse;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use self::identity::SignedIdentity;
pub use self::image::PolicyImage;
use crate::document::Node;
use crate::environment::Environment;
use crate::error::Error;
use crate::file;
use crate::place::Place;

/// Which images are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `None` where there is no file.
    file: Option<PathBuf>,
    default: Vec<Requirement>,
    /// Transport, scope, requirements.
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

/// What must hold for an image. Of a list all must.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Requirement {
    /// Nothing must.
    InsecureAcceptAnything,
    /// It holds for no image. The place is where it stands.
    Reject(Place),
    /// A sigstore signature of a known key.
    SigstoreSigned(SigstoreSigned),
    /// Something that cannot be checked here.
    Unsupported {
        /// What it is.
        what: &'static str,
        /// Where it stands.
        place: Place,
    },
}

/// A sigstore signature that must be there: of one of the keys, for an image of the identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigstoreSigned {
    /// Where the public keys are.
    pub keys: SigstoreKeys,
    /// Which identity the signature must claim.
    pub identity: SignedIdentity,
    /// Where the requirement stands.
    pub place: Place,
}

/// Public keys, any of which may have signed; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigstoreKeys {
    /// `keyPath`, `keyPaths`: files in PEM. A relative path is taken from the working directory, as upstream.
    Paths(Vec<PathBuf>),
    /// `keyData`, `keyDatas`: what such files hold, decoded.
    Data(Vec<Vec<u8>>),
}

/// The requirements that apply to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'a> {
    /// All that must hold.
    pub requirements: &'a [Requirement],
    /// Where they stand; `None` where there is no policy.
    pub place: Option<Place>,
    image: String,
}

/// What the policy says before any signature is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The image is accepted.
    Accept,
    /// It is accepted if each of these holds; there is at least one.
    Signed(Vec<&'a SigstoreSigned>),
}

impl Policy {
    /// Reads the policy that applies.
    ///
    /// # Errors
    /// Where a file that is named is not there, or the file cannot be read, is too large, or breaks a rule of the format.
    pub fn load(environment: &Environment, signature_policy: Option<&Path>) -> Result<Self, Error> {
        let variable = environment.get("CONTAINERS_POLICY_CONF").map(Path::new);
        let option = signature_policy.map(|path| (path, "--signature-policy"));
        if let Some((path, named_by)) = option.or(variable.map(|path| (path, "CONTAINERS_POLICY_CONF"))) {
            let bytes = file::read_named(path)?;
            let bytes = bytes.ok_or_else(|| Error::NotThere { path: path.to_owned(), named_by })?;
            return Self::parse(path, &bytes);
        }
        let users = environment.config_home("containers/policy.json");
        let systems =
            ["/etc/containers/policy.json", "/usr/share/containers/policy.json"].map(|path| environment.system(path));
        for path in users.into_iter().chain(systems) {
            if let Some(bytes) = file::read(&path)? {
                return Self::parse(&path, &bytes);
            }
        }
        Ok(Self::accept_anything())
    }

    /// Gives the policy that is there where no file is.
    pub fn accept_anything() -> Self {
        Self { file: None, default: vec![Requirement::InsecureAcceptAnything], transports: BTreeMap::new() }
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// Where it breaks a rule of the format.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let node = Node::of_json(file, bytes)?;
        let (default, transports) = parse::policy(&node.item(file))?;
        Ok(Self { file: Some(file.to_owned()), default, transports })
    }

    /// Gives the file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Gives the requirements for an image: of its transport the most specific scope's, else the transport's (`""`), else the
    /// default ones. More general ones do not apply besides.
    pub fn decision(&self, image: &PolicyImage) -> Decision<'_> {
        let place = |key: String| self.file.as_deref().map(|file| Place::key(file, key));
        let transport = image.transport();
        let scopes = self.transports.get(transport);
        let mut names = image.scopes();
        names.push(String::new());
        let found = scopes.and_then(|scopes| names.into_iter().find_map(|name| Some((scopes.get(&name)?, name))));
        let (requirements, key) = match found {
            Some((requirements, name)) => (requirements, format!("transports.{transport}[{name:?}]")),
            None => (&self.default, "default".to_owned()),
        };
        Decision { requirements, place: place(key), image: image.to_string() }
    }
}

impl<'a> Decision<'a> {
    /// Tells what the requirements come to, before any signature is looked at.
    ///
    /// # Errors
    /// [`Error::Rejected`]; [`Error::UnsupportedRequirement`] where one of them cannot be checked.
    pub fn verdict(&self) -> Result<Verdict<'a>, Error> {
        let image = || self.image.clone();
        let (mut signed, mut unsupported) = (Vec::new(), None);
        for requirement in self.requirements {
            match requirement {
                Requirement::InsecureAcceptAnything => {}
                Requirement::SigstoreSigned(requirement) => signed.push(requirement),
                // What is rejected whatever is signed is rejected, so the others are looked at first.
                Requirement::Unsupported { what, place } => unsupported = unsupported.or(Some((*what, place))),
                Requirement::Reject(place) => return Err(Error::Rejected { image: image(), place: place.clone() }),
            }
        }
        if let Some((what, place)) = unsupported {
            return Err(Error::UnsupportedRequirement { image: image(), place: place.clone(), what });
        }
        Ok(if signed.is_empty() { Verdict::Accept } else { Verdict::Signed(signed) })
    }
}

impl SigstoreKeys {
    /// Reads the keys, in PEM, each with the place that names it.
    ///
    /// # Errors
    /// Where a file is not there, cannot be read or is too large.
    pub fn read(&self, place: &Place) -> Result<Vec<(Place, Vec<u8>)>, Error> {
        match self {
            Self::Data(keys) => Ok(keys.iter().map(|key| (place.clone(), key.clone())).collect()),
            Self::Paths(paths) => paths.iter().map(|path| Ok((Place::file(path), key_file(path)?))).collect(),
        }
    }
}

fn key_file(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = file::read(path)?.ok_or_else(|| Error::NotThere { path: path.to_owned(), named_by: "the policy" })?;
    Ok(bytes.to_vec())
}

#[cfg(test)]
mod tests;
