// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of tar entries: normal form, limits, whiteouts.

use crate::error::{TarProblem, printable};

/// The longest path component in bytes (`NAME_MAX`, and EROFS's own limit).
pub const MAX_COMPONENT: usize = 255;
/// The longest path in bytes, after normalisation (`PATH_MAX`).
pub const MAX_PATH: usize = 4096;
/// The longest symbolic link target in bytes (`PATH_MAX` with its terminator).
pub const MAX_SYMLINK: usize = 4095;

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry's name asks for (OCI image-spec, layer.md, "Whiteouts").
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// An ordinary path.
    Path(Vec<u8>),
    /// `DIR/.wh.NAME`: the path that is removed, `DIR/NAME`.
    Whiteout(Vec<u8>),
    /// `DIR/.wh..wh..opq`: the directory whose lower content is removed.
    Opaque(Vec<u8>),
    /// Other aufs metadata, such as `.wh..wh.plnk/…`: nothing to do.
    AufsMetadata,
}

/// Brings a name or hard link target into the form of the index: no leading, trailing or double slashes, no `.`.
///
/// The root gives an empty path. `..` is refused wherever it stands, even where it would not escape: no tool writes it,
/// and its meaning depends on links that the tar may change half-way.
pub(crate) fn normalise(raw: &[u8], what: &'static str) -> Result<Vec<u8>, TarProblem> {
    let mut path = Vec::with_capacity(raw.len());
    for component in raw.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(TarProblem::ParentComponent { what, found: printable(raw) }),
            _ if component.len() > MAX_COMPONENT => {
                return Err(TarProblem::ComponentTooLong { found: component.len() });
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    if path.len() > MAX_PATH {
        return Err(TarProblem::PathTooLong { what, limit: MAX_PATH, found: path.len() });
    }
    Ok(path)
}

/// Normalises an entry's name and tells whiteouts from paths.
pub(crate) fn classify(raw: &[u8]) -> Result<Named, TarProblem> {
    if raw.is_empty() {
        return Err(TarProblem::EmptyName);
    }
    let path = normalise(raw, "name")?;
    let (parent, name) = split(&path);
    if parent.split(|&byte| byte == b'/').any(|component| component.starts_with(WHITEOUT_META)) {
        return Ok(Named::AufsMetadata);
    }
    if name == OPAQUE {
        return Ok(Named::Opaque(parent.to_vec()));
    }
    if name.starts_with(WHITEOUT_META) {
        return Ok(Named::AufsMetadata);
    }
    let Some(removed) = name.strip_prefix(WHITEOUT) else { return Ok(Named::Path(path)) };
    if matches!(removed, b"" | b"." | b"..") {
        return Err(TarProblem::WhiteoutName { found: printable(removed) });
    }
    Ok(Named::Whiteout(join(parent, removed)))
}

/// Gives the name of the tar entry that removes the path, the reverse of [`classify`].
pub(crate) fn whiteout_name(path: &[u8]) -> Result<Vec<u8>, TarProblem> {
    let (parent, name) = split(path);
    let marker = join(parent, &[WHITEOUT, name].concat());
    match classify(&marker)? {
        Named::Whiteout(removed) if removed == path => Ok(marker),
        _ => Err(TarProblem::WhiteoutName { found: printable(name) }),
    }
}

/// Gives the name of the tar entry that makes the directory opaque.
pub(crate) fn opaque_name(directory: &[u8]) -> Vec<u8> {
    join(directory, OPAQUE)
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
    [parent, slash, name].concat()
}

/// Splits a normal path into its parent and its last component; the root gives two empty slices.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Tells whether a path is in the form that [`normalise`] gives.
pub(crate) fn is_normal(path: &[u8]) -> bool {
    path.is_empty()
        || (path.len() <= MAX_PATH
            && path.split(|&byte| byte == b'/').all(|component| {
                !matches!(component, b"" | b"." | b"..") && component.len() <= MAX_COMPONENT && !component.contains(&0)
            }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_whiteouts_found() {
        let path = |text: &str| Ok(Named::Path(text.into()));
        let cases: &[(&str, Result<Named, TarProblem>)] = &[
            ("a", path("a")),
            ("/a/b", path("a/b")),
            ("./a//b/", path("a/b")),
            (".//./a/./b", path("a/b")),
            ("./", path("")),
            ("/", path("")),
            (".", path("")),
            ("..a/b..", path("..a/b..")),
            (".wh.a/b", path(".wh.a/b")),
            ("", Err(TarProblem::EmptyName)),
            ("..", Err(TarProblem::ParentComponent { what: "name", found: "..".into() })),
            ("a/../b", Err(TarProblem::ParentComponent { what: "name", found: "a/../b".into() })),
            (".wh.x", Ok(Named::Whiteout("x".into()))),
            ("a/.wh.x/", Ok(Named::Whiteout("a/x".into()))),
            (".wh....", Ok(Named::Whiteout("...".into()))),
            (".wh..wh..opq", Ok(Named::Opaque("".into()))),
            ("./a/.wh..wh..opq", Ok(Named::Opaque("a".into()))),
            (".wh..wh.plnk", Ok(Named::AufsMetadata)),
            (".wh..wh.plnk/1.2", Ok(Named::AufsMetadata)),
            ("a/.wh..wh..opq/b", Ok(Named::AufsMetadata)),
            (".wh.", Err(TarProblem::WhiteoutName { found: "".into() })),
            ("a/.wh..", Err(TarProblem::WhiteoutName { found: ".".into() })),
            (".wh...", Err(TarProblem::WhiteoutName { found: "..".into() })),
        ];
        for (name, expected) in cases {
            assert_eq!(&classify(name.as_bytes()), expected, "{name:?}");
        }
    }

    #[test]
    fn limits_are_inclusive() {
        assert!(classify(&[b'x'; 255]).is_ok());
        assert_eq!(classify(&[b'x'; 256]), Err(TarProblem::ComponentTooLong { found: 256 }));
        let long = b"x/".repeat(2048);
        assert_eq!(classify(&long), Ok(Named::Path(long[..4095].to_vec())));
        let longer = b"x/".repeat(2049);
        assert_eq!(classify(&longer), Err(TarProblem::PathTooLong { what: "name", limit: 4096, found: 4097 }));
    }
}
