// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Options of a container as a service, read into the engine's types; and what our own caller has for containers.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use stos_engine::MountOption;
use stos_engine::unit::{Caller, CgroupsMode, NotifyMode, UnitOptions};

use crate::cli::{CgroupsChoice, NotifyChoice, UnitArgs};
use crate::commands::bundle;
use crate::failure::Failure;

/// Where the host keeps its time zones.
const ZONES: &str = "/usr/share/zoneinfo";

/// Where a container looks for its own.
const LOCALTIME: &str = "/etc/localtime";

/// Reads what it is as a service.
pub fn unit(args: &UnitArgs) -> anyhow::Result<UnitOptions> {
    let cgroups = match args.cgroups {
        CgroupsChoice::Enabled | CgroupsChoice::NoConmon => CgroupsMode::Enabled,
        CgroupsChoice::Split => CgroupsMode::Split,
    };
    let id_file = args.cidfile.as_deref().map(std::path::absolute).transpose().context("--cidfile")?;
    Ok(UnitOptions { cgroups, sdnotify: notify_mode(args.sdnotify), id_file })
}

fn notify_mode(choice: NotifyChoice) -> NotifyMode {
    match choice {
        NotifyChoice::Container => NotifyMode::Container,
        NotifyChoice::Conmon => NotifyMode::Conmon,
        NotifyChoice::Healthy => NotifyMode::Healthy,
        NotifyChoice::Ignore => NotifyMode::Ignore,
    }
}

/// Gives what our caller has for containers that are started now: its service manager, its sockets, and `preserved` more descriptors.
pub fn caller(preserved: u32, sdnotify: Option<NotifyChoice>) -> Result<Caller, Failure> {
    Ok(Caller {
        notify_socket: bundle::notify_socket(),
        sdnotify: sdnotify.map(notify_mode),
        inherited: bundle::inherited(preserved, true).map_err(|failure| failure.with_exit_code(125))?,
    })
}

/// Our own environment, as far as it is text, but for what is the container's own to say.
pub fn host_environment() -> Vec<String> {
    let own = ["HOSTNAME", "container", "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        (!own.contains(&name.as_str())).then(|| format!("{name}={value}"))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// The mount that gives a container its time zone.
pub fn time_zone(zone: &str) -> anyhow::Result<MountOption> {
    let path = if zone == "local" { PathBuf::from(LOCALTIME) } else { Path::new(ZONES).join(zone) };
    let is_within = !zone.is_empty() && !zone.starts_with('/') && zone.split('/').all(|part| !part.starts_with('.'));
    if !is_within {
        bail!("--tz {zone:?}: expected a time zone such as Europe/Vienna, or local");
    }
    let source = path.canonicalize().with_context(|| format!("--tz {zone}: {}", path.display()))?;
    if !source.is_file() {
        bail!("--tz {zone}: {} is no time zone", path.display());
    }
    Ok(MountOption { source, target: LOCALTIME.into(), read_only: true, recursive: false, options: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_zone_is_a_file_of_the_host() {
        for zone in ["", "/etc/passwd", "../passwd", "Europe/../../x", "."] {
            let error = time_zone(zone).unwrap_err().to_string();
            assert!(error.contains("expected a time zone"), "{zone}: {error}");
        }
        let error = format!("{:#}", time_zone("No/Such").unwrap_err());
        assert!(error.starts_with("--tz No/Such: /usr/share/zoneinfo/No/Such: "), "{error}");
        if Path::new(ZONES).join("UTC").exists() {
            assert_eq!(time_zone("UTC").unwrap().target, Path::new(LOCALTIME));
            assert!(time_zone("Etc").unwrap_err().to_string().ends_with("is no time zone"));
        }
    }
}
