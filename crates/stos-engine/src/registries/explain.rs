// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where an image would be asked for, how, and what says so. No request is made, and no secret is told.
//!
//! What is told is taken from the very places that a client is made of. Credentials are looked for as they would be: files are
//! read, and a helper is run.

use serde::Serialize;
use stos_config::Place;
use stos_config::credentials::{CredentialSource, Login};
use stos_config::policy::{PolicyImage, Requirement, SigstoreKeys};
use stos_config::proxy::ProxyChoice;
use stos_config::registries::{Candidate, CandidateOrigin, Endpoint, Role as ConfiguredRole, Route, Serves, WhyNot};
use stos_spec::ImageRef;

use super::bridge::{Way, proxy_of};
use super::site::{Site, TlsSource, Who};
use super::{RegistryConfig, as_written};
use crate::error::{Error, Result};

/// Where an image would be asked for.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The reference as it was given, with its tag.
    pub reference: String,
    /// The images that it may mean, in the order in which they are tried: the first that there is counts.
    pub candidates: Vec<ExplainedCandidate>,
}

/// An image that the reference may mean.
#[derive(Debug, Serialize)]
pub struct ExplainedCandidate {
    /// The image: what it would be called.
    pub reference: String,
    /// Why it is one.
    pub because: String,
    /// Why it is not asked for at all: it is blocked, the policy rejects it, or what is configured cannot be followed.
    pub refused: Option<String>,
    /// What the signature policy says of it; `None` where it is blocked, or the policy cannot be read.
    pub policy: Option<ExplainedPolicy>,
    /// Where it is asked for, in this order.
    pub endpoints: Vec<ExplainedEndpoint>,
    /// The mirrors that are not asked.
    pub passed_over: Vec<PassedOverMirror>,
}

/// What the signature policy says of an image.
#[derive(Debug, Serialize)]
pub struct ExplainedPolicy {
    /// File and key of the requirements; without it there is no policy, and everything is accepted.
    pub configured_by: Option<String>,
    /// What must hold, all of it.
    pub requirements: Vec<ExplainedRequirement>,
    /// Whether registries are asked for signatures, where one is required.
    pub attachments: Option<ExplainedAttachments>,
}

/// Something that must hold for an image.
#[derive(Debug, Serialize)]
pub struct ExplainedRequirement {
    /// `insecureAcceptAnything`, `reject`, `sigstoreSigned`, or `unsupported` for what cannot be checked.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Where the keys are, any of which may have signed.
    pub keys: Vec<String>,
    /// What a signature must be for, or what cannot be checked.
    pub expected: Option<String>,
    /// File and key of the requirement.
    pub configured_by: Option<String>,
}

/// Whether registries are asked for the signatures of an image.
#[derive(Debug, Serialize)]
pub struct ExplainedAttachments {
    /// Whether they are.
    pub used: bool,
    /// File and key of what says so; without it nothing does.
    pub configured_by: Option<String>,
}

/// A place where the image is asked for.
#[derive(Debug, Serialize)]
pub struct ExplainedEndpoint {
    /// What it is to the image: `mirror` or `registry`.
    pub role: String,
    /// Host, and port where one is given.
    pub host: String,
    /// Where that answers, which for Docker Hub is another host.
    pub address: String,
    /// The repository there.
    pub repository: String,
    /// The tag or digest there.
    pub target: String,
    /// Which references it is asked for: `all`, `digest only`, `tag only`.
    pub serves: &'static str,
    /// File and key of what says so; without it nothing is configured for the image.
    pub configured_by: Option<String>,
    /// Whom it must prove itself to.
    pub tls: ExplainedTls,
    /// Whom TLS trusts besides the system's authorities, and what the registry is shown.
    pub certificates: ExplainedCertificates,
    /// The way there over HTTPS.
    pub proxy: ExplainedProxy,
    /// The way there over plain HTTP, which is tried too where TLS is not verified: after HTTPS, or before it on loopback, unless this way
    /// leads through a proxy.
    pub proxy_of_http: Option<ExplainedProxy>,
    /// Who asks, should it want to know.
    pub credential: ExplainedCredential,
}

/// Whether TLS is verified.
#[derive(Debug, Serialize)]
pub struct ExplainedTls {
    /// Whether it is. If not, plain HTTP is allowed too.
    pub verified: bool,
    /// What says so.
    pub because: String,
}

/// Certificates of `certs.d` or `--cert-dir`.
#[derive(Debug, Serialize)]
pub struct ExplainedCertificates {
    /// The directory that they come from.
    pub directory: Option<String>,
    /// Files of authorities that are trusted besides the system's.
    pub authorities: Vec<String>,
    /// The file of the client certificate.
    pub client_certificate: Option<String>,
    /// The file of its key.
    pub client_key: Option<String>,
}

/// A way to a host.
#[derive(Debug, Serialize)]
pub struct ExplainedProxy {
    /// The proxy, without a user or a password; `None` for the direct way.
    pub proxy: Option<String>,
    /// What says so.
    pub because: Option<String>,
    /// Why the way cannot be taken.
    pub error: Option<String>,
}

/// Who asks.
#[derive(Debug, Serialize)]
pub struct ExplainedCredential {
    /// `password` or `identity token`; `None` for nobody in particular.
    pub kind: Option<&'static str>,
    /// Where it comes from: an option, file and key, or a helper.
    pub source: Option<String>,
    /// What could have held one and was passed over.
    pub passed_over: Vec<String>,
    /// Why it cannot be had.
    pub error: Option<String>,
}

/// A mirror that is not asked.
#[derive(Debug, Serialize)]
pub struct PassedOverMirror {
    /// The image there.
    pub reference: String,
    /// File and key of the mirror.
    pub configured_by: Option<String>,
    /// Why it is not asked.
    pub reason: String,
}

impl RegistryConfig {
    /// Tells where an image would be asked for. Nothing is asked.
    ///
    /// # Errors
    /// As [`candidates`](Self::candidates). What keeps one candidate from being asked is told of it instead.
    pub fn explain(&self, reference: &ImageRef) -> Result<Explanation> {
        let candidates = self.candidates(reference)?;
        let candidates = candidates.iter().map(|candidate| self.explain_candidate(candidate)).collect();
        Ok(Explanation { reference: as_written(reference), candidates })
    }

    fn explain_candidate(&self, candidate: &Candidate) -> ExplainedCandidate {
        let reference = &candidate.reference;
        let mut explained = ExplainedCandidate {
            reference: reference.to_string(),
            because: because(&candidate.origin),
            refused: None,
            policy: None,
            endpoints: Vec::new(),
            passed_over: Vec::new(),
        };
        let found = self.route(reference).and_then(|route| {
            explained.policy = Some(self.explain_policy(reference, &route)?);
            self.admission(reference, &route)?;
            let (sites, unfit) = self.sites(reference, &route)?;
            let left_out = route.passed_over.iter().map(|(mirror, why)| not_asked(mirror, why));
            let unfit = unfit.iter().map(|(mirror, error)| passed_over(mirror, error.to_string()));
            let endpoints: Vec<_> = sites.iter().map(|site| site.explain(reference)).collect();
            Ok((endpoints, left_out.chain(unfit).collect()))
        });
        match found {
            Ok((endpoints, passed_over)) => {
                explained.endpoints = endpoints;
                explained.passed_over = passed_over;
            }
            Err(error) => explained.refused = Some(error.to_string()),
        }
        explained
    }
}

impl RegistryConfig {
    fn explain_policy(&self, reference: &ImageRef, route: &Route) -> Result<ExplainedPolicy> {
        let decision = self.policy()?.decision(&PolicyImage::Docker(reference.clone()));
        let needs_signature = decision.requirements.iter().any(|it| matches!(it, Requirement::SigstoreSigned(_)));
        let attachments = match needs_signature {
            true => {
                let (used, place) = self.attachments(reference, route)?;
                Some(ExplainedAttachments { used, configured_by: place.map(|place| place.to_string()) })
            }
            false => None,
        };
        Ok(ExplainedPolicy {
            configured_by: decision.place.map(|place| place.to_string()),
            requirements: decision.requirements.iter().map(|it| explain_requirement(it, reference)).collect(),
            attachments,
        })
    }
}

fn explain_requirement(requirement: &Requirement, reference: &ImageRef) -> ExplainedRequirement {
    let explained = |kind, place: Option<&Place>| ExplainedRequirement {
        kind,
        keys: Vec::new(),
        expected: None,
        configured_by: place.map(ToString::to_string),
    };
    match requirement {
        Requirement::InsecureAcceptAnything => explained("insecureAcceptAnything", None),
        Requirement::Reject(place) => explained("reject", Some(place)),
        Requirement::SigstoreSigned(signed) => ExplainedRequirement {
            keys: match &signed.keys {
                SigstoreKeys::Paths(paths) => paths.iter().map(|path| path.display().to_string()).collect(),
                SigstoreKeys::Data(_) => vec![signed.place.to_string()],
            },
            expected: Some(signed.identity.expected(Some(reference))),
            ..explained("sigstoreSigned", Some(&signed.place))
        },
        Requirement::Unsupported { what, place } => {
            ExplainedRequirement { expected: Some((*what).to_owned()), ..explained("unsupported", Some(place)) }
        }
        _ => explained("unsupported", None),
    }
}

fn because(origin: &CandidateOrigin) -> String {
    match origin {
        CandidateOrigin::Qualified => "the reference names its registry".to_owned(),
        CandidateOrigin::Alias(place) => format!("an alias: {place}"),
        CandidateOrigin::Search(place) => format!("its registry is searched: {place}"),
        CandidateOrigin::Default => "a short name, and no registries.conf".to_owned(),
    }
}

fn not_asked(mirror: &Endpoint, why: &WhyNot) -> PassedOverMirror {
    debug_assert_eq!(mirror.role, ConfiguredRole::Mirror);
    let reason = match (why, mirror.serves) {
        (WhyNot::Blocked(place), _) => format!("it is blocked: {place}"),
        (WhyNot::Reference, Serves::TagOnly) => "it is asked for tags only".to_owned(),
        (WhyNot::Reference, _) => "it is asked for digests only".to_owned(),
    };
    passed_over(mirror, reason)
}

fn passed_over(mirror: &Endpoint, reason: String) -> PassedOverMirror {
    let configured_by = mirror.place.as_ref().map(ToString::to_string);
    PassedOverMirror { reference: mirror.reference.to_string(), configured_by, reason }
}

impl Site {
    fn explain(&self, reference: &ImageRef) -> ExplainedEndpoint {
        let endpoint = self.endpoint();
        let address = endpoint.address().to_owned();
        let proxy_of_http = (!self.tls.is_verified).then(|| self.explain_way(false, &address));
        ExplainedEndpoint {
            role: self.role.to_string(),
            host: self.host.clone(),
            proxy: self.explain_way(true, &address),
            proxy_of_http,
            address,
            repository: self.repository.clone().unwrap_or_default(),
            target: self.tag.clone().unwrap_or_else(|| reference.target()),
            serves: match self.serves {
                stos_registry::Serves::All => "all",
                stos_registry::Serves::DigestOnly => "digest only",
                stos_registry::Serves::TagOnly => "tag only",
            },
            configured_by: self.place.as_ref().map(ToString::to_string),
            tls: self.explain_tls(),
            certificates: self.explain_certificates(),
            credential: self.explain_credential(),
        }
    }

    fn explain_tls(&self) -> ExplainedTls {
        let verified = self.tls.is_verified;
        let because = match (self.tls.said_by, &self.place) {
            (TlsSource::Option, _) => format!("--tls-verify={verified}"),
            (TlsSource::Configured, Some(place)) => format!("insecure = true: {place}"),
            _ => "the default".to_owned(),
        };
        ExplainedTls { verified, because }
    }

    fn explain_certificates(&self) -> ExplainedCertificates {
        let shown = |path: &std::path::PathBuf| path.display().to_string();
        let client = self.client_certificate();
        ExplainedCertificates {
            directory: self.certificates.directory.as_ref().map(shown),
            authorities: self.certificates.authorities.iter().map(|authority| shown(&authority.path)).collect(),
            client_certificate: client.map(|client| shown(&client.certificate_path)),
            client_key: client.map(|client| shown(&client.key_path)),
        }
    }

    fn explain_way(&self, is_https: bool, address: &str) -> ExplainedProxy {
        let way = match self.ways.choose(is_https, address) {
            Ok(way) => way,
            Err(error) => return ExplainedProxy { proxy: None, because: None, error: Some(error.to_string()) },
        };
        let because = match &way {
            Way::Own(_) => Some(format!("proxy: {}", self.place.as_ref().map(ToString::to_string).unwrap_or_default())),
            Way::Environment(ProxyChoice::NoneSet) => None,
            Way::Environment(ProxyChoice::Loopback) => Some("this machine is never proxied".to_owned()),
            Way::Environment(ProxyChoice::Excepted { variable, entry }) => Some(format!("{variable} has {entry:?}")),
            Way::Environment(ProxyChoice::Through { variable, .. }) => Some((*variable).to_owned()),
        };
        // What the client will refuse is known beforehand.
        let error = way.proxy().and_then(|proxy| proxy_of(proxy).err()).map(|error| error.to_string());
        ExplainedProxy { proxy: way.proxy().map(ToString::to_string), because, error }
    }

    fn explain_credential(&self) -> ExplainedCredential {
        let told =
            |login: Option<(&Login, &CredentialSource)>, passed_over, error: Option<Error>| ExplainedCredential {
                kind: login.map(|(login, _)| match login {
                    Login::Password { .. } => "password",
                    Login::IdentityToken { .. } => "identity token",
                }),
                source: login.map(|(_, source)| source.to_string()),
                passed_over,
                error: error.map(|error| error.to_string()),
            };
        match &self.who {
            Who::Given(given) => told(Some((&given.login, &given.source)), Vec::new(), None),
            Who::LookedUp(later) => match later.credentials.find(&later.key) {
                Ok(found) => {
                    let passed_over = found.passed_over.iter().map(ToString::to_string).collect();
                    told(found.credential.as_ref().map(|it| (&it.login, &it.source)), passed_over, None)
                }
                Err(error) => told(None, Vec::new(), Some(error.into())),
            },
        }
    }
}
