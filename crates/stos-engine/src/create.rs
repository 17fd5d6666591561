// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From an image to a container that can be started: the stages in their order, each a function of its name.
//!
//! Everything is made in staging. Before the last rename nothing is visible, after it nothing is missing; on any error
//! every trace is gone.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use stos_layerfs::{Chain, Integrity};
use stos_runtime::{ProcessRecord, RuntimeConfig};
use stos_spec::{ImageRef, UserSpec};
use stos_store::files::{self, Durability};
use stos_store::{ContainerId, ContainerName, ImageRecord, ImageSelector, Lease, NameHolder, Staging};
use stos_sys::mount::{MountPlan, UpperDirs};
use stos_sys::rooted::Root;

use crate::container::{ContainerRecord, RECORD_VERSION, find, now, record, remove_gone};
use crate::error::{Error, Result, Stage};
use crate::filesystem::{create_container_filesystem, ensure_own_files};
use crate::image::load_image;
use crate::image_volumes::{self, UsedImage};
use crate::journal::Status;
use crate::lifecycle::{delete, life_lock};
use crate::limits::{self, GrantedLimits};
use crate::location::{ImageLocation, pull_image};
use crate::lookup::{check_command, look_up_user};
use crate::namespaces::{JoinedContainers, NamespaceKind, NamespaceOf, hostname_of, name_of_host};
use crate::networking::{self, Networking};
use crate::options::{CreateOptions, Network, PullPolicy};
use crate::pods::{self, PodOption};
use crate::pull::PullProgress;
use crate::rename::free_stale_name;
use crate::save::has_every_blob;
use crate::spec::{self, Confinement, ProcessPlan, add_limits, command_line, environment, runtime_config};
use crate::stage::{no_bytes, stage};
use crate::user_namespace::Request;
use crate::validate::{ValidatedImage, validate_image_before_create};
use crate::volumes::{HeldVolumes, HoldRequest, PlannedVolume, VolumeOption, with_volumes_of_others};
use crate::{Engine, JustCreated};

/// Makes a container from the image called `image`: pulls it if the policy says so, validates it, sets up its layers, its
/// filesystem and its configuration, and commits.
///
/// On any error every trace of the container is gone, and the error names the image, the stage, what was expected and
/// what was found.
pub fn create_container_from_image(
    engine: &Engine,
    image: &str,
    options: &CreateOptions,
    progress: &dyn PullProgress,
) -> Result<ContainerRecord> {
    let at =
        |stage: Stage| move |source: Error| Error::Create { image: image.to_owned(), stage, source: Box::new(source) };
    if let (Some(name), false) = (&options.name, options.replaces) {
        check_name_is_free(engine, name).map_err(at(Stage::Finalize))?;
    }
    let with_others;
    let options = if options.volumes_from.is_empty() {
        options
    } else {
        with_others = with_volumes_of_others(engine, options).map_err(at(Stage::Filesystem))?;
        &with_others
    };
    let of_pod = pods::find_for(engine, options).map_err(at(Stage::Metadata))?;
    let options = of_pod.as_ref().unwrap_or(options);
    check_mounts(options).map_err(at(Stage::Filesystem))?;
    image_volumes::check(engine, options).map_err(at(Stage::Filesystem))?;
    let limits = limits::grant(options).map_err(at(Stage::Metadata))?;
    Confinement::check(&options.security).map_err(at(Stage::Metadata))?;
    options.namespaces.find(engine).map_err(at(Stage::Metadata))?;
    joined_network(engine, options).map_err(at(Stage::Metadata))?;
    options.user_namespace.check(engine, &options.namespaces).map_err(at(Stage::Metadata))?;
    networking::check(engine, options).map_err(at(Stage::Metadata))?;
    options.service.check(options.auto_remove, options.streams.tty).map_err(at(Stage::Metadata))?;
    let user = options.user.as_deref().map(str::parse::<UserSpec>).transpose();
    user.map_err(Error::from).map_err(at(Stage::Metadata))?;
    // The lease is held until the container exists and keeps the image itself.
    let (found, _lease) = find_or_pull(engine, image, options, progress).map_err(at(Stage::Pull))?;
    let platform = &options.pull.platform;
    let mut validated =
        validate_image_before_create(engine, found, platform, options.integrity).map_err(at(Stage::Validate))?;
    validated.chain =
        stage("layerfs", no_bytes, || setup_layerfs_for_container(engine, &validated.chain, options.integrity))
            .map_err(at(Stage::Layers))?;
    let images = image_volumes::prove(engine, options, platform).map_err(at(Stage::Layers))?;
    if let (Some(name), true) = (&options.name, options.replaces) {
        // Now that the new one has all that it needs.
        replace(engine, name).map_err(at(Stage::Finalize))?;
    }
    let draft = Draft::new(engine, image, &validated, options).map_err(at(Stage::Filesystem))?;
    let draft = draft.with_limits(limits).with_images(images);
    let volumes = stage("filesystem", no_bytes, || draft.filesystem()).map_err(at(Stage::Filesystem))?;
    options.user_namespace.guarded(engine, || {
        let record =
            stage("metadata", no_bytes, || setup_container_metadata(&draft, &volumes)).map_err(at(Stage::Metadata))?;
        stage("finalize", no_bytes, || finalize_container_creation(draft, record)).map_err(at(Stage::Finalize))
    })
}

/// Refuses a name that a container of either mode or a pod goes by: what a person types must mean one of them.
pub(crate) fn check_name_is_free(engine: &Engine, name: &ContainerName) -> Result<()> {
    free_stale_name(engine, name)?;
    match engine.store.holder_of(name.as_str())? {
        // One that should have gone with its process holds no name.
        Some(NameHolder::Container(id)) if remove_gone(engine, &id)? => {}
        Some(_) => engine.store.check_name_is_free(name)?,
        None => {}
    }
    let Ok(id) = name.as_str().parse::<stos_runtime::ContainerId>() else { return Ok(()) };
    match engine.run_states().read(&id) {
        Ok(state) => Err(stos_runtime::Error::Exists { id: state.id.to_string() }.into()),
        Err(stos_runtime::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the container that has a name, whatever it does, for another that is to have it.
fn replace(engine: &Engine, name: &ContainerName) -> Result<()> {
    free_stale_name(engine, name)?;
    if let Some(id) = engine.store.container_named(name.as_str())?
        && let Some(record) = crate::container::record(engine, &id)?
    {
        match delete(engine, &record, true) {
            Ok(()) | Err(Error::NoSuchContainer(_)) => {}
            Err(error) => return Err(error),
        }
    }
    check_name_is_free(engine, name)
}

/// Gives the image of the store, or pulls it, as the policy says; with a lease under which nothing of it is removed.
fn find_or_pull(
    engine: &Engine,
    image: &str,
    options: &CreateOptions,
    progress: &dyn PullProgress,
) -> Result<(ImageRecord, Lease)> {
    let lease = engine.store.lease()?;
    let local = match engine.store.find_image(&ImageSelector::new(image)) {
        Ok(record) => Some(record),
        Err(stos_store::Error::NoSuchImage(_)) => find_by_what_it_stands_for(engine, image, options)?,
        Err(error) => return Err(error.into()),
    };
    let fits = |record: &ImageRecord| {
        record.manifest.platform.as_ref().is_none_or(|own| options.pull.platform.fit(own).is_some())
    };
    let lacks_blobs = |record: &ImageRecord| options.pull.keep_blobs && lacks_blobs(engine, record);
    let without_blobs = |reason| Error::BlobsMissing { image: image.to_owned(), reason };
    let location = match (options.pull_policy, local) {
        (PullPolicy::Missing, Some(record)) if fits(&record) && !lacks_blobs(&record) => return Ok((record, lease)),
        (PullPolicy::Missing, Some(record)) if record.reference.is_none() && fits(&record) => {
            return Err(without_blobs("it has no name to pull it by"));
        }
        (PullPolicy::Never, Some(record)) if lacks_blobs(&record) => return Err(without_blobs("--pull=never")),
        (PullPolicy::Never, Some(record)) => return Ok((record, lease)),
        (PullPolicy::Never, None) => return Err(Error::NotPulled { image: image.to_owned() }),
        (PullPolicy::Missing | PullPolicy::Always, Some(record)) => {
            // A short name means what it meant when the image came.
            ImageLocation::Registry(record.reference.clone().map_or_else(|| image.parse::<ImageRef>(), Ok)?)
        }
        (PullPolicy::Missing | PullPolicy::Always, None) => image.parse()?,
    };
    // A pull has its own, and sweeps what it leaves behind where nobody else holds one.
    drop(lease);
    loop {
        let pulled = pull_image(engine, &location, &options.pull, progress)?;
        let lease = engine.store.lease()?;
        // Between the two a prune may have taken it, for no container uses it yet.
        if engine.store.images()?.iter().any(|image| image.manifest.digest == pulled.manifest.digest) {
            return Ok((pulled, lease));
        }
    }
}

/// Gives the image of the store that a short name stands for: an alias may lead to another name.
fn find_by_what_it_stands_for(engine: &Engine, image: &str, options: &CreateOptions) -> Result<Option<ImageRecord>> {
    let Some(short) = image.parse::<ImageRef>().ok().filter(ImageRef::is_short) else { return Ok(None) };
    let candidates = match options.pull.registries.candidates(&short) {
        Ok(candidates) => candidates,
        // What the registries are not asked for need not mean anything there.
        Err(Error::RegistryConfig(_)) if options.pull_policy == PullPolicy::Never => return Ok(None),
        Err(error) => return Err(error),
    };
    for candidate in candidates {
        match engine.store.find_image(&ImageSelector::new(candidate.reference.to_string())) {
            Ok(record) => return Ok(Some(record)),
            Err(stos_store::Error::NoSuchImage(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Tells whether a sound image lacks blobs; of a damaged one that is not the first thing to tell.
fn lacks_blobs(engine: &Engine, record: &ImageRecord) -> bool {
    load_image(engine, record.clone()).is_ok_and(|image| !has_every_blob(engine, &image))
}

/// Makes sure that the image's layers can be seen: picks what the container's root is stacked on and mounts it, once for all
/// containers of the image. Gives the chain that it is, another one where the host cannot mount the one that was validated.
pub fn setup_layerfs_for_container(engine: &Engine, chain: &Chain, integrity: Integrity) -> Result<Chain> {
    let chosen = optimize_layer_access(chain);
    let Err(error) = mount_image_layers(engine, chosen) else { return Ok(chosen.clone()) };
    match engine.layerfs.stand_in(chosen, integrity)? {
        Some(other) => {
            mount_image_layers(engine, &other)?;
            Ok(other)
        }
        None => Err(error),
    }
}

/// Picks what a container's root is stacked on, and says so: with EROFS the one merged image of the chain, whatever the number
/// of its layers; else the layers' directories, the uppermost first.
pub fn optimize_layer_access(chain: &Chain) -> &Chain {
    let (layers, bytes) = (chain.layers().len(), chain.bytes());
    tracing::debug!(chain = %chain.chain_id(), backend = %chain.kind(), layers, bytes, "what the container stands on");
    chain
}

/// Mounts the chain's image, unless it is mounted from these very files already.
pub fn mount_image_layers(engine: &Engine, chain: &Chain) -> Result<()> {
    engine.layerfs.ensure_chain_mounted(chain)?;
    Ok(())
}

/// Gives the typed plan of a container's root: the chain below, the container's own directories above.
pub fn container_mount_plan(engine: &Engine, record: &ContainerRecord, chain: &Chain) -> Result<MountPlan> {
    let dir = engine.store.container_dir(&record.id);
    let upper = UpperDirs { upper: dir.join("upper"), work: dir.join("work"), volatile: record.is_volatile() };
    let ids = record.user_namespace.as_ref().map(|users| users.mappings.clone());
    Ok(MountPlan { ids, ..engine.layerfs.container_plan(chain, upper)? })
}

/// A container in staging: what the last three stages work on. Dropped, every trace of it goes.
pub struct Draft<'a> {
    engine: &'a Engine,
    image: &'a str,
    validated: &'a ValidatedImage,
    options: &'a CreateOptions,
    confinement: Confinement<'a>,
    joins: JoinedContainers,
    networking: Networking,
    id: ContainerId,
    hostname: String,
    staged: Staging,
    limits: GrantedLimits,
    images: Vec<UsedImage>,
    /// Its runtime configuration, when that has been made.
    config: OnceCell<RuntimeConfig>,
    /// Its volumes, when they have been made.
    volumes: OnceCell<HeldVolumes>,
}

impl<'a> Draft<'a> {
    /// Begins a container from a validated image whose layers are set up; `image` is what the user called it.
    pub fn new(
        engine: &'a Engine,
        image: &'a str,
        validated: &'a ValidatedImage,
        options: &'a CreateOptions,
    ) -> Result<Self> {
        let id = ContainerId::random();
        let (confinement, mut joins) = (Confinement::of(&options.security)?, options.namespaces.find(engine)?);
        joins.extend(options.user_namespace.joined(engine)?);
        joins.extend(joined_network(engine, options)?);
        let networking = networking::decide(engine, options, &validated.image.config.exposed_ports)?;
        let hostname = hostname(engine, options, &joins, &id)?;
        let (staged, limits) = (engine.store.stage()?, GrantedLimits::default());
        let (config, volumes) = (OnceCell::new(), OnceCell::new());
        Ok(Self {
            engine,
            image,
            validated,
            options,
            confinement,
            joins,
            networking,
            hostname,
            staged,
            id,
            limits,
            images: Vec::new(),
            config,
            volumes,
        })
    }

    /// Gives it limits and devices; without this it has none but the kernel's own.
    #[must_use]
    pub fn with_limits(self, limits: GrantedLimits) -> Self {
        Self { limits, ..self }
    }

    /// Gives it the images that are mounted in it: those that its options name, in the same order.
    #[must_use]
    pub fn with_images(self, images: Vec<UsedImage>) -> Self {
        Self { images, ..self }
    }

    fn image_root(&self) -> PathBuf {
        let chain = &self.validated.chain;
        self.engine.layerfs.chain_mount_point(chain.kind(), chain.chain_id())
    }

    /// The files of the container or the pod whose network it has.
    fn shared_files(&self) -> Result<Vec<(&'static str, PathBuf)>> {
        let Some(other) = self.joins.get(&NamespaceKind::Network) else {
            return Ok(pods::shared_files(self.engine, self.options));
        };
        let gone = || Error::NoSuchContainer(other.to_string());
        let owner = record(self.engine, other)?.ok_or_else(gone)?;
        let files = networking::shared_files(self.engine, &owner);
        if files.iter().any(|(_, path)| !path.exists()) {
            // Whichever of the two is used first, it is there.
            let _lock = life_lock(self.engine, other)?.ok_or_else(gone)?;
            ensure_own_files(self.engine, &owner, None)?;
        }
        Ok(files)
    }

    /// Makes its directories ([`create_container_filesystem`]), and gives its volumes: those that are asked for, and those of
    /// the image where nothing else is mounted. They are held as long as the draft is; those that were made for it go with it, unless it
    /// becomes a container.
    pub fn filesystem(&self) -> Result<Vec<PlannedVolume>> {
        let image_root = self.image_root();
        create_container_filesystem(self.staged.path(), &image_root)?;
        let mut wanted = self.options.volumes.clone();
        let declared = self.validated.image.config.volumes.iter().map(|target| Path::new(target.trim_end_matches('/')));
        wanted.extend(declared.filter(|target| !self.options.has_mount_at(target)).map(VolumeOption::anonymous));
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let durability = if self.options.auto_remove { Durability::Volatile } else { Durability::Durable };
        let request = HoldRequest { wanted: &wanted, image_root: &image_root, durability };
        let held = HeldVolumes::take(self.engine, &request)?;
        Ok(self.volumes.get_or_init(|| held).planned().to_vec())
    }
}

/// Finds the container whose network the new one has. It need not run before the new one is started.
fn joined_network(engine: &Engine, options: &CreateOptions) -> Result<Option<(NamespaceKind, ContainerId)>> {
    let query = options.networking.container.as_ref().filter(|_| options.network == Network::Container);
    query.map(|query| Ok((NamespaceKind::Network, find(engine, query)?.id))).transpose()
}

/// Gives the name that a container finds its host to have.
fn hostname(engine: &Engine, options: &CreateOptions, joins: &JoinedContainers, id: &ContainerId) -> Result<String> {
    match (&options.hostname, &options.namespaces.uts) {
        // The pod's options have it.
        (Some(hostname), NamespaceOf::Own | NamespaceOf::Pod) => Ok(hostname.clone()),
        (Some(hostname), NamespaceOf::Host | NamespaceOf::Container(_)) => {
            let reason = "the uts namespace is not the container's own: it would change another's name".to_owned();
            Err(Error::Option { option: "--hostname", value: hostname.clone(), reason })
        }
        (None, NamespaceOf::Host | NamespaceOf::Pod) => Ok(name_of_host()),
        (None, NamespaceOf::Container(_)) => {
            let found = joins.get(&NamespaceKind::Uts).map(|other| hostname_of(engine, other)).transpose()?.flatten();
            Ok(found.unwrap_or_else(name_of_host))
        }
        (None, NamespaceOf::Own) if options.network == Network::Host => Ok(name_of_host()),
        (None, NamespaceOf::Own) => Ok(id.short().to_owned()),
    }
}

/// Refuses bind mounts whose source is not there, and two mounts at one place: podman's rules, told before anything is fetched.
fn check_mounts(options: &CreateOptions) -> Result<()> {
    let targets: Vec<_> = options.targets().collect();
    for (number, target) in targets.iter().enumerate() {
        if targets[..number].contains(target) {
            let value = target.display().to_string();
            return Err(Error::Option { option: "mount", value, reason: "duplicate mount destination".to_owned() });
        }
    }
    for mount in &options.mounts {
        if let Err(error) = std::fs::metadata(&mount.source) {
            let value = mount.source.display().to_string();
            return Err(Error::Option { option: "mount source", value, reason: error.to_string() });
        }
    }
    Ok(())
}

/// Writes the runtime configuration and gives the container's record.
///
/// User and command are looked up in the image; what a bind mount or a volume covers is left to the start.
pub fn setup_container_metadata(draft: &Draft<'_>, volumes: &[PlannedVolume]) -> Result<ContainerRecord> {
    let (options, image) = (draft.options, &draft.validated.image);
    let config = &image.config;
    let user = match &options.user {
        Some(user) => user.parse::<UserSpec>()?,
        None => options.user_namespace.default_user().unwrap_or_else(|| config.user.clone()),
    };
    let process = plan_process(draft, &user, volumes)?;
    let (uid, gid, groups) = &process.ids;
    let request = Request { options: &options.user_namespace, image: &draft.image_root(), user: (*uid, *gid, groups) };
    let user_namespace = request.decide(draft.engine)?;
    let shared = draft.shared_files()?;
    let network = spec::NetworkPlan { networking: &draft.networking, shared: &shared };
    let hostname = &draft.hostname;
    let mut json =
        runtime_config(&process, options, network, volumes, &draft.confinement, draft.id.as_str(), hostname)?;
    add_limits(&mut json, &draft.limits, &options.limits);
    if let Some(users) = &user_namespace {
        spec::users::apply(&mut json, users, options, volumes, &draft.limits.device_sources);
    }
    let text = draft.confinement.text(&json);
    let checked = RuntimeConfig::of_parts(json, draft.confinement.profile()).map_err(limits::name_option)?;
    draft.config.get_or_init(|| checked);
    files::write_new(&draft.staged.path().join("config.json"), &text, Durability::Volatile)?;
    let mut labels = config.labels.clone();
    labels.extend(options.labels.clone());
    let stop_signal = match options.stop_signal {
        Some(signal) => signal,
        None => config.stop_signal.as_deref().map_or(Ok(15), stos_runtime::parse_signal)?,
    };
    let service = options.service.decide(config.healthcheck.as_ref())?;
    options.unit.sdnotify.check(&service)?;
    Ok(ContainerRecord {
        version: RECORD_VERSION,
        name: options.name.clone().unwrap_or_else(|| default_name(&draft.id)),
        id: draft.id.clone(),
        image: image.record.reference.as_ref().map_or_else(|| draft.image.to_owned(), ToString::to_string),
        image_id: image.record.image_id,
        manifest: image.record.manifest.digest,
        layers: config.diff_ids.clone(),
        chain: draft.validated.chain.chain_id(),
        backend: draft.validated.chain.kind(),
        created: now(),
        command: process.args,
        entrypoint: Some(options.entrypoint.clone().unwrap_or_else(|| config.entrypoint.clone())),
        user,
        labels,
        stop_signal,
        network: options.network,
        networking: draft.networking.clone(),
        joins: draft.joins.clone(),
        pod: options.pod.as_ref().and_then(PodOption::membership).cloned(),
        user_namespace,
        volumes: volumes.iter().map(|volume| volume.used.clone()).collect(),
        images: draft.images.clone(),
        auto_remove: options.auto_remove,
        service,
        streams: options.streams,
        init: options.init,
        unit: options.unit.clone(),
        run_by: (options.auto_remove && options.starts_at_once).then(ProcessRecord::of_caller).transpose()?,
    })
}

/// Puts together what the container runs, where and as whom; refuses a user or a command that the image does not have.
fn plan_process(draft: &Draft<'_>, user: &UserSpec, volumes: &[PlannedVolume]) -> Result<ProcessPlan> {
    let (options, config) = (draft.options, &draft.validated.image.config);
    let args = command_line(config, options)?;
    let env = environment(config, options, &draft.hostname);
    let image_cwd = Some(config.working_dir.clone()).filter(|dir| !dir.is_empty());
    let cwd = options.working_dir.clone().or(image_cwd).unwrap_or_else(|| "/".to_owned());
    let root = Root::open(&draft.image_root())?;
    let covers_accounts = options.targets().any(|target| target.starts_with("/etc") || target == Path::new("/"));
    let ids = match look_up_user(&root, user) {
        Err(_) if covers_accounts => (0, 0, Vec::new()),
        other => other?,
    };
    if options.mounts.is_empty() && volumes.is_empty() && options.images.is_empty() {
        check_command(&root, &args[0], &cwd, &env)?;
    }
    let stop_signal = options.stop_signal.map(stos_runtime::signal_name).or_else(|| config.stop_signal.clone());
    Ok(ProcessPlan { args, env, cwd, ids, stop_signal })
}

/// Gives a container or a pod without a name one that people can type: the first digits of its id.
pub(crate) fn default_name(id: &ContainerId) -> ContainerName {
    const ADJECTIVES: [&str; 16] = [
        "amber", "brave", "calm", "deft", "eager", "fond", "glad", "hale", "keen", "lucid", "merry", "neat", "proud",
        "quiet", "swift", "warm",
    ];
    const NOUNS: [&str; 16] = [
        "alder", "birch", "cedar", "dune", "elm", "fern", "grove", "heron", "isle", "lark", "maple", "otter", "pine",
        "raven", "stone", "wren",
    ];
    let nibble = |at: usize| usize::from_str_radix(&id.as_str()[at..=at], 16).unwrap_or(0);
    let text = format!("{}_{}_{}", ADJECTIVES[nibble(0)], NOUNS[nibble(1)], &id.as_str()[..6]);
    text.parse().unwrap_or_else(|_| unreachable!("letters, digits and '_' make a name"))
}

/// Claims the name and makes the container exist by one rename, durably; or neither.
pub fn finalize_container_creation(draft: Draft<'_>, record: ContainerRecord) -> Result<ContainerRecord> {
    let dir = draft.staged.path();
    files::write_new(&dir.join("container.json"), &files::to_json(&record), Durability::Volatile)?;
    // A container that goes with its process needs to outlast nothing.
    let durability = if record.auto_remove { Durability::Volatile } else { Durability::Durable };
    if record.auto_remove {
        // Who waits for a container that goes opens this beforehand, and reads it when its name is gone.
        files::write_new(&dir.join("exit.json"), b"", Durability::Volatile)?;
    } else {
        // The files that it brings itself follow from these two, whenever it has none or a power cut took them.
        files::sync_files(["config.json", "container.json"].map(|name| dir.join(name)))?;
    }
    let of_pod = pods::hold(draft.engine, &record)?;
    let networks = networking::hold(draft.engine, &record.networking.networks)?;
    draft.engine.store.commit_container(draft.staged, &record.id, &record.name, durability)?;
    drop((networks, of_pod));
    // Its record names them now.
    draft.volumes.into_inner().into_iter().for_each(HeldVolumes::keep);
    draft.engine.note(Status::Create, &record);
    if let Some(config) = draft.config.into_inner() {
        let chain = draft.validated.chain.clone();
        draft.engine.remember(JustCreated { id: record.id.clone(), chain, config });
    }
    Ok(record)
}
