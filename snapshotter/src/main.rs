// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon: `stos-snapshotter`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use stos_engine::Engine;
use stos_layerfs::BackendKind;
use stos_snapshotter::config::{LogFormat, Settings};
use stos_snapshotter::error::chain_of;
use stos_snapshotter::listen::{self, ServiceSocket};
use stos_snapshotter::logging::Level;
use stos_snapshotter::metrics::Metrics;
use stos_snapshotter::{Error, Result, Snapshotter, logging, server};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Serve containerd snapshots of the layers and images of stos.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example:\n  stos-snapshotter --address /run/stos-snapshotter/stos-snapshotter.sock\n\n\
    containerd's configuration:\n  [proxy_plugins.stos]\n    type = \"snapshot\"\n    \
    address = \"/run/stos-snapshotter/stos-snapshotter.sock\"")]
struct Arguments {
    /// The unix socket to listen on, unless systemd has made one
    #[arg(long, value_name = "SOCKET", default_value = "/run/stos-snapshotter/stos-snapshotter.sock")]
    address: PathBuf,
    /// Where images and snapshots are kept, shared with `stos`
    #[arg(long, value_name = "DIR", default_value = "/var/lib/stos", env = "STOS_DATA_ROOT")]
    data_root: PathBuf,
    /// Where images are mounted, shared with `stos`; it may go with a reboot
    #[arg(long, value_name = "DIR", default_value = "/run/stos", env = "STOS_ROOT")]
    root: PathBuf,
    /// The configuration file; SIGHUP reads it again [default: /etc/stos/snapshotter.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How layers are kept and shown: erofs or dirs; else the best that this host can have
    #[arg(long, value_name = "BACKEND", value_parser = backend, env = "STOS_LAYERFS")]
    layerfs: Option<BackendKind>,
    /// How the log's lines look, whatever the configuration says
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// The configuration file that is read if it is there.
const DEFAULT_CONFIG: &str = "/etc/stos/snapshotter.toml";

fn backend(text: &str) -> std::result::Result<BackendKind, String> {
    let found = BackendKind::ALL.into_iter().find(|kind| kind.to_string() == text);
    found.ok_or_else(|| "expected erofs or dirs".to_owned())
}

impl Arguments {
    fn settings(&self) -> Result<Settings> {
        match &self.config {
            Some(path) => Settings::read(path),
            None if PathBuf::from(DEFAULT_CONFIG).exists() => Settings::read(DEFAULT_CONFIG.as_ref()),
            None => Ok(Settings::default()),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Tells why the daemon does not run: in the log, or on stderr where there is none yet.
#[allow(clippy::print_stderr)]
fn report(error: &Error) {
    match tracing::dispatcher::has_been_set() {
        true => tracing::error!(error = chain_of(error), "cannot run"),
        false => eprintln!("error: {}", chain_of(error)),
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let inherited = ServiceSocket::inherited()?;
    let settings = arguments.settings()?;
    let targets = settings.log.targets().map_err(|reason| Error::invalid("log.level", reason))?;
    let metrics = Arc::new(Metrics::default());
    let level = logging::start(targets, arguments.log_format.unwrap_or(settings.log.format), Arc::clone(&metrics));
    if !rustix::process::geteuid().is_root() {
        return Err(Error::invalid("user", "expected root, who alone may mount images"));
    }
    let mut engine = Engine::open(&arguments.data_root, &arguments.root)?;
    if let Some(kind) = arguments.layerfs {
        engine = engine.with_backend(kind);
    }
    // Said now, and not with the first layer.
    let kind = engine.layerfs().kind_of_new()?;
    let metrics_address = settings.metrics.address.clone();
    let root = std::fs::canonicalize(&arguments.root).map_err(stos_store::Error::io("find", &arguments.root))?;
    let snapshotter = Arc::new(Snapshotter::open(engine, &root, settings, metrics)?);
    snapshotter.recover();
    snapshotter.clean();
    let socket = inherited.map_or_else(|| ServiceSocket::make(&arguments.address), Ok)?;
    let refuse = |source| Error::Listen { address: arguments.address.display().to_string(), source };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(refuse)?;
    tracing::info!(
        address = %arguments.address.display(),
        data_root = %arguments.data_root.display(),
        backend = %kind,
        snapshots = snapshotter.list(&[])?.len(),
        "serving"
    );
    let served = runtime.block_on(serve(arguments, &snapshotter, &socket, metrics_address.as_deref(), &level));
    finish(runtime, &snapshotter);
    served
}

/// Ends what still runs: what a killed pull leaves, the next command sweeps.
fn finish(runtime: Runtime, snapshotter: &Snapshotter) {
    listen::notify("STOPPING=1");
    snapshotter.clean();
    runtime.shutdown_timeout(Duration::from_millis(100));
    tracing::info!("stopped");
}

async fn serve(
    arguments: &Arguments,
    snapshotter: &Arc<Snapshotter>,
    socket: &ServiceSocket,
    metrics: Option<&str>,
    level: &Level,
) -> Result<()> {
    let refuse = |source| Error::Listen { address: arguments.address.display().to_string(), source };
    if let Some(address) = metrics {
        server::serve_metrics(address, Arc::clone(snapshotter)).await?;
    }
    let (stop, stopped) = watch::channel(false);
    let mut signals = Signals::new().map_err(refuse)?;
    let listener = socket.listener().map_err(refuse)?;
    let patience = || snapshotter.settings().stop.timeout;
    let mut serving = std::pin::pin!(server::serve(listener, Arc::clone(snapshotter), stopped, patience));
    listen::notify("READY=1");
    loop {
        tokio::select! {
            all_ended = &mut serving => {
                if !all_ended {
                    tracing::warn!("calls that are under way are given up");
                }
                return Ok(());
            }
            asked = signals.next() => match asked {
                Asked::Reload => reload(arguments, snapshotter, level),
                // A second one does not wait.
                Asked::End if stop.send_replace(true) => return Ok(()),
                Asked::End => {}
            },
        }
    }
}

/// Reads the configuration file again. One that cannot be used changes nothing.
fn reload(arguments: &Arguments, snapshotter: &Snapshotter, level: &Level) {
    let settings = arguments.settings().and_then(|settings| {
        let targets = settings.log.targets().map_err(|reason| Error::invalid("log.level", reason))?;
        Ok((settings, targets))
    });
    match settings {
        Ok((settings, targets)) => {
            let old = snapshotter.settings();
            if old.metrics != settings.metrics || old.log.format != settings.log.format {
                tracing::warn!("metrics.address and log.format count with the next start");
            }
            level.set(targets);
            snapshotter.set_settings(settings);
            tracing::info!("configuration read again");
        }
        Err(error) => tracing::error!(error = chain_of(&error), "the configuration stays as it was"),
    }
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let of = |kind| signal(kind);
        Ok(Self {
            hangup: of(SignalKind::hangup())?,
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
        }
    }
}

/// What a signal asks for.
enum Asked {
    Reload,
    End,
}
