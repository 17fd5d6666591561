// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Options about pods, read into the engine's types.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail};
use stos_engine::namespaces::NamespaceKind;
use stos_engine::pods::{ExitPolicy, PodOption, PodOptions};
use stos_store::ContainerName;

use crate::cli::{self, Global, ImageOptions, NetworkArgs, PodArgs, PodCreate};
use crate::{network_options, options};

/// What a pod's name begins with that a container is to bring itself.
const NEW: &str = "new:";

/// Reads of which pod a new container is to be.
pub fn of_container(options: &ImageOptions) -> anyhow::Result<Option<PodOption>> {
    let pod = match &options.pod {
        PodArgs { pod: Some(pod), .. } if pod.is_empty() => bail!("--pod: expected the name or the id of a pod"),
        PodArgs { pod: Some(pod), .. } => pod.clone(),
        PodArgs { pod_id_file: Some(path), .. } => read_id("pod", "--pod-id-file", path)?,
        _ => return Ok(None),
    };
    Ok(Some(PodOption::new(pod, network_option(&options.network))))
}

/// Reads the id of a `kind` (a pod, a container) that `option` had a command write.
pub fn read_id(kind: &str, option: &str, path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {option} {}", path.display()))?;
    match text.lines().next().map(str::trim) {
        Some(id) if !id.is_empty() => Ok(id.to_owned()),
        _ => bail!("{option} {}: expected the id of a {kind}, found nothing", path.display()),
    }
}

/// Gives the first option that says something of the network, where one does. What the environment says of all containers counts for none.
fn network_option(args: &NetworkArgs) -> Option<&'static str> {
    let of_environment = std::env::var("STOS_NETWORK").ok();
    let is_given = match args.network.as_slice() {
        [one] => of_environment.as_ref() != Some(one),
        several => !several.is_empty(),
    };
    let given = [
        ("--publish", !args.publish.is_empty()),
        ("--publish-all", args.publish_all),
        ("--network", is_given),
        ("--ip", args.ip.is_some()),
        ("--ip6", args.ip6.is_some()),
        ("--mac-address", args.mac_address.is_some()),
        ("--network-alias", !args.network_alias.is_empty()),
        ("--add-host", !args.add_host.is_empty()),
        ("--no-hosts", args.no_hosts),
        ("--dns", !args.dns.is_empty()),
        ("--dns-search", !args.dns_search.is_empty()),
        ("--dns-option", !args.dns_option.is_empty()),
    ];
    given.iter().find(|(_, is_given)| *is_given).map(|(option, _)| *option)
}

/// Reads what a new pod is to be.
pub fn pod(global: &Global, args: &PodCreate) -> anyhow::Result<PodOptions> {
    let name = args.name.as_ref().or(args.word.as_ref());
    let shares = match args.share.as_str() {
        // With no infra there is nothing to share, unless that is asked for.
        text if text == DEFAULT_SHARES => None,
        text => Some(read_shares(text)?),
    };
    let (network, networking) = network_options::networking(&args.network, &global.networks)?;
    Ok(PodOptions {
        name: name.map(|name| read_name(name)).transpose()?,
        hostname: args.hostname.as_deref().map(options::parse_hostname).transpose()?,
        network,
        networking,
        network_option: network_option(&args.network),
        shares,
        infra: args.infra,
        labels: args.label.iter().map(|text| options::parse_label(text)).collect::<anyhow::Result<_>>()?,
        exit_policy: match args.exit_policy {
            cli::ExitPolicy::Continue => ExitPolicy::Continue,
            cli::ExitPolicy::Stop => ExitPolicy::Stop,
        },
        replace: args.replace,
        command: command_line(),
    })
}

/// Gives the pod that `--pod new:NAME` asks for, and the container's options without what is the pod's then.
pub fn new_pod(global: &Global, options: &ImageOptions) -> anyhow::Result<Option<(PodOptions, ImageOptions)>> {
    let Some(name) = options.pod.pod.as_deref().and_then(|pod| pod.strip_prefix(NEW)) else { return Ok(None) };
    if name.is_empty() {
        bail!("--pod {NEW}: new pod name must be at least one character");
    }
    let (network, networking) = network_options::networking(&options.network, &global.networks)?;
    let pod = PodOptions {
        name: Some(read_name(name)?),
        hostname: options.hostname.as_deref().map(options::parse_hostname).transpose()?,
        network,
        networking,
        command: command_line(),
        ..PodOptions::default()
    };
    let own = ImageOptions {
        hostname: None,
        network: NetworkArgs { expose: options.network.expose.clone(), ..NetworkArgs::default() },
        pod: PodArgs { pod: Some(name.to_owned()), pod_id_file: None },
        ..options.clone()
    };
    Ok(Some((pod, own)))
}

fn read_name(text: &str) -> anyhow::Result<ContainerName> {
    text.parse().map_err(|error| match error {
        stos_store::Error::InvalidName { text, rule, .. } => {
            stos_store::Error::InvalidName { kind: "pod name", text, rule }.into()
        }
        other => anyhow::Error::from(other),
    })
}

fn command_line() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The default of `--share`, podman's.
pub const DEFAULT_SHARES: &str = "ipc,net,uts";

fn read_shares(text: &str) -> anyhow::Result<BTreeSet<NamespaceKind>> {
    let (mut shares, words) = match text.strip_prefix('+') {
        Some(more) => (BTreeSet::from(PodOptions::SHARES), more),
        None => (BTreeSet::new(), text),
    };
    if ["", "none"].contains(&words) {
        return Ok(shares);
    }
    for word in words.split(',') {
        shares.insert(match word {
            "ipc" => NamespaceKind::Ipc,
            "net" => NamespaceKind::Network,
            "uts" => NamespaceKind::Uts,
            "pid" => NamespaceKind::Pid,
            "cgroup" => NamespaceKind::Cgroup,
            _ => {
                bail!("--share {text:?}: {word:?}: expected ipc, net, uts, pid and cgroup with commas between, or none")
            }
        });
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, Pod};

    fn create(line: &str) -> anyhow::Result<PodOptions> {
        let words = ["stos", "--netavark", "/bin/true", "pod", "create"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words)?;
        let Command::Pod(Pod::Create(create)) = cli.command else { panic!("{line}") };
        pod(&cli.global, &create)
    }

    #[test]
    fn what_is_shared_is_read_as_podman_reads_it() {
        let kinds = |line: &str| create(line).unwrap().shares.map(|shares| shares.into_iter().collect::<Vec<_>>());
        assert_eq!(kinds(""), None);
        assert_eq!(kinds("--share ipc,net,uts"), None);
        for none in ["--share none", "--share="] {
            assert_eq!(kinds(none), Some(Vec::new()), "{none}");
        }
        assert_eq!(kinds("--share net,pid"), Some(vec![NamespaceKind::Pid, NamespaceKind::Network]));
        assert_eq!(kinds("--share +pid").unwrap().len(), 4);
        assert!(create("--share net,all").is_err() && create("--share net,,").is_err());
        assert_eq!(create(DEFAULT_SHARES).unwrap_err().to_string().matches("pod name").count(), 1);
    }

    #[test]
    fn a_pod_s_name_is_an_option_or_a_word() {
        for line in ["web", "--name web", "-n web", "--infra=false web", "--infra web"] {
            assert_eq!(create(line).unwrap().name.unwrap().as_str(), "web", "{line}");
        }
        assert!(create("--name web web").is_err() && create("--name a/b").is_err());
        assert_eq!((create("--infra").unwrap().infra, create("").unwrap().infra), (Some(true), None));
        assert_eq!(create("-p 80:80 --label a=b").unwrap().network_option, Some("--publish"));
        assert!(create("--hostname a_b!").is_err());
    }

    #[test]
    fn a_new_pod_takes_what_is_said_of_the_network() {
        let line = "stos --netavark /bin/true run --pod new:web -p 8080:80 --hostname h --expose 9 image";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Run(run) = cli.command else { panic!("{line}") };
        let (pod, own) = new_pod(&cli.global, &run.image_options).unwrap().unwrap();
        assert_eq!(
            (pod.name.unwrap().as_str(), pod.hostname.as_deref(), pod.networking.ports.len()),
            ("web", Some("h"), 1)
        );
        assert_eq!((own.hostname.clone(), own.network.expose.len()), (None, 1));
        assert_eq!(of_container(&own).unwrap(), Some(PodOption::new("web", None)));
        let refused = |pod: &str| {
            let options = ImageOptions { pod: PodArgs { pod: Some(pod.into()), pod_id_file: None }, ..own.clone() };
            new_pod(&cli.global, &options).is_err()
        };
        assert!(refused("new:") && refused("new:a/b") && !refused("web"));
    }
}
