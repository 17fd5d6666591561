// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Certificates for one registry: `certs.d/HOST:PORT/`, as containers-certs.d(5) has it.
//!
//! | directory | when |
//! |---|---|
//! | `--cert-dir DIR` | alone, where it is given: its own files, for whatever host |
//! | `$XDG_CONFIG_HOME/containers/certs.d/HOST`, else `~/.config/…` | else, where it is there |
//! | `/etc/containers/certs.d/HOST` | else, where it is there |
//! | `/etc/docker/certs.d/HOST` | else |
//!
//! The first directory that is there is the only one that is read, also where it is empty (`dockerCertDir` of
//! containers/image). HOST is written as in the reference: with the port that stands there, and without one where none does.
//!
//! `*.crt` are authorities, trusted besides the system's. `NAME.cert` with `NAME.key` is a client's certificate and key.
//!
//! Here files become DER, of which each is read as TLS will read it: what cannot be used is told with its file.

use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::environment::Environment;
use crate::error::Error;
use crate::file;
use crate::secret::Secret;

/// What a registry's directory holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostCertificates {
    /// The directory that was read, if one is there.
    pub directory: Option<PathBuf>,
    /// Authorities that are trusted besides the system's, in the order of their files' names.
    pub authorities: Vec<Authority>,
    /// What this client can prove itself with, in the order of the files' names.
    pub clients: Vec<ClientCertificate>,
}

/// A file of certificates of authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The file.
    pub path: PathBuf,
    /// The certificates, in DER; at least one. Each can be read; whether it is an authority's, and whether it still holds, is not
    /// checked.
    pub certificates: Vec<Vec<u8>>,
}

/// A client's certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate's file.
    pub certificate_path: PathBuf,
    /// The key's file.
    pub key_path: PathBuf,
    /// The certificate and what it is signed with, in DER; at least one. Each can be read.
    pub chain: Vec<Vec<u8>>,
    /// The private key, in DER: PKCS#8, PKCS#1 or SEC 1. That it belongs to the certificate is not checked.
    pub key: Secret<Vec<u8>>,
}

impl HostCertificates {
    /// Reads what there is for a registry (`host[:port]`). Nothing is no error.
    ///
    /// # Errors
    /// Where `--cert-dir` is not there, a file cannot be read or holds something else, or a certificate or key is without
    /// the other.
    pub fn load(environment: &Environment, cert_dir: Option<&Path>, host: &str) -> Result<Self, Error> {
        if let Some(directory) = cert_dir {
            return match directory.is_dir() {
                true => Self::read(directory),
                false => Err(Error::NotThere { path: directory.to_owned(), named_by: "--cert-dir" }),
            };
        }
        if !crate::names::is_registry(host) {
            return Err(Error::Host { host: stos_spec::text::cut(host) });
        }
        let users = environment.config_home("containers/certs.d");
        let systems = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(|path| environment.system(path));
        let mut directories = users.into_iter().chain(systems).map(|directory| directory.join(host));
        directories.find(|directory| directory.is_dir()).map_or(Ok(Self::default()), |directory| Self::read(&directory))
    }

    fn read(directory: &Path) -> Result<Self, Error> {
        let mut found = Self { directory: Some(directory.to_owned()), ..Self::default() };
        for path in file::list(directory, &[".crt", ".cert", ".key"])? {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => {
                    let certificates = certificates(&path, &read(&path)?)?;
                    found.authorities.push(Authority { path, certificates });
                }
                Some("cert") => found.clients.push(client(&path)?),
                _ => {
                    partner(&path, "cert", "certificate")?;
                }
            }
        }
        Ok(found)
    }
}

fn client(path: &Path) -> Result<ClientCertificate, Error> {
    let key_path = partner(path, "key", "key")?;
    let chain = certificates(path, &read(path)?)?;
    let key = private_key(&key_path, &read(&key_path)?)?;
    Ok(ClientCertificate { certificate_path: path.to_owned(), key_path, chain, key })
}

/// Gives the file that belongs to another one, where it is there.
fn partner(path: &Path, extension: &str, what: &'static str) -> Result<PathBuf, Error> {
    let partner = path.with_extension(extension);
    match partner.exists() {
        true => Ok(partner),
        false => Err(Error::MissingPartner { path: path.to_owned(), what, partner }),
    }
}

/// A file that is listed and not there is a link to nowhere.
fn read(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
    let missing = || Error::Read { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() };
    file::read(path)?.ok_or_else(missing)
}

/// Reads certificates in PEM, with any text around them, or one in DER.
fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let unfit = |expected| Error::Certificate { path: path.to_owned(), expected };
    // DER begins with a SEQUENCE of a length of two bytes. No text does.
    let (found, expected) = match bytes.starts_with(&[0x30, 0x82]) {
        true => (Ok(vec![CertificateDer::from(bytes)]), "a whole X.509 certificate in DER"),
        false => (CertificateDer::pem_slice_iter(bytes).collect(), "whole X.509 certificates in PEM"),
    };
    let found: Vec<_> = found.map_err(|_: PemError| unfit(expected))?;
    if found.is_empty() {
        return Err(unfit("a certificate in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    match found.iter().all(is_certificate) {
        true => Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect()),
        false => Err(unfit(expected)),
    }
}

/// Tells whether a certificate can be read, by the reader that TLS has (`RootCertStore::add` of rustls).
fn is_certificate(certificate: &CertificateDer<'_>) -> bool {
    webpki::anchor_from_trusted_cert(certificate).is_ok()
}

fn private_key(path: &Path, bytes: &[u8]) -> Result<Secret<Vec<u8>>, Error> {
    let unfit = |expected| Error::Certificate { path: path.to_owned(), expected };
    let encrypted: &[&[u8]] = &[b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    if encrypted.iter().any(|mark| bytes.windows(mark.len()).any(|window| window == *mark)) {
        return Err(unfit("a private key that is not encrypted: nobody is asked for its password"));
    }
    match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(key) if is_sequence(key.secret_der()) => Ok(Secret::new(key.secret_der().to_vec())),
        Ok(_) => Err(unfit("a whole private key in PEM")),
        Err(PemError::NoItemsFound) => Err(unfit("a private key in PEM (-----BEGIN PRIVATE KEY-----)")),
        Err(_) => Err(unfit("a whole private key in PEM")),
    }
}

/// Tells whether bytes are one whole SEQUENCE of DER (X.690, 8.1), as each form of a key is.
fn is_sequence(bytes: &[u8]) -> bool {
    let [0x30, length, rest @ ..] = bytes else { return false };
    let (digits, content) = match length & 0x80 {
        0 => (&[*length][..], rest),
        _ => match rest.split_at_checked(usize::from(length & 0x7f)) {
            Some((digits, content)) if digits.len() <= 4 => (digits, content),
            _ => return false,
        },
    };
    digits.iter().fold(0, |length, digit| length << 8 | u64::from(*digit)) == content.len() as u64
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::LazyLock;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use tempfile::TempDir;

    use super::*;

    const HOST: &str = "r.example:5000";

    static MADE: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
        LazyLock::new(|| rcgen::generate_simple_self_signed(["r.example".to_owned()]).unwrap());

    fn certificate() -> String {
        MADE.cert.pem()
    }

    fn pem(label: &str, bytes: &str) -> String {
        format!("-----BEGIN {label}-----\n{bytes}\n-----END {label}-----\n")
    }

    fn put(root: &TempDir, path: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn environment(root: &TempDir) -> Environment {
        Environment::new(root.path(), 0).with("HOME", root.path().join("home"))
    }

    fn load(root: &TempDir) -> Result<HostCertificates, Error> {
        HostCertificates::load(&environment(root), None, HOST)
    }

    #[test]
    fn authorities_and_clients_are_read() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(load(&root).unwrap(), HostCertificates::default());
        let directory = "etc/containers/certs.d/r.example:5000";
        // As `openssl s_client -showcerts` writes them: text that begins like DER.
        let text = format!("0 s:CN = r.example\n{0}{0}", self::certificate());
        let authority = put(&root, &format!("{directory}/ca.crt"), text);
        let one = MADE.cert.der().to_vec();
        let der = put(&root, &format!("{directory}/der.crt"), &one);
        let certificate = put(&root, &format!("{directory}/me.cert"), self::certificate().repeat(2));
        let key = put(&root, &format!("{directory}/me.key"), pem("EC PRIVATE KEY", "MAMCAQc="));
        put(&root, &format!("{directory}/README"), "x");
        put(&root, "etc/docker/certs.d/r.example:5000/broken.crt", "x");
        let found = load(&root).unwrap();
        assert_eq!(found.directory, Some(root.path().join(directory)));
        let expected = [
            Authority { path: authority, certificates: vec![one.clone(), one.clone()] },
            Authority { path: der, certificates: vec![one.clone()] },
        ];
        assert_eq!(found.authorities, expected);
        let client = ClientCertificate {
            certificate_path: certificate,
            key_path: key,
            chain: vec![one.clone(), one],
            key: Secret::new(vec![0x30, 3, 2, 1, 7]),
        };
        assert_eq!(found.clients, [client]);
        assert!(!format!("{found:?}").contains("[48, 3, 2, 1, 7]"));
    }

    #[test]
    fn real_ones_are_read() {
        let root = tempfile::tempdir().unwrap();
        let made = &*MADE;
        let certificate = put(&root, "etc/docker/certs.d/r.example:5000/me.cert", made.cert.pem());
        fs::copy(&certificate, certificate.with_extension("crt")).unwrap();
        put(&root, "etc/docker/certs.d/r.example:5000/me.key", made.signing_key.serialize_pem());
        let found = load(&root).unwrap();
        assert_eq!(found.authorities[0].certificates, [made.cert.der().to_vec()]);
        assert_eq!(*found.clients[0].key.expose(), made.signing_key.serialize_der());
    }

    #[test]
    fn the_first_directory_is_the_only_one() {
        let root = tempfile::tempdir().unwrap();
        for (directory, count) in
            [("etc/docker/certs.d", 1), ("etc/containers/certs.d", 2), ("home/.config/containers/certs.d", 3)]
        {
            let text = certificate().repeat(count);
            put(&root, &format!("{directory}/{HOST}/ca.crt"), text);
            assert_eq!(load(&root).unwrap().authorities[0].certificates.len(), count);
        }
        // Another port is another registry.
        let other = HostCertificates::load(&environment(&root), None, "r.example").unwrap();
        assert_eq!(other, HostCertificates::default());
        let given = root.path().join("etc/docker/certs.d").join(HOST);
        let found = HostCertificates::load(&environment(&root), Some(&given), "other.example").unwrap();
        assert_eq!(found.authorities[0].certificates.len(), 1);
        let missing = HostCertificates::load(&environment(&root), Some(Path::new("/no/such")), HOST);
        assert!(matches!(missing, Err(Error::NotThere { named_by: "--cert-dir", .. })));
    }

    #[test]
    fn partners_are_named() {
        for (there, missing) in [("me.cert", "me.key"), ("me.key", "me.cert")] {
            let root = tempfile::tempdir().unwrap();
            put(&root, &format!("etc/containers/certs.d/{HOST}/{there}"), certificate());
            let Err(Error::MissingPartner { path, partner, .. }) = load(&root) else { panic!("{there}") };
            assert!(path.ends_with(there) && partner.ends_with(missing));
        }
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAEC\n";
        let encrypted = pem("ENCRYPTED PRIVATE KEY", "AAEC");
        let good = certificate();
        let der = MADE.cert.der();
        let cut = STANDARD.encode(&der[..der.len() - 1]);
        for (name, text, partner) in [
            ("ca.crt", "hunter2", None),
            ("ca.crt", "", None),
            ("ca.crt", broken, None),
            // PEM of what is none, of half a one, and of one after a good one.
            ("ca.crt", &pem("CERTIFICATE", "AAEC"), None),
            ("ca.crt", &pem("CERTIFICATE", &cut), None),
            ("ca.crt", &format!("{good}{}", pem("CERTIFICATE", "AAEC")), None),
            ("me.cert", &pem("CERTIFICATE", "AAEC"), Some(&*MADE.signing_key.serialize_pem())),
            ("me.cert", &good, Some(&*pem("PRIVATE KEY", "AAEC"))),
            ("me.cert", &good, Some(&*pem("PRIVATE KEY", "MAQCAQc="))),
            ("ca.crt", &pem("CERTIFICATE", "hunter2!"), None),
            ("ca.crt", &pem("PRIVATE KEY", "AAEC"), None),
            ("me.cert", &good, Some("hunter2")),
            ("me.cert", &good, Some(encrypted.as_str())),
            ("me.cert", "x", Some("x")),
        ] {
            let root = tempfile::tempdir().unwrap();
            put(&root, &format!("etc/containers/certs.d/{HOST}/{name}"), text);
            if let Some(key) = partner {
                put(&root, &format!("etc/containers/certs.d/{HOST}/me.key"), key);
            }
            let error = load(&root).unwrap_err();
            assert!(matches!(error, Error::Certificate { .. }), "{name} {text}: {error}");
            assert!(!error.to_string().contains("hunter2"));
        }
        let root = tempfile::tempdir().unwrap();
        let path = put(&root, &format!("etc/containers/certs.d/{HOST}/ca.crt"), &der[..der.len() - 1]);
        let Err(Error::Certificate { path: named, expected }) = load(&root) else { panic!() };
        assert_eq!((named, expected), (path, "a whole X.509 certificate in DER"));
        put(&root, &format!("etc/containers/certs.d/{HOST}/ca.crt"), vec![b'x'; 2 << 20]);
        assert!(matches!(load(&root), Err(Error::TooLarge { .. })));
        let link = root.path().join(format!("etc/containers/certs.d/{HOST}/ca.crt"));
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/no/such", &link).unwrap();
        assert!(matches!(load(&root), Err(Error::Read { .. })));
    }

    #[test]
    fn a_host_is_no_path() {
        let root = tempfile::tempdir().unwrap();
        for host in ["..", "../x.y", "a.b/../c", "", "/etc", "x"] {
            let found = HostCertificates::load(&environment(&root), None, host);
            assert!(matches!(found, Err(Error::Host { .. })), "{host}");
        }
    }
}
