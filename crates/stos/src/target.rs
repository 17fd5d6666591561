// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which container an argument means: id in ROOT, id in DATA-ROOT, name, unique beginning of an id.

use stos_engine::Engine;
use stos_engine::container::{self, ContainerRecord, ContainerState};
use stos_layerfs::BackendKind;
use stos_network::sandbox::Sandboxes;
use stos_runtime::{ContainerId, Mode, StateDirectory};

use crate::cli::{Global, LayerBackend};
use crate::failure::Failure;
use crate::network_options;

/// A container, and whose it is.
pub enum Target {
    /// Bundle mode's: all about it is in ROOT.
    Bundle(StateDirectory, ContainerId),
    /// Image mode's.
    Image(Box<Engine>, Box<ContainerRecord>),
}

/// Opens DATA-ROOT and ROOT.
pub fn engine(global: &Global) -> Result<Engine, Failure> {
    Ok(with_backend(global, Engine::open(&global.data_root, &global.root)?))
}

/// The same for a command that changes nothing: a store that can only be read will do.
pub fn reader(global: &Global) -> Result<Engine, Failure> {
    Ok(with_backend(global, Engine::open_for_reading(&global.data_root, &global.root)?))
}

/// The same for the command that looks for damage: a store whose `stos.json` is damaged will do too.
pub fn checker(global: &Global) -> Result<Engine, Failure> {
    Ok(with_backend(global, Engine::open_to_check(&global.data_root, &global.root)?))
}

/// Gives the networks of all containers, and their configurations: for those no store is needed.
pub fn sandboxes(global: &Global) -> Sandboxes {
    stos_engine::networking::sandboxes(&network_options::places(&global.networks), &global.root)
}

fn with_backend(global: &Global, engine: Engine) -> Engine {
    let engine = engine.with_networks(network_options::places(&global.networks));
    match global.layerfs {
        None => engine,
        Some(LayerBackend::Erofs) => engine.with_backend(BackendKind::Erofs),
        Some(LayerBackend::Dirs) => engine.with_backend(BackendKind::Dirs),
    }
}

/// Gives ROOT as the runtime uses it.
pub fn run_states(global: &Global) -> StateDirectory {
    StateDirectory::new(&global.root)
}

/// Finds the container that `query` means. In bundle mode only ROOT is looked at.
pub fn find(global: &Global, query: &str) -> Result<Target, Failure> {
    find_with(global, query, engine)
}

/// The same for a command that changes nothing.
pub fn find_to_read(global: &Global, query: &str) -> Result<Target, Failure> {
    find_with(global, query, reader)
}

/// Finds the container from an image that was created last.
pub fn latest(global: &Global) -> Result<Target, Failure> {
    let engine = reader(global)?;
    let latest = container::records(&engine)?.into_iter().max_by(|one, other| one.created.cmp(&other.created));
    let record = latest.ok_or_else(|| stos_engine::Error::NoSuchContainer("--latest".to_owned()))?;
    Ok(Target::Image(Box::new(engine), Box::new(record)))
}

/// The run state of the container that `query` means, of either mode.
///
/// # Errors
/// For an image's container that does not run: nothing of it is in ROOT. `action` is what cannot be done then.
pub fn run_state(global: &Global, query: &str, action: &'static str) -> Result<(StateDirectory, ContainerId), Failure> {
    run_state_of(global, &find_to_read(global, query)?, action)
}

/// The same of a container that has been found.
pub fn run_state_of(
    global: &Global,
    target: &Target,
    action: &'static str,
) -> Result<(StateDirectory, ContainerId), Failure> {
    let (engine, record) = match target {
        Target::Bundle(states, id) => return Ok((states.clone(), id.clone())),
        Target::Image(engine, record) => (engine, record),
    };
    match container::state(engine, &record.id)? {
        ContainerState::Running(run) => Ok((run_states(global), run.id)),
        other => Err(stos_engine::Error::ContainerState {
            action,
            container: record.name.to_string(),
            state: other.status().to_owned(),
            expected: "running",
        }
        .into()),
    }
}

fn find_with(
    global: &Global,
    query: &str,
    open: impl FnOnce(&Global) -> Result<Engine, Failure>,
) -> Result<Target, Failure> {
    let states = run_states(global);
    if global.bundle_mode {
        let id: ContainerId = query.parse().map_err(stos_runtime::Error::from)?;
        return match states.read(&id)?.mode {
            Mode::Bundle => Ok(Target::Bundle(states, id)),
            // An image's container is none of an engine's.
            Mode::Image => Err(stos_runtime::Error::NotFound { id: id.to_string() }.into()),
        };
    }
    if let Ok(id) = query.parse::<ContainerId>() {
        match states.read(&id) {
            Ok(state) if state.mode == Mode::Bundle => return Ok(Target::Bundle(states, id)),
            Ok(_) | Err(stos_runtime::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !global.data_root.is_dir() {
        return Err(stos_engine::Error::NoSuchContainer(query.to_owned()).into());
    }
    let engine = open(global)?;
    let record = container::find(&engine, query)?;
    Ok(Target::Image(Box::new(engine), Box::new(record)))
}
