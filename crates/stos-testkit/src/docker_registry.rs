// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian's `docker-registry`, the CNCF distribution server, as a child process on an ephemeral port of loopback.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::environment;
use crate::registry::tls::Tls;

/// The user that a registry with a password knows.
pub const USER: &str = "stos";

/// The password of [`USER`].
pub const PASSWORD: &str = "correct horse";

/// [`USER`] and [`PASSWORD`] as `htpasswd -B` writes them, with the least rounds.
pub const HTPASSWD: &str = "stos:$2y$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n";

/// How a registry is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct DockerRegistryOptions {
    /// Whom it lets in by a password (Basic): lines of `USER:BCRYPT`, such as [`HTPASSWD`]. `None` for everyone.
    pub htpasswd: Option<&'static str>,
    /// Whether it speaks TLS, with a certificate for `localhost` and `127.0.0.1` by a CA of its own.
    pub tls: bool,
    /// Whether it is for reading only.
    pub read_only: bool,
}

/// A running registry; it ends when this is dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    child: Child,
    address: String,
    tls: Option<Tls>,
    _configuration: tempfile::TempDir,
}

impl DockerRegistry {
    /// Serves `storage`, which is made where it is missing, for reading and writing.
    ///
    /// # Errors
    /// Where docker-registry is not installed, or ends before it listens; its last lines are in the error.
    pub fn start(storage: &Path) -> io::Result<Self> {
        Self::start_with(storage, DockerRegistryOptions::default())
    }

    /// Serves `storage`, which is made where it is missing.
    ///
    /// # Errors
    /// As [`DockerRegistry::start`].
    pub fn start_with(storage: &Path, options: DockerRegistryOptions) -> io::Result<Self> {
        let tls = options.tls.then(|| Tls::new(Vec::new(), None));
        Self::serve(configuration(storage, options, tls.as_ref())?, tls)
    }

    /// Serves the real images of the cache ([`environment::registry_storage`]), for reading only.
    ///
    /// # Errors
    /// As [`DockerRegistry::start`].
    pub fn start_over_cache() -> io::Result<Self> {
        let options = DockerRegistryOptions { read_only: true, ..DockerRegistryOptions::default() };
        Self::start_with(&environment::registry_storage(), options)
    }

    /// The CA's certificate in DER, where TLS is spoken.
    pub fn ca_der(&self) -> Option<&[u8]> {
        self.tls.as_ref().map(Tls::ca_der)
    }

    /// The CA's certificate in PEM, where TLS is spoken.
    pub fn ca_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(Tls::ca_pem)
    }

    /// `host:port`, to stand before a repository in a reference.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn serve(configuration: tempfile::TempDir, tls: Option<Tls>) -> io::Result<Self> {
        let program = environment::tool("docker-registry")
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "docker-registry is not installed"))?;
        let mut child = Command::new(program)
            .arg("serve")
            .arg(configuration.path().join("config.yml"))
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
        Ok(Self { child, address, tls, _configuration: configuration })
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // It has no state that a SIGKILL could spoil: uploads are renamed into place. Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Writes a directory with the configuration and the files that it names.
fn configuration(storage: &Path, options: DockerRegistryOptions, tls: Option<&Tls>) -> io::Result<tempfile::TempDir> {
    let directory = tempfile::Builder::new().prefix("docker-registry-").tempdir()?;
    let write = |name: &str, text: &str| -> io::Result<String> {
        let path = directory.path().join(name);
        fs::write(&path, text)?;
        Ok(serde_json::to_string(&path)?)
    };
    let mut http = "addr: \"127.0.0.1:0\"".to_owned();
    if let Some(tls) = tls {
        let (certificate, key) = tls.pem();
        let (certificate, key) = (write("tls.crt", certificate)?, write("tls.key", key)?);
        http.push_str(&format!(", tls: {{certificate: {certificate}, key: {key}}}"));
    }
    let mut auth = String::new();
    if let Some(lines) = options.htpasswd {
        let path = write("htpasswd", lines)?;
        auth = format!("auth: {{htpasswd: {{realm: testkit, path: {path}}}}}\n");
    }
    let (root, read_only) = (serde_json::to_string(storage)?, options.read_only);
    let text = format!(
        "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {root}}}\n  \
         delete: {{enabled: true}}\n  maintenance: {{uploadpurging: {{enabled: false}}, readonly: {{enabled: {read_only}}}}}\n\
         http: {{{http}}}\n{auth}"
    );
    write("config.yml", &text)?;
    Ok(directory)
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
        let configuration = tempfile::tempdir().unwrap();
        fs::write(configuration.path().join("config.yml"), "version: 9.9\n").unwrap();
        let error = DockerRegistry::serve(configuration, None).unwrap_err().to_string();
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
