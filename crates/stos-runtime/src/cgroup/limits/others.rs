// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Processes, huge pages, network classes, RDMA, and the v2 files that a bundle names itself.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxPids, LinuxRdma};

use super::{Controller, Group, Layout, LimitError, Step, Write, key};
use crate::cgroup::Version;

/// 0 asks for nothing, and any number below for no limit, as runc has it.
pub(super) fn pids(asked: &LinuxPids, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    let limit = asked.limit();
    if limit == 0 {
        return Ok(());
    }
    let name = key("pids.limit");
    let pids = Controller::find(layout, &name, "pids", Some("pids"))?;
    let text = if limit < 0 { "max".to_owned() } else { limit.to_string() };
    groups.push(vec![pids.write(&name, "pids.max", text)]);
    Ok(())
}

/// Pages in use, and those that are reserved, where the kernel counts them (Linux 5.7).
pub(super) fn hugepages(asked: &[LinuxHugepageLimit], layout: &Layout, groups: &mut Vec<Group>) -> Step {
    for (at, limit) in asked.iter().enumerate() {
        let name = key(&format!("hugepageLimits[{at}]"));
        let size = limit.page_size();
        if size.is_empty() || size.contains(['/', '.']) {
            return Err(LimitError::invalid(&format!("{name}.pageSize"), "a size such as 2MB", size));
        }
        if limit.limit() < 0 {
            return Err(LimitError::invalid(&format!("{name}.limit"), "bytes", limit.limit()));
        }
        let hugetlb = Controller::find(layout, &name, "hugetlb", Some("hugetlb"))?;
        let suffix = if hugetlb.is_v2() { "max" } else { "limit_in_bytes" };
        let used = hugetlb.write(&name, format!("hugetlb.{size}.{suffix}"), limit.limit());
        let mut reserved = hugetlb.write(&name, format!("hugetlb.{size}.rsvd.{suffix}"), limit.limit());
        reserved.is_optional = true;
        groups.push(vec![used, reserved]);
    }
    Ok(())
}

/// Marks for traffic control and priorities: v1's net_cls.rst and net_prio.rst. v2 has neither.
pub(super) fn network(asked: &LinuxNetwork, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    if let Some(class) = asked.class_id().filter(|class| *class != 0) {
        let name = key("network.classID");
        let net_cls = Controller::find(layout, &name, "net_cls", None)?;
        groups.push(vec![net_cls.write(&name, "net_cls.classid", class)]);
    }
    for priority in asked.priorities().iter().flatten() {
        let name = key("network.priorities");
        let net_prio = Controller::find(layout, &name, "net_prio", None)?;
        let text = format!("{} {}", priority.name(), priority.priority());
        let mut write = net_prio.write(&name, "net_prio.ifpriomap", text);
        write.is_table = true;
        groups.push(vec![write]);
    }
    Ok(())
}

/// cgroup-v1/rdma.rst; v2 has the same file.
pub(super) fn rdma(asked: &HashMap<String, LinuxRdma>, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    let mut devices: Vec<_> = asked.iter().collect();
    devices.sort_unstable_by_key(|(device, _)| *device);
    for (device, limits) in devices {
        let name = key(&format!("rdma.{device}"));
        let parts = [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())];
        let parts = parts.iter().filter_map(|(part, limit)| limit.map(|limit| format!(" {part}={limit}")));
        let text: String = parts.collect();
        if text.is_empty() {
            continue;
        }
        let rdma = Controller::find(layout, &name, "rdma", Some("rdma"))?;
        let mut write = rdma.write(&name, "rdma.max", format!("{device}{text}"));
        write.is_table = true;
        groups.push(vec![write]);
    }
    Ok(())
}

/// Files of the v2 tree by their own names. Each line is written by itself, as files with a line for each device take them.
pub(super) fn unified(asked: &HashMap<String, String>, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    let mut files: Vec<_> = asked.iter().collect();
    files.sort_unstable();
    for (file, value) in files {
        let name = key(&format!("unified.{file}"));
        let Some(controller) = file.split_once('.').map(|(controller, _)| controller).filter(|name| !name.is_empty())
        else {
            return Err(LimitError::invalid(&name, "the name of a control file", file));
        };
        if file.contains('/') {
            return Err(LimitError::invalid(&name, "the name of a control file", file));
        }
        let Some(available) = &layout.v2 else {
            return Err(LimitError::NotInVersion { key: name, version: Version::V1 });
        };
        let is_core = controller == "cgroup";
        if !is_core && !available.iter().any(|name| name == controller) {
            return Err(LimitError::NoController { key: name, controller: controller.to_owned() });
        }
        let write = |text: &str| Write {
            key: name.clone(),
            controller: if is_core { String::new() } else { controller.to_owned() },
            version: Version::V2,
            forms: vec![(file.clone(), text.to_owned())],
            is_optional: false,
            is_table: value.contains([':', '=']),
            is_clamped: false,
            at_least: None,
        };
        groups.extend(value.lines().map(|line| vec![write(line)]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{planned, v1, v2};

    #[test]
    fn each_resource_has_its_file() {
        let cases = [
            (json!({"pids": {"limit": 7}}), "pids.max=7", "pids.max=7"),
            (json!({"pids": {"limit": -1}}), "pids.max=max", "pids.max=max"),
            (
                json!({"hugepageLimits": [{"pageSize": "1GB", "limit": 0}]}),
                "hugetlb.1GB.limit_in_bytes=0 & hugetlb.1GB.rsvd.limit_in_bytes=0",
                "hugetlb.1GB.max=0 & hugetlb.1GB.rsvd.max=0",
            ),
            (
                json!({"network": {"classID": 1_048_577}}),
                "net_cls.classid=1048577",
                "linux.resources.network.classID: cgroup v2 has no such limit",
            ),
            (
                json!({"network": {"priorities": [{"name": "eth0", "priority": 5}]}}),
                "net_prio.ifpriomap=eth0 5",
                "linux.resources.network.priorities: cgroup v2 has no such limit",
            ),
            (
                json!({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4}, "a": {"hcaObjects": 1}}}),
                "rdma.max=a hca_object=1; rdma.max=mlx5_1 hca_handle=3 hca_object=4",
                "rdma.max=a hca_object=1; rdma.max=mlx5_1 hca_handle=3 hca_object=4",
            ),
            (
                json!({"unified": {"memory.high": "5", "io.max": "8:0 rbps=1\n8:16 wbps=2", "cgroup.max.depth": "3"}}),
                "linux.resources.unified.cgroup.max.depth: cgroup v1 has no such limit",
                "cgroup.max.depth=3; io.max=8:0 rbps=1; io.max=8:16 wbps=2; memory.high=5",
            ),
        ];
        for (resources, on_v1, on_v2) in cases {
            assert_eq!(planned(&v1(), resources.clone()), on_v1);
            assert_eq!(planned(&v2(), resources), on_v2);
        }
    }

    #[test]
    fn a_name_that_is_no_file_is_refused() {
        for file in ["../memory.max", "memory", ".max", "a.b/c"] {
            let said = planned(&v2(), json!({"unified": {file: "1"}}));
            assert!(said.contains("the name of a control file"), "{said}");
        }
        let said = planned(&v2(), json!({"unified": {"misc.max": "1"}}));
        assert_eq!(said, "linux.resources.unified.misc.max: no cgroup hierarchy has the controller misc");
        for size in ["", "../2MB", "2MB.rsvd"] {
            let said = planned(&v1(), json!({"hugepageLimits": [{"pageSize": size, "limit": 1}]}));
            assert!(said.contains("a size such as 2MB"), "{said}");
        }
    }
}
