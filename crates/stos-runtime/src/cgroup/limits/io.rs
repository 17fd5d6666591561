// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `linux.resources.blockIO`.
//!
//! v1: Documentation/admin-guide/cgroup-v1/blkio-controller.rst; the weights are those of BFQ (block/bfq-iosched.rst), in Linux
//! before 5.0 of CFQ too, which alone knew leaf weights. v2: cgroup-v2.rst, "IO".

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::{Controller, Group, Layout, LimitError, Step, Write, key};

/// Weights of v1, 10 to 1,000, as those of v2's `io.weight`, 1 to 10,000 (opencontainers/cgroups, `ConvertBlkIOToIOWeightValue`).
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
}

fn io_key(name: &str) -> String {
    key(&format!("blockIO.{name}"))
}

fn checked(name: &str, weight: u16) -> Step<u16> {
    if (10..=1000).contains(&weight) {
        return Ok(weight);
    }
    Err(LimitError::invalid(name, "10 to 1000", weight))
}

/// `major:minor`, as every file of the controller has it.
fn device(name: &str, major: i64, minor: i64) -> Step<String> {
    if major < 0 || minor < 0 {
        return Err(LimitError::invalid(name, "device numbers", (major, minor)));
    }
    Ok(format!("{major}:{minor}"))
}

pub(super) fn plan(asked: &LinuxBlockIo, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    let find = |name: &str| Controller::find(layout, name, "blkio", Some("io"));
    if let Some(weight) = asked.weight().filter(|weight| *weight != 0) {
        let name = io_key("weight");
        let io = find(&name)?;
        let weight = checked(&name, weight)?;
        let mut write = io.write(&name, "io.bfq.weight", weight);
        write.forms = if io.is_v2() {
            vec![form("io.bfq.weight", weight), form("io.weight", io_weight(weight))]
        } else {
            vec![form("blkio.weight", weight), form("blkio.bfq.weight", weight)]
        };
        groups.push(vec![write]);
    }
    if let Some(weight) = asked.leaf_weight().filter(|weight| *weight != 0) {
        let name = io_key("leafWeight");
        let io = find(&name)?;
        if io.is_v2() {
            return Err(io.not_here(&name));
        }
        groups.push(vec![io.write(&name, "blkio.leaf_weight", checked(&name, weight)?)]);
    }
    weight_devices(asked, layout, groups)?;
    let throttles = [
        ("throttleReadBpsDevice", "read_bps", "rbps", asked.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", "write_bps", "wbps", asked.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", "read_iops", "riops", asked.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", "write_iops", "wiops", asked.throttle_write_iops_device()),
    ];
    for (name, v1, v2, list) in throttles {
        for (at, throttle) in list.iter().flatten().enumerate() {
            groups.push(vec![throttled(&io_key(&format!("{name}[{at}]")), v1, v2, throttle, layout)?]);
        }
    }
    Ok(())
}

fn form(file: &str, text: impl ToString) -> (String, String) {
    (file.to_owned(), text.to_string())
}

fn weight_devices(asked: &LinuxBlockIo, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    for (at, of_device) in asked.weight_device().iter().flatten().enumerate() {
        let name = io_key(&format!("weightDevice[{at}]"));
        let io = Controller::find(layout, &name, "blkio", Some("io"))?;
        let device = device(&name, of_device.major(), of_device.minor())?;
        if let Some(weight) = of_device.weight().filter(|weight| *weight != 0) {
            let name = format!("{name}.weight");
            let weight = checked(&name, weight)?;
            let text = format!("{device} {weight}");
            let mut write = io.write(&name, "", "");
            write.is_table = true;
            write.forms = if io.is_v2() {
                vec![form("io.bfq.weight", text), form("io.weight", format!("{device} {}", io_weight(weight)))]
            } else {
                vec![form("blkio.weight_device", &text), form("blkio.bfq.weight_device", &text)]
            };
            groups.push(vec![write]);
        }
        if let Some(weight) = of_device.leaf_weight().filter(|weight| *weight != 0) {
            let name = format!("{name}.leafWeight");
            if io.is_v2() {
                return Err(io.not_here(&name));
            }
            let text = format!("{device} {}", checked(&name, weight)?);
            let mut write = io.write(&name, "blkio.leaf_weight_device", text);
            write.is_table = true;
            groups.push(vec![write]);
        }
    }
    Ok(())
}

/// A rate of 0 takes a device's limit away, in both versions.
fn throttled(name: &str, v1: &str, v2: &str, asked: &LinuxThrottleDevice, layout: &Layout) -> Step<Write> {
    let io = Controller::find(layout, name, "blkio", Some("io"))?;
    let device = device(name, asked.major(), asked.minor())?;
    let mut write = if io.is_v2() {
        let rate = if asked.rate() == 0 { "max".to_owned() } else { asked.rate().to_string() };
        io.write(name, "io.max", format!("{device} {v2}={rate}"))
    } else {
        io.write(name, format!("blkio.throttle.{v1}_device"), format!("{device} {}", asked.rate()))
    };
    write.is_table = true;
    Ok(write)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{planned, v1, v2};

    #[test]
    fn weights_and_rates_are_converted_as_runc_has_it() {
        let cases = [
            (json!({"weight": 10}), "blkio.weight=10|blkio.bfq.weight=10", "io.bfq.weight=10|io.weight=1"),
            (json!({"weight": 1000}), "blkio.weight=1000|blkio.bfq.weight=1000", "io.bfq.weight=1000|io.weight=10000"),
            (
                json!({"weightDevice": [{"major": 8, "minor": 0, "weight": 500}]}),
                "blkio.weight_device=8:0 500|blkio.bfq.weight_device=8:0 500",
                "io.bfq.weight=8:0 500|io.weight=8:0 4950",
            ),
            (
                json!({"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 4}, {"major": 8, "minor": 16, "rate": 0}]}),
                "blkio.throttle.read_bps_device=8:0 4; blkio.throttle.read_bps_device=8:16 0",
                "io.max=8:0 rbps=4; io.max=8:16 rbps=max",
            ),
            (
                json!({"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 4}]}),
                "blkio.throttle.write_iops_device=8:0 4",
                "io.max=8:0 wiops=4",
            ),
            (
                json!({"leafWeight": 20}),
                "blkio.leaf_weight=20",
                "linux.resources.blockIO.leafWeight: cgroup v2 has no such limit",
            ),
        ];
        for (asked, on_v1, on_v2) in cases {
            let resources = json!({"blockIO": asked});
            assert_eq!(planned(&v1(), resources.clone()), on_v1);
            assert_eq!(planned(&v2(), resources), on_v2);
        }
        for weight in [9, 1001] {
            let said = planned(&v1(), json!({"blockIO": {"weight": weight}}));
            assert_eq!(said, format!("linux.resources.blockIO.weight: expected 10 to 1000, found {weight}"));
        }
    }
}
