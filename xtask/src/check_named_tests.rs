// SPDX-License-Identifier: Apache-2.0 OR MIT
//! That each test which SECURITY.md names as a proof is there: `file::name` is the function `name` of a file `file.rs`, or of a directory
//! `file`, below `crates`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Fails with the names of those that are not there.
pub fn run() -> anyhow::Result<()> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let text = fs::read_to_string(root.join("SECURITY.md")).context("SECURITY.md")?;
    let mut sources = Vec::new();
    list_sources(&root.join("crates"), &mut sources)?;
    let named = named_tests(&text);
    anyhow::ensure!(!named.is_empty(), "SECURITY.md names no tests");
    let missing: Vec<_> =
        named.into_iter().filter(|(file, name)| !sources.iter().any(|source| has(source, file, name))).collect();
    anyhow::ensure!(missing.is_empty(), "SECURITY.md names tests that are not there: {missing:?}");
    Ok(())
}

/// All `file::name` in backticks.
fn named_tests(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    let pairs = quoted.filter_map(|quoted| quoted.split_once("::"));
    // The form itself is explained there.
    let tests = pairs.filter(|(file, name)| is_word(file) && is_word(name) && *file != "file");
    tests.map(|(file, name)| (file.to_owned(), name.to_owned())).collect()
}

fn list_sources(directory: &Path, sources: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            list_sources(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

fn has(source: &Path, file: &str, name: &str) -> bool {
    let is_named = source.file_stem().is_some_and(|stem| stem == file)
        || source.parent().and_then(Path::file_name).is_some_and(|parent| parent == file);
    is_named && fs::read_to_string(source).is_ok_and(|text| text.contains(&format!("fn {name}(")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_so_are_the_tests() {
        let text = "`a::b_c`, `file::name`, `plain`, `cargo xtask x`, `x::y z`\n```\n`d::e`";
        assert_eq!(named_tests(text)[0], ("a".to_owned(), "b_c".to_owned()));
        let own = Path::new(file!());
        let own = own.strip_prefix("xtask").unwrap_or(own);
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(own);
        assert!(has(&own, "check_named_tests", "names_are_found_and_so_are_the_tests"));
        assert!(!has(&own, "check_named_tests", "no_such"));
        assert!(!has(&own, "other", "names_are_found_and_so_are_the_tests"));
    }
}
