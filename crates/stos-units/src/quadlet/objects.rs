// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `.volume` and `.network`: each a service that has been run once the object is there.

use super::keys::{How, Table, all_words};
use super::{Scene, object_name};
use crate::error::Result;
use crate::unit_file::UnitText;
use crate::words;

const VOLUME: Table = Table {
    keys: &[
        ("VolumeName", How::Elsewhere),
        ("ServiceName", How::Elsewhere),
        ("GlobalArgs", How::Elsewhere),
        ("PodmanArgs", How::Elsewhere),
        ("Copy", How::Elsewhere),
        ("Driver", How::Last("--driver")),
        ("Label", How::Words("--label")),
        ("Type", How::Prefixed("--opt", "type=")),
        ("Device", How::Prefixed("--opt", "device=")),
        ("Options", How::Prefixed("--opt", "o=")),
        ("User", How::Last("--uid")),
        ("Group", How::Last("--gid")),
    ],
    not_here: &[
        ("Image", "volumes of images are not made; Mount=type=image in the container mounts one"),
        ("ContainersConfModule", "there are no modules of containers.conf"),
    ],
};

const NETWORK: Table = Table {
    keys: &[
        ("NetworkName", How::Elsewhere),
        ("ServiceName", How::Elsewhere),
        ("GlobalArgs", How::Elsewhere),
        ("PodmanArgs", How::Elsewhere),
        ("NetworkDeleteOnStop", How::Elsewhere),
        ("Driver", How::Last("--driver")),
        ("Subnet", How::Each("--subnet")),
        ("Gateway", How::Each("--gateway")),
        ("IPRange", How::Each("--ip-range")),
        ("IPv6", How::Flag("--ipv6")),
        ("Internal", How::Flag("--internal")),
        ("DisableDNS", How::Flag("--disable-dns")),
        ("InterfaceName", How::Last("--interface-name")),
        ("IPAMDriver", How::Last("--ipam-driver")),
        ("Options", How::Words("--opt")),
        ("Label", How::Words("--label")),
    ],
    not_here: &[
        ("DNS", "servers are a container's: DNS= in its file"),
        ("ContainersConfModule", "there are no modules of containers.conf"),
    ],
};

/// The service of a volume.
pub(super) fn volume(scene: &Scene<'_>, text: &mut UnitText) -> Result<()> {
    VOLUME.check(scene.unit(), scene.section())?;
    let mut options = VOLUME.options(scene.unit(), scene.section())?;
    if let Some(copy) = scene.unit().last(scene.section(), "Copy")
        && !copy.boolean()?
    {
        options.push("--opt=nocopy=true".to_owned());
    }
    create(scene, "volume", options, text)
}

/// The service of a network.
pub(super) fn network(scene: &Scene<'_>, text: &mut UnitText) -> Result<()> {
    NETWORK.check(scene.unit(), scene.section())?;
    create(scene, "network", NETWORK.options(scene.unit(), scene.section())?, text)?;
    if let Some(delete) = scene.unit().last(scene.section(), "NetworkDeleteOnStop")
        && delete.boolean()?
    {
        let name = object_name(scene.source, scene.kind);
        text.add("Service", "ExecStopPost", format!("-{}", words::join([scene.program, "network", "rm", &name])));
    }
    Ok(())
}

fn create(scene: &Scene<'_>, noun: &str, options: Vec<String>, text: &mut UnitText) -> Result<()> {
    let (unit, section) = (scene.unit(), scene.section());
    let mut command = vec![scene.program.to_owned()];
    command.extend(all_words(unit, section, "GlobalArgs")?);
    command.extend([noun, "create", "--ignore"].map(str::to_owned));
    command.extend(options);
    command.extend(all_words(unit, section, "PodmanArgs")?);
    command.push(object_name(scene.source, scene.kind));
    text.add("Service", "ExecStart", words::join(command.iter().map(String::as_str)));
    text.add_default("Service", "Type", "oneshot");
    text.add_default("Service", "RemainAfterExit", "yes");
    text.add_default("Service", "SyslogIdentifier", "%N");
    Ok(())
}
