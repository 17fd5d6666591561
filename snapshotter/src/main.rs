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
use stos_snapshotter::service::Service;
use stos_snapshotter::{Error, Result, Snapshotter, logging, server};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

/// Serve containerd snapshots of the layers and images of stos.
#[derive(Debug, Clone, Parser)]
#[command(
    version,
    after_help = "Example:\n  stos-snapshotter --address /run/stos-snapshotter/stos-snapshotter.sock\n\n\
    containerd's configuration:\n  [proxy_plugins.stos]\n    type = \"snapshot\"\n    \
    address = \"/run/stos-snapshotter/stos-snapshotter.sock\""
)]
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

/// Whoever has started us may have blocked them, and a mask is inherited: then nothing but SIGKILL would end us.
fn let_signals_come() {
    let of_ours =
        [SignalKind::hangup(), SignalKind::terminate(), SignalKind::interrupt()].map(|kind| kind.as_raw_value());
    if let Err(error) = stos_sys::signals::unblock(&of_ours) {
        tracing::warn!(%error, "signals may stay blocked");
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let inherited = ServiceSocket::inherited()?;
    let settings = arguments.settings()?;
    let targets = settings.log.targets().map_err(|reason| Error::invalid("log.level", reason))?;
    let metrics = Arc::new(Metrics::default());
    let level = logging::start(targets, arguments.log_format.unwrap_or(settings.log.format), Arc::clone(&metrics));
    let_signals_come();
    if !rustix::process::geteuid().is_root() {
        return Err(Error::invalid("user", "expected root, who alone may mount images"));
    }
    let socket = inherited.map_or_else(|| ServiceSocket::make(&arguments.address), Ok)?;
    let refuse = |source| Error::Listen { address: arguments.address.display().to_string(), source };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(refuse)?;
    let daemon = Daemon { arguments, level, opened: watch::channel(None).0, removals: Arc::default() };
    let served = runtime.block_on(daemon.serve(&socket, settings, metrics));
    listen::notify("STOPPING=1");
    let all_ended = *served.as_ref().unwrap_or(&false);
    let opened = daemon.opened.borrow().clone();
    match opened {
        // Waits for one that is under way: what it leaves would hold up the next start.
        Some(snapshotter) if all_ended => {
            snapshotter.clean();
        }
        _ => tracing::warn!("what is under way is given up: what it leaves, the next command sweeps"),
    }
    runtime.shutdown_timeout(Duration::from_millis(100));
    tracing::info!("stopped");
    served.map(drop)
}

/// Opens the store: after a crash there may be much to sweep.
fn open(arguments: &Arguments, settings: Settings, metrics: Arc<Metrics>) -> Result<Arc<Snapshotter>> {
    let mut engine = Engine::open(&arguments.data_root, &arguments.root)?;
    if let Some(kind) = arguments.layerfs {
        engine = engine.with_backend(kind);
    }
    // Said now, and not with the first layer.
    let backend = engine.layerfs().kind_of_new()?;
    let root = std::fs::canonicalize(&arguments.root).map_err(stos_store::Error::io("find", &arguments.root))?;
    let snapshotter = Arc::new(Snapshotter::open(engine, &root, settings, metrics)?);
    snapshotter.recover()?;
    let snapshots = snapshotter.list(&[])?.len();
    let (address, data_root) = (arguments.address.display(), arguments.data_root.display());
    tracing::info!(%address, %data_root, %backend, snapshots, "serving");
    Ok(snapshotter)
}

/// A daemon that runs.
struct Daemon<'a> {
    arguments: &'a Arguments,
    level: Level,
    /// The store, once it is open.
    opened: watch::Sender<Option<Arc<Snapshotter>>>,
    /// Told when something was removed.
    removals: Arc<Notify>,
}

impl Daemon<'_> {
    /// Serves until a signal ends it, and tells whether all calls have ended.
    async fn serve(&self, socket: &ServiceSocket, settings: Settings, metrics: Arc<Metrics>) -> Result<bool> {
        let refuse = |source| Error::Listen { address: self.arguments.address.display().to_string(), source };
        let (stop, stopped) = watch::channel(false);
        let mut signals = Signals::new().map_err(refuse)?;
        let listener = socket.listener().map_err(refuse)?;
        let service = Service::opening(self.opened.subscribe(), Arc::clone(&self.removals));
        let patience = || self.settings().stop.timeout;
        let mut serving = std::pin::pin!(server::serve(listener, service, stopped, patience));
        let metrics_address = settings.metrics.address.clone();
        let arguments = self.arguments.clone();
        let mut opening = tokio::task::spawn_blocking(move || open(&arguments, settings, metrics));
        loop {
            tokio::select! {
                all_ended = &mut serving => return Ok(all_ended),
                opened = &mut opening, if self.opened.borrow().is_none() => {
                    let snapshotter = opened.map_err(|error| refuse(std::io::Error::other(error)))??;
                    self.is_open(snapshotter, metrics_address.as_deref()).await?;
                }
                asked = signals.next() => match asked {
                    Asked::Reload => self.reload(),
                    // A second one does not wait.
                    Asked::End if stop.send_replace(true) => return Ok(false),
                    Asked::End => {}
                },
            }
        }
    }

    /// Lets calls in that have waited.
    async fn is_open(&self, snapshotter: Arc<Snapshotter>, metrics: Option<&str>) -> Result<()> {
        if let Some(address) = metrics {
            server::serve_metrics(address, Arc::clone(&snapshotter)).await?;
        }
        tokio::spawn(server::clean_after(Arc::clone(&self.removals), Arc::clone(&snapshotter)));
        // What an earlier process has left.
        self.removals.notify_one();
        self.opened.send_replace(Some(snapshotter));
        listen::notify("READY=1");
        Ok(())
    }

    fn settings(&self) -> Arc<Settings> {
        self.opened.borrow().as_ref().map_or_else(Arc::default, |snapshotter| snapshotter.settings())
    }

    /// Reads the configuration file again. One that cannot be used changes nothing.
    fn reload(&self) {
        let opened = self.opened.borrow().clone();
        let Some(snapshotter) = opened else {
            tracing::warn!("the store is being opened: the configuration is not read again");
            return;
        };
        let settings = self.arguments.settings().and_then(|settings| {
            let targets = settings.log.targets().map_err(|reason| Error::invalid("log.level", reason))?;
            Ok((settings, targets))
        });
        match settings {
            Ok((settings, targets)) => {
                let old = snapshotter.settings();
                if old.metrics != settings.metrics || old.log.format != settings.log.format {
                    tracing::warn!("metrics.address and log.format count with the next start");
                }
                self.level.set(targets);
                snapshotter.set_settings(settings);
                tracing::info!("configuration read again");
            }
            Err(error) => tracing::error!(error = chain_of(&error), "the configuration stays as it was"),
        }
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
