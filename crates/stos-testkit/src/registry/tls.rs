// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A CA for one registry, and the certificate that it gives it; and CAs for clients.

use std::fmt;
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// A CA.
fn authority(name: &str) -> (Certificate, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names are good names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key).expect("a CA");
    (certificate, Issuer::new(params, key))
}

/// A CA for clients, and one client's certificate and key.
#[derive(Clone)]
pub struct ClientAuthority {
    ca_der: Vec<u8>,
    /// The client's certificate in PEM.
    pub certificate_pem: String,
    /// The client's key in PEM.
    pub key_pem: String,
    /// The client's certificate in DER.
    pub certificate_der: Vec<u8>,
    /// The client's key in DER (PKCS #8).
    pub key_der: Vec<u8>,
}

impl ClientAuthority {
    /// Makes a CA, and a client's certificate by it.
    ///
    /// # Panics
    /// Where no key can be made.
    #[expect(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        let (ca, issuer) = authority("testkit client CA");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["client.example".to_owned()]).expect("a good name");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        Self {
            ca_der: ca.der().to_vec(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate_der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
        }
    }
}

impl fmt::Debug for ClientAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientAuthority")
    }
}

pub(crate) struct Tls {
    config: Arc<ServerConfig>,
    ca_der: Vec<u8>,
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
}

impl Tls {
    /// Makes a CA, and a certificate for `names`, or where there are none for `localhost` and `127.0.0.1`. Where there are
    /// `clients`, a client must be one of theirs.
    pub(crate) fn new(mut names: Vec<String>, clients: Option<&ClientAuthority>) -> Self {
        if names.is_empty() {
            names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        }
        let (ca, issuer) = authority("testkit CA");
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(names).expect("good names").signed_by(&key, &issuer).expect("a certificate");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions");
        let builder = match clients {
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.ca_der.clone().into()).expect("a CA");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
            None => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(vec![leaf.der().clone()], private).expect("a certificate and its key");
        Self {
            config: Arc::new(config),
            ca_der: ca.der().to_vec(),
            ca_pem: ca.pem(),
            certificate_pem: leaf.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn ca_der(&self) -> &[u8] {
        &self.ca_der
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Gives the certificate and its key in PEM.
    pub(crate) fn pem(&self) -> (&str, &str) {
        (&self.certificate_pem, &self.key_pem)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
