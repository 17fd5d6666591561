// SPDX-License-Identifier: Apache-2.0 OR MIT
//! system info: what the kernel can do, and what was chosen.

use serde::Serialize;
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
    containers: Option<usize>,
}

#[derive(Serialize)]
struct LayerFsInfo {
    /// `erofs`, or none.
    backend: Option<&'static str>,
    reason: String,
    file_backed_erofs: String,
    overlay_upper: String,
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
        containers: None,
    };
    if rustix::process::geteuid().is_root() {
        let engine = target::engine(global)?;
        info.layerfs = Some(layerfs(engine.layerfs().probe_backend()));
        info.images = Some(engine.store().images()?.len());
        info.layers = Some(engine.store().layers()?.len());
        info.containers = Some(engine.store().containers()?.len());
    }
    match args.format {
        Format::Json => table::print_json(&info)?,
        Format::Table => print(&info)?,
    }
    Ok(0)
}

fn layerfs(tried: stos_layerfs::Result<stos_layerfs::BackendReport>) -> LayerFsInfo {
    let report = match tried {
        Ok(report) => report,
        // A data root on a read-only filesystem, say: that is what is to be told.
        Err(error) => {
            let unknown = || "not tried".to_owned();
            let reason = format!("it cannot be tried: {error}");
            return LayerFsInfo { backend: None, reason, file_backed_erofs: unknown(), overlay_upper: unknown() };
        }
    };
    let said = |result: &Result<(), SysError>| match result {
        Ok(()) => "yes".to_owned(),
        Err(error) => format!("no: {error}"),
    };
    let (backend, reason) = match report.obstacle() {
        None => (Some("erofs"), "images can be mounted from their files in the data root".to_owned()),
        Some(error) => (None, format!("images cannot be mounted here: {error}")),
    };
    LayerFsInfo { backend, reason, file_backed_erofs: said(&report.erofs), overlay_upper: said(&report.overlay) }
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
            line("backend", layerfs.backend.unwrap_or("none"))?;
            line("  because", &layerfs.reason)?;
            line("  file-backed EROFS", &layerfs.file_backed_erofs)?;
            line("  overlay upper", &layerfs.overlay_upper)?;
        }
        None => line("backend", "unknown: only root can try mounts")?,
    }
    let count = |count: Option<usize>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    line("images", &count(info.images))?;
    line("layers", &count(info.layers))?;
    line("containers", &count(info.containers))
}
