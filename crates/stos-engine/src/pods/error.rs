// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What could not be done with pods.

/// What could not be done with pods. The words are podman's where it has some.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// No pod fits what was typed.
    #[error("no pod with name or ID {0:?} found: no such pod")]
    NotFound(String),
    /// More than one pod fits.
    #[error("{query:?} may mean any of the pods {candidates:?}")]
    Ambiguous {
        /// What was typed.
        query: String,
        /// The beginnings of the ids that fit.
        candidates: Vec<String>,
    },
    /// The pod that a container is of is gone.
    #[error("container {container} is of pod {pod}, which is not there any more: no such pod")]
    Gone {
        /// The container's name.
        container: String,
        /// The pod's id.
        pod: String,
    },
    /// An option of a container's says what its pod decides.
    #[error("{option} with --pod {pod}: {rule}")]
    OfPod {
        /// The option.
        option: &'static str,
        /// The pod's name.
        pod: String,
        /// Why it cannot be.
        rule: &'static str,
    },
    /// An option of a pod's needs what the pod is not to have.
    #[error("{option}: {rule}")]
    Option {
        /// The option.
        option: &'static str,
        /// Why it cannot be.
        rule: String,
    },
    /// Containers of the pod run.
    #[error("pod {pod} has containers that are running: {}", containers.join(", "))]
    Running {
        /// The pod's name.
        pod: String,
        /// Their names.
        containers: Vec<String>,
    },
    /// The process that a pod's pid namespace lives with ended while a container joined it.
    #[error("the infra process of pod {pod} has ended: its containers have no pid namespace to share")]
    InfraLost {
        /// The pod's name.
        pod: String,
    },
    /// The pod does not do what is needed for it.
    #[error("cannot {action} pod {pod}: it is {status}, expected {expected}")]
    State {
        /// What was to be done.
        action: &'static str,
        /// The pod's name.
        pod: String,
        /// What it does.
        status: String,
        /// What it should do.
        expected: &'static str,
    },
}

impl PodError {
    /// What may help.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotFound(_) => "`stos pod ls` lists the pods; `--pod new:NAME` makes one for the container",
            Self::Ambiguous { .. } => "give more digits; `stos pod ls` lists the pods",
            Self::Gone { .. } => "delete the container, and create it anew",
            Self::OfPod { .. } => {
                "give it to `stos pod create`, or make the pod for this container with --pod new:NAME"
            }
            Self::Running { .. } => "stop them first with `stos pod stop`, or use --force",
            Self::State { .. } => "`stos pod start` starts it",
            Self::InfraLost { .. } => "start it again: a new one is made",
            Self::Option { .. } => return None,
        })
    }
}
