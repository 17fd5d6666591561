// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Options of a container, read into the engine's types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use stos_config::Secret;
use stos_config::credentials::{Credential, UserPassword};
use stos_engine::registries::{self, RegistryConfig};
use stos_engine::{CreateOptions, PullOptions, PullPolicy, StreamOptions};
use stos_layerfs::Integrity;
use stos_spec::text::shown;

use crate::cli::{
    ConnectionOptions, CredentialOptions, Global, ImageOptions, PolicyOptions, PullWhen, RegistryOptions, Verify,
};
use crate::mount_options::{self, Mounts};
use crate::{
    network_options, pod_options, process_list, prompt, security_options, unit_options, user_namespace_options,
};

/// Reads how to reach registries, where no image comes in.
pub fn registries(options: &ConnectionOptions) -> RegistryConfig {
    RegistryConfig::new(connection(options, None))
}

/// Reads how to reach registries, and which images may come from them.
pub fn registries_and_policy(
    options: &ConnectionOptions,
    policy: &PolicyOptions,
    creds: Option<Credential>,
) -> RegistryConfig {
    let signature_policy = policy.signature_policy.clone();
    RegistryConfig::new(registries::ConnectionOptions { signature_policy, ..connection(options, creds) })
}

/// Reads which images may come from files.
pub fn policy(options: &PolicyOptions) -> RegistryConfig {
    let signature_policy = options.signature_policy.clone();
    RegistryConfig::new(registries::ConnectionOptions { signature_policy, ..registries::ConnectionOptions::default() })
}

fn connection(options: &ConnectionOptions, creds: Option<Credential>) -> registries::ConnectionOptions {
    registries::ConnectionOptions {
        tls_verify: options.tls_verify,
        creds,
        authfile: options.authfile.clone(),
        cert_dir: options.cert_dir.clone(),
        ..registries::ConnectionOptions::default()
    }
}

/// Reads who asks, with `ask` for a password that is not given.
pub fn credential(
    options: &CredentialOptions,
    ask: impl FnOnce(&str) -> anyhow::Result<Secret>,
) -> anyhow::Result<Option<Credential>> {
    let Some(text) = &options.creds else { return Ok(None) };
    process_list::hide(text);
    Ok(Some(UserPassword::parse(text).context("--creds")?.into_credential(ask)?))
}

/// Reads what is wanted of a registry. A password that is missing is asked for.
pub fn pull_options(options: &RegistryOptions) -> anyhow::Result<PullOptions> {
    let mut connection = asked(&options.connection, &options.credential, options.retry)?;
    connection.signature_policy = options.policy.signature_policy.clone();
    let mut pull = PullOptions { registries: RegistryConfig::new(connection), ..PullOptions::default() };
    if let Some(platform) = &options.platform {
        pull.platform = platform.clone();
    }
    pull.keep_blobs = options.keep_blobs;
    pull.jobs = options.jobs.map(usize::from);
    Ok(pull)
}

/// Reads how to push. A password that is missing is asked for.
pub fn push_registries(
    connection: &ConnectionOptions,
    credential: &CredentialOptions,
    retry: u32,
) -> anyhow::Result<RegistryConfig> {
    Ok(RegistryConfig::new(asked(connection, credential, retry)?))
}

fn asked(
    options: &ConnectionOptions,
    credential_options: &CredentialOptions,
    retry: u32,
) -> anyhow::Result<registries::ConnectionOptions> {
    let ask =
        |user: &str| prompt::password(&format!("Password of {}: ", shown(user)), "give it as --creds USER:PASSWORD");
    let mut connection = connection(options, credential(credential_options, ask)?);
    connection.client.retry.tries = retry + 1;
    Ok(connection)
}

/// Reads what is asked of a new container.
pub fn create_options(
    global: &Global,
    options: &ImageOptions,
    command: &[String],
    auto_remove: bool,
) -> anyhow::Result<CreateOptions> {
    let (network, networking) = network_options::networking(&options.network, &global.networks)?;
    let mut mounts = Mounts::read(&options.volume, &options.mount)?;
    if let Some(zone) = &options.unit.tz {
        mounts.binds.push(unit_options::time_zone(zone)?);
    }
    let mut limits = options.limits.to_options();
    limits.tmpfs.extend(mounts.tmpfs);
    Ok(CreateOptions {
        name: options.name.clone(),
        replaces: options.unit.replace,
        pull_policy: match options.pull {
            PullWhen::Missing => PullPolicy::Missing,
            PullWhen::Always => PullPolicy::Always,
            PullWhen::Never => PullPolicy::Never,
        },
        pull: pull_options(&options.registry)?,
        integrity: match options.verify {
            Verify::Sealed => Integrity::Sealed,
            Verify::Full => Integrity::Full,
            Verify::None => Integrity::None,
        },
        env: environment(&options.env_file, &options.env)?,
        working_dir: options.workdir.as_deref().map(|dir| absolute("--workdir", dir)).transpose()?,
        user: options.user.clone(),
        entrypoint: options.entrypoint.as_deref().map(parse_entrypoint),
        command: command.to_vec(),
        hostname: options.hostname.as_deref().map(parse_hostname).transpose()?,
        read_only: options.read_only,
        security: security_options::security(&options.security)?,
        namespaces: security_options::namespaces(&options.security)?,
        user_namespace: user_namespace_options::user_namespace(&options.users)?,
        pod: pod_options::of_container(options)?,
        network,
        networking,
        mounts: mounts.binds,
        volumes: mounts.volumes,
        images: mounts.images,
        volumes_from: mount_options::volumes_from(&options.volumes_from)?,
        labels: options.label.iter().map(|text| parse_label(text)).collect::<anyhow::Result<BTreeMap<_, _>>>()?,
        streams: StreamOptions { tty: options.streams.tty, interactive: options.streams.interactive },
        init: options.streams.init,
        auto_remove,
        starts_at_once: false,
        limits,
        stop_signal: options.unit.stop_signal,
        host_env: if options.unit.env_host { unit_options::host_environment() } else { Vec::new() },
        unit: unit_options::unit(&options.unit)?,
        service: options.service.to_options(),
    })
}

fn absolute(option: &str, path: &str) -> anyhow::Result<String> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(path.to_owned());
    }
    bail!("{option} {path:?}: expected an absolute path")
}

/// Reads files first, then options, so that an option counts more. `NAME` alone takes its value from our environment, and
/// is left out where there is none (podman's rule).
pub fn environment(files: &[PathBuf], texts: &[String]) -> anyhow::Result<Vec<String>> {
    let mut entries = Vec::new();
    for path in files {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read --env-file {}", path.display()))?;
        for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let place = || format!("--env-file {} line {number}", path.display());
            let line = std::str::from_utf8(line).with_context(place)?.trim_start().trim_end_matches('\r');
            if !line.is_empty() && !line.starts_with('#') {
                entries.extend(environment_entry(line).with_context(place)?);
            }
        }
    }
    entries.extend(environment_entries(texts)?);
    Ok(entries)
}

/// Reads variables that are given one by one.
fn environment_entries(texts: &[String]) -> anyhow::Result<Vec<String>> {
    let read = |text: &String| environment_entry(text).with_context(|| format!("--env {text:?}")).transpose();
    texts.iter().filter_map(read).collect()
}

fn environment_entry(text: &str) -> anyhow::Result<Option<String>> {
    if text.contains('\0') {
        bail!("it holds a NUL byte");
    }
    match text.split_once('=') {
        Some(("", _)) => bail!("expected NAME=VALUE or NAME"),
        None if text.is_empty() => bail!("expected NAME=VALUE or NAME"),
        Some(_) => Ok(Some(text.to_owned())),
        None => match std::env::var(text) {
            Ok(value) => Ok(Some(format!("{text}={value}"))),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(error @ std::env::VarError::NotUnicode(_)) => Err(error.into()),
        },
    }
}

/// A JSON array is taken as it is, an empty text means no entrypoint, anything else is one word (podman's rule).
fn parse_entrypoint(text: &str) -> Vec<String> {
    serde_json::from_str(text)
        .unwrap_or_else(|_| Some(text.to_owned()).filter(|text| !text.is_empty()).into_iter().collect())
}

/// The kernel's limit is 64 bytes (`__NEW_UTS_LEN`).
pub fn parse_hostname(text: &str) -> anyhow::Result<String> {
    if stos_engine::networking::is_host_name(text, 64) {
        return Ok(text.to_owned());
    }
    bail!("--hostname {text:?}: expected 1 to 64 letters, digits, '-', '.' and '_'")
}

pub fn parse_label(text: &str) -> anyhow::Result<(String, String)> {
    match text.split_once('=') {
        Some(("", _)) => bail!("--label {text:?}: expected KEY=VALUE"),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Ok((text.to_owned(), String::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_checked() {
        assert_eq!(parse_entrypoint("[\"a\", \"b\"]"), ["a", "b"]);
        for word in ["/bin/sh -c", "[", "[1]"] {
            assert_eq!(parse_entrypoint(word), [word]);
        }
        assert!(parse_entrypoint("").is_empty());
        assert!(parse_hostname("a b").is_err() && parse_hostname("").is_err() && parse_hostname("web-1.x").is_ok());
        assert_eq!(parse_label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(parse_label("=x").is_err() && absolute("--workdir", "x").is_err());
    }
}
