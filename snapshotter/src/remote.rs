// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers that need no unpacking. containerd asks for each layer of an image, the lowest first, whether the snapshotter has it already
//! (containerd, docs/snapshotters/remote-snapshotter.md): it does where an image of the store has it, whoever has pulled that; and
//! where the request says which image it is, that is pulled, all of it at once.
//!
//! | label | says |
//! |---|---|
//! | `containerd.io/snapshot.ref` | the chainID that the layer makes of those below it |
//! | `containerd.io/snapshot/cri.image-ref` | the image as it was asked for |
//! | `containerd.io/snapshot/cri.manifest-digest` | its manifest's digest; since containerd 1.7 |
//!
//! What the labels claim is believed nowhere: layers count by the chainID that follows from their digests. Where no image can be had
//! that has the chain, containerd downloads and unpacks the layer as for any other snapshotter; but for an image that the signature
//! policy accepts only with a signature.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stos_config::Place;
use stos_engine::image::load_image;
use stos_engine::pull::{Announced, PullProgress, pull_image_from_registry};
use stos_engine::registries::{ConnectionOptions, RegistryConfig};
use stos_engine::{Engine, PullOptions};
use stos_spec::{BlobDigest, ChainId, DiffId, ImageRef};

use crate::config::Settings;
use crate::error::{Error, Result, chain_of};
use crate::images::{Arriving, OwnImages};
use crate::metrics::{Metrics, PullResult};

/// The chain that a layer completes.
pub const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// The image that a layer belongs to.
pub const IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";
/// The manifest of that image.
pub const MANIFEST_DIGEST: &str = "containerd.io/snapshot/cri.manifest-digest";

/// Images of which the store has layers, and pulls.
#[derive(Debug, Default)]
pub struct Remote {
    /// The layers of chains that images of the store begin with, as last read.
    known: Mutex<HashMap<ChainId, Arc<[DiffId]>>>,
    /// One pull at a time of each image.
    pulling: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Images whose pull was in vain, when, and why.
    failed: Mutex<HashMap<String, (Instant, String)>>,
}

/// What a pull needs.
pub struct Puller<'a> {
    /// Where images go.
    pub engine: &'a Engine,
    /// How they are pulled.
    pub settings: &'a Settings,
    /// The images that came for containerd.
    pub own: &'a OwnImages,
    /// What is counted.
    pub metrics: &'a Metrics,
    /// Set where a pull was in vain: what it has left is to be swept.
    pub was_in_vain: Cell<bool>,
}

/// The layers of a chain, the lowest first.
#[derive(Debug)]
pub struct Found<'a> {
    /// They.
    pub layers: Arc<[DiffId]>,
    /// No sweep removes the image that was pulled for them before this is dropped: until then no snapshot may keep them.
    _arriving: Option<Arriving<'a>>,
}

impl Found<'_> {
    fn in_store(layers: Arc<[DiffId]>) -> Self {
        Self { layers, _arriving: None }
    }
}

/// Tells what a pull has come to, and who wants to know which image it is.
struct Watch<'a> {
    metrics: &'a Metrics,
    arriving: &'a Arriving<'a>,
    asked: &'a ImageRef,
}

impl PullProgress for Watch<'_> {
    fn resolved(&self, image: &Announced<'_>) {
        if let Err(error) = self.arriving.is_image(image.image_id, image.image.unwrap_or(self.asked)) {
            tracing::warn!(image = %self.asked, %error, "cannot note that it came for containerd: it stays");
        }
    }

    fn layer_advanced(&self, blob: BlobDigest, count: u64) {
        self.metrics.layer_advanced(blob, count);
    }
}

impl Remote {
    /// Gives the layers of a chain, all of them sound, where an image has it: one of the store, or one that is pulled now because
    /// `labels` name it. `None` where containerd has to unpack. The caller has no lock and no lease.
    ///
    /// # Errors
    /// Where the store cannot be read; [`Error::Refused`]. A pull that fails else is told in the log.
    pub fn layers<'a>(
        &self,
        puller: &Puller<'a>,
        chain: ChainId,
        labels: &BTreeMap<String, String>,
    ) -> Result<Option<Found<'a>>> {
        if let Some(layers) = self.local_layers(puller.engine, chain)? {
            return Ok(Some(Found::in_store(layers)));
        }
        let Some(reference) = labels.get(IMAGE_REF).filter(|_| puller.settings.pull.enabled) else { return Ok(None) };
        let reference = match reference.parse::<ImageRef>() {
            Ok(reference) => reference,
            Err(error) => {
                tracing::warn!(image = reference, %error, "not pulled: it is no reference");
                return Ok(None);
            }
        };
        if let Some(found) = self.pull_for(puller, &reference, chain)? {
            return Ok(Some(found));
        }
        // The tag may have moved since containerd asked for it, or a mirror be behind.
        let digest = labels.get(MANIFEST_DIGEST).and_then(|digest| digest.parse::<BlobDigest>().ok());
        let pinned = digest.filter(|digest| reference.digest() != Some(*digest));
        match pinned.and_then(|digest| format!("{}@{digest}", reference.name()).parse().ok()) {
            // The policy may say something else of a tag than of the repository: what counts is what containerd asks for.
            Some(pinned)
                if self.required(puller.settings, &reference)? == self.required(puller.settings, &pinned)? =>
            {
                self.pull_for(puller, &pinned, chain)
            }
            _ => Ok(None),
        }
    }

    /// Lets containerd unpack a layer itself, unless the image that `labels` name needs a signature: it looks for none.
    ///
    /// # Errors
    /// [`Error::Unproved`]; [`Error::Refused`] where the policy rejects the image, or cannot be read.
    pub fn admit_unpacking(&self, settings: &Settings, labels: &BTreeMap<String, String>) -> Result<()> {
        let reference = labels.get(IMAGE_REF).and_then(|reference| reference.parse::<ImageRef>().ok());
        let Some(reference) = reference else { return Ok(()) };
        let Some(required_by) = self.required(settings, &reference)? else { return Ok(()) };
        let image = reference.to_string();
        let reason = match lock(&self.failed).get(&image) {
            _ if !settings.pull.enabled => "pulls are switched off (pull.enabled)".to_owned(),
            Some((_, reason)) => reason.clone(),
            None => "what was pulled is not what is unpacked".to_owned(),
        };
        Err(Error::Unproved { image, required_by, reason })
    }

    /// Tells what of the signature policy requires a signature of an image.
    fn required(&self, settings: &Settings, reference: &ImageRef) -> Result<Option<Place>> {
        let required = pull_options(settings).registries.signature_required_by(reference);
        required.map_err(|source| Error::Refused { image: reference.to_string(), source: Box::new(source) })
    }

    /// Pulls an image unless that was in vain a short time ago, and gives the layers of a chain that it begins with.
    fn pull_for<'a>(&self, puller: &Puller<'a>, reference: &ImageRef, chain: ChainId) -> Result<Option<Found<'a>>> {
        let name = reference.to_string();
        let turn = Arc::clone(lock(&self.pulling).entry(name.clone()).or_default());
        let pulled = {
            let _turn = lock(&turn);
            match self.local_layers(puller.engine, chain)? {
                Some(layers) => Ok(Some(Found::in_store(layers))),
                None if self.has_failed(&name, puller.settings.pull.retry_after) => Ok(None),
                None => self.pull(puller, reference, chain),
            }
        };
        let mut pulling = lock(&self.pulling);
        // Whoever waits for it has it too.
        if Arc::strong_count(&turn) == 2 {
            pulling.remove(&name);
        }
        pulled
    }

    fn pull<'a>(&self, puller: &Puller<'a>, reference: &ImageRef, chain: ChainId) -> Result<Option<Found<'a>>> {
        let name = reference.to_string();
        let arriving = puller.own.arrive();
        tracing::info!(image = name, "pulling");
        let (options, started) = (pull_options(puller.settings), Instant::now());
        let watch = Watch { metrics: puller.metrics, arriving: &arriving, asked: reference };
        let pulled = pull_image_from_registry(puller.engine, reference, &options, &watch);
        if pulled.is_err() {
            puller.was_in_vain.set(true);
            arriving.is_in_vain()?;
        }
        let found = match pulled {
            Ok(pulled) => {
                let (bytes, ms) = (pulled.fetched_bytes, started.elapsed().as_millis());
                tracing::info!(image = name, bytes, ms, present = pulled.present_layers, "pulled");
                self.local_layers(puller.engine, chain)?
            }
            // Else containerd, which knows nothing of the policy, would have it all the same.
            Err(error) if is_refusal(&error) => {
                puller.metrics.count_pull(PullResult::Failed);
                return Err(Error::Refused { image: name, source: Box::new(error) });
            }
            Err(error) => {
                let reason = chain_of(&error);
                tracing::warn!(
                    image = name,
                    error = reason,
                    "cannot be pulled: containerd unpacks it if the policy lets it"
                );
                self.fail(name, reason, puller.settings.pull.retry_after);
                puller.metrics.count_pull(PullResult::Failed);
                return Ok(None);
            }
        };
        if found.is_none() {
            tracing::warn!(image = name, %chain, "is another image than the one that containerd unpacks");
            let reason = format!("it is another image than the one that has chain {chain}");
            self.fail(name, reason, puller.settings.pull.retry_after);
            puller.was_in_vain.set(true);
            puller.metrics.count_pull(PullResult::Other);
        } else {
            puller.metrics.count_pull(PullResult::Done);
        }
        Ok(found.map(|layers| Found { layers, _arriving: Some(arriving) }))
    }

    fn has_failed(&self, name: &str, retry_after: Duration) -> bool {
        lock(&self.failed).get(name).is_some_and(|(when, _)| when.elapsed() < retry_after)
    }

    fn fail(&self, name: String, reason: String, retry_after: Duration) {
        let mut failed = lock(&self.failed);
        failed.retain(|_, (when, _)| when.elapsed() < retry_after);
        failed.insert(name, (Instant::now(), reason));
    }

    /// Forgets which pulls were in vain: the configuration has changed.
    pub fn forget_failures(&self) {
        lock(&self.failed).clear();
    }

    /// Gives the layers of a chain that an image of the store begins with, if the uppermost is sound; that the others are was seen
    /// when they were asked for.
    pub(crate) fn local_layers(&self, engine: &Engine, chain: ChainId) -> Result<Option<Arc<[DiffId]>>> {
        let cached = lock(&self.known).get(&chain).cloned();
        let layers = match cached {
            Some(layers) => layers,
            None => {
                let known = read_chains(engine)?;
                let found = known.get(&chain).cloned();
                *lock(&self.known) = known;
                let Some(found) = found else { return Ok(None) };
                found
            }
        };
        // It may have gone with its image since it was read, or be damaged.
        let Some(&top) = layers.last() else { return Ok(None) };
        Ok(engine.layerfs().ensure_layer_is_sound(top)?.then_some(layers))
    }
}

/// Tells whether people have said that such an image may not come in.
fn is_refusal(error: &stos_engine::Error) -> bool {
    use stos_config::Error::{Blocked, Rejected};
    match error {
        stos_engine::Error::Policy(_) => true,
        stos_engine::Error::RegistryConfig(error) => matches!(error, Blocked { .. } | Rejected { .. }),
        _ => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the layers of all chains that images of the store begin with. Images that cannot be read are told in the log.
fn read_chains(engine: &Engine) -> Result<HashMap<ChainId, Arc<[DiffId]>>> {
    let mut chains = HashMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for record in engine.store().images()? {
        if !seen.insert(record.image_id) {
            continue;
        }
        let id = record.image_id;
        match load_image(engine, record) {
            Ok(image) => {
                let layers = &image.config.diff_ids;
                for count in 1..=layers.len() {
                    if let Some(chain) = ChainId::of_layers(&layers[..count]) {
                        chains.entry(chain).or_insert_with(|| layers[..count].into());
                    }
                }
            }
            Err(error) => tracing::warn!(image = %id, %error, "the image is damaged: its layers are not known"),
        }
    }
    Ok(chains)
}

/// How images are pulled. What people have configured for registries is read anew for each pull.
fn pull_options(settings: &Settings) -> PullOptions {
    let registry = &settings.registry;
    let connection = ConnectionOptions {
        tls_verify: registry.tls_verify,
        authfile: registry.authfile.clone(),
        cert_dir: registry.cert_dir.clone(),
        signature_policy: registry.signature_policy.clone(),
        ..ConnectionOptions::default()
    };
    PullOptions {
        registries: RegistryConfig::new(connection),
        jobs: settings.pull.jobs.map(|jobs| usize::from(jobs.get())),
        keep_blobs: settings.pull.keep_blobs,
        ..PullOptions::default()
    }
}
