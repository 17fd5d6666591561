// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Image configurations, and what becomes of them.

use std::path::Path;

use stos_engine::networking::Networking;
use stos_engine::security::SecurityOptions;
use stos_engine::spec::{Confinement, NetworkPlan, ProcessPlan, command_line, environment, runtime_config};
use stos_engine::volumes::{PlannedVolume, UsedVolume};
use stos_engine::{CreateOptions, Network};
use stos_runtime::{RuntimeConfig, parse_signal};
use stos_spec::user::Principal;
use stos_spec::{ImageConfig, UserSpec};

use crate::check_message;

/// Reads an image configuration and makes the `config.json` of its container, as `create` does: the first byte chooses
/// options.
///
/// What the reader accepts is enough for the engine, and the engine's `config.json` is one that the runtime accepts:
/// nothing that an image says makes a container that only fails at its start. The process is what the image says.
pub fn config(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let image = match ImageConfig::parse(bytes) {
        Ok(image) => image,
        Err(error) => return check_message(&error),
    };
    assert_eq!(image.user.to_string().parse::<UserSpec>().as_ref(), Ok(&image.user));
    // The engine refuses the image before anything is made of it.
    if let Some(Err(error)) = image.stop_signal.as_deref().map(parse_signal) {
        return check_message(&error);
    }
    let options = options(*choice);
    let Ok(args) = command_line(&image, &options) else {
        assert!(image.entrypoint.iter().chain(&image.cmd).next().is_none_or(String::is_empty));
        return;
    };
    let process = ProcessPlan {
        args,
        env: environment(&image, &options, "host"),
        cwd: Some(image.working_dir.clone()).filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/".to_owned()),
        ids: (id(&image.user.user), image.user.group.as_ref().map_or(0, id), Vec::new()),
        stop_signal: image.stop_signal.clone(),
    };
    let volume = |(number, target): (usize, &String)| {
        PlannedVolume::new(UsedVolume {
            name: format!("v{number}").parse().unwrap(),
            target: target.clone(),
            read_only: false,
            subpath: None,
            options: Vec::new(),
            in_memory: false,
        })
    };
    let volumes: Vec<_> = image.volumes.iter().enumerate().map(volume).collect();
    let confinement = Confinement::of(&options.security).unwrap();
    let networking = Networking::default();
    let network = NetworkPlan { networking: &networking, shared: &[] };
    let json = runtime_config(&process, &options, network, &volumes, &confinement, "id", "host").unwrap();
    let read = RuntimeConfig::from_json(&confinement.text(&json));
    let read = read.unwrap_or_else(|error| panic!("{error}\n{json}"));
    let settings = read.settings();
    assert_eq!(settings.seccomp.is_some(), !options.security.privileged);
    assert_eq!(settings.process.args.len(), process.args.len());
    for volume in &volumes {
        let mounted = settings.mounts.iter().filter(|mount| mount.source == Path::new(&volume.source));
        assert_eq!(mounted.count(), 1, "{volume:?}");
    }
}

fn id(principal: &Principal) -> u32 {
    match principal {
        Principal::Id(id) => *id,
        Principal::Name(_) => 1000,
    }
}

fn options(choice: u8) -> CreateOptions {
    CreateOptions {
        read_only: choice & 1 != 0,
        network: if choice & 2 != 0 { Network::Host } else { Network::None },
        security: SecurityOptions {
            privileged: choice & 4 != 0,
            read_only_tmpfs: choice & 8 != 0,
            ..SecurityOptions::default()
        },
        ..CreateOptions::default()
    }
}
