// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A new pod.

use std::collections::{BTreeMap, BTreeSet};

use stos_store::files::{self, Durability};
use stos_store::{ContainerName, NameHolder, PodId};

use super::{ExitPolicy, POD_VERSION, PodError, PodRecord, find, remove, remove_damaged};
use crate::Engine;
use crate::container::now;
use crate::create::{check_name_is_free, default_name};
use crate::error::{Error, Result};
use crate::namespaces::{NamespaceKind, name_of_host};
use crate::networking::{self, NetworkingOptions, OwnFiles, write_own_file};
use crate::options::{CreateOptions, Network};

/// The kernel's limit of a host's name, in bytes (`__NEW_UTS_LEN`).
const HOSTNAME_MAX: usize = 64;

/// What a user may ask of a new pod.
#[derive(Debug, Clone, Default)]
pub struct PodOptions {
    /// Its name; without one it gets one.
    pub name: Option<ContainerName>,
    /// The host's name for its containers, instead of its own.
    pub hostname: Option<String>,
    /// The kind of its network.
    pub network: Network,
    /// What is asked of the network besides.
    pub networking: NetworkingOptions,
    /// The option by which something was said of its network, where something was.
    pub network_option: Option<&'static str>,
    /// What its containers share; without this podman's choice.
    pub shares: Option<BTreeSet<NamespaceKind>>,
    /// Whether it has anything of its own; without this where its containers share something.
    pub infra: Option<bool>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What becomes of it when its last container has ended.
    pub exit_policy: ExitPolicy,
    /// Whether a pod of its name goes first, with its containers.
    pub replace: bool,
    /// What makes it, word by word.
    pub command: Vec<String>,
}

impl PodOptions {
    /// What its containers share by default: podman's choice.
    pub const SHARES: [NamespaceKind; 3] = [NamespaceKind::Ipc, NamespaceKind::Network, NamespaceKind::Uts];

    /// What its containers share, and whether there is anything to start; refuses what contradicts that.
    fn decide_shares(&self) -> Result<(BTreeSet<NamespaceKind>, bool)> {
        let is_empty = self.shares.as_ref().is_some_and(BTreeSet::is_empty);
        let infra = self.infra.unwrap_or(!is_empty);
        let refuse = |option, rule: String| Err(PodError::Option { option, rule }.into());
        if !infra {
            if let Some(shares) = self.shares.as_ref().filter(|shares| !shares.is_empty()) {
                let names: Vec<_> = shares.iter().map(|kind| kind.name()).collect();
                let rule = format!("cannot set share({}) namespaces without an infra container", names.join(","));
                return refuse("--share", rule);
            }
            if let Some(option @ ("--publish" | "--publish-all")) = self.network_option {
                return refuse(
                    option,
                    "you must have an infra container to publish port bindings to the host".to_owned(),
                );
            }
            if let Some(option) = self.network_option {
                return refuse(option, "cannot configure the pod's network without an infra container".to_owned());
            }
            if self.hostname.is_some() {
                return refuse("--hostname", "cannot set the pod's host name without an infra container".to_owned());
            }
            return Ok((BTreeSet::new(), false));
        }
        let shares = self.shares.clone().unwrap_or_else(|| Self::SHARES.into());
        if let (Some(option), false) = (self.network_option, shares.contains(&NamespaceKind::Network)) {
            return refuse(option, "the pod's containers do not share the network (--share)".to_owned());
        }
        if self.hostname.is_some() && !shares.contains(&NamespaceKind::Uts) {
            return refuse("--hostname", "the pod's containers do not share the host's name, uts (--share)".to_owned());
        }
        Ok((shares, true))
    }
}

/// Makes a pod, durably. Nothing of it is started.
///
/// # Errors
/// [`stos_store::Error::NameTaken`] and [`stos_store::Error::NameOfPod`]; [`PodError::Option`] for options that contradict each other; what
/// networks say. Whatever it is, no trace of the pod is left; but one that was to be replaced may be gone.
pub fn create_pod(engine: &Engine, options: &PodOptions) -> Result<PodRecord> {
    let (shares, infra) = options.decide_shares()?;
    let shares_network = shares.contains(&NamespaceKind::Network);
    let network = if shares_network { options.network } else { Network::None };
    if network == Network::Container {
        let rule = "expected bridge, none, host, ns:PATH or the names of networks: a pod's network is its own";
        return Err(PodError::Option { option: "--network", rule: rule.to_owned() }.into());
    }
    let asked = CreateOptions { network, networking: options.networking.clone(), ..CreateOptions::default() };
    if shares_network {
        networking::check(engine, &asked)?;
    }
    if let Some(name) = &options.name {
        if options.replace && matches!(engine.store.holder_of(name.as_str())?, Some(NameHolder::Pod(_))) {
            replace(engine, name)?;
        }
        check_name_is_free(engine, name)?;
    }
    let id = PodId::random();
    let name = options.name.clone().unwrap_or_else(|| default_name(id.digits()));
    let record = PodRecord {
        version: POD_VERSION,
        hostname: hostname(options, network, &name),
        created: now(),
        shares,
        infra,
        network,
        networking: if shares_network {
            networking::decide(engine, &asked, &[])?
        } else {
            networking::Networking::default()
        },
        labels: options.labels.clone(),
        exit_policy: options.exit_policy,
        command: options.command.clone(),
        id,
        name,
    };
    let staged = engine.store.stage()?;
    let path = staged.path().join("pod.json");
    files::write_new(&path, &files::to_record(&record, &path)?, Durability::Durable)?;
    if shares_network {
        // Not synced: the start writes them again.
        let (network, networking) = (record.network, &record.networking);
        let own = OwnFiles { hostname: &record.hostname, network, networking, now: None };
        own.names()
            .into_iter()
            .filter(|name| *name != "hostname")
            .try_for_each(|name| write_own_file(staged.path(), name, own, None))?;
    }
    let _networks = networking::hold(engine, &record.networking.networks)?;
    engine.store.commit_pod(staged, &record.id, &record.name)?;
    Ok(record)
}

/// Removes the pod that has the name, with its containers.
fn replace(engine: &Engine, name: &ContainerName) -> Result<()> {
    match find(engine, name.as_str()) {
        Ok(old) => remove(engine, &old, true, None),
        Err(Error::Store(stos_store::Error::Damaged { .. })) => remove_damaged(engine, name.as_str()).map(drop),
        Err(error) => Err(error),
    }
}

/// The host's name for the containers: podman takes the pod's own.
fn hostname(options: &PodOptions, network: Network, name: &ContainerName) -> String {
    match &options.hostname {
        Some(hostname) => hostname.clone(),
        None if network == Network::Host => name_of_host(),
        // A name is letters, digits and signs of one byte each.
        None => name.as_str().chars().take(HOSTNAME_MAX).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::list;
    use super::super::tests::engine;
    use super::*;

    #[test]
    fn a_pod_has_podman_s_defaults() {
        let (_dir, engine) = engine();
        let pod = create_pod(&engine, &PodOptions::default()).unwrap();
        assert_eq!(pod.shares, PodOptions::SHARES.into());
        assert_eq!(
            (pod.infra, pod.hostname.as_str(), pod.exit_policy),
            (true, pod.name.as_str(), ExitPolicy::Continue)
        );
        let dir = engine.store().pod_dir(&pod.id);
        let hosts = std::fs::read_to_string(dir.join("hosts")).unwrap();
        assert!(hosts.contains("localhost") && hosts.ends_with(&format!("{}\n", pod.name)), "{hosts}");
        assert!(!dir.join("hostname").exists() && !dir.join("started").exists());
        let without = PodOptions { shares: Some(BTreeSet::new()), ..PodOptions::default() };
        let pod = create_pod(&engine, &without).unwrap();
        assert!(!pod.infra && pod.shares.is_empty() && !engine.store().pod_dir(&pod.id).join("hosts").exists());
        let long = PodOptions { name: Some("a".repeat(63).parse().unwrap()), ..PodOptions::default() };
        assert_eq!(create_pod(&engine, &long).unwrap().hostname.len(), 63);
    }

    #[test]
    fn what_contradicts_itself_is_refused_and_leaves_nothing() {
        let (_dir, engine) = engine();
        let shares = |kinds: &[NamespaceKind]| Some(kinds.iter().copied().collect::<BTreeSet<_>>());
        for options in [
            PodOptions { infra: Some(false), shares: shares(&[NamespaceKind::Ipc]), ..PodOptions::default() },
            PodOptions { infra: Some(false), network_option: Some("--publish"), ..PodOptions::default() },
            PodOptions { infra: Some(false), hostname: Some("h".into()), ..PodOptions::default() },
            PodOptions { shares: shares(&[NamespaceKind::Ipc]), network_option: Some("-p"), ..PodOptions::default() },
            PodOptions { shares: shares(&[NamespaceKind::Ipc]), hostname: Some("h".into()), ..PodOptions::default() },
            PodOptions { network: Network::Container, ..PodOptions::default() },
        ] {
            let refused = create_pod(&engine, &options);
            assert!(matches!(refused, Err(Error::Pod(PodError::Option { .. }))), "{options:?}");
        }
        assert!(list(&engine).unwrap().is_empty());
        assert_eq!(files::list_names(&engine.store().staging_area()).unwrap(), [""; 0]);
    }

    #[test]
    fn a_name_is_replaced_on_request_alone() {
        let (_dir, engine) = engine();
        let named = PodOptions { name: Some("web".parse().unwrap()), ..PodOptions::default() };
        let first = create_pod(&engine, &named).unwrap();
        let refused = create_pod(&engine, &named);
        assert!(matches!(refused, Err(Error::Store(stos_store::Error::NameOfPod { .. }))), "{refused:?}");
        let second = create_pod(&engine, &PodOptions { replace: true, ..named.clone() }).unwrap();
        assert_ne!(first.id, second.id);
        assert_eq!(engine.store().pods().unwrap(), std::slice::from_ref(&second.id));
        // One whose record is lost has its name all the same.
        std::fs::write(engine.store().pod_dir(&second.id).join("pod.json"), "{").unwrap();
        let third = create_pod(&engine, &PodOptions { replace: true, ..named }).unwrap();
        assert_eq!(engine.store().pods().unwrap(), [third.id]);
    }
}
