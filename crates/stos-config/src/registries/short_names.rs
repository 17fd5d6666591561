// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Short names: which images `alpine` may mean.

use std::path::Path;

use stos_spec::{ImageRef, reference::DEFAULT_REGISTRY};

use super::{Registries, ShortNameMode};
use crate::error::Error;
use crate::place::Place;

/// An image that a reference may mean.
///
/// A reference with a registry means itself. A short name means, in this order (containers-registries.conf(5),
/// "Short-Name Aliasing"):
///
/// 1. what an alias says, and nothing else;
/// 2. the image of that name in each of `unqualified-search-registries`, in order: the first that has it. With more than
///    one and `short-name-mode = "enforcing"` it is an error, as in podman without a terminal;
/// 3. where there is no `registries.conf`, and no drop-in sets the list either, `docker.io`, as [`ImageRef`] reads short
///    names. Where there is one that sets no list, or an empty one, a short name is an error, as in podman.
///
/// A tag and a digest are kept in each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The image.
    pub reference: ImageRef,
    /// Why it is one.
    pub origin: CandidateOrigin,
}

/// Why an image is what a reference may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CandidateOrigin {
    /// The reference names its registry.
    Qualified,
    /// An alias says so.
    Alias(Place),
    /// Its registry is searched.
    Search(Place),
    /// Nothing is configured.
    Default,
}

pub(super) fn candidates(registries: &Registries, reference: &ImageRef) -> Result<Vec<Candidate>, Error> {
    let candidate = |name: &str, origin| Ok(Candidate { reference: complete(name, reference)?, origin });
    let Some(short) = reference.short_name() else {
        return Ok(vec![Candidate { reference: reference.clone(), origin: CandidateOrigin::Qualified }]);
    };
    if let Some((target, place)) = alias(registries, short) {
        return Ok(vec![candidate(target, CandidateOrigin::Alias(place.clone()))?]);
    }
    let (searched, place) = match (&registries.search, &registries.main) {
        (Some((searched, place)), _) => (searched.as_slice(), place.clone()),
        (None, Some(main)) => (&[][..], Place::file(main)),
        (None, None) => {
            return Ok(vec![candidate(&format!("{DEFAULT_REGISTRY}/{short}"), CandidateOrigin::Default)?]);
        }
    };
    if searched.is_empty() {
        return Err(Error::ShortNameUnresolved { name: short.to_owned(), place });
    }
    if let Some((ShortNameMode::Enforcing, place)) = registries.mode.as_ref().filter(|_| searched.len() > 1) {
        return Err(Error::ShortNameAmbiguous {
            name: short.to_owned(),
            registries: searched.to_vec(),
            place: place.clone(),
        });
    }
    let in_registry = |host: &String| candidate(&format!("{host}/{short}"), CandidateOrigin::Search(place.clone()));
    searched.iter().map(in_registry).collect()
}

/// Finds an alias that is not erased.
fn alias<'a>(registries: &'a Registries, name: &str) -> Option<(&'a str, &'a Place)> {
    let alias = registries.aliases.get(name)?;
    Some((alias.target.as_deref()?, &alias.place))
}

/// Gives a repository the tag and the digest of a reference.
fn complete(name: &str, reference: &ImageRef) -> Result<ImageRef, Error> {
    let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = reference.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
    Ok(format!("{name}{tag}{digest}").parse()?)
}

impl CandidateOrigin {
    /// Gives the file that says so, if one does.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Alias(place) | Self::Search(place) => Some(&place.file),
            Self::Qualified | Self::Default => None,
        }
    }
}
