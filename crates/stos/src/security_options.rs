// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Options about a container's confinement and its namespaces, read into the engine's types.

use anyhow::bail;
use stos_engine::namespaces::{NamespaceOf, NamespaceOptions};
use stos_engine::security::{Seccomp, SecurityOptions};

use crate::cli::SecurityArgs;

/// Reads how a container is to be confined.
pub fn security(args: &SecurityArgs) -> anyhow::Result<SecurityOptions> {
    let mut options = SecurityOptions {
        cap_add: args.cap_add.clone(),
        cap_drop: args.cap_drop.clone(),
        privileged: args.privileged,
        read_only_tmpfs: args.read_only_tmpfs,
        ..SecurityOptions::default()
    };
    args.security_opt.iter().try_for_each(|text| read(text, &mut options))?;
    Ok(options)
}

/// Reads one `--security-opt`. Of several of one name the last counts; paths add up.
fn read(text: &str, options: &mut SecurityOptions) -> anyhow::Result<()> {
    // docker's older form has a colon.
    let split = text.split_once('=').or_else(|| text.split_once(':').filter(|(name, _)| is_name(name)));
    let (name, value) = split.map_or((text, None), |(name, value)| (name, Some(value)));
    let words = |value: &str, separator: char| value.split(separator).map(str::to_owned).collect::<Vec<_>>();
    match (name, value) {
        ("no-new-privileges", None | Some("true")) => options.no_new_privileges = true,
        ("no-new-privileges", Some("false")) => options.no_new_privileges = false,
        ("seccomp", Some("unconfined")) => options.seccomp = Seccomp::Unconfined,
        ("seccomp", Some(path)) if !path.is_empty() => options.seccomp = Seccomp::File(path.into()),
        ("apparmor", Some(profile)) if !profile.is_empty() => options.apparmor = Some(profile.to_owned()),
        ("label", Some("disable")) => {}
        ("label", Some(_)) => bail!(
            "--security-opt {text:?} is not supported: containers from images have no SELinux label of their own, as with \
             label=disable"
        ),
        ("mask", Some(paths)) => options.mask.extend(words(paths, ':')),
        ("unmask", Some(paths)) => options.unmask.extend(words(paths, ':')),
        ("systempaths", Some("unconfined")) => options.unmask.push("ALL".to_owned()),
        ("proc-opts", Some(list)) => options.proc_options.extend(words(list, ',')),
        _ => bail!(
            "--security-opt {text:?}: expected seccomp=unconfined|FILE, no-new-privileges[=true|false], apparmor=PROFILE, \
             label=disable, mask=PATH, unmask=ALL|PATH or proc-opts=OPTION"
        ),
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    ["no-new-privileges", "seccomp", "apparmor", "label"].contains(&text)
}

/// Reads whose namespaces a container is to have.
pub fn namespaces(args: &SecurityArgs) -> anyhow::Result<NamespaceOptions> {
    let read = |option, value: &Option<String>| namespace(option, value.as_deref().unwrap_or_default());
    // podman's further words: every container's own IPC can be shared here.
    let (ipc, has_no_shm) = match args.ipc.as_deref() {
        Some("shareable") => (NamespaceOf::Own, false),
        Some("none") => (NamespaceOf::Own, true),
        _ => (read("--ipc", &args.ipc)?, false),
    };
    Ok(NamespaceOptions {
        pid: read("--pid", &args.pid)?,
        ipc,
        has_no_shm,
        uts: read("--uts", &args.uts)?,
        cgroup: read("--cgroupns", &args.cgroupns)?,
    })
}

fn namespace(option: &str, value: &str) -> anyhow::Result<NamespaceOf> {
    match (value, value.strip_prefix("container:")) {
        ("" | "private", _) => Ok(NamespaceOf::Own),
        ("host", _) => Ok(NamespaceOf::Host),
        (_, Some(container)) if !container.is_empty() => Ok(NamespaceOf::Container(container.to_owned())),
        _ => bail!("{option} {value:?} is not supported: expected private, host or container:CONTAINER"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(texts: &[&str]) -> anyhow::Result<SecurityOptions> {
        let mut options = SecurityOptions::default();
        texts.iter().try_for_each(|text| read(text, &mut options))?;
        Ok(options)
    }

    #[test]
    fn security_options_are_read_as_podman_reads_them() {
        assert_eq!(read_all(&["label=disable", "label:disable"]).unwrap(), SecurityOptions::default());
        let options =
            read_all(&["no-new-privileges", "seccomp=/a/b.json", "apparmor=p", "proc-opts=hidepid=2,gid=5"]).unwrap();
        assert!(options.no_new_privileges);
        assert_eq!((options.seccomp, options.apparmor.as_deref()), (Seccomp::File("/a/b.json".into()), Some("p")));
        assert_eq!(options.proc_options, ["hidepid=2", "gid=5"]);
        let options =
            read_all(&["no-new-privileges", "no-new-privileges=false", "seccomp=x", "seccomp:unconfined"]).unwrap();
        assert_eq!((options.no_new_privileges, options.seccomp), (false, Seccomp::Unconfined));
        let options = read_all(&["mask=/a:/b", "mask=/c", "unmask=/proc/*", "systempaths=unconfined"]).unwrap();
        assert_eq!(
            (options.mask, options.unmask),
            (["/a", "/b", "/c"].map(str::to_owned).to_vec(), ["/proc/*", "ALL"].map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for text in [
            "",
            "seccomp",
            "seccomp=",
            "apparmor=",
            "no-new-privileges=1",
            "label=type:x",
            "label=nested",
            "mask",
            "unmask",
            "systempaths=some",
            "seccom=unconfined",
            "mask:/a",
        ] {
            let error = read_all(&[text]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--security-opt {text:?}")), "{error}");
        }
        for value in ["ns:/x", "container:", "hosts"] {
            let error = namespace("--ipc", value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--ipc {value:?}")), "{error}");
        }
        assert_eq!(namespace("--pid", "container:a").unwrap(), NamespaceOf::Container("a".to_owned()));
        assert_eq!(namespace("--pid", "").unwrap(), NamespaceOf::Own);
    }
}
