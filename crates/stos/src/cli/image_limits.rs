// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words about limits and devices of new containers from images: podman's.

use std::path::{Component, Path, PathBuf};

use clap::Args;
use stos_engine::limits::{
    DeviceOption, DeviceRuleOption, LimitOptions, MOUNT_WORDS, ResourceOptions, TMPFS_KEYS, TmpfsOption, UlimitOption,
    UlimitValue,
};

use super::limits::parse_size;

// What image mode's create and run share.
#[derive(Debug, Clone, Args)]
pub struct ImageLimits {
    /// Memory, in bytes or with k, m, g
    #[arg(short, long, value_name = "SIZE", allow_negative_numbers = true, value_parser = parse_amount)]
    pub memory: Option<i64>,
    /// Memory and swap together; -1 for no limit of swap [default: twice the memory]
    #[arg(long, hide_short_help = true, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size)]
    pub memory_swap: Option<i64>,
    /// Memory that is kept for the container where it is scarce
    #[arg(long, hide_short_help = true, value_name = "SIZE", value_parser = parse_amount)]
    pub memory_reservation: Option<i64>,
    /// How gladly its memory is swapped, 0 to 100; -1 as the machine has it (cgroup v1)
    #[arg(long, hide_short_help = true, value_name = "NUMBER", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..=100))]
    pub memory_swappiness: Option<i64>,
    /// Kill nothing at the limit of memory: processes wait (cgroup v1)
    #[arg(long, hide_short_help = true)]
    pub oom_kill_disable: bool,
    /// How gladly it is killed where the machine is out of memory, -1000 to 1000
    #[arg(long, hide_short_help = true, value_name = "SCORE", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub oom_score_adj: Option<i32>,
    /// Processors' worth of time, such as 1.5
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["cpu_period", "cpu_quota"], value_parser = parse_cpus)]
    pub cpus: Option<f64>,
    /// Share of processor time, by comparison with other containers
    #[arg(short = 'c', long, hide_short_help = true, value_name = "SHARES")]
    pub cpu_shares: Option<u64>,
    /// Microseconds of a period, of which the quota is a part
    #[arg(long, hide_short_help = true, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in a period
    #[arg(long, hide_short_help = true, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// The processors, such as 0-2,4
    #[arg(long, hide_short_help = true, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// The memory nodes, such as 0,1
    #[arg(long, hide_short_help = true, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit [default: 2048]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub pids_limit: Option<i64>,
    /// Weight of block input and output, 10 to 1000
    #[arg(long, hide_short_help = true, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Limit a process, such as nofile=1024:2048; -1 for the most, `host` for all as here
    #[arg(long, hide_short_help = true, value_name = "NAME=SOFT[:HARD]", value_parser = parse_ulimit)]
    pub ulimit: Vec<UlimitOption>,
    /// Size of /dev/shm; 0 for no limit [default: 64m]
    #[arg(long, hide_short_help = true, value_name = "SIZE", value_parser = parse_amount)]
    pub shm_size: Option<i64>,
    /// Mount a filesystem in memory, such as /tmp:size=64m,mode=1777
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = parse_tmpfs)]
    pub tmpfs: Vec<TmpfsOption>,
    /// Give it a device of the host, to read (r), write (w) and make nodes of (m)
    #[arg(long, value_name = "HOST[:PATH][:rwm]", value_parser = parse_device)]
    pub device: Vec<DeviceOption>,
    /// Let it use devices, such as "c 10:* rw"
    #[arg(long, hide_short_help = true, value_name = "RULE", value_parser = parse_device_rule)]
    pub device_cgroup_rule: Vec<DeviceRuleOption>,
    /// Set a kernel's parameter of the container's own
    #[arg(long, hide_short_help = true, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub sysctl: Vec<(String, String)>,
    /// Annotate its configuration
    #[arg(long, hide_short_help = true, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub annotation: Vec<(String, String)>,
}

impl ImageLimits {
    /// Gives them as the engine takes them. Of what is said twice about one name the last counts.
    pub fn to_options(&self) -> LimitOptions {
        LimitOptions {
            resources: ResourceOptions {
                memory: self.memory,
                memory_swap: self.memory_swap,
                memory_reservation: self.memory_reservation,
                memory_swappiness: self.memory_swappiness.and_then(|number| u64::try_from(number).ok()),
                oom_kill_disable: self.oom_kill_disable,
                cpus: self.cpus,
                cpu_shares: self.cpu_shares,
                cpu_period: self.cpu_period,
                cpu_quota: self.cpu_quota,
                cpuset_cpus: self.cpuset_cpus.clone(),
                cpuset_mems: self.cpuset_mems.clone(),
                pids_limit: self.pids_limit,
                blkio_weight: self.blkio_weight,
            },
            ulimits: self.ulimit.clone(),
            shm_size: self.shm_size.and_then(|size| u64::try_from(size).ok()),
            tmpfs: self.tmpfs.clone(),
            devices: self.device.clone(),
            device_rules: self.device_cgroup_rule.clone(),
            oom_score_adj: self.oom_score_adj,
            sysctl: self.sysctl.iter().cloned().collect(),
            annotations: self.annotation.iter().cloned().collect(),
        }
    }
}

/// A size that is not below 0.
fn parse_amount(text: &str) -> Result<i64, String> {
    match parse_size(text) {
        Ok(size @ 0..) => Ok(size),
        _ => Err(format!("expected bytes, or a size such as 512m, found {text:?}")),
    }
}

/// A number of processors, 0 for no limit. docker's least is a hundredth; of less no millisecond of a period is left.
pub(super) fn parse_cpus(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number == 0.0 || (number.is_finite() && number >= 0.01) => Ok(number),
        _ => Err(format!("expected processors, at least 0.01, or 0 for no limit, found {text:?}")),
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("expected a name and a value with = between them, found {text:?}")),
    }
}

/// Reads `NAME=SOFT[:HARD]` or `host` (docker/go-units, `ParseUlimit`). Without a hard limit it is the soft one.
fn parse_ulimit(text: &str) -> Result<UlimitOption, String> {
    if text == "host" {
        return Ok(UlimitOption::Host);
    }
    let wrong = || format!("expected NAME=SOFT or NAME=SOFT:HARD with numbers, or -1 for the most, found {text:?}");
    let value = |text: &str| match text {
        "-1" => Ok(UlimitValue::Most),
        digits => digits.parse().map(UlimitValue::Of).map_err(|_| wrong()),
    };
    let (name, values) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Ok(UlimitOption::One { name: name.to_owned(), soft: value(soft)?, hard: value(hard)? })
}

/// An absolute path in the container, without what leads up, below its root.
fn parse_target(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let leads_up = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || leads_up || path.components().count() < 2 || text.contains('\0') {
        return Err(format!("expected an absolute path below / without \"..\" in the container, found {text:?}"));
    }
    Ok(path.components().collect())
}

/// What stos itself shows there, or makes.
const OWN_MOUNTS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Options of a tmpfs that take no value, besides the attributes of any mount.
const TMPFS_WORDS: [&str; 8] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared", "tmpcopyup", "notmpcopyup"];

/// Reads `PATH[:OPTIONS]`.
pub fn parse_tmpfs(text: &str) -> Result<TmpfsOption, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = parse_target(target)?;
    let is_own = |own: &&&str| target == Path::new(*own) || (**own != "/dev" && target.starts_with(own));
    if let Some(own) = OWN_MOUNTS.iter().find(is_own) {
        return Err(format!("{own} of a container is made for it: nothing can be mounted over it"));
    }
    let options: Vec<String> = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    let is_known = |option: &&String| match option.split_once('=') {
        Some((key, value)) => TMPFS_KEYS.contains(&key) && !value.is_empty(),
        None => MOUNT_WORDS.iter().chain(&TMPFS_WORDS).any(|word| word == option),
    };
    match options.iter().find(|option| !is_known(option)) {
        Some(option) => Err(format!("{option:?} is no option of a tmpfs that is supported")),
        None => Ok(TmpfsOption { target, options }),
    }
}

/// Whether they are letters of `rwm`, each once at most.
fn is_access(text: &str) -> bool {
    let once = |letter| text.matches(letter).count() <= 1;
    !text.is_empty() && text.chars().all(|letter| "rwm".contains(letter)) && ['r', 'w', 'm'].into_iter().all(once)
}

/// Reads `HOST[:PATH][:rwm]`.
fn parse_device(text: &str) -> Result<DeviceOption, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, access] if is_access(access) => (*source, *source, *access),
        [source, target] => (*source, *target, "rwm"),
        [source, target, access] if is_access(access) => (*source, *target, *access),
        _ => return Err(format!("expected HOST, HOST:PATH or HOST:PATH:ACCESS with letters of rwm, found {text:?}")),
    };
    if !source.starts_with('/') {
        return Err(format!("expected an absolute path of the host, found {source:?}"));
    }
    Ok(DeviceOption { source: source.into(), target: parse_target(target)?, access: access.to_owned() })
}

/// Reads `TYPE MAJOR:MINOR ACCESS` (Documentation/admin-guide/cgroup-v1/devices.rst).
fn parse_device_rule(text: &str) -> Result<DeviceRuleOption, String> {
    let wrong = || format!("expected a rule such as \"c 10:200 rwm\" or \"b 8:* r\", found {text:?}");
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits => digits.parse().map(Some).map_err(|_| wrong()),
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind @ ("a" | "b" | "c"), numbers, access] = words.as_slice() else { return Err(wrong()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    let (major, minor) = (number(major)?, number(minor)?);
    if !is_access(access) {
        return Err(wrong());
    }
    // cgroup v1 takes any rule of type "a" as one for everything.
    if *kind == "a" && (major.is_some() || minor.is_some() || access.len() < 3) {
        return Err(format!("of type a there is only \"a *:* rwm\", found {text:?}"));
    }
    Ok(DeviceRuleOption { kind: kind.chars().next().unwrap_or('a'), major, minor, access: (*access).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_processors_are_not_below_zero() {
        assert_eq!((parse_amount("0"), parse_amount("1.5k")), (Ok(0), Ok(1536)));
        assert_eq!((parse_cpus("0"), parse_cpus("1.5")), (Ok(0.0), Ok(1.5)));
        for text in ["-1", "x", "0.001", "inf", "NaN", ""] {
            assert!(parse_cpus(text).is_err(), "{text}");
        }
        assert!(parse_amount("-1").is_err() && parse_amount("1x").is_err());
        assert_eq!(parse_pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_pair("a").is_err() && parse_pair("=a").is_err());
    }

    #[test]
    fn ulimits_are_read_as_podman_reads_them() {
        let one = |name: &str, soft, hard| Ok(UlimitOption::One { name: name.into(), soft, hard });
        assert_eq!(parse_ulimit("nofile=5:7"), one("nofile", UlimitValue::Of(5), UlimitValue::Of(7)));
        assert_eq!(parse_ulimit("core=-1"), one("core", UlimitValue::Most, UlimitValue::Most));
        assert_eq!(parse_ulimit("host"), Ok(UlimitOption::Host));
        for text in ["nofile", "=5", "nofile=", "nofile=5:", "nofile=-2", "nofile=x", "nofile=1:2:3"] {
            assert!(parse_ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn filesystems_in_memory_are_read_as_podman_reads_them() {
        let read = parse_tmpfs("/run//x/:size=1m,,mode=1777,exec").unwrap();
        assert_eq!(read.target, Path::new("/run/x"));
        assert_eq!(read.options, ["size=1m", "mode=1777", "exec"]);
        parse_tmpfs("/dev/shm").unwrap();
        for text in
            ["rel", "/", "/a/../b", "/x:bogus", "/x:size", "/x:size=", "/x:lowerdir=/", "/proc/x", "/sys", "/dev"]
        {
            assert!(parse_tmpfs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn devices_and_rules_are_read_as_podman_reads_them() {
        let device = |text| {
            parse_device(text).map(|it| format!("{} {} {}", it.source.display(), it.target.display(), it.access))
        };
        assert_eq!(device("/dev/a"), Ok("/dev/a /dev/a rwm".into()));
        assert_eq!(device("/dev/a:r"), Ok("/dev/a /dev/a r".into()));
        assert_eq!(device("/dev/a:/dev/b"), Ok("/dev/a /dev/b rwm".into()));
        assert_eq!(device("/dev/a:/dev/b:mr"), Ok("/dev/a /dev/b mr".into()));
        for text in
            ["a", "/dev/a:x", "/dev/a:rr", "/dev/a:/dev/b:rx", "/dev/a:/dev/b:", "/a:/b:r:w", "vendor.com/x=all"]
        {
            assert!(parse_device(text).is_err(), "{text}");
        }
        let rule = parse_device_rule("c 10:* rw").unwrap();
        assert_eq!((rule.kind, rule.major, rule.minor, rule.access.as_str()), ('c', Some(10), None, "rw"));
        parse_device_rule("a *:* rwm").unwrap();
        for text in ["", "c", "z 1:3 r", "c 1:3 x", "c 1 r", "c 1:x r", "a 1:* rwm", "a *:* r", "c 1:3 r w"] {
            assert!(parse_device_rule(text).is_err(), "{text}");
        }
    }
}
