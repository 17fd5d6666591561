// SPDX-License-Identifier: Apache-2.0 OR MIT
//! tag, untag.

use stos_engine::tag;
use stos_spec::ImageRef;

use crate::cli::{Global, Tag, Untag};
use crate::failure::Failure;
use crate::target;

/// Gives an image further names. Prints nothing.
pub fn tag(global: &Global, args: &Tag) -> Result<u8, Failure> {
    let names = parse_names(&args.names)?;
    tag::tag_image(&target::engine(global)?, &args.image, &names)?;
    Ok(0)
}

/// Takes names away from an image. Prints nothing.
pub fn untag(global: &Global, args: &Untag) -> Result<u8, Failure> {
    let names = parse_names(&args.names)?;
    tag::untag_image(&target::engine(global)?, &args.image, &names)?;
    Ok(0)
}

fn parse_names(names: &[String]) -> Result<Vec<ImageRef>, Failure> {
    Ok(names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?)
}
