// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reading `layer.json` and `chain.json`: a record that cannot be believed is as good as none, for both can be made again.

use std::path::Path;

use serde::de::DeserializeOwned;
use stos_store::files;

use crate::error::Result;
use crate::seal::{Problem, Wrong};

/// Reads the record at `path`; `None` where there is none, or it is damaged: not JSON, or by `is_own` that of another object.
/// Damage is logged with `consequence`, which says what comes of it.
pub(crate) fn read_record<T: DeserializeOwned>(
    path: &Path,
    is_own: impl FnOnce(&T) -> bool,
    consequence: &str,
) -> Result<Option<T>> {
    match look_at_record(path, is_own)? {
        Ok(record) => Ok(Some(record)),
        Err(Wrong { problem: Problem::Missing, .. }) => Ok(None),
        Err(Wrong { found: reason, .. }) => {
            tracing::warn!(path = %path.display(), reason, "the record is damaged: {consequence}");
            Ok(None)
        }
    }
}

/// Reads the record at `path`, or tells what is wrong with it, and logs nothing.
pub(crate) fn look_at_record<T: DeserializeOwned>(
    path: &Path,
    is_own: impl FnOnce(&T) -> bool,
) -> Result<std::result::Result<T, Wrong>> {
    let wrong = |problem, found: String| Ok(Err(Wrong { problem, expected: "the object's record".to_owned(), found }));
    match files::read_json::<T>(path) {
        Ok(Some(record)) if is_own(&record) => Ok(Ok(record)),
        Ok(Some(_)) => wrong(Problem::Unreadable, "it is that of another object".to_owned()),
        Ok(None) => wrong(Problem::Missing, "none".to_owned()),
        Err(stos_store::Error::Damaged { reason, .. }) => wrong(Problem::Unreadable, reason),
        Err(error) if error.is_unreadable() => wrong(Problem::Unreadable, error.to_string()),
        Err(error) => Err(error.into()),
    }
}
