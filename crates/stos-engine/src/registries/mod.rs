// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How registries are reached: what people have configured (`stos-config`), made into what the client takes (`stos-registry`).
//!
//! | module | what it is |
//! |---|---|
//! | `site` | one place where an image is asked for, with all that is needed to ask there |
//! | `bridge` | proxies and credentials, as the client asks for them |
//! | [`explain`] | the same places, told instead of asked |
//! | [`login`] | credentials that are verified, stored and removed |
//!
//! Every request to a registry goes through a [`RegistryConfig`]. It reads nothing before the first place is wanted, and each file
//! of `registries.conf` once; credentials are looked for when a registry asks who it is. The [policy](crate::policy) is read when an
//! image is to come in, be it from files.

mod bridge;
pub mod explain;
pub mod login;
mod site;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use stos_config::credentials::{Credential, CredentialOptions};
use stos_config::policy::PolicyImage;
use stos_config::registries::{Candidate, Endpoint, Registries, Role, Route};
use stos_config::{Credentials, Environment, Place, Policy, Proxies};
use stos_registry::{ClientOptions, Registry};
use stos_spec::ImageRef;

use self::site::Site;
use crate::error::{Error, Result};
use crate::policy::{Admission, PolicyError, PolicyFiles, attachments_of};

/// What the user of one command says about registries, over what is configured.
#[derive(Debug, Clone, Default)]
pub struct ConnectionOptions {
    /// Whether TLS is verified (`--tls-verify`); `None` leaves it to `insecure` of `registries.conf`.
    pub tls_verify: Option<bool>,
    /// Who asks (`--creds`). It goes to the registry that the user names and to nobody else: to no mirror, and not to where a
    /// `location` leads (podman, of mirrors: `newImageSource` of containers/image).
    pub creds: Option<Credential>,
    /// The one file of credentials (`--authfile`).
    pub authfile: Option<PathBuf>,
    /// The one directory of certificates (`--cert-dir`).
    pub cert_dir: Option<PathBuf>,
    /// The one file that says which images are accepted (`--signature-policy`).
    pub signature_policy: Option<PathBuf>,
    /// Time limits and the like. Its word on TLS does not count.
    pub client: ClientOptions,
}

/// How registries are reached, for as long as a command runs. Clones share what has been read.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The process's own, if none is given.
    environment: Option<Environment>,
    options: ConnectionOptions,
    loaded: OnceLock<Loaded>,
    policy: PolicyFiles,
}

/// What has been read.
#[derive(Debug)]
struct Loaded {
    environment: Environment,
    registries: Registries,
    credentials: Arc<Credentials>,
    proxies: Arc<Proxies>,
}

/// A mirror that cannot be asked, and why.
type UnfitMirror<'a> = (&'a Endpoint, Error);

/// Gives a reference without the registry that it was written without.
pub(crate) fn as_written(reference: &ImageRef) -> String {
    let Some(name) = reference.short_name() else { return reference.to_string() };
    let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = reference.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
    format!("{name}{tag}{digest}")
}

impl RegistryConfig {
    /// Prepares what the process's environment leads to. Nothing is read yet.
    pub fn new(options: ConnectionOptions) -> Self {
        Self { shared: Arc::new(Shared { options, ..Shared::default() }) }
    }

    /// Prepares what another environment leads to. Nothing is read yet.
    pub fn of_environment(environment: Environment, options: ConnectionOptions) -> Self {
        let shared = Shared { environment: Some(environment), options, ..Shared::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Gives the images that a reference may mean, in the order in which they are to be tried: itself, or what aliases and
    /// searched registries make of a short name.
    ///
    /// # Errors
    /// Where the configuration cannot be read; where a short name means nothing, or too much; where `--creds` would go to several
    /// registries.
    pub fn candidates(&self, reference: &ImageRef) -> Result<Vec<Candidate>> {
        let candidates = self.loaded()?.registries.candidates(reference)?;
        if candidates.len() > 1 && self.shared.options.creds.is_some() {
            let registries = candidates.iter().map(|it| it.reference.registry().to_owned()).collect();
            return Err(Error::CredentialForSeveral { name: as_written(reference), registries });
        }
        Ok(candidates)
    }

    /// Gives where an image is asked for: nothing but names, so that two routes can be compared.
    pub(crate) fn route(&self, reference: &ImageRef) -> Result<Route> {
        Ok(self.loaded()?.registries.route(reference)?)
    }

    /// Gives where an image is pushed to: the registry that it names, whatever leads elsewhere for reading.
    pub(crate) fn destination(&self, reference: &ImageRef) -> Result<Route> {
        let endpoints = vec![self.loaded()?.registries.destination(reference)?];
        Ok(Route { endpoints, passed_over: Vec::new() })
    }

    /// Makes a client for the places of a route, which is that of `reference`.
    pub(crate) fn client(&self, reference: &ImageRef, route: &Route) -> Result<Registry> {
        for (mirror, why) in &route.passed_over {
            tracing::debug!(mirror = %mirror.reference, ?why, "the mirror is not asked");
        }
        let (sites, unfit) = self.sites(reference, route)?;
        for (mirror, error) in unfit {
            tracing::warn!(mirror = %mirror.reference, %error, "passed over");
        }
        Ok(Registry::over(sites.iter().map(Site::endpoint).collect(), &self.shared.options.client)?)
    }

    /// Gives the places of a route with all that is needed to ask there, and the mirrors that cannot be asked.
    ///
    /// # Errors
    /// Where the registry itself cannot be asked.
    fn sites<'a>(&self, reference: &ImageRef, route: &'a Route) -> Result<(Vec<Site>, Vec<UnfitMirror<'a>>)> {
        let loaded = self.loaded()?;
        let (mut sites, mut unfit) = (Vec::new(), Vec::new());
        for place in &route.endpoints {
            match Site::of_image(&self.shared.options, loaded, reference, place) {
                Ok(site) => sites.push(site),
                Err(error) if place.role == Role::Mirror => unfit.push((place, error)),
                Err(error) => return Err(error),
            }
        }
        Ok((sites, unfit))
    }

    /// Asks the policy about an image of a registry, which is asked for at the places of a route. What is decided without a signature
    /// is decided here, before any request.
    ///
    /// # Errors
    /// Where the policy cannot be read, rejects the image, or wants what cannot be checked.
    pub(crate) fn admission(&self, reference: &ImageRef, route: &Route) -> Result<Admission> {
        let admission = Admission::ask(self.policy()?, &PolicyImage::Docker(reference.clone()))?;
        if let Some(required_by) = admission.required_by() {
            let (are_used, said_by) = self.attachments(reference, route)?;
            if !are_used {
                let (image, place) = (admission.image().to_owned(), required_by.clone());
                return Err(PolicyError::NotLookedFor { image, place, said_by }.into());
            }
        }
        Ok(admission)
    }

    /// Tells what of the policy requires a signature of an image of a registry, if anything does. Nothing is asked for.
    ///
    /// # Errors
    /// Where the policy cannot be read, rejects the image, or wants what cannot be checked.
    pub fn signature_required_by(&self, reference: &ImageRef) -> Result<Option<Place>> {
        Ok(Admission::ask(self.policy()?, &PolicyImage::Docker(reference.clone()))?.required_by().cloned())
    }

    /// Asks the policy about images of files, before anything but their kind is read.
    ///
    /// # Errors
    /// As [`admission`](Self::admission); where a signature is required.
    pub(crate) fn admit_files(&self, image: &PolicyImage) -> Result<()> {
        let admission = Admission::ask(self.policy()?, image)?;
        match admission.required_by() {
            Some(place) => {
                Err(PolicyError::InFiles { image: admission.image().to_owned(), place: place.clone() }.into())
            }
            None => Ok(()),
        }
    }

    fn policy(&self) -> Result<&Policy> {
        self.shared.policy.policy(|| self.environment(), self.shared.options.signature_policy.as_deref())
    }

    fn attachments(&self, reference: &ImageRef, route: &Route) -> Result<(bool, Option<Place>)> {
        let stores = self.shared.policy.stores(|| self.environment())?;
        Ok(attachments_of(stores, reference, route.endpoints.iter().map(|endpoint| &endpoint.reference)))
    }

    fn environment(&self) -> Environment {
        self.shared.environment.clone().unwrap_or_else(Environment::of_process)
    }

    fn loaded(&self) -> Result<&Loaded> {
        if let Some(loaded) = self.shared.loaded.get() {
            return Ok(loaded);
        }
        let environment = self.environment();
        let registries = Registries::load(&environment)?;
        for place in registries.unknown_keys() {
            tracing::debug!(%place, "nobody reads this key");
        }
        let options =
            CredentialOptions { authfile: self.shared.options.authfile.clone(), ..CredentialOptions::default() };
        let loaded = Loaded {
            credentials: Arc::new(Credentials::new(&environment, &registries, options)),
            proxies: Arc::new(Proxies::of(&environment)),
            registries,
            environment,
        };
        // Where another thread was first, both have read the same.
        Ok(self.shared.loaded.get_or_init(|| loaded))
    }
}
