// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `linux.resources` as what is written into which control file, on v1, v2 and hybrid machines.
//!
//! [`plan`] is pure: it turns resources and the [`Layout`] of the machine into [`Group`]s of [`Write`]s, or says which key cannot be
//! kept. `apply` writes them. Keys, files and conversions are those of runtime-spec 1.2 (config-linux.md, "Control groups") and of
//! runc (opencontainers/cgroups, `fs` and `fs2`); what the files mean is in the kernel's Documentation/admin-guide/cgroup-v1 and
//! cgroup-v2.rst. 0 asks for nothing, as runc has it, and -1 for no limit.
//!
//! On a hybrid machine a controller is used where it lives: in its v1 hierarchy, or else in the v2 tree.

mod apply;
mod complete;
mod cpu;
mod error;
mod io;
mod memory;
mod others;

use std::fs;

use oci_spec::runtime::LinuxResources;

pub(super) use apply::{Target, apply, enable_controllers};
pub(super) use complete::{Current, complete};
pub use error::LimitError;

use super::{Hierarchy, Version};

type Step<T = ()> = Result<T, LimitError>;

/// Which controllers are where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Controllers of mounted v1 hierarchies.
    pub v1: Vec<String>,
    /// Controllers of the v2 tree (`cgroup.controllers` of its root); `None` where none is mounted.
    pub v2: Option<Vec<String>>,
}

impl Layout {
    /// Reads the layout of mounted hierarchies. A v2 tree whose controllers cannot be read has none.
    pub fn of(hierarchies: &[Hierarchy]) -> Self {
        let v1 = hierarchies.iter().filter(|hierarchy| hierarchy.version == Version::V1);
        let v2 = hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2);
        let controllers = |hierarchy: &Hierarchy| {
            let text = fs::read_to_string(hierarchy.mount_point.join("cgroup.controllers")).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        Self { v1: v1.flat_map(|hierarchy| hierarchy.controllers.clone()).collect(), v2: v2.map(controllers) }
    }

    /// Where a controller lives: `v1` and `v2` are its names there.
    fn find(&self, key: &str, v1: &str, v2: Option<&str>) -> Step<Version> {
        if self.v1.iter().any(|name| name == v1) {
            return Ok(Version::V1);
        }
        let available = self.v2.as_deref().unwrap_or_default();
        match v2 {
            Some(v2) if available.iter().any(|name| name == v2) => Ok(Version::V2),
            // What v2 has in no form is missing there for good, and not for want of a mount.
            None if self.v2.is_some() && self.v1.iter().all(|name| name.starts_with("name=")) => {
                Err(LimitError::NotInVersion { key: key.to_owned(), version: Version::V2 })
            }
            _ => Err(LimitError::NoController { key: key.to_owned(), controller: v1.to_owned() }),
        }
    }
}

/// Writes that depend on each other: what the kernel refuses as invalid is tried again after the rest, so that an order is found
/// that it takes. A limit of memory must not be above that of memory and swap at any moment, nor a quota above what the period
/// allows.
pub type Group = Vec<Write>;

/// Text for a control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key in the configuration.
    pub key: String,
    /// The controller, by its name in `version`; empty for the files that each v2 cgroup has.
    pub controller: String,
    /// In which kind of hierarchy it is.
    pub version: Version,
    /// The file and the text. Where there are several the first file that exists is meant: kernels name it differently.
    pub forms: Vec<(String, String)>,
    /// Whether the file may be missing: the kernel then keeps the promise without it.
    pub is_optional: bool,
    /// Whether the file is a table with a line for each device: undone by device.
    pub is_table: bool,
    /// Whether the kernel may round it up or down without a word.
    pub is_clamped: bool,
    /// A file whose value must not be above the new one.
    pub at_least: Option<&'static str>,
}

/// Where a resource's keys are planned: one controller in one version.
struct Controller {
    name: &'static str,
    version: Version,
}

impl Controller {
    fn find(layout: &Layout, key: &str, v1: &'static str, v2: Option<&'static str>) -> Step<Self> {
        let version = layout.find(key, v1, v2)?;
        Ok(Self { name: if version == Version::V2 { v2.unwrap_or(v1) } else { v1 }, version })
    }

    fn is_v2(&self) -> bool {
        self.version == Version::V2
    }

    fn write(&self, key: &str, file: impl Into<String>, text: impl ToString) -> Write {
        Write {
            key: key.to_owned(),
            controller: self.name.to_owned(),
            version: self.version,
            forms: vec![(file.into(), text.to_string())],
            is_optional: false,
            is_table: false,
            is_clamped: false,
            at_least: None,
        }
    }

    fn not_here(&self, key: &str) -> LimitError {
        LimitError::NotInVersion { key: key.to_owned(), version: self.version }
    }
}

/// Prefixes a key of the resources.
fn key(name: &str) -> String {
    format!("linux.resources.{name}")
}

/// Plans every limit of `resources` but the device rules.
///
/// # Errors
/// For a key whose controller this machine lacks, which its version of cgroups cannot express, or whose value breaks a rule.
pub fn plan(resources: &LinuxResources, layout: &Layout) -> Result<Vec<Group>, LimitError> {
    let mut groups = Vec::new();
    if let Some(asked) = resources.memory() {
        memory::plan(asked, layout, &mut groups)?;
    }
    if let Some(asked) = resources.cpu() {
        cpu::plan(asked, layout, &mut groups)?;
        cpu::plan_sets(asked, layout, &mut groups)?;
    }
    if let Some(asked) = resources.pids() {
        others::pids(asked, layout, &mut groups)?;
    }
    if let Some(asked) = resources.block_io() {
        io::plan(asked, layout, &mut groups)?;
    }
    others::hugepages(resources.hugepage_limits().as_deref().unwrap_or_default(), layout, &mut groups)?;
    if let Some(asked) = resources.network() {
        others::network(asked, layout, &mut groups)?;
    }
    if let Some(asked) = resources.rdma() {
        others::rdma(asked, layout, &mut groups)?;
    }
    if let Some(asked) = resources.unified() {
        others::unified(asked, layout, &mut groups)?;
    }
    groups.retain(|group| !group.is_empty());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(super) fn v1() -> Layout {
        let names = ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "rdma"];
        Layout { v1: names.map(str::to_owned).to_vec(), v2: None }
    }

    pub(super) fn v2() -> Layout {
        let names = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"];
        Layout { v1: vec!["name=systemd".to_owned()], v2: Some(names.map(str::to_owned).to_vec()) }
    }

    /// Each write as `file=text`, alternatives split by `|`, groups by `;`.
    pub(super) fn planned(layout: &Layout, resources: Value) -> String {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        let form = |(file, text): &(String, String)| format!("{file}={text}");
        let write = |write: &Write| write.forms.iter().map(form).collect::<Vec<_>>().join("|");
        let group = |group: &Group| group.iter().map(write).collect::<Vec<_>>().join(" & ");
        match plan(&resources, layout) {
            Ok(groups) => groups.iter().map(group).collect::<Vec<_>>().join("; "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_asks_for_nothing_is_written_nowhere() {
        let nothing = json!({
            "memory": {"limit": 0, "swap": 0, "reservation": 0, "disableOOMKiller": false},
            "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
            "pids": {"limit": 0}, "blockIO": {"weight": 0, "throttleReadBpsDevice": []},
            "hugepageLimits": [], "network": {}, "rdma": {}, "unified": {}
        });
        for layout in [v1(), v2(), Layout::default()] {
            assert_eq!(planned(&layout, nothing.clone()), "");
        }
    }

    #[test]
    fn a_controller_that_is_not_there_is_told_by_key() {
        for (resources, key, controller) in [
            (json!({"memory": {"limit": 1}}), "memory.limit", "memory"),
            (json!({"memory": {"swappiness": 0}}), "memory.swappiness", "memory"),
            (json!({"cpu": {"shares": 2}}), "cpu.shares", "cpu"),
            (json!({"cpu": {"cpus": "0"}}), "cpu.cpus", "cpuset"),
            (json!({"cpu": {"mems": "0"}}), "cpu.mems", "cpuset"),
            (json!({"pids": {"limit": 1}}), "pids.limit", "pids"),
            (json!({"blockIO": {"weight": 10}}), "blockIO.weight", "blkio"),
            (json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}), "hugepageLimits[0]", "hugetlb"),
            (json!({"network": {"classID": 1}}), "network.classID", "net_cls"),
            (json!({"network": {"priorities": [{"name": "lo", "priority": 1}]}}), "network.priorities", "net_prio"),
            (json!({"rdma": {"mlx5": {"hcaHandles": 1}}}), "rdma.mlx5", "rdma"),
        ] {
            let said = planned(&Layout { v1: Vec::new(), v2: None }, resources);
            assert_eq!(said, format!("linux.resources.{key}: no cgroup hierarchy has the controller {controller}"));
        }
    }

    #[test]
    fn on_a_hybrid_machine_each_controller_is_used_where_it_lives() {
        let hybrid = Layout { v1: vec!["memory".to_owned()], v2: Some(vec!["hugetlb".to_owned()]) };
        let resources = json!({"memory": {"limit": 1}, "hugepageLimits": [{"pageSize": "2MB", "limit": 3}]});
        assert_eq!(planned(&hybrid, resources), "memory.limit_in_bytes=1; hugetlb.2MB.max=3 & hugetlb.2MB.rsvd.max=3");
    }
}
