// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a command fails: what is said, a hint where there is one, and the exit code.

use std::fmt;
use std::io::Write;

use stos_config::Error as ConfigError;
use stos_engine::Error as EngineError;
use stos_engine::volumes::VolumeError;
use stos_layerfs::Error as LayerError;
use stos_registry::Error as RegistryError;
use stos_spec::ManifestError;
use stos_store::Error as StoreError;
use stos_store::store::ReadOnlyReason;

use crate::cli::{Global, LogFormat};
use crate::prompt::Interrupted;

/// A command that has failed.
#[derive(Debug)]
pub struct Failure {
    error: anyhow::Error,
    exit_code: u8,
    /// It is `rmi` that has failed, so no hint may advise that.
    is_of_rmi: bool,
}

impl Failure {
    /// A failure that is nothing but its message.
    pub fn message(text: impl Into<String>, exit_code: u8) -> Self {
        Self { exit_code, ..Self::from(anyhow::Error::msg(text.into())) }
    }

    /// Takes the engine's exit code: for image mode's create, start and run.
    pub fn of_container(error: EngineError) -> Self {
        let exit_code = u8::try_from(error.exit_code()).unwrap_or(125);
        Self { exit_code, ..Self::from(error) }
    }

    /// A failure of `stos rmi`.
    pub fn of_rmi(error: EngineError) -> Self {
        Self { is_of_rmi: true, ..Self::from(error) }
    }

    /// The same failure with another exit code.
    #[must_use]
    pub fn with_exit_code(self, exit_code: u8) -> Self {
        Self { exit_code, ..self }
    }

    /// Gives the exit code.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// Says on stderr what failed, why, and what to do; and logs it where there is a log.
    pub fn report(&self, global: &Global) {
        // Without a log of its own stderr would have each failure twice.
        if global.log.is_some() || global.log_format == LogFormat::Json {
            // Engines read the message alone.
            tracing::error!("{self}");
        }
        let mut stderr = std::io::stderr().lock();
        // With stderr closed there is nobody to tell.
        let _ = writeln!(stderr, "Error: {}", printable(&self.to_string()));
        if let Some(hint) = self.hint() {
            let _ = writeln!(stderr, "hint: {hint}");
        }
    }

    /// Gives the runtime's error, where it is one.
    pub fn runtime_error(&self) -> Option<&stos_runtime::Error> {
        self.error.downcast_ref()
    }

    /// Tells whether it only says that there is no such container.
    pub fn is_missing_container(&self) -> bool {
        let engine = matches!(self.error.downcast_ref::<EngineError>(), Some(EngineError::NoSuchContainer(_)));
        let runtime = self.error.downcast_ref::<stos_runtime::Error>();
        engine || matches!(runtime, Some(stos_runtime::Error::NotFound { .. }))
    }

    /// Tells whether it says that a container's record is damaged.
    pub fn is_damaged_container(&self) -> bool {
        self.error.downcast_ref::<EngineError>().is_some_and(is_damaged_container)
    }

    /// Gives what to do, where there is advice.
    pub fn hint(&self) -> Option<String> {
        let engine = self.error.chain().find_map(|error| error.downcast_ref::<EngineError>()).map(EngineError::root)?;
        let text = match engine {
            EngineError::Registry(error) | EngineError::LoginRefused { source: error, .. } => {
                return registry_hint(error, matches!(engine, EngineError::LoginRefused { .. }));
            }
            EngineError::RegistryConfig(error) => return config_hint(error),
            EngineError::UserNamespace(error) => return error.hint(),
            EngineError::Network(error) => return error.hint().map(str::to_owned),
            EngineError::Pod(error) => return error.hint().map(str::to_owned),
            EngineError::Policy(error) => return error.hint().map(str::to_owned),
            EngineError::InNoRegistry { .. } => {
                "`stos registry explain` says where it would be asked for, and as whom; name the registry where you know it"
            }
            EngineError::CredentialForSeveral { .. } => "name the registry",
            EngineError::UnsupportedProxy { .. } => PROXIES,
            EngineError::NoDefaultRegistry => "name the registry",
            EngineError::NoDestination { .. } => "give it one: `stos push IMAGE REGISTRY/REPOSITORY:TAG`",
            EngineError::LoggedInElsewhere { .. } => {
                "remove it with the tool that stored it, or name its file with --authfile"
            }
            EngineError::NotPulled { .. } => "pull it first, or use --pull=missing",
            EngineError::BlobsMissing { .. } => "`stos pull --keep-blobs` of its name fetches them",
            EngineError::UnsupportedCompression { format, .. } => {
                return Some(format!("`{format} -dc FILE | stos load` reads it, or `… | stos import -`"));
            }
            EngineError::Manifest { source: ManifestError::NoPlatform { .. }, .. } => {
                "choose one of these with --platform"
            }
            EngineError::Manifest { source: ManifestError::SchemaVersion { found }, .. } if found == "1" => {
                "schema 1 proves nothing of its layers: whoever has the image can push it again with a newer tool"
            }
            EngineError::Store(StoreError::NameTaken { .. }) => {
                "choose another name, or delete or rename that container first"
            }
            EngineError::Store(StoreError::NameOfPod { .. }) => {
                "choose another name, or remove that pod first: `stos pod rm`"
            }
            EngineError::Store(StoreError::NoSuchImage(_)) => "`stos images` lists the images, `stos pull` fetches one",
            error if is_disk_full(error) && self.is_of_rmi => {
                "the disk is full: free a little of it in another way first, then `stos rmi` can free the rest"
            }
            error if is_disk_full(error) => "the disk is full: `stos system gc` and `stos rmi` give space back",
            EngineError::NoRoomForImage { .. } => {
                "`stos system gc` frees what nothing uses, `stos image prune` and `stos rmi` remove images"
            }
            EngineError::Layers(LayerError::NoRoom { .. } | LayerError::TooLarge { .. }) => {
                "the disk has too little room for the image: `stos system gc` and `stos rmi` give space back"
            }
            error if is_damaged_container(error) => "`stos delete --force` with its id removes the container",
            EngineError::Store(StoreError::Damaged { path, .. }) if path.ends_with("pod.json") => {
                "`stos pod rm --force` removes the pod with its containers"
            }
            EngineError::Store(StoreError::Damaged { path, .. }) if path.ends_with("volume.json") => {
                "`stos volume rm` removes the volume, and with it the files that are in it still"
            }
            EngineError::Store(StoreError::Damaged { path, .. }) if path.ends_with("images/index.json") => {
                "`stos system check --repair` makes it again of what can be read and of the images' documents"
            }
            EngineError::Store(StoreError::Damaged { path, .. }) if path.ends_with("stos.json") => {
                "where this version of stos wrote the store, remove that file: it is made again"
            }
            EngineError::Store(StoreError::DamagedBlob { .. } | StoreError::NoSuchBlob(_)) => {
                "`stos pull` or `stos system check --repair` fetches it again; a pull a layer's blob with --keep-blobs"
            }
            EngineError::NoMonitor { .. } => "`stos kill` ends it, then `stos start` starts it with a monitor again",
            EngineError::ContainerState { action: "attach to", .. } => "`stos start -ai` starts it and attaches",
            EngineError::MonitorSilent { .. } => "let it go on; `stos logs` shows what it has written",
            EngineError::MonitorHangs { .. } => "let it go on, or `stos delete --force` the container",
            EngineError::NoSuchLayer(_) => "`stos layer ls` lists the layers",
            EngineError::AmbiguousLayer { .. } => "give more digits; `stos layer ls` lists the layers",
            EngineError::LayerInUse { .. } => "`stos layer inspect` says by which; `stos layer copy` leaves it here",
            EngineError::Store(StoreError::IncompatibleFormat { .. }) => {
                "a newer version of stos made it, and can use it"
            }
            EngineError::Store(StoreError::ReadOnly { reason: ReadOnlyReason::Features(_), .. }) => {
                "a newer version of stos made it, and can change it; this one can list and inspect what is there"
            }
            EngineError::Store(StoreError::ReadOnly { .. }) => "what is there can still be listed and inspected",
            EngineError::StoreBusy { .. } => "try again when it has ended",
            EngineError::Layers(LayerError::SameStore { .. }) => "name another data root with --to",
            EngineError::NoSuchContainer(_) => "`stos list` lists the containers",
            EngineError::Volume(VolumeError::NotFound(_)) => "`stos volume ls` lists the volumes",
            EngineError::Volume(VolumeError::InUse { .. }) => {
                "delete the containers first, or use --force, which deletes them too"
            }
            EngineError::Volume(VolumeError::UnknownUser { .. }) => {
                "`stos delete --force` with its id removes the container"
            }
            EngineError::ImageInUse { .. } => "delete that container first, or use --force",
            EngineError::ImageMounted { .. } => "`stos image unmount` it first, or use --force",
            EngineError::NotMounted { .. } => "`stos image mount` lists the images that are mounted",
            EngineError::ImageHasNames { .. } => "name one of them, or use --force to remove all",
            EngineError::Layers(LayerError::DamagedLayer { .. } | LayerError::NoSuchLayer(_)) => {
                "`stos pull` or `stos system check --repair` fetches damaged and missing layers again"
            }
            EngineError::Layers(LayerError::NoBackend { .. }) => {
                "Linux 6.12 or later with CONFIG_EROFS_FS_BACKED_BY_FILE is needed; `stos system info` says what is missing"
            }
            EngineError::Option { option: "--cap-add" | "--cap-drop", .. } => {
                "capabilities(7) lists them: NAME, CAP_NAME, or `all`"
            }
            EngineError::Option { option: "--log-driver", value, .. } if value == "journald" => {
                "without systemd's journal a log is a file: --log-driver k8s-file, the default, or json-file"
            }
            EngineError::NoHealthcheck { .. } => "`stos create --health-cmd` gives a container one, or its image",
            EngineError::ContainerState { action, .. } if action.starts_with("join ") => "`stos start` it first",
            EngineError::ContainerState { action: "delete", .. } => "stop it first, or use --force",
            EngineError::SparseTooLarge { .. } => "with `--layerfs dirs` layers can hold such files",
            EngineError::NoCommand => "give a command after the image",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

const PROXIES: &str = "stos speaks to proxies at http:// and https://; NO_PROXY excepts registries that need none";

/// Gives the hint of a registry's error, or of what keeps it from being asked.
fn registry_hint(error: &RegistryError, is_login: bool) -> Option<String> {
    match error {
        RegistryError::AllEndpoints { last, .. } => registry_hint(last, is_login),
        RegistryError::NoCredential { source, .. } | RegistryError::NoProxy { source, .. } => {
            let source = source.get_ref();
            if let Some(EngineError::UnsupportedProxy { .. }) = source.downcast_ref() {
                return Some(PROXIES.to_owned());
            }
            let config = source.downcast_ref::<EngineError>().and_then(|error| match error {
                EngineError::RegistryConfig(error) => Some(error),
                _ => None,
            });
            config_hint(config.or_else(|| source.downcast_ref())?)
        }
        RegistryError::Unauthorized { .. } if is_login => Some("check the user and the password".to_owned()),
        error => error.hint().map(str::to_owned),
    }
}

fn config_hint(error: &ConfigError) -> Option<String> {
    match error {
        ConfigError::NotLoggedIn { .. } => Some("`stos login` logs in".to_owned()),
        error => error.hint().map(str::to_owned),
    }
}

/// Whatever an error quotes, none of it moves the terminal's cursor. Line breaks are its own: in what it quotes they are escaped.
pub fn printable(error: &str) -> String {
    error.lines().map(stos_spec::text::escape).collect::<Vec<_>>().join("\n")
}

fn is_disk_full(error: &EngineError) -> bool {
    match error {
        EngineError::Store(error) | EngineError::Layers(LayerError::Store(error)) => error.is_full(),
        EngineError::Layers(LayerError::Write { source, .. }) => source.is_full(),
        _ => false,
    }
}

fn is_damaged_container(error: &EngineError) -> bool {
    matches!(error, EngineError::Store(StoreError::Damaged { path, .. }) if path.ends_with("container.json"))
}

impl fmt::Display for Failure {
    /// The error and its causes, each once: many of our errors name their cause already.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.error.to_string();
        for cause in self.error.chain().skip(1) {
            let cause = cause.to_string();
            if !said.contains(&cause) {
                said = format!("{said}: {cause}");
            }
        }
        f.write_str(&said)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        // As a shell has it of what Ctrl-C has ended.
        let exit_code = if error.is::<Interrupted>() { 130 } else { 1 };
        Self { error, exit_code, is_of_rmi: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once_with_a_hint() {
        let error = EngineError::Create {
            image: "x".into(),
            stage: stos_engine::Stage::Pull,
            source: Box::new(EngineError::NotPulled { image: "x".into() }),
        };
        let failure = Failure::of_container(error);
        assert_eq!(failure.exit_code(), 125);
        let said = failure.to_string();
        assert_eq!(said.matches("no such image").count(), 1, "{said}");
        assert!(failure.hint().unwrap().contains("--pull=missing"));
        assert!(Failure::message("x", 1).hint().is_none());
    }

    #[test]
    fn who_may_not_join_is_told_what_to_start() {
        let action = "join the pid namespace of";
        let (container, state) = ("a".to_owned(), "stopped".to_owned());
        let error = EngineError::ContainerState { action, container, state, expected: "running" };
        assert_eq!(Failure::from(error).hint().as_deref(), Some("`stos start` it first"));
        let (option, value, reason) = ("--cap-add", "FLY".to_owned(), "none".to_owned());
        assert!(
            Failure::from(EngineError::Option { option, value, reason }).hint().unwrap().contains("capabilities(7)")
        );
    }

    #[test]
    fn no_error_moves_the_cursor() {
        assert_eq!(printable("a\u{1b}[2J\u{202e}b\nc\td\r"), "a\\u{1b}[2J\\u{202e}b\nc\\td\\r");
    }

    #[test]
    fn an_output_without_room_is_no_reason_to_remove_images() {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = EngineError::Output { action: "write", target: "x".into(), source };
        assert!(Failure::from(error).hint().is_none());
    }

    #[test]
    fn an_archive_that_cannot_be_decompressed_gets_its_tool() {
        for format in ["xz", "bzip2"] {
            let error = EngineError::UnsupportedCompression { input: "x".into(), format };
            assert!(Failure::from(error).hint().unwrap().starts_with(&format!("`{format} -dc FILE | stos load`")));
        }
    }

    #[test]
    fn rmi_is_advised_where_it_helps_and_not_to_itself() {
        let full =
            || EngineError::Store(StoreError::io("create", "x")(std::io::Error::from(std::io::ErrorKind::StorageFull)));
        let hint = |failure: Failure| failure.hint().unwrap();
        assert!(hint(full().into()).contains("`stos rmi` give"));
        assert!(!hint(Failure::of_rmi(full())).contains("`stos rmi` give"));
        let layer = || stos_spec::BlobDigest::of(b"").into();
        for error in [
            LayerError::NoRoom { layer: layer(), written: 0, free: 0, reserve: 0 },
            LayerError::TooLarge { layer: layer(), limit: 0 },
        ] {
            assert!(hint(EngineError::Layers(error).into()).contains("`stos rmi` give"));
        }
        assert!(Failure::of_rmi(EngineError::NoCommand).hint().is_some());
    }
}
