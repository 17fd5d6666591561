// SPDX-License-Identifier: Apache-2.0 OR MIT
//! system info: what the kernel can do, and what was chosen.

use serde::Serialize;
use stos_layerfs::BackendKind;
use stos_sys::SysError;
use stos_sys::probe;

use crate::cli::{Format, Global, SystemInfo};
use crate::failure::Failure;
use crate::{table, target};

#[derive(Serialize)]
struct Info {
    version: &'static str,
    kernel: String,
    platform: String,
    data_root: String,
    root: String,
    cgroups: probe::CgroupMode,
    /// Absent where the caller may not try.
    layerfs: Option<LayerFsInfo>,
    images: Option<usize>,
    layers: Option<usize>,
    /// One that both keep counts for each.
    layers_by_backend: Option<LayerCounts>,
    containers: Option<usize>,
}

#[derive(Serialize)]
struct LayerCounts {
    erofs: usize,
    dirs: usize,
}

#[derive(Serialize)]
struct LayerFsInfo {
    /// The one that new layers go to; or none.
    backend: Option<BackendKind>,
    reason: String,
    file_backed_erofs: String,
    overlay_upper: String,
    overlay_lower: String,
}

/// Shows the host and the installation. As another user than root only what needs no trying.
pub fn info(global: &Global, args: &SystemInfo) -> Result<u8, Failure> {
    let uname = rustix::system::uname();
    let mut info = Info {
        version: env!("CARGO_PKG_VERSION"),
        kernel: uname.release().to_string_lossy().into_owned(),
        platform: stos_spec::Platform::host().to_string(),
        data_root: global.data_root.display().to_string(),
        root: global.root.display().to_string(),
        cgroups: probe::cgroup_mode(),
        layerfs: None,
        images: None,
        layers: None,
        layers_by_backend: None,
        containers: None,
    };
    if rustix::process::geteuid().is_root() {
        let engine = target::reader(global)?;
        info.layerfs = Some(layerfs(engine.layerfs().probe_backends(), global.layerfs));
        info.images = Some(engine.store().images()?.len());
        info.layers = Some(engine.layerfs().layers()?.len());
        info.layers_by_backend = Some(LayerCounts {
            erofs: engine.layerfs().backend(BackendKind::Erofs).layers()?.len(),
            dirs: engine.layerfs().backend(BackendKind::Dirs).layers()?.len(),
        });
        info.containers = Some(engine.store().containers()?.len());
    }
    match args.format {
        Format::Json => table::print_json(&info)?,
        Format::Table => print(&info)?,
    }
    Ok(0)
}

fn layerfs(
    tried: stos_layerfs::Result<stos_layerfs::BackendReport>,
    wanted: Option<crate::cli::LayerBackend>,
) -> LayerFsInfo {
    let report = match tried {
        Ok(report) => report,
        // A data root on a read-only filesystem, say: that is what is to be told.
        Err(error) => {
            let unknown = || "not tried".to_owned();
            let reason = format!("it cannot be tried: {error}");
            return LayerFsInfo {
                backend: None,
                reason,
                file_backed_erofs: unknown(),
                overlay_upper: unknown(),
                overlay_lower: unknown(),
            };
        }
    };
    let said = |result: &Result<(), SysError>| match result {
        Ok(()) => "yes".to_owned(),
        Err(error) => format!("no: {error}"),
    };
    let (kind, is_asked) = match wanted {
        Some(crate::cli::LayerBackend::Erofs) => (Some(BackendKind::Erofs), true),
        Some(crate::cli::LayerBackend::Dirs) => (Some(BackendKind::Dirs), true),
        None => (report.best(), false),
    };
    let obstacle = report.obstacle(kind.unwrap_or(BackendKind::Dirs));
    let (backend, reason) = match (kind, obstacle) {
        (Some(kind), None) if is_asked => (Some(kind), "it was asked for, and this host can have it".to_owned()),
        (Some(BackendKind::Erofs), None) => {
            (Some(BackendKind::Erofs), "images can be mounted from their files in the data root".to_owned())
        }
        (Some(BackendKind::Dirs), None) => (
            Some(BackendKind::Dirs),
            "EROFS images cannot be mounted from files here, directories can be stacked".to_owned(),
        ),
        (_, Some(error)) => (None, format!("images cannot be shown here: {error}")),
        (None, None) => (None, "images cannot be shown here".to_owned()),
    };
    LayerFsInfo {
        backend,
        reason,
        file_backed_erofs: said(&report.erofs),
        overlay_upper: said(&report.overlay),
        overlay_lower: said(&report.whiteouts),
    }
}

fn print(info: &Info) -> std::io::Result<()> {
    let line = |name: &str, value: &str| table::print_line(format!("{name:<20} {value}"));
    line("version", info.version)?;
    line("kernel", &info.kernel)?;
    line("platform", &info.platform)?;
    line("data root", &info.data_root)?;
    line("root", &info.root)?;
    line("cgroups", &format!("{:?}", info.cgroups).to_lowercase())?;
    match &info.layerfs {
        Some(layerfs) => {
            line("backend", &layerfs.backend.map_or_else(|| "none".to_owned(), |kind| kind.to_string()))?;
            line("  because", &layerfs.reason)?;
            line("  file-backed EROFS", &layerfs.file_backed_erofs)?;
            line("  overlay upper", &layerfs.overlay_upper)?;
            line("  overlay lower", &layerfs.overlay_lower)?;
        }
        None => line("backend", "unknown: only root can try mounts")?,
    }
    let count = |count: Option<usize>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    line("images", &count(info.images))?;
    let by_backend = info.layers_by_backend.as_ref();
    let kinds = by_backend.map_or_else(String::new, |by| format!(" ({} erofs, {} dirs)", by.erofs, by.dirs));
    line("layers", &format!("{}{kinds}", count(info.layers)))?;
    line("containers", &count(info.containers))
}
