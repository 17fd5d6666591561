// SPDX-License-Identifier: Apache-2.0 OR MIT
//! registry explain: where an image would be asked for.

use std::io;

use stos_config::Secret;
use stos_engine::registries::explain::{
    ExplainedCandidate, ExplainedCredential, ExplainedEndpoint, ExplainedPolicy, ExplainedProxy, ExplainedRequirement,
    Explanation,
};
use stos_spec::ImageRef;
use stos_spec::text::escape;

use crate::cli::{Format, RegistryExplain};
use crate::failure::Failure;
use crate::{options, table};

/// Shows every image that a reference may mean, and every place where each would be asked for, in order. Nothing is asked.
pub fn explain(args: &RegistryExplain) -> Result<u8, Failure> {
    let reference: ImageRef = args.reference.parse()?;
    // Where it comes from is told, and not what it is.
    let creds = options::credential(&args.credential, |_| Ok(Secret::from("")))?;
    let explanation = options::registries_and_policy(&args.connection, &args.policy, creds).explain(&reference)?;
    match args.format {
        Format::Json => table::print_json(&explanation)?,
        Format::Table => print(&explanation)?,
    }
    Ok(0)
}

fn line(text: &str) -> io::Result<()> {
    table::print_line(escape(text))
}

fn field(name: &str, value: &str) -> io::Result<()> {
    line(&format!("     {name:<12} {value}"))
}

fn print(explanation: &Explanation) -> io::Result<()> {
    for candidate in &explanation.candidates {
        print_candidate(candidate)?;
    }
    Ok(())
}

fn print_candidate(candidate: &ExplainedCandidate) -> io::Result<()> {
    line(&format!("{}  ({})", candidate.reference, candidate.because))?;
    if let Some(policy) = &candidate.policy {
        print_policy(policy)?;
    }
    if let Some(refused) = &candidate.refused {
        return line(&format!("     not asked for: {refused}"));
    }
    for (number, endpoint) in (1..).zip(&candidate.endpoints) {
        print_endpoint(number, endpoint)?;
    }
    for mirror in &candidate.passed_over {
        line(&format!("  -  mirror {}", mirror.reference))?;
        field("passed over", &mirror.reason)?;
        if let Some(place) = &mirror.configured_by {
            field("configured", place)?;
        }
    }
    Ok(())
}

fn print_policy(policy: &ExplainedPolicy) -> io::Result<()> {
    let by = policy.configured_by.as_deref().unwrap_or("no policy.json");
    let mut name = "policy";
    for requirement in &policy.requirements {
        field(name, &format!("{} ({})", demand(requirement), requirement.configured_by.as_deref().unwrap_or(by)))?;
        name = "";
    }
    let Some(attachments) = &policy.attachments else { return Ok(()) };
    let because = attachments.configured_by.as_deref().unwrap_or("nothing says that they are");
    let asked = if attachments.used { "registries are asked for them" } else { "registries are not asked for them" };
    field("signatures", &format!("{asked} ({because})"))
}

fn demand(requirement: &ExplainedRequirement) -> String {
    let expected = requirement.expected.as_deref().unwrap_or_default();
    match requirement.kind {
        "insecureAcceptAnything" => "accepts it".to_owned(),
        "reject" => "rejects it".to_owned(),
        "sigstoreSigned" => format!("wants a signature by {}, for {expected}", requirement.keys.join(" or ")),
        _ => format!("wants what cannot be checked: {expected}"),
    }
}

fn print_endpoint(number: usize, endpoint: &ExplainedEndpoint) -> io::Result<()> {
    let separator = if endpoint.target.contains(':') { '@' } else { ':' };
    let ExplainedEndpoint { role, host, repository, target, .. } = endpoint;
    line(&format!("  {number}  {role} {host}/{repository}{separator}{target}"))?;
    if endpoint.address != *host {
        field("answers at", &endpoint.address)?;
    }
    field("configured", endpoint.configured_by.as_deref().unwrap_or("nothing is, for this image"))?;
    field("serves", endpoint.serves)?;
    let tls = &endpoint.tls;
    let verified = if tls.verified { "verified" } else { "not verified, and plain HTTP is allowed" };
    field("TLS", &format!("{verified} ({})", tls.because))?;
    let certificates = &endpoint.certificates;
    let authorities = certificates.authorities.iter().map(String::as_str);
    if tls.verified {
        field("authorities", &["the system's"].into_iter().chain(authorities).collect::<Vec<_>>().join(", "))?;
    }
    let client = certificates.client_certificate.as_deref().zip(certificates.client_key.as_deref());
    field("client", &client.map_or_else(|| "no certificate".to_owned(), |(own, key)| format!("{own} with {key}")))?;
    match &endpoint.proxy_of_http {
        Some(http) => {
            field("proxy", &format!("HTTPS: {}", way(&endpoint.proxy)))?;
            field("", &format!("HTTP: {}", way(http)))?;
        }
        None => field("proxy", &way(&endpoint.proxy))?,
    }
    print_credential(&endpoint.credential)
}

fn way(way: &ExplainedProxy) -> String {
    let because = way.because.as_ref().map(|because| format!(" ({because})")).unwrap_or_default();
    match (&way.error, &way.proxy) {
        (Some(error), _) => format!("cannot be used: {error}{because}"),
        (None, proxy) => format!("{}{because}", proxy.as_deref().unwrap_or("none")),
    }
}

fn print_credential(credential: &ExplainedCredential) -> io::Result<()> {
    let found = match (&credential.error, credential.kind, &credential.source) {
        (Some(error), _, _) => format!("cannot be had: {error}"),
        (None, Some(kind), Some(source)) => format!("{kind} of {source}"),
        _ => "none".to_owned(),
    };
    field("credential", &found)?;
    credential.passed_over.iter().try_for_each(|passed_over| field("", &format!("passed over: {passed_over}")))
}
