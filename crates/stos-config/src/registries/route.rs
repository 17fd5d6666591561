// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From an image to the places where it is asked for.

use stos_spec::ImageRef;

use super::{Registries, Table};
use crate::error::Error;
use crate::names::{Written, canonical};
use crate::place::Place;
use crate::proxy::ProxyAddress;

/// Where an image is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The places, in the order in which they are to be tried; at least one. The first that has the image decides.
    pub endpoints: Vec<Endpoint>,
    /// The mirrors that are not asked, and why.
    pub passed_over: Vec<(Endpoint, WhyNot)>,
}

/// Why a mirror is not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNot {
    /// The reference has a digest, or has none: see [`Endpoint::serves`].
    Reference,
    /// What the mirror's location becomes is itself blocked, by the table that stands here.
    Blocked(Place),
}

/// A place where an image is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The image there: its registry, its repository, its tag or digest. Credentials and certificates are looked up by it.
    pub reference: ImageRef,
    /// A mirror, or the registry itself.
    pub role: Role,
    /// Whether plain HTTP and certificates that cannot be verified are allowed.
    pub insecure: bool,
    /// Which references it is asked for.
    pub serves: Serves,
    /// The proxy for this place alone; without one the environment decides.
    pub proxy: Option<ProxyAddress>,
    /// What says so; `None` where nothing is configured for the image.
    pub place: Option<Place>,
}

/// What a place is to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A copy, which may lack the image.
    Mirror,
    /// Where the image belongs: by its name, or by the table's `location`.
    Registry,
}

/// Which references a place is asked for (`pull-from-mirror`, `mirror-by-digest-only`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// All.
    All,
    /// Those with a digest.
    DigestOnly,
    /// Those without a digest.
    TagOnly,
}

impl Serves {
    fn takes(self, reference: &ImageRef) -> bool {
        match self {
            Self::All => true,
            Self::DigestOnly => reference.digest().is_some(),
            Self::TagOnly => reference.digest().is_none(),
        }
    }
}

/// Gives the endpoints of an image. As upstream, which looks up each place once more by its own name, no place that is itself
/// blocked is asked, whatever name leads there.
pub(super) fn for_reading(registries: &Registries, reference: &ImageRef) -> Result<Route, Error> {
    let Some((table, matched)) = registries.longest(&canonical(reference)) else {
        return Ok(Route { endpoints: vec![plain(None, reference)], passed_over: Vec::new() });
    };
    refuse_blocked(table, reference)?;
    let (mut endpoints, mut passed_over) = (Vec::new(), Vec::new());
    for mirror in &table.mirrors {
        let endpoint = Endpoint {
            reference: rewrite(reference, matched, &mirror.location, &mirror.place)?,
            role: Role::Mirror,
            insecure: mirror.insecure,
            serves: mirror.serves,
            proxy: mirror.proxy.clone(),
            place: Some(mirror.place.clone()),
        };
        match blocking(registries, &endpoint.reference) {
            _ if !mirror.serves.takes(reference) => passed_over.push((endpoint, WhyNot::Reference)),
            Some(table) => passed_over.push((endpoint, WhyNot::Blocked(table.place.clone()))),
            None => endpoints.push(endpoint),
        }
    }
    let mut registry = plain(Some(table), reference);
    if let Some(location) = &table.location {
        registry.reference = rewrite(reference, matched, location, &table.place)?;
    }
    blocking(registries, &registry.reference).map_or(Ok(()), |table| refuse_blocked(table, &registry.reference))?;
    endpoints.push(registry);
    Ok(Route { endpoints, passed_over })
}

fn blocking<'a>(registries: &'a Registries, reference: &ImageRef) -> Option<&'a Table> {
    registries.longest(&canonical(reference)).map(|(table, _)| table).filter(|table| table.blocked)
}

/// Gives the endpoint that an image is written to.
pub(super) fn for_writing(table: Option<&Table>, reference: &ImageRef) -> Result<Endpoint, Error> {
    table.map_or(Ok(()), |table| refuse_blocked(table, reference))?;
    Ok(plain(table, reference))
}

fn plain(table: Option<&Table>, reference: &ImageRef) -> Endpoint {
    Endpoint {
        reference: reference.clone(),
        role: Role::Registry,
        insecure: table.is_some_and(|table| table.insecure),
        serves: Serves::All,
        proxy: table.and_then(|table| table.proxy.clone()),
        place: table.map(|table| table.place.clone()),
    }
}

fn refuse_blocked(table: &Table, reference: &ImageRef) -> Result<(), Error> {
    if !table.blocked {
        return Ok(());
    }
    Err(Error::Blocked { reference: reference.to_string(), prefix: table.prefix.clone(), place: table.place.clone() })
}

/// Puts a location in place of what the prefix covers. A digest stays what it is: it says which bytes are wanted.
fn rewrite(reference: &ImageRef, matched: usize, location: &str, place: &Place) -> Result<ImageRef, Error> {
    let text = format!("{location}{}", &canonical(reference)[matched..]);
    let unfit = |expected| Error::Rewrite {
        place: place.clone(),
        reference: reference.to_string(),
        found: stos_spec::text::cut(&text),
        expected,
    };
    let written = Written::parse(&text).map_err(|_| unfit("a reference of an image"))?;
    if written.reference.is_short() {
        return Err(unfit("a reference that begins with a registry"));
    }
    if written.is_name_only() {
        return Err(unfit("a tag or digest, as the prefix has one"));
    }
    if reference.digest().is_some() && written.digest() != reference.digest() {
        return Err(unfit("the same digest"));
    }
    Ok(written.reference)
}
