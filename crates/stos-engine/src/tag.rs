// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of images: given, moved, taken away.

use stos_spec::ImageRef;
use stos_store::{ImageRecord, ImageSelector};

use crate::Engine;
use crate::error::{Error, Result};
use crate::journal::Status;

/// Gives an image further names, all of them or none. A name that another image has moves; that image stays, without a name
/// if it was its last.
///
/// # Errors
/// A name with a digest: only a registry says what that names.
pub fn tag_image(engine: &Engine, image: &str, names: &[ImageRef]) -> Result<()> {
    let _lease = engine.store.lease()?;
    let record = engine.store.find_image(&ImageSelector::new(image))?;
    let named = names.iter().map(|name| {
        check_is_tag(name)?;
        Ok(ImageRecord { reference: Some(name.clone()), ..record.clone() })
    });
    let named: Vec<ImageRecord> = named.collect::<Result<_>>()?;
    let before = engine.store.images()?;
    engine.store.put_images(&named)?;
    let is_new = |image: &&ImageRecord| {
        !before.iter().any(|old| old.reference == image.reference && old.manifest.digest == image.manifest.digest)
    };
    for name in named.iter().filter(is_new).filter_map(|image| image.reference.as_ref()) {
        engine.note_image(Status::Tag, record.image_id, &name.to_string());
    }
    Ok(())
}

/// Refuses a name with a digest, which nobody can give to an image.
pub(crate) fn check_is_tag(name: &ImageRef) -> Result<()> {
    match name.digest() {
        None => Ok(()),
        Some(_) => {
            let reason = "a name for an image has no digest: expected [REGISTRY/]REPOSITORY[:TAG]".to_owned();
            Err(Error::Option { option: "name", value: name.to_string(), reason })
        }
    }
}

/// Takes names away from an image, all of them where `names` is empty. The image stays.
///
/// A short name means the image's own name that it is the end of. Gives the names that are gone.
///
/// # Errors
/// A name that is not the image's: then nothing changes.
pub fn untag_image(engine: &Engine, image: &str, names: &[ImageRef]) -> Result<Vec<ImageRef>> {
    let record = engine.store.find_image(&ImageSelector::new(image))?;
    let images = engine.store.images()?;
    let own = images.iter().filter(|other| other.image_id == record.image_id);
    let own: Vec<&ImageRef> = own.filter_map(|other| other.reference.as_ref()).collect();
    let mut gone = Vec::new();
    for name in names {
        let meant = own.iter().find(|own| **own == name).or_else(|| own.iter().find(|own| name.may_mean(own)));
        let meant = meant.ok_or_else(|| Error::NotItsName { image: image.to_owned(), name: name.to_string() })?;
        gone.push((*meant).clone());
    }
    let gone = engine.store.untag_image(record.image_id, |name| names.is_empty() || gone.contains(name))?;
    gone.iter().for_each(|name| engine.note_image(Status::Untag, record.image_id, &name.to_string()));
    Ok(gone)
}
