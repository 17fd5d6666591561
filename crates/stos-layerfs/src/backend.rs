// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which backend this host can have, found by trying it in the very directory where it would be used.

use stos_erofs::Merger;
use stos_store::files::{self, Durability};
use stos_sys::SysError;
use stos_sys::probe;

use crate::LayerFs;
use crate::error::{Error, Result};

/// What trying found.
#[derive(Debug)]
pub struct BackendReport {
    /// Whether an EROFS image in DATA-ROOT can be mounted from its file.
    pub erofs: std::result::Result<(), SysError>,
    /// Whether DATA-ROOT can hold the upper directory of an overlay with `lowerdir+`.
    pub overlay: std::result::Result<(), SysError>,
}

impl BackendReport {
    /// Gives the first thing that is missing for the `erofs` backend.
    pub fn obstacle(&self) -> Option<&SysError> {
        self.erofs.as_ref().err().or(self.overlay.as_ref().err())
    }
}

impl LayerFs {
    /// Tries what the `erofs` backend needs. Detached mounts only; nothing is left behind.
    pub fn probe_backend(&self) -> Result<BackendReport> {
        let staged = self.store.stage()?;
        let image = staged.path().join("probe.erofs");
        let mut bytes = Vec::new();
        let empty = stos_spec::ChainId::of(b"");
        Merger::new().write(&mut bytes).map_err(|source| Error::Merge { chain: empty, source })?;
        files::write_new(&image, &bytes, Durability::Volatile)?;
        let erofs = probe::try_file_backed_erofs(&image);
        let overlay = probe::try_overlay_upper(staged.path());
        Ok(BackendReport { erofs, overlay })
    }

    /// Refuses a host that cannot run containers from this store, before anything is fetched for it.
    pub fn require_backend(&self) -> Result<()> {
        let report = self.probe_backend()?;
        match report.erofs.err().or(report.overlay.err()) {
            Some(source) => Err(Error::NoBackend { path: self.store.root().to_owned(), source }),
            None => Ok(()),
        }
    }
}
