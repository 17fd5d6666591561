// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The names that documents of images have, place by place: those that stos reads, and those of the structures that Go's readers
//! fill (opencontainers/image-spec `specs-go/v1`; containers/image `manifest`; moby `api/types/container` and `image`).
//!
//! A name counts where it stands alone: `Config` at the top of a configuration is `config` for Go, `Image` within it is a field of
//! its own.

/// Names of an object, and what stands below each. Lists stand for what they hold.
pub(crate) struct Names(&'static [(&'static str, Option<&'static Names>)]);

impl Names {
    #[cfg(test)]
    pub(super) const NONE: Self = Self(&[]);

    /// Gives the name that `folded` is in some case, as it is to be written, and the names below it.
    pub(super) fn find(&self, folded: &str) -> Option<(&'static str, Option<&'static Self>)> {
        self.0.iter().find(|(name, _)| folded.eq_ignore_ascii_case(name)).copied()
    }
}

/// A manifest or an index, and what tells a manifest of schema 1 from both.
pub(crate) const MANIFEST: Names = Names(&[
    ("schemaVersion", None),
    ("mediaType", None),
    ("artifactType", None),
    ("config", Some(&DESCRIPTOR)),
    ("layers", Some(&DESCRIPTOR)),
    ("manifests", Some(&DESCRIPTOR)),
    ("subject", Some(&DESCRIPTOR)),
    ("annotations", None),
    ("fsLayers", None),
    ("history", None),
    ("signatures", None),
]);

const DESCRIPTOR: Names = Names(&[
    ("mediaType", None),
    ("artifactType", None),
    ("digest", None),
    ("size", None),
    ("urls", None),
    ("data", None),
    ("annotations", None),
    ("platform", Some(&PLATFORM)),
]);

const PLATFORM: Names = Names(&[
    ("os", None),
    ("os.version", None),
    ("os.features", None),
    ("architecture", None),
    ("variant", None),
    ("features", None),
]);

/// An image's configuration.
pub(crate) const CONFIG: Names = Names(&[
    ("created", None),
    ("author", None),
    ("os", None),
    ("os.version", None),
    ("os.features", None),
    ("architecture", None),
    ("variant", None),
    ("config", Some(&PROCESS)),
    ("container_config", Some(&PROCESS)),
    ("rootfs", Some(&ROOTFS)),
    ("history", Some(&HISTORY)),
    ("id", None),
    ("parent", None),
    ("comment", None),
    ("container", None),
    ("docker_version", None),
    // Old versions of Docker wrote it so.
    ("Size", None),
]);

const ROOTFS: Names = Names(&[("type", None), ("diff_ids", None)]);

const HISTORY: Names =
    Names(&[("created", None), ("created_by", None), ("author", None), ("comment", None), ("empty_layer", None)]);

const PROCESS: Names = Names(&[
    ("User", None),
    ("Env", None),
    ("Entrypoint", None),
    ("Cmd", None),
    ("WorkingDir", None),
    ("Volumes", None),
    ("ExposedPorts", None),
    ("StopSignal", None),
    ("StopTimeout", None),
    ("Labels", None),
    ("Healthcheck", Some(&HEALTHCHECK)),
    ("ArgsEscaped", None),
    ("OnBuild", None),
    ("Shell", None),
    ("Image", None),
    ("Hostname", None),
    ("Domainname", None),
    ("AttachStdin", None),
    ("AttachStdout", None),
    ("AttachStderr", None),
    ("Tty", None),
    ("OpenStdin", None),
    ("StdinOnce", None),
    ("NetworkDisabled", None),
    ("MacAddress", None),
]);

const HEALTHCHECK: Names = Names(&[
    ("Test", None),
    ("Interval", None),
    ("Timeout", None),
    ("StartPeriod", None),
    ("StartInterval", None),
    ("Retries", None),
]);
