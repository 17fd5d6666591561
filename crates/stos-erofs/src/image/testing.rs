// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images made of tars, and read again by the testkit's own reader.

use std::ops::Deref;

use stos_testkit::erofs_image;

use crate::tarball::testing::{Kept, Tar};
use crate::{DataPlace, DeviceRef, ImageSummary, Merger, Result};

/// An image, its tars, and what it says of itself.
pub(crate) struct Image {
    pub(crate) summary: ImageSummary,
    image: erofs_image::Image,
}

impl Deref for Image {
    type Target = erofs_image::Image;

    fn deref(&self) -> &Self::Target {
        &self.image
    }
}

/// Merges tars, the lowest first.
pub(crate) fn merge(tars: &[Tar]) -> Result<Image> {
    let mut merger = Merger::new();
    for (number, tar) in tars.iter().enumerate() {
        merger.add_layer(tar.layer(number as u8), &*tar.index()?)?;
    }
    let mut bytes = Vec::new();
    let summary = merger.write(&mut bytes)?;
    assert_eq!(bytes.len() as u64, summary.bytes);
    let file = |device: &DeviceRef| {
        let tar = &tars[device.layer];
        match device.place {
            DataPlace::Tar => tar.0.clone(),
            DataPlace::Extra => Kept::of(&tar.0, usize::MAX).extra(tar.extra_bytes()),
        }
    };
    let devices = summary.devices.iter().map(file).collect();
    Ok(Image { summary, image: erofs_image::Image { bytes, devices } })
}
