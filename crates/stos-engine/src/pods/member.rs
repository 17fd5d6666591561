// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A new container of a pod: what it has of the pod, and what it cannot say itself then.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stos_store::{Lock, PodId};

use super::{PodError, PodRecord, find, gone};
use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::Result;
use crate::namespaces::{NamespaceKind, NamespaceOf};
use crate::networking::NetworkingOptions;
use crate::options::{CreateOptions, Network};
use crate::user_namespace::UserNamespaceOptions;

/// A pod that a new container is to be of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodOption {
    /// Its id, its name, or the beginning of its id.
    pub pod: String,
    /// The option by which something was said of the container's own network, where something was.
    pub network_option: Option<&'static str>,
    /// What comes of it.
    membership: Option<Membership>,
}

impl PodOption {
    /// A pod, as people write it.
    pub fn new(pod: impl Into<String>, network_option: Option<&'static str>) -> Self {
        Self { pod: pod.into(), network_option, membership: None }
    }

    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }
}

/// What is recorded of a container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The pod.
    pub id: PodId,
    /// Which of its namespaces the container joins at each start.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub joins: BTreeSet<NamespaceKind>,
}

/// Gives the options of a new container as its pod makes them; `None` for one that is to be of none.
///
/// # Errors
/// [`PodError::NotFound`]; [`PodError::OfPod`] for an option that only the pod can have.
pub(crate) fn find_for(engine: &Engine, options: &CreateOptions) -> Result<Option<CreateOptions>> {
    let Some(option) = &options.pod else { return Ok(None) };
    let pod = find(engine, &option.pod)?;
    check(options, option, &pod)?;
    let mut options = options.clone();
    let mut joins = BTreeSet::new();
    if pod.shares(NamespaceKind::Network) {
        (options.network, options.networking) = network_of(&pod, &options);
        if options.network == Network::Container {
            joins.insert(NamespaceKind::Network);
        }
    }
    let namespaces = &mut options.namespaces;
    for (kind, of) in [
        (NamespaceKind::Ipc, &mut namespaces.ipc),
        (NamespaceKind::Uts, &mut namespaces.uts),
        (NamespaceKind::Pid, &mut namespaces.pid),
        (NamespaceKind::Cgroup, &mut namespaces.cgroup),
    ] {
        // What is asked for by name counts more, as with podman.
        if pod.shares(kind) && *of == NamespaceOf::Own && !(kind == NamespaceKind::Ipc && namespaces.has_no_shm) {
            *of = NamespaceOf::Pod;
            joins.insert(kind);
        }
    }
    if joins.contains(&NamespaceKind::Uts) {
        options.hostname = Some(pod.hostname.clone());
    }
    options.pod = Some(PodOption { membership: Some(Membership { id: pod.id, joins }), ..option.clone() });
    Ok(Some(options))
}

/// Refuses what the pod decides. The words are podman's.
fn check(options: &CreateOptions, option: &PodOption, pod: &PodRecord) -> Result<()> {
    let refuse = |option, rule| Err(PodError::OfPod { option, pod: pod.name.to_string(), rule }.into());
    if options.user_namespace != UserNamespaceOptions::default() {
        return refuse("--userns", "--userns and --pod cannot be set together");
    }
    if pod.shares(NamespaceKind::Network) {
        match option.network_option {
            Some(option @ ("--publish" | "--publish-all")) => {
                let rule = "published or exposed ports must be defined when the pod is created: \
                            network cannot be configured when it is shared with a pod";
                return refuse(option, rule);
            }
            Some(option @ "--add-host") => {
                let rule = "extra host entries must be specified on the pod: \
                            network cannot be configured when it is shared with a pod";
                return refuse(option, rule);
            }
            Some(option) => {
                let rule = "networks must be defined when the pod is created: \
                            network cannot be configured when it is shared with a pod";
                return refuse(option, rule);
            }
            None => {}
        }
    }
    if options.hostname.is_some() && pod.shares(NamespaceKind::Uts) && options.namespaces.uts == NamespaceOf::Own {
        return refuse("--hostname", "cannot set hostname when joining the pod UTS namespace: invalid configuration");
    }
    Ok(())
}

/// The network that the container has of the pod.
fn network_of(pod: &PodRecord, options: &CreateOptions) -> (Network, NetworkingOptions) {
    let networking = NetworkingOptions {
        namespace: pod.networking.namespace.clone(),
        expose: options.networking.expose.clone(),
        ..NetworkingOptions::default()
    };
    match pod.network {
        // What is joined is the pod's, with its files.
        Network::None | Network::Bridge | Network::Container => (Network::Container, networking),
        // The host's files, or those of the namespace: with what the pod says of them.
        network @ (Network::Host | Network::Path) => {
            let of = &pod.networking;
            let (add_hosts, no_hosts, dns) = (of.add_hosts.clone(), of.no_hosts, of.dns.clone());
            (network, NetworkingOptions { add_hosts, no_hosts, dns, ..networking })
        }
    }
}

/// The files that the container shares with its pod, where it has the pod's network.
pub(crate) fn shared_files(engine: &Engine, options: &CreateOptions) -> Vec<(&'static str, PathBuf)> {
    let membership = options.pod.as_ref().and_then(|pod| pod.membership());
    let pod = membership.filter(|membership| membership.joins.contains(&NamespaceKind::Network));
    let files = pod.into_iter().flat_map(|pod| {
        let dir = engine.store.pod_dir(&pod.id);
        ["hosts", "resolv.conf"].map(|name| (name, dir.join(name)))
    });
    files.filter(|(_, path)| path.is_file()).collect()
}

/// Keeps a new container's pod from going until the container is there.
///
/// # Errors
/// [`PodError::Gone`].
pub(crate) fn hold(engine: &Engine, container: &ContainerRecord) -> Result<Option<Lock>> {
    let Some(membership) = &container.pod else { return Ok(None) };
    engine.store.lock_pod(&membership.id)?.map(Some).ok_or_else(|| gone(container, &membership.id))
}

#[cfg(test)]
mod tests {
    use super::super::tests::engine;
    use super::super::{PodOptions, create_pod};
    use super::*;
    use crate::error::Error;

    fn of(pod: &str, network_option: Option<&'static str>) -> CreateOptions {
        CreateOptions { pod: Some(PodOption::new(pod, network_option)), ..CreateOptions::default() }
    }

    #[test]
    fn a_container_has_what_its_pod_shares_and_the_rest_for_itself() {
        let (_dir, engine) = engine();
        super::super::tests::pod(&engine, "web");
        let options = find_for(&engine, &of("web", None)).unwrap().unwrap();
        assert_eq!((options.network, options.hostname.as_deref()), (Network::Container, Some("web")));
        let namespaces = &options.namespaces;
        assert_eq!((&namespaces.ipc, &namespaces.uts), (&NamespaceOf::Pod, &NamespaceOf::Pod));
        assert_eq!((&namespaces.pid, &namespaces.cgroup), (&NamespaceOf::Own, &NamespaceOf::Own));
        let membership = options.pod.as_ref().unwrap().membership().unwrap();
        assert_eq!(membership.joins, PodOptions::SHARES.into());
        assert!(!shared_files(&engine, &options).is_empty());
        let mut own = of("web", None);
        own.namespaces.ipc = NamespaceOf::Host;
        let options = find_for(&engine, &own).unwrap().unwrap();
        assert_eq!(options.namespaces.ipc, NamespaceOf::Host);
        assert!(find_for(&engine, &CreateOptions::default()).unwrap().is_none());
    }

    #[test]
    fn what_the_pod_decides_is_refused_in_podman_s_words() {
        let (_dir, engine) = engine();
        super::super::tests::pod(&engine, "web");
        let hostname = CreateOptions { hostname: Some("h".into()), ..of("web", None) };
        for (options, words) in [
            (of("web", Some("--network")), "networks must be defined when the pod is created"),
            (of("web", Some("--publish")), "published or exposed ports must be defined when the pod is created"),
            (hostname.clone(), "cannot set hostname when joining the pod UTS namespace"),
        ] {
            let error = find_for(&engine, &options).unwrap_err();
            assert!(matches!(error, Error::Pod(PodError::OfPod { .. })), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        let missing = find_for(&engine, &of("none", None)).unwrap_err();
        assert!(missing.to_string().contains("no such pod"), "{missing}");
        // Where nothing is shared nothing is the pod's to say.
        let alone = PodOptions { name: Some("alone".parse().unwrap()), infra: Some(false), ..PodOptions::default() };
        create_pod(&engine, &alone).unwrap();
        let options = CreateOptions { pod: Some(PodOption::new("alone", Some("--publish"))), ..hostname };
        let options = find_for(&engine, &options).unwrap().unwrap();
        assert_eq!((options.hostname.as_deref(), options.network), (Some("h"), Network::None));
        assert!(shared_files(&engine, &options).is_empty());
    }
}
