// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A CA for one registry, and the certificate that it gives it.

use std::fmt;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

pub(super) struct Tls {
    config: Arc<ServerConfig>,
    ca_der: Vec<u8>,
    ca_pem: String,
}

impl Tls {
    /// Makes a CA, and a certificate for `names`, or where there are none for `localhost` and `127.0.0.1`.
    pub(super) fn new(mut names: Vec<String>) -> Self {
        if names.is_empty() {
            names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        }
        let ca_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "testkit CA");
        let ca = params.self_signed(&ca_key).expect("a CA");
        let issuer = Issuer::new(params, ca_key);

        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(names).expect("good names").signed_by(&key, &issuer).expect("a certificate");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)
            .expect("a certificate and its key");
        Self { config: Arc::new(config), ca_der: ca.der().to_vec(), ca_pem: ca.pem() }
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    pub(super) fn ca_der(&self) -> &[u8] {
        &self.ca_der
    }

    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
