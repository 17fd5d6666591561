// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which images a list takes: podman's `--filter KEY=VALUE` (podman-images(1), "--filter").

use stos_engine::image::ImageSummary;

use crate::failure::Failure;

/// What must hold.
enum Filter {
    /// The name, or the repository, fits a pattern.
    Reference(String),
    /// It has no name.
    Dangling(bool),
    /// The ID begins so.
    Id(String),
}

/// Keeps the images of which all filters hold.
///
/// # Errors
/// For a key that is none, and a value that it cannot have.
pub(super) fn keep(images: &mut Vec<ImageSummary>, texts: &[String], name: Option<&str>) -> Result<(), Failure> {
    let mut filters = texts.iter().map(|text| read(text)).collect::<Result<Vec<_>, _>>()?;
    filters.extend(name.map(|name| Filter::Reference(name.to_owned())));
    images.retain(|image| filters.iter().all(|filter| holds(filter, image)));
    Ok(())
}

fn read(text: &str) -> Result<Filter, Failure> {
    let refuse = |reason: &str| Failure::message(format!("--filter {text:?}: {reason}"), 1);
    match text.split_once('=') {
        Some(("reference", pattern)) => Ok(Filter::Reference(pattern.to_owned())),
        Some(("dangling", "true" | "1")) => Ok(Filter::Dangling(true)),
        Some(("dangling", "false" | "0")) => Ok(Filter::Dangling(false)),
        Some(("dangling", _)) => Err(refuse("expected true or false")),
        Some(("id", prefix)) => Ok(Filter::Id(prefix.trim_start_matches("sha256:").to_ascii_lowercase())),
        Some(_) => Err(refuse("expected reference=, dangling= or id=")),
        None => Err(refuse("expected KEY=VALUE")),
    }
}

fn holds(filter: &Filter, image: &ImageSummary) -> bool {
    match filter {
        Filter::Dangling(wanted) => image.repository.is_none() == *wanted,
        Filter::Id(prefix) => image.id.to_string().trim_start_matches("sha256:").starts_with(prefix),
        Filter::Reference(pattern) => {
            let Some(repository) = &image.repository else { return false };
            let tagged = image.tag.as_ref().map(|tag| format!("{repository}:{tag}"));
            // As with podman the registry, and what stands before the last name, may be left out.
            let is_part = |name: &str| {
                let starts = std::iter::once(0).chain(name.match_indices('/').map(|(at, _)| at + 1));
                starts.into_iter().any(|at| fits(pattern.as_bytes(), &name.as_bytes()[at..]))
            };
            is_part(repository) || tagged.is_some_and(|name| is_part(&name))
        }
    }
}

/// Whether a text fits a pattern, whose `*` is anything but a `/`.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if fits(rest, text) => true,
        (Some((b'*', _)), Some((byte, after))) => *byte != b'/' && fits(pattern, after),
        (Some((wanted, rest)), Some((byte, after))) => wanted == byte && fits(rest, after),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_a_part_of_a_name() {
        for (pattern, text, expected) in [
            ("deb*", "debian", true),
            ("deb*", "debian/x", false),
            ("*:1", "web:1", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a", "ab", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        for text in ["nothing", "color=red", "dangling=maybe"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
