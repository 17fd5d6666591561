// SPDX-License-Identifier: Apache-2.0 OR MIT
//! image exists and container exists: what there is, told by the exit code. 0: it is there; 1: it is not; 125: that cannot be told.

use stos_engine::Error;
use stos_store::ImageSelector;

use crate::cli::{ContainerExists, Global, ImageExists};
use crate::failure::Failure;
use crate::target::{self, Target};

/// Tells whether the store has an image.
pub fn image(global: &Global, args: &ImageExists) -> Result<u8, Failure> {
    if !global.data_root.is_dir() {
        return Ok(1);
    }
    let engine = target::reader(global).map_err(|failure| failure.with_exit_code(125))?;
    match engine.store().find_image(&ImageSelector::new(&args.image)) {
        Ok(_) => Ok(0),
        Err(stos_store::Error::NoSuchImage(_)) => Ok(1),
        Err(error) => Err(Failure::from(Error::from(error)).with_exit_code(125)),
    }
}

/// Tells whether there is a container from an image, or with `--external` any.
pub fn container(global: &Global, args: &ContainerExists) -> Result<u8, Failure> {
    match target::find_to_read(global, &args.container) {
        Ok(Target::Image(..)) => Ok(0),
        Ok(Target::Bundle(..)) => Ok(u8::from(!args.external)),
        Err(failure) if failure.is_missing_container() => Ok(1),
        // It is there, whatever its record says.
        Err(failure) if failure.is_damaged_container() => Ok(0),
        Err(failure) => Err(failure.with_exit_code(125)),
    }
}
