// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tools that do one part each: skopeo fetches, umoci unpacks, crun and runc run a bundle that is ready.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::Value;
use stos_testkit::environment;

use super::{Act, Engine, STAY, program, short};
use crate::process::output;

/// skopeo and then umoci: from a registry to a bundle.
pub struct CopyAndUnpack {
    place: PathBuf,
}

impl CopyAndUnpack {
    /// Both keep what they have in `place`.
    pub fn new(place: PathBuf) -> Self {
        Self { place }
    }
}

impl Engine for CopyAndUnpack {
    fn name(&self) -> &'static str {
        "skopeo+umoci"
    }

    fn place(&self) -> &Path {
        &self.place
    }

    fn commands(&self, act: Act<'_>) -> Option<Vec<Command>> {
        let shown = |name: &str| self.place.join(name).display().to_string();
        match act {
            Act::Pull(image) => {
                let tag = environment::layout_tag(short(image));
                // skopeo makes the layout, and not the directory that it lies in.
                fs::create_dir_all(&self.place).ok()?;
                let (layout, bundle) = (shown("layout"), shown(&tag));
                let (from, to) = (format!("docker://{image}"), format!("oci:{layout}:{tag}"));
                let copy = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &from, &to];
                let unpack = ["unpack", "--image", &format!("{layout}:{tag}"), &bundle];
                Some(vec![program("skopeo", &copy), program("umoci", &unpack)])
            }
            Act::RemoveImage(_) => Some(vec![program("rm", &["-rf", &self.place.display().to_string()])]),
            Act::Nothing => Some(vec![program("skopeo", &["--version"]), program("umoci", &["--version"])]),
            _ => None,
        }
    }
}

/// umoci and then crun: from a layout to a container that was created, as people do it without an engine.
pub struct UnpackAndCreate {
    place: PathBuf,
    layout: PathBuf,
}

impl UnpackAndCreate {
    /// `layout` has the images.
    pub fn new(place: PathBuf, layout: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&place)?;
        Ok(Self { place, layout })
    }
}

impl Engine for UnpackAndCreate {
    fn name(&self) -> &'static str {
        "umoci+crun"
    }

    fn place(&self) -> &Path {
        &self.place
    }

    fn commands(&self, act: Act<'_>) -> Option<Vec<Command>> {
        let shown = |name: &str| self.place.join(name).display().to_string();
        let root = shown("state");
        match act {
            Act::Create(image, name, words) => {
                let from = format!("{}:{}", self.layout.display(), environment::layout_tag(short(image)));
                let (bundle, config) = (shown(name), shown("config.json"));
                // umoci's own asks for a terminal, for which nobody waits here.
                fs::write(&config, plain_config(words).to_string()).ok()?;
                let create = ["--root", &root, "create", "--bundle", &bundle, "--config", &config, name];
                Some(vec![program("umoci", &["unpack", "--image", &from, &bundle]), program("crun", &create)])
            }
            Act::Delete(name) | Act::Destroy(name) => Some(vec![
                program("crun", &["--root", &root, "delete", "--force", name]),
                program("rm", &["-rf", &shown(name)]),
            ]),
            Act::Nothing => Some(vec![program("umoci", &["--version"]), program("crun", &["--version"])]),
            _ => None,
        }
    }
}

/// A runtime that is given bundles of an image that umoci has unpacked beforehand.
pub struct Runtime {
    name: &'static str,
    place: PathBuf,
    bundles: PathBuf,
}

impl Runtime {
    /// Unpacks deb:12 into `bundles` where it is not there yet.
    ///
    /// # Errors
    /// Where umoci fails.
    pub fn new(name: &'static str, place: PathBuf, bundles: PathBuf, layout: &Path) -> anyhow::Result<Self> {
        let unpacked = bundles.join("unpacked");
        if !unpacked.exists() {
            fs::create_dir_all(&bundles)?;
            let from = format!("{}:deb-12", layout.display());
            output(program("umoci", &["unpack", "--image", &from, &unpacked.display().to_string()]))?;
        }
        Ok(Self { name, place, bundles })
    }

    /// A bundle with that command; they share one root.
    fn bundle(&self, words: &[&str]) -> anyhow::Result<String> {
        let name = words.join(" ").replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let bundle = self.bundles.join(name);
        if !bundle.join("config.json").exists() {
            fs::create_dir_all(&bundle)?;
            let path = self.bundles.join("unpacked/config.json");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let mut config: Value = serde_json::from_str(&text)?;
            config["process"]["terminal"] = false.into();
            config["process"]["args"] = words.into();
            config["root"]["path"] = self.bundles.join("unpacked/rootfs").display().to_string().into();
            fs::write(bundle.join("config.json"), config.to_string())?;
        }
        Ok(bundle.display().to_string())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        program(self.name, &[&["--root", &self.place.join("state").display().to_string()], arguments].concat())
    }
}

impl Engine for Runtime {
    fn name(&self) -> &str {
        self.name
    }

    fn place(&self) -> &Path {
        &self.place
    }

    fn commands(&self, act: Act<'_>) -> Option<Vec<Command>> {
        // Cgroups are called by the container alone.
        let own = |name: &str| format!("{}-{name}", self.name);
        Some(vec![match act {
            // The bundle is that of one image.
            Act::Run(image, name, words) if short(image) == "deb:12" => {
                self.command(&["run", "--bundle", &self.bundle(words).ok()?, &own(name)])
            }
            Act::Spawn(image, name) if short(image) == "deb:12" => {
                self.command(&["run", "--detach", "--bundle", &self.bundle(&STAY).ok()?, &own(name)])
            }
            Act::Exec(name, words) => self.command(&[&["exec", &own(name)], words].concat()),
            Act::Destroy(name) => self.command(&["delete", "--force", &own(name)]),
            Act::Nothing => self.command(&["--version"]),
            _ => return None,
        }])
    }
}

/// The least configuration of a container that only waits to be started: a root, the namespaces, `/proc`.
fn plain_config(words: &[&str]) -> Value {
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| serde_json::json!({"type": kind}));
    serde_json::json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "args": words, "cwd": "/",
                    "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": namespaces},
    })
}
