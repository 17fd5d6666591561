// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine could not do, and what that means for an exit code.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use stos_spec::{
    BlobDigest, ConfigError, DigestError, ImageRef, ManifestError, PlatformError, ReferenceError, UserError,
};

/// The stages of `create`, under the names of their functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `pull_image_from_registry`
    Pull,
    /// `validate_image_before_create`
    Validate,
    /// `setup_layerfs_for_container`
    Layers,
    /// `create_container_filesystem`
    Filesystem,
    /// `setup_container_metadata`
    Metadata,
    /// `finalize_container_creation`
    Finalize,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull the image",
            Self::Validate => "validate the image",
            Self::Layers => "set up its layers",
            Self::Filesystem => "make the container's filesystem",
            Self::Metadata => "write the container's configuration",
            Self::Finalize => "commit the container",
        })
    }
}

/// What a filesystem has too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// Room for data.
    Bytes,
    /// Room for files.
    Inodes,
}

impl fmt::Display for Scarce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Inodes => "inodes",
        })
    }
}

/// What the engine could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A container could not be created; every trace of it is gone.
    #[error("cannot create a container from {image}: cannot {stage}: {source}")]
    Create {
        /// The image as it was named.
        image: String,
        /// Where it failed.
        stage: Stage,
        /// Why.
        source: Box<Error>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] stos_store::Error),
    /// LayerFS failed.
    #[error(transparent)]
    Layers(#[from] stos_layerfs::Error),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] stos_registry::Error),
    /// How registries are configured cannot be read or followed, or forbids the image.
    #[error(transparent)]
    RegistryConfig(#[from] stos_config::Error),
    /// The policy requires a signature, and the image's are not what it wants, or cannot be checked.
    #[error(transparent)]
    Policy(#[from] crate::policy::PolicyError),
    /// A short name is in none of the registries that are searched for it.
    #[error("no registry that is searched has {name}: {}", tried_text(tried))]
    InNoRegistry {
        /// The short name.
        name: String,
        /// The images that were asked for, and what came of it.
        tried: Vec<(ImageRef, Error)>,
    },
    /// A credential was given for a short name that several registries are searched for: it belongs to one of them.
    #[error("--creds with a short name: {name} is searched for in {}, and a credential belongs to one registry", registries.join(", "))]
    CredentialForSeveral {
        /// The short name.
        name: String,
        /// The registries.
        registries: Vec<String>,
    },
    /// A proxy of a kind that stos does not speak to.
    #[error("the proxy {proxy} is of a kind that is not supported")]
    UnsupportedProxy {
        /// Its address, without a user or a password.
        proxy: String,
    },
    /// No registry was named, and none is searched.
    #[error("no registry is given, and registries.conf has no unqualified-search-registries")]
    NoDefaultRegistry,
    /// A registry does not accept a user and a password, or a token.
    #[error("{key} does not accept this login: {source}")]
    LoginRefused {
        /// The registry or the namespace.
        key: String,
        /// What it answered.
        source: stos_registry::Error,
    },
    /// An image without a name is to be pushed to where its name says.
    #[error("{image} has no name that says where to push it")]
    NoDestination {
        /// The image, by its ID.
        image: String,
    },
    /// A login is stored where `logout` does not remove it.
    #[error("the login for {key} was not stored by stos or podman: it is {kept_in}")]
    LoggedInElsewhere {
        /// The registry or the namespace.
        key: String,
        /// File and key, or helper.
        kept_in: String,
    },
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] stos_runtime::Error),
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] stos_sys::SysError),
    /// The reference cannot be used.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The platform cannot be used.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The manifest or index cannot be used.
    #[error("manifest {digest}: {source}")]
    Manifest {
        /// The document.
        digest: BlobDigest,
        /// Which rule it breaks.
        source: ManifestError,
    },
    /// The image configuration cannot be used.
    #[error("configuration {digest}: {source}")]
    Config {
        /// The document.
        digest: BlobDigest,
        /// Which rule it breaks.
        source: ConfigError,
    },
    /// A blob is not the one that was promised.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Indexes that lead to indexes without end.
    #[error("manifest {digest}: an index within {depth} indexes, expected an image")]
    NestedIndex {
        /// Where it stopped.
        digest: BlobDigest,
        /// How deep it is.
        depth: usize,
    },
    /// The image is not in the store, and may not be pulled.
    #[error("no such image: {image:?}, and --pull=never")]
    NotPulled {
        /// The image as it was named.
        image: String,
    },
    /// The image is in the store, but not every blob that its layers came as, and they are to be kept.
    #[error("image {image}: not every layer's blob is in the store, as --keep-blobs wants, and {reason}")]
    BlobsMissing {
        /// The image as it was named.
        image: String,
        /// Why they are not fetched.
        reason: &'static str,
    },
    /// The disk has too little room for what is missing of an image; nothing of it was fetched.
    #[error("image {image} needs at least {needed} {scarce} more in {}, where {free} are free", path.display())]
    NoRoomForImage {
        /// Its name; of several images that come together the first one's.
        image: String,
        /// DATA-ROOT.
        path: PathBuf,
        /// What is too little.
        scarce: Scarce,
        /// How many are needed at least, the reserve that a layer leaves to others included.
        needed: u64,
        /// How many are free.
        free: u64,
    },
    /// The image is still needed.
    #[error("image {image} is used by container {container}")]
    ImageInUse {
        /// The image as it was named.
        image: String,
        /// One of the containers.
        container: String,
    },
    /// The image is mounted for somebody to look at.
    #[error("image {image} is mounted")]
    ImageMounted {
        /// The image as it was named.
        image: String,
    },
    /// The image is not mounted.
    #[error("image {image} is not mounted")]
    NotMounted {
        /// The image as it was named.
        image: String,
    },
    /// Another store that shares ROOT has mounted the same image.
    #[error("image {image} is mounted for the store {}, which shares this ROOT", store.display())]
    MountedElsewhere {
        /// The image's name.
        image: String,
        /// The other DATA-ROOT.
        store: PathBuf,
    },
    /// The image has other names, and was named by its ID.
    #[error("image {image} has several names: {names:?}")]
    ImageHasNames {
        /// The image as it was named.
        image: String,
        /// Its names.
        names: Vec<String>,
    },
    /// A name is to be taken from an image that does not have it.
    #[error("image {image} has no name {name}")]
    NotItsName {
        /// The image as it was named.
        image: String,
        /// The name.
        name: String,
    },
    /// No layer fits what was typed.
    #[error("no such layer: {0:?}")]
    NoSuchLayer(String),
    /// More than one layer fits.
    #[error("{query:?} may mean any of the layers {candidates:?}")]
    AmbiguousLayer {
        /// What was typed.
        query: String,
        /// The beginnings of those that fit.
        candidates: Vec<String>,
    },
    /// The layer is still needed.
    #[error("layer {layer} is used by an image or a container")]
    LayerInUse {
        /// The layer.
        layer: stos_spec::DiffId,
    },
    /// Something is to be removed while others rely on what the store holds.
    #[error("another command is at work on {}: nothing can be removed from it now", path.display())]
    StoreBusy {
        /// The store.
        path: PathBuf,
    },
    /// An archive or a layout is not what it should be.
    #[error("{archive}: {member}: expected {expected}, found {found}")]
    BadArchive {
        /// The archive, or the layout's directory.
        archive: String,
        /// The file in it, cut.
        member: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// An archive is compressed in a way that stos does not read.
    #[error("{input}: compressed with {format}, expected a tar that is plain, or compressed with gzip or zstd")]
    UnsupportedCompression {
        /// What people call it.
        input: String,
        /// The format, which is also the name of its tool.
        format: &'static str,
    },
    /// What was asked for could not be written where the user wants it: a file, a directory, a stream.
    #[error("cannot {action} {target}: {source}")]
    Output {
        /// What was tried, as a verb.
        action: &'static str,
        /// What it is about, escaped: a path, or a member of the archive.
        target: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A user that cannot be found or used.
    #[error("user {user:?}: {reason}")]
    User {
        /// As asked for.
        user: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// The user is written wrongly.
    #[error(transparent)]
    UserSpec(#[from] UserError),
    /// Neither the image nor the user says what to run.
    #[error("the image has neither Entrypoint nor Cmd, and no command was given")]
    NoCommand,
    /// The command is not in the image.
    #[error("command {command:?} not found: {reason}")]
    CommandNotFound {
        /// As asked for.
        command: String,
        /// Which part of the path is missing.
        reason: String,
    },
    /// The command is in the image, and what should interpret it is not.
    #[error("command {command:?} cannot run: its interpreter {} does not exist in the image", interpreter.display())]
    InterpreterMissing {
        /// As asked for.
        command: String,
        /// What the script names.
        interpreter: PathBuf,
    },
    /// The command is there and cannot be run.
    #[error("command {command:?} cannot be run: {reason}")]
    CommandNotExecutable {
        /// As asked for.
        command: String,
        /// Why.
        reason: String,
    },
    /// The container has no health check.
    #[error("container {container} has no defined healthcheck")]
    NoHealthcheck {
        /// The container's name.
        container: String,
    },
    /// An option has a value that it cannot have.
    #[error("{option} {value:?}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// Something about volumes.
    #[error(transparent)]
    Volume(#[from] crate::volumes::VolumeError),
    /// A network, or what a container is to have of one.
    #[error(transparent)]
    Network(#[from] stos_network::Error),
    /// Something about pods.
    #[error(transparent)]
    Pod(#[from] crate::pods::PodError),
    /// It cannot have the users that it is to have.
    #[error(transparent)]
    UserNamespace(#[from] crate::user_namespace::UserNamespaceError),
    /// A container's record was written by another version of stos: it is not read, and nothing of it is garbage.
    #[error("{}: expected version {expected}, found {found}: another version of stos wrote it", path.display())]
    RecordVersion {
        /// The record.
        path: PathBuf,
        /// The version that this one reads.
        expected: u32,
        /// The version it has.
        found: u64,
    },
    /// No container fits what was typed.
    #[error("no such container: {0:?}")]
    NoSuchContainer(String),
    /// More than one container fits.
    #[error("{query:?} may mean any of {candidates:?}")]
    AmbiguousContainer {
        /// What was typed.
        query: String,
        /// What fits.
        candidates: Vec<String>,
    },
    /// The container is in the wrong state for the command.
    #[error("cannot {action} container {container}: it is {state}, expected {expected}")]
    ContainerState {
        /// What was to be done.
        action: &'static str,
        /// The container's name.
        container: String,
        /// The state that it is in.
        state: String,
        /// The state that it should be in.
        expected: &'static str,
    },
    /// A monitor was about to start its container again, and somebody has stopped that meanwhile, started it or removed it.
    #[error("container {0} is not started again: somebody has stopped it, started it or removed it meanwhile")]
    NotAwaited(String),
    /// The monitor of a container failed and told why.
    #[error("{message}")]
    Monitor {
        /// What it told.
        message: String,
        /// The exit code that this means.
        exit_code: i32,
    },
    /// The container lives, and its monitor was killed: nobody has its streams any more.
    #[error("container {container} runs without a monitor: that was killed, and nobody reads its output any more")]
    NoMonitor {
        /// The container's name.
        container: String,
    },
    /// The container's monitor does not answer who attaches.
    #[error("container {container}: its monitor does not answer within {seconds} s: it is suspended or hangs")]
    MonitorSilent {
        /// The container's name.
        container: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The container's monitor turned away who attaches.
    #[error("container {container}: its monitor has ended, or takes no more than {max} clients")]
    NoSession {
        /// The container's name.
        container: String,
        /// How many clients there may be.
        max: usize,
    },
    /// The container's monitor was killed, so nobody saw how the container ended.
    #[error("the exit code of container {container} is unknown: its monitor was killed, or could not write it down")]
    ExitCodeUnknown {
        /// The container's name.
        container: String,
    },
    /// A container's process has ended, and its monitor does not write that down.
    #[error(
        "container {container}: its monitor (process {pid}) has not written down the end within {seconds} s: it is suspended \
         or hangs"
    )]
    MonitorHangs {
        /// The container's name.
        container: String,
        /// The monitor.
        pid: i32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A file of a container or an image cannot be read.
    #[error("{path}: {source}")]
    Tree {
        /// The file, as seen inside.
        path: String,
        /// What failed.
        source: stos_sys::SysError,
    },
    /// A container's tree is deeper than any image's may be.
    #[error("{path}: directories nested more than {limit} deep")]
    TooDeep {
        /// Where it stopped.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// A tree has too many files whose further names have not come yet.
    #[error("{tree}: files with several names take more than {} MiB of memory to keep apart", limit >> 20)]
    TooManyLinks {
        /// The container, or the directory.
        tree: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// A sparse file is larger than what the layer backend can still address.
    #[error(
        "{path}: a sparse file of {size} bytes: expected at most {limit} in this layer, for the layers of an image that EROFS shows \
         take at most 2 TiB with their holes"
    )]
    SparseTooLarge {
        /// The file, as seen inside.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// How many bytes all files of the layer may have.
        limit: u64,
    },
    /// Something cannot be copied into a container or out of it.
    #[error(transparent)]
    Copy(#[from] crate::copy::CopyError),
    /// A tar that is to be unpacked in a container cannot be read.
    #[error("cannot read the tar: {source}")]
    CopyTar {
        /// Why.
        source: stos_erofs::Error,
    },
    /// A file cannot be written into a tar.
    #[error("cannot write {path} into a tar: {source}")]
    WriteTar {
        /// The file, as seen inside; empty for the archive as a whole.
        path: String,
        /// Why.
        source: stos_erofs::Error,
    },
    /// A container did not end though it was killed.
    #[error("container {container} did not end within {seconds} s of SIGKILL")]
    WontDie {
        /// The container's name.
        container: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// The result of an operation of the engine.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Gives a closure for `map_err` that says what was tried with which output.
    pub(crate) fn output<E: Into<io::Error>>(action: &'static str, target: impl AsRef<Path>) -> impl FnOnce(E) -> Self {
        move |source| Self::Output { action, target: shown_path(target.as_ref()), source: source.into() }
    }

    /// Tells a file operation's failure as one of the output at `target`.
    pub(crate) fn of_output(error: stos_store::Error, target: &Path) -> Self {
        match error {
            stos_store::Error::Io { action, path, source } => Self::output(action, path)(source),
            other => Self::output("write", target)(io::Error::other(other)),
        }
    }

    /// Gives the exit code of image mode's create, start and run: 127 for a command that is not there, 126 for one that
    /// cannot be run, 125 for whatever failed before (podman-run(1), "Exit Status").
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Create { source, .. } => source.exit_code(),
            Self::CommandNotFound { .. } | Self::InterpreterMissing { .. } => 127,
            Self::CommandNotExecutable { .. } => 126,
            Self::Monitor { exit_code, .. } => *exit_code,
            Self::Runtime(error) => error.exit_code().unwrap_or(125),
            _ => 125,
        }
    }

    /// Gives the error below those that only say where it happened.
    pub fn root(&self) -> &Self {
        match self {
            Self::Create { source, .. } => source.root(),
            other => other,
        }
    }
}

fn tried_text(tried: &[(ImageRef, Error)]) -> String {
    tried.iter().map(|(image, error)| format!("{image}: {error}")).collect::<Vec<_>>().join("; ")
}

/// Members of an archive are named as the archive names them, files as the user does.
fn shown_path(path: &Path) -> String {
    stos_spec::text::escape(&path.to_string_lossy()).into_owned()
}
