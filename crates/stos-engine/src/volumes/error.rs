// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong with volumes, in podman's words where it has some.

/// What could not be done with a volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// No volume fits what was typed.
    #[error("no volume with name {0:?} found: no such volume")]
    NotFound(String),
    /// More than one volume fits.
    #[error("{query:?} may mean any of the volumes {candidates:?}")]
    Ambiguous {
        /// What was typed.
        query: String,
        /// What fits.
        candidates: Vec<String>,
    },
    /// There is a volume of that name.
    #[error("volume with name {0} already exists: volume already exists")]
    Exists(String),
    /// Containers have the volume.
    #[error(
        "volume {volume} is being used by the following container(s): {}: volume is being used", containers.join(", ")
    )]
    InUse {
        /// Its name.
        volume: String,
        /// Their ids.
        containers: Vec<String>,
    },
    /// A container's record cannot be read: which volumes it uses is unknown, so nothing may be removed.
    #[error("container {container} may use any volume, for its record cannot be read: {source}")]
    UnknownUser {
        /// Its id.
        container: String,
        /// Why it cannot be read.
        source: Box<crate::Error>,
    },
    /// Volumes are not stos's own: there are no plugins.
    #[error(
        "volume {volume} uses volume plugin {driver} but it could not be retrieved: no volume plugin with name {driver} available: \
         required plugin missing"
    )]
    Driver {
        /// The volume's name.
        volume: String,
        /// What was asked for.
        driver: String,
    },
    /// An option that the driver does not have.
    #[error("invalid mount option {0} for driver 'local': invalid argument")]
    UnknownOption(String),
    /// An option of a value that the driver cannot have.
    #[error("invalid volume option {option} for driver 'local': {reason}")]
    Option {
        /// The option, with its value.
        option: String,
        /// What was expected.
        reason: String,
    },
    /// A container of which volumes are wanted.
    #[error("looking up container {container:?} for volumes-from: {source}")]
    From {
        /// As it was named.
        container: String,
        /// What was found.
        source: Box<crate::Error>,
    },
    /// What is to be mounted of a volume is not in it.
    #[error("volume {volume}: subpath {subpath:?} is not in it: {reason}")]
    Subpath {
        /// The volume's name.
        volume: String,
        /// As it was given.
        subpath: String,
        /// What was found.
        reason: String,
    },
}
