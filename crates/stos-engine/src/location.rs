// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where an image is to come from, as people write it: a registry's reference, or one of skopeo's transports for files.

use std::path::PathBuf;
use std::str::FromStr;

use stos_spec::{ImageRef, ReferenceError};
use stos_store::ImageRecord;

use crate::Engine;
use crate::error::{Error, Result};
use crate::load::{Wanted, load_images};
use crate::options::PullOptions;
use crate::pull::{PullProgress, pull_image_from_registry};
use crate::source::input::ImageInput;

/// Where an image is to come from.
#[derive(Debug, Clone)]
pub enum ImageLocation {
    /// A registry.
    Registry(ImageRef),
    /// An archive or a layout.
    Files {
        /// The file or directory.
        path: PathBuf,
        /// Which of its images.
        wanted: Wanted,
    },
}

impl FromStr for ImageLocation {
    type Err = ReferenceError;

    /// Reads `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]` or `docker-archive:FILE[:NAME]`.
    /// As for skopeo, a path ends at its first colon.
    fn from_str(text: &str) -> std::result::Result<Self, ReferenceError> {
        let refused = match text.parse::<ImageRef>() {
            Ok(reference) => return Ok(Self::Registry(reference)),
            Err(error) => error,
        };
        // `oci:1.0` is a name that a registry may have; what no registry can have is a path.
        let Some((transport, rest)) = text.split_once(':') else { return Err(refused) };
        let (path, name) = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name)));
        let wanted = match (transport, name) {
            ("oci" | "oci-archive" | "docker-archive", None) => Wanted::Only,
            ("oci" | "oci-archive", Some(tag)) => Wanted::Tag(tag.to_owned()),
            ("docker-archive", Some(name)) => Wanted::Name(name.parse()?),
            _ => return Err(refused),
        };
        if path.is_empty() {
            return Err(refused);
        }
        Ok(Self::Files { path: PathBuf::from(path), wanted })
    }
}

/// Pulls an image from wherever it is: it is in the store, proved and whole, or nothing has changed.
pub fn pull_image(
    engine: &Engine,
    location: &ImageLocation,
    options: &PullOptions,
    progress: &dyn PullProgress,
) -> Result<ImageRecord> {
    match location {
        ImageLocation::Registry(reference) => Ok(pull_image_from_registry(engine, reference, options, progress)?.image),
        ImageLocation::Files { path, wanted } => {
            let images = load_images(engine, ImageInput::Path(path.clone()), wanted, options, progress)?;
            let first = images.into_iter().flat_map(|image| image.records).next();
            first.ok_or_else(|| Error::Store(stos_store::Error::NoSuchImage(path.display().to_string())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_skopeos() {
        let read = |text: &str| match text.parse::<ImageLocation>() {
            Ok(ImageLocation::Registry(reference)) => reference.to_string(),
            Ok(ImageLocation::Files { path, wanted }) => format!("{} {wanted:?}", path.display()),
            Err(error) => format!("error: {error}"),
        };
        let name: ImageRef = "a.example/x:1".parse().unwrap();
        for (text, expected) in [
            ("deb:12", "docker.io/library/deb:12".to_owned()),
            ("oci:1.0", "docker.io/library/oci:1.0".to_owned()),
            ("oci:./x", "./x Only".to_owned()),
            ("oci:x:1", "x Tag(\"1\")".to_owned()),
            ("oci:/x/y:a.example:5000/x:1", "/x/y Tag(\"a.example:5000/x:1\")".to_owned()),
            ("oci-archive:x.tar", "x.tar Only".to_owned()),
            ("oci-archive:x.tar:1", "x.tar Tag(\"1\")".to_owned()),
            ("docker-archive:/x.tar:a.example/x:1", format!("/x.tar {:?}", Wanted::Name(name))),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for text in [
            "",
            "containers-storage:x",
            "docker-daemon:x:1",
            "dir:/x",
            "oci-archive:",
            "oci:",
            "docker-archive:x:A//B",
            "A//b",
        ] {
            assert!(read(text).starts_with("error: "), "{text}: {}", read(text));
        }
    }
}
