// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reading `layer.json` and `chain.json`: a record that cannot be believed is as good as none, for both can be made again.

use std::path::Path;

use serde::de::DeserializeOwned;
use stos_store::files;

use crate::error::Result;

/// Reads the record at `path`; `None` where there is none, or it is damaged: not JSON, or by `is_own` that of another object.
/// Damage is logged with `consequence`, which says what comes of it.
pub(crate) fn read_record<T: DeserializeOwned>(
    path: &Path,
    is_own: impl FnOnce(&T) -> bool,
    consequence: &str,
) -> Result<Option<T>> {
    let reason = match files::read_json::<T>(path) {
        Ok(Some(record)) if is_own(&record) => return Ok(Some(record)),
        Ok(None) => return Ok(None),
        Ok(Some(_)) => "it is that of another object".to_owned(),
        Err(stos_store::Error::Damaged { reason, .. }) => reason,
        Err(error) => return Err(error.into()),
    };
    tracing::warn!(path = %path.display(), reason, "the record is damaged: {consequence}");
    Ok(None)
}
