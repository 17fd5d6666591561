// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whom TLS trusts, and who it says that we are: certificates and keys in PEM or DER, made into what the HTTP library takes. All of them are DER:
//! reading files is for who knows their names.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::endpoint::ClientIdentity;
use crate::error::Error;

/// The certificates of authorities that are trusted besides the system's, and what has been made of them.
pub(crate) struct Trust {
    extra_roots: Vec<Vec<u8>>,
    provider: Arc<CryptoProvider>,
    /// Read once, for it takes milliseconds.
    roots: OnceLock<RootCerts>,
}

impl Trust {
    /// Takes the certificates of authorities. They are read where TLS is first spoken.
    pub(crate) fn new(extra_roots: Vec<Vec<u8>>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Self { extra_roots, provider, roots: OnceLock::new() }
    }

    /// Gives how TLS is spoken: verified or not, and as whom.
    pub(crate) fn config(&self, verify: bool, identity: Option<&ClientIdentity>) -> Result<TlsConfig, Error> {
        let identity = identity.map(|identity| client_cert(identity, &self.provider)).transpose()?;
        let builder =
            TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::clone(&self.provider)).client_cert(identity);
        if !verify {
            // The roots are not asked, but the library wants a set.
            return Ok(builder.disable_verification(true).root_certs(RootCerts::new_with_certs(&[])).build());
        }
        let roots = match self.roots.get() {
            Some(roots) => roots.clone(),
            None => self
                .roots
                .get_or_init({
                    let roots = self.load_roots()?;
                    || roots
                })
                .clone(),
        };
        Ok(builder.root_certs(roots).build())
    }

    fn load_roots(&self) -> Result<RootCerts, Error> {
        let system = rustls_native_certs::load_native_certs();
        let mut roots: Vec<_> = system.certs.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
        for root in &self.extra_roots {
            // The library would leave out what it cannot read, and the user would wonder.
            let readable = rustls::RootCertStore::empty().add(CertificateDer::from(root.as_slice()));
            let bad = |error: rustls::Error| Error::BadOption {
                option: "extra_roots",
                found: error.to_string(),
                expected: "certificates in DER",
            };
            readable.map_err(bad)?;
            roots.push(Certificate::from_der(root).to_owned());
        }
        if roots.is_empty() {
            let reason = system.errors.first().map_or_else(|| "none are installed".to_owned(), ToString::to_string);
            return Err(Error::NoRoots { reason });
        }
        Ok(RootCerts::new_with_certs(&roots))
    }
}

/// Reads a client certificate and its key, and sees that they belong together: the library would panic.
fn client_cert(identity: &ClientIdentity, provider: &CryptoProvider) -> Result<ClientCert, Error> {
    // What a parser says about a key may not quote it; these do not, and less is told all the same.
    let bad_key = |found: &str| Error::BadOption {
        option: "client key",
        found: found.to_owned(),
        expected: "the certificate's key in DER, not encrypted",
    };
    let chain: Vec<_> = identity.certificates.iter().map(|bytes| CertificateDer::from(bytes.clone())).collect();
    let key = PrivateKeyDer::try_from(identity.key.clone()).map_err(|_| bad_key("no key that can be read"))?;
    rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), provider)
        .map_err(|error| bad_key(&error.to_string()))?;
    let key = PrivateKey::from_pem(pem(&key).as_bytes()).map_err(|_| bad_key("no key that can be read"))?;
    let chain: Vec<_> = chain.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    Ok(ClientCert::new_with_certs(&chain, key))
}

/// Writes a key in PEM: the one form in which the library takes every kind.
fn pem(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(key.secret_der()))
}
