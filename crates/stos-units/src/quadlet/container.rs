// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `.container`: a service whose main process is the container's monitor.
//!
//! podman's Quadlet has the container in the background and a process beside it that the manager is told of. Here `stos run` in the
//! foreground is that process: its exit code is the container's, its output goes to the journal, and what the manager signals it passes on.

use std::path::{Component, Path, PathBuf};

use super::keys::{How, Table, all_words, split};
use super::{Scene, object_name};
use crate::error::{Error, Result};
use crate::unit_file::{Entry, UnitText};
use crate::words;

/// Seconds that the manager waits longer for the end of a service than stos for that of its container.
const STOP_MARGIN: u64 = 20;

const HEALTH_LOG: &str = "the last results are kept with the container, for `stos inspect`";
const HEALTH_STARTUP: &str = "there is one health check; HealthStartPeriod= says how long its failures do not count";

const CONTAINER: Table = Table {
    keys: &[
        ("Image", How::Elsewhere),
        ("Exec", How::Elsewhere),
        ("ContainerName", How::Elsewhere),
        ("ServiceName", How::Elsewhere),
        ("GlobalArgs", How::Elsewhere),
        ("PodmanArgs", How::Elsewhere),
        ("CgroupsMode", How::Elsewhere),
        ("Notify", How::Elsewhere),
        ("ReloadCmd", How::Elsewhere),
        ("ReloadSignal", How::Elsewhere),
        ("AddDevice", How::Elsewhere),
        ("EnvironmentFile", How::Elsewhere),
        ("Group", How::Elsewhere),
        ("User", How::Elsewhere),
        ("Mount", How::Elsewhere),
        ("Network", How::Elsewhere),
        ("NoNewPrivileges", How::Elsewhere),
        ("SecurityLabelDisable", How::Elsewhere),
        ("VolatileTmp", How::Elsewhere),
        ("Volume", How::Elsewhere),
        ("AddCapability", How::Words("--cap-add")),
        ("AddHost", How::Each("--add-host")),
        ("Annotation", How::Words("--annotation")),
        ("DNS", How::Each("--dns")),
        ("DNSOption", How::Each("--dns-option")),
        ("DNSSearch", How::Each("--dns-search")),
        ("DropCapability", How::Words("--cap-drop")),
        ("Entrypoint", How::Last("--entrypoint")),
        ("Environment", How::Words("--env")),
        ("EnvironmentHost", How::Flag("--env-host")),
        ("ExposeHostPort", How::Each("--expose")),
        ("GIDMap", How::Words("--gidmap")),
        ("HealthCmd", How::Last("--health-cmd")),
        ("HealthInterval", How::Last("--health-interval")),
        ("HealthOnFailure", How::Last("--health-on-failure")),
        ("HealthRetries", How::Last("--health-retries")),
        ("HealthStartPeriod", How::Last("--health-start-period")),
        ("HealthTimeout", How::Last("--health-timeout")),
        ("HostName", How::Last("--hostname")),
        ("IP", How::Last("--ip")),
        ("IP6", How::Last("--ip6")),
        ("Label", How::Words("--label")),
        ("LogDriver", How::Last("--log-driver")),
        ("LogOpt", How::Words("--log-opt")),
        ("Mask", How::PrefixedWords("--security-opt", "mask=")),
        ("Memory", How::Last("--memory")),
        ("NetworkAlias", How::Each("--network-alias")),
        ("PidsLimit", How::Last("--pids-limit")),
        ("PublishPort", How::Each("--publish")),
        ("Pull", How::Last("--pull")),
        ("ReadOnly", How::Flag("--read-only")),
        ("ReadOnlyTmpfs", How::Switch("--read-only-tmpfs")),
        ("Retry", How::Last("--retry")),
        ("RunInit", How::Switch("--init")),
        ("SeccompProfile", How::Prefixed("--security-opt", "seccomp=")),
        ("ShmSize", How::Last("--shm-size")),
        ("StopSignal", How::Last("--stop-signal")),
        ("StopTimeout", How::Last("--stop-timeout")),
        ("SubGIDMap", How::Last("--subgidname")),
        ("SubUIDMap", How::Last("--subuidname")),
        ("Sysctl", How::Words("--sysctl")),
        ("Timezone", How::Last("--tz")),
        ("Tmpfs", How::Each("--tmpfs")),
        ("UIDMap", How::Words("--uidmap")),
        ("Ulimit", How::Each("--ulimit")),
        ("Unmask", How::PrefixedWords("--security-opt", "unmask=")),
        ("UserNS", How::Last("--userns")),
        ("WorkingDir", How::Last("--workdir")),
    ],
    not_here: &[
        ("AutoUpdate", "images are not updated by themselves; restart the service with Pull=always"),
        ("ContainersConfModule", "there are no modules of containers.conf"),
        ("GroupAdd", "the groups are those that the image's /etc/group gives its user"),
        ("HealthLogDestination", HEALTH_LOG),
        ("HealthMaxLogCount", HEALTH_LOG),
        ("HealthMaxLogSize", HEALTH_LOG),
        ("HealthStartupCmd", HEALTH_STARTUP),
        ("HealthStartupInterval", HEALTH_STARTUP),
        ("HealthStartupRetries", HEALTH_STARTUP),
        ("HealthStartupSuccess", HEALTH_STARTUP),
        ("HealthStartupTimeout", HEALTH_STARTUP),
        ("HttpProxy", "proxies of the host are handed in by Environment="),
        ("Pod", "name the pod in PodmanArgs=--pod=NAME"),
        ("StartWithPod", "name the pod in PodmanArgs=--pod=NAME"),
        ("RetryDelay", "the delay grows by itself; Retry= says how often"),
        ("Rootfs", "a container is made of an image; for a bundle write a service with `stos run --bundle`"),
        ("Secret", "there are no secrets; EnvironmentFile= or Volume= bring in a file"),
        ("SecurityLabelFileType", "SELinux labels are not set"),
        ("SecurityLabelLevel", "SELinux labels are not set"),
        ("SecurityLabelNested", "SELinux labels are not set"),
        ("SecurityLabelType", "SELinux labels are not set"),
    ],
};

/// The container's service.
pub(super) fn convert(scene: &Scene<'_>, text: &mut UnitText) -> Result<()> {
    let (unit, section) = (scene.unit(), scene.section());
    CONTAINER.check(unit, section)?;
    let image = unit.last(section, "Image").ok_or_else(|| missing(scene, "Image= of [Container]"))?;
    expect_image(image, &image.value)?;
    let name = object_name(scene.source, scene.kind);
    let is_oneshot = service_type(scene, text)?;
    let mut command = vec![scene.program.to_owned()];
    command.extend(all_words(unit, section, "GlobalArgs")?);
    let global = command.clone();
    command.extend(["run", "--name", &name, "--replace", "--rm"].map(str::to_owned));
    let cgroups = unit.last(section, "CgroupsMode").map_or("split", |entry| &entry.value);
    command.push(format!("--cgroups={cgroups}"));
    if !is_oneshot {
        command.push(format!("--sdnotify={}", notify(scene)?));
    }
    command.extend(CONTAINER.options(unit, section)?);
    command.extend(special_options(scene, text)?);
    command.extend(all_words(unit, section, "PodmanArgs")?);
    command.push(image.value.clone());
    if let Some(exec) = unit.last(section, "Exec") {
        command.extend(split(exec)?);
    }
    text.add("Service", "ExecStart", joined(&command));
    let of_name = |words: &[&str]| {
        let words = global.iter().map(String::as_str).chain(words.iter().copied()).chain([name.as_str()]);
        words::join(words)
    };
    // The container's own signal and time; the manager's come after.
    text.add("Service", "ExecStop", of_name(&["stop", "--ignore"]));
    text.add("Service", "ExecStopPost", format!("-{}", of_name(&["rm", "--force", "--ignore", "--volumes"])));
    reload(scene, text, &global, &name)?;
    if let Some(entry) = unit.last(section, "StopTimeout") {
        let seconds: u64 = entry.value.parse().map_err(|_| entry.refuse("expected seconds"))?;
        text.add_default("Service", "TimeoutStopSec", seconds.saturating_add(STOP_MARGIN).to_string());
    }
    text.add_default("Service", "SyslogIdentifier", "%N");
    Ok(())
}

/// Refuses a file of podman's that makes an image.
fn expect_image(entry: &Entry, image: &str) -> Result<()> {
    match [".image", ".build"].iter().find(|kind| image.ends_with(*kind)) {
        Some(kind) => Err(entry.refuse(format!("expected the name of an image: there are no {kind} files"))),
        None => Ok(()),
    }
}

fn missing(scene: &Scene<'_>, what: &str) -> Error {
    Error::Missing { file: scene.source.file.clone(), what: what.to_owned() }
}

fn joined(command: &[String]) -> String {
    words::join(command.iter().map(String::as_str))
}

/// What the manager is told about the kind of service. Tells whether it is over when its process has ended.
fn service_type(scene: &Scene<'_>, text: &mut UnitText) -> Result<bool> {
    let given = scene.unit().last("Service", "Type");
    let is_oneshot = match given.map(|entry| (entry, entry.value.as_str())) {
        None => {
            text.add("Service", "Type", "notify");
            false
        }
        Some((_, "notify")) => false,
        Some((_, "oneshot")) => true,
        Some((entry, _)) => return Err(entry.refuse("expected notify or oneshot")),
    };
    if !is_oneshot {
        text.add_default("Service", "NotifyAccess", "all");
    }
    text.add_default("Service", "Delegate", "yes");
    if let Some(mode) = scene.unit().last("Service", "KillMode")
        && !["mixed", "control-group"].contains(&mode.value.as_str())
    {
        return Err(mode.refuse("expected mixed or control-group"));
    }
    text.add_default("Service", "KillMode", "mixed");
    Ok(is_oneshot)
}

/// Who says that the service is ready.
fn notify(scene: &Scene<'_>) -> Result<&'static str> {
    match scene.unit().last(scene.section(), "Notify") {
        None => Ok("conmon"),
        Some(entry) if entry.value == "healthy" => Ok("healthy"),
        Some(entry) => match entry.boolean() {
            Ok(true) => Ok("container"),
            Ok(false) => Ok("conmon"),
            Err(_) => Err(entry.refuse("expected yes, no or healthy")),
        },
    }
}

/// The options of keys that are more than a word of the command.
fn special_options(scene: &Scene<'_>, text: &mut UnitText) -> Result<Vec<String>> {
    let (unit, section) = (scene.unit(), scene.section());
    let mut options = Vec::new();
    let is_set = |key: &str| unit.last(section, key).map_or(Ok(false), Entry::boolean);
    for word in all_words(unit, section, "AddDevice")? {
        options.extend(device(&word).map(|device| format!("--device={device}")));
    }
    for path in all_words(unit, section, "EnvironmentFile")? {
        options.push(format!("--env-file={}", beside(scene, &path).display()));
    }
    for entry in unit.all(section, "Volume") {
        options.push(format!("--volume={}", volume(scene, entry, text)?));
    }
    for entry in unit.all(section, "Mount") {
        for word in split(entry)? {
            options.push(format!("--mount={}", mount(scene, entry, &word, text)?));
        }
    }
    for entry in unit.all(section, "Network") {
        options.push(format!("--network={}", network(scene, entry, text)?));
    }
    match (unit.last(section, "User"), unit.last(section, "Group")) {
        (Some(user), Some(group)) => options.push(format!("--user={}:{}", user.value, group.value)),
        (Some(user), None) => options.push(format!("--user={}", user.value)),
        (None, Some(group)) => return Err(group.refuse("a group needs a User=")),
        (None, None) => {}
    }
    if is_set("NoNewPrivileges")? {
        options.push("--security-opt=no-new-privileges".to_owned());
    }
    if is_set("SecurityLabelDisable")? {
        options.push("--security-opt=label=disable".to_owned());
    }
    if is_set("VolatileTmp")? {
        options.push("--tmpfs=/tmp:rw,size=512M,mode=1777".to_owned());
    }
    Ok(options)
}

/// A device; with a dash before it, only where the host has it.
fn device(word: &str) -> Option<&str> {
    match word.strip_prefix('-') {
        Some(device) => {
            let path = device.split(':').next().unwrap_or_default();
            Path::new(path).exists().then_some(device)
        }
        None => Some(word),
    }
}

/// `SOURCE:TARGET:OPTIONS` whose source may be a `.volume` file, or a path beside the file.
fn volume(scene: &Scene<'_>, entry: &Entry, text: &mut UnitText) -> Result<String> {
    match entry.value.split_once(':') {
        Some((from, rest)) => Ok(format!("{}:{rest}", volume_source(scene, entry, from, text)?)),
        None => Ok(entry.value.clone()),
    }
}

fn volume_source(scene: &Scene<'_>, entry: &Entry, from: &str, text: &mut UnitText) -> Result<String> {
    if from.ends_with(".volume") {
        return scene.sibling(entry, from, text);
    }
    let path = if from.starts_with('.') { beside(scene, from).display().to_string() } else { from.to_owned() };
    if path.starts_with('/') {
        text.add("Unit", "RequiresMountsFor", words::join([path.as_str()]));
    }
    Ok(path)
}

/// The words of `--mount`, whose source may be a `.volume` file.
fn mount(scene: &Scene<'_>, entry: &Entry, value: &str, text: &mut UnitText) -> Result<String> {
    let is_image = value.split(',').any(|word| word == "type=image");
    let words = value.split(',').map(|word| match word.split_once('=') {
        Some(("source" | "src", image)) if is_image => expect_image(entry, image).map(|()| word.to_owned()),
        Some((key @ ("source" | "src"), from)) => Ok(format!("{key}={}", volume_source(scene, entry, from, text)?)),
        _ => Ok(word.to_owned()),
    });
    Ok(words.collect::<Result<Vec<_>>>()?.join(","))
}

/// A network, which may be a `.network` file or another `.container`.
fn network(scene: &Scene<'_>, entry: &Entry, text: &mut UnitText) -> Result<String> {
    let value = entry.value.as_str();
    let (name, options) = value.split_once(':').map_or((value, None), |(name, options)| (name, Some(options)));
    let named = match Path::new(name).extension().and_then(|kind| kind.to_str()) {
        Some("network") => scene.sibling(entry, name, text)?,
        Some("container") => format!("container:{}", scene.sibling(entry, name, text)?),
        _ => return Ok(value.to_owned()),
    };
    Ok(options.map_or_else(|| named.clone(), |options| format!("{named}:{options}")))
}

/// A path that is meant from the file's directory; one that begins with a specifier is systemd's to read.
fn beside(scene: &Scene<'_>, path: &str) -> PathBuf {
    if path.starts_with(['/', '%']) {
        return PathBuf::from(path);
    }
    let directory = scene.source.file.parent().unwrap_or(Path::new("/"));
    let directory = PathBuf::from(words::percents_doubled(&directory.display().to_string()));
    let mut whole = PathBuf::new();
    for part in directory.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(whole.pop()),
            other => whole.push(other),
        }
    }
    whole
}

fn reload(scene: &Scene<'_>, text: &mut UnitText, global: &[String], name: &str) -> Result<()> {
    let (unit, section) = (scene.unit(), scene.section());
    let mut command = global.to_vec();
    match (unit.last(section, "ReloadCmd"), unit.last(section, "ReloadSignal")) {
        (None, None) => return Ok(()),
        (Some(_), Some(signal)) => return Err(signal.refuse("there is a ReloadCmd= already")),
        (Some(entry), None) => {
            command.extend(["exec".to_owned(), name.to_owned()]);
            command.extend(split(entry)?);
        }
        (None, Some(signal)) => {
            command.extend(["kill", "--signal", &signal.value, name].map(str::to_owned));
        }
    }
    text.add("Service", "ExecReload", joined(&command));
    Ok(())
}
