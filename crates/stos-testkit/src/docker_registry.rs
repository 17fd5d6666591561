// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian's `docker-registry`, the CNCF distribution server, as a child process on an ephemeral port of loopback.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::environment;

/// A running registry; it ends when this is dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    child: Child,
    address: String,
    _configuration: tempfile::NamedTempFile,
}

impl DockerRegistry {
    /// Serves `storage`, which is made where it is missing, for reading and writing.
    ///
    /// # Errors
    /// Where docker-registry is not installed, or ends before it listens; its last lines are in the error.
    pub fn start(storage: &Path) -> io::Result<Self> {
        Self::serve(configuration(storage, false, None)?)
    }

    /// As [`DockerRegistry::start`], for those alone who are in `htpasswd`: a file of lines `USER:BCRYPT`.
    ///
    /// # Errors
    /// As [`DockerRegistry::start`].
    pub fn start_with_htpasswd(storage: &Path, htpasswd: &Path) -> io::Result<Self> {
        Self::serve(configuration(storage, false, Some(htpasswd))?)
    }

    /// Serves the real images of the cache ([`environment::registry_storage`]), for reading only.
    ///
    /// # Errors
    /// As [`DockerRegistry::start`].
    pub fn start_over_cache() -> io::Result<Self> {
        Self::serve(configuration(&environment::registry_storage(), true, None)?)
    }

    /// `host:port`, to stand before a repository in a reference.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn serve(configuration: tempfile::NamedTempFile) -> io::Result<Self> {
        let program = environment::tool("docker-registry")
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "docker-registry is not installed"))?;
        let mut child = Command::new(program)
            .arg("serve")
            .arg(configuration.path())
            .stdin(Stdio::null())
            .stdout(File::options().write(true).open("/dev/null")?)
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let mut lines = BufReader::new(stderr).lines();
        let mut seen = Vec::new();
        let address = loop {
            match lines.next() {
                Some(Ok(line)) => match listening_on(&line) {
                    Some(address) => break address.to_owned(),
                    None => seen.push(line),
                },
                _ => {
                    // A server whose log has ended, or cannot be read, may be alive all the same.
                    child.kill()?;
                    let status = child.wait()?;
                    let log = seen.join("\n");
                    return Err(io::Error::other(format!(
                        "docker-registry ended ({status}) before it listened:\n{log}"
                    )));
                }
            }
        };
        // Someone must go on reading, else the server blocks once the pipe is full. Ends with the server.
        thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address, _configuration: configuration })
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // It has no state that a SIGKILL could spoil: uploads are renamed into place. Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn configuration(storage: &Path, read_only: bool, htpasswd: Option<&Path>) -> io::Result<tempfile::NamedTempFile> {
    use std::io::Write;
    let mut file = tempfile::Builder::new().prefix("docker-registry-").suffix(".yml").tempfile()?;
    let root = serde_json::to_string(storage)?;
    write!(
        file,
        "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {root}}}\n  \
         delete: {{enabled: true}}\n  maintenance: {{uploadpurging: {{enabled: false}}, readonly: {{enabled: {read_only}}}}}\n\
         http: {{addr: \"127.0.0.1:0\"}}\n"
    )?;
    if let Some(htpasswd) = htpasswd {
        let path = serde_json::to_string(htpasswd)?;
        writeln!(file, "auth: {{htpasswd: {{realm: test, path: {path}}}}}")?;
    }
    Ok(file)
}

/// The address in the line that says that the server listens: `… msg="listening on 127.0.0.1:39003" …`.
fn listening_on(line: &str) -> Option<&str> {
    let rest = &line[line.find("listening on ")? + "listening on ".len()..];
    Some(&rest[..rest.find(['"', ',', ' ']).unwrap_or(rest.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Need;
    use crate::image_builder::{Dialect, Fault, Image, ImageBuilder, Layer, PushError};
    use crate::tar_builder::{Entry, TarBuilder};

    #[test]
    fn the_address_is_read_from_the_log() {
        let line = r#"time="2024-01-01T00:00:00Z" level=info msg="listening on 127.0.0.1:39003" go.version=go1.19"#;
        assert_eq!(listening_on(line), Some("127.0.0.1:39003"));
        assert_eq!(listening_on("level=info msg=redis"), None);
    }

    #[test]
    fn a_real_registry_takes_our_images_and_refuses_faulty_ones() {
        crate::require!(Need::Tool("docker-registry"));
        let storage = tempfile::tempdir().unwrap();
        let registry = DockerRegistry::start(storage.path()).unwrap();
        let tar = TarBuilder::new().entry(Entry::file("f", "data")).finish();
        for dialect in [Dialect::Oci, Dialect::Docker] {
            let builder = ImageBuilder::new().dialect(dialect).layer(Layer::gzip(tar.clone()));
            let image = builder.build();
            image.push(registry.address(), "a/b", "1").unwrap();
            image.push(registry.address(), "a/b", "again").unwrap();
            let index = Image::index(dialect, &[&image]);
            Image::push_index(&index, &[&image], registry.address(), "a/b", "list").unwrap();
            let revisions = storage.path().join("docker/registry/v2/repositories/a/b/_manifests/revisions/sha256");
            assert!(revisions.join(&image.manifest.digest[7..]).is_dir());
            assert!(revisions.join(&index.digest[7..]).is_dir());
            let refused = builder.fault(Fault::LayerBytes(0)).build().push(registry.address(), "c", "1");
            assert!(matches!(refused, Err(PushError::Status { expected: 201, found: 400, .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_registry_that_cannot_start_says_why() {
        crate::require!(Need::Tool("docker-registry"));
        let configuration = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&configuration, "version: 9.9\n").unwrap();
        let error = DockerRegistry::serve(configuration).unwrap_err().to_string();
        assert!(error.starts_with("docker-registry ended (exit status: 1)") && error.contains("version"), "{error}");
    }

    #[test]
    fn a_registry_ends_when_it_is_dropped() {
        crate::require!(Need::Tool("docker-registry"));
        let directory = tempfile::tempdir().unwrap();
        let registry = DockerRegistry::start(directory.path()).unwrap();
        let pid = registry.pid();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(registry);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
