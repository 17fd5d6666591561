// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Public keys of `sigstoreSigned`, and whether one of them has signed.
//!
//! As upstream a key is the first one in PEM (`BEGIN PUBLIC KEY`, a `SubjectPublicKeyInfo` of RFC 5280), and whatever its kind the
//! payload is hashed with SHA-256, by Ed25519 with that scheme's own (`VerifySigstorePayload` of containers/image,
//! `LoadVerifier` of sigstore/sigstore).
//!
//! | key | signature |
//! |---|---|
//! | ECDSA on P-256 or P-384 | ECDSA in DER over SHA-256 |
//! | RSA of 2,048 to 8,192 bits | PKCS #1 v1.5 over SHA-256 |
//! | Ed25519 | over the payload itself |
//!
//! Upstream also takes P-224, P-521 and RSA keys of other lengths; they are refused here.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// What a key should have been.
pub(super) const EXPECTED: &str = "a public key in PEM: ECDSA on P-256 or P-384, RSA of 2048 to 8192 bits, or Ed25519";

/// A key that can be checked with.
pub(super) struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    /// As the algorithm takes it.
    bytes: Vec<u8>,
}

impl PublicKey {
    /// Reads the first public key of a text in PEM.
    ///
    /// # Errors
    /// What was found instead of [`EXPECTED`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => "none".to_owned(),
            error => error.to_string(),
        })?;
        Self::from_spki(&der)
    }

    fn from_spki(der: &[u8]) -> Result<Self, String> {
        let broken = || "one that is no SubjectPublicKeyInfo".to_owned();
        let parsed = parse_spki(der).ok_or_else(broken)?;
        let algorithm: &'static dyn VerificationAlgorithm = match (parsed.algorithm, parsed.curve) {
            (EC_PUBLIC_KEY, Some(P256)) if is_point(parsed.key, 32) => &signature::ECDSA_P256_SHA256_ASN1,
            (EC_PUBLIC_KEY, Some(P384)) if is_point(parsed.key, 48) => &signature::ECDSA_P384_SHA256_ASN1,
            (EC_PUBLIC_KEY, Some(P256 | P384)) => return Err(broken()),
            (EC_PUBLIC_KEY, _) => return Err("ECDSA on another curve".to_owned()),
            (ED25519, None) if parsed.key.len() == 32 => &signature::ED25519,
            (RSA_ENCRYPTION, _) => match rsa_bits(parsed.key).ok_or_else(broken)? {
                2048..=8192 => &signature::RSA_PKCS1_2048_8192_SHA256,
                bits => return Err(format!("RSA of {bits} bits")),
            },
            _ => return Err("one of another kind".to_owned()),
        };
        Ok(Self { algorithm, bytes: parsed.key.to_vec() })
    }

    /// Tells whether the owner of this key has signed the payload so.
    pub fn has_signed(&self, payload: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.bytes).verify(payload, signature).is_ok()
    }
}

/// A `SubjectPublicKeyInfo` (RFC 5280, 4.1).
struct Spki<'a> {
    algorithm: &'a [u8],
    /// The curve, where the algorithm's parameters are one.
    curve: Option<&'a [u8]>,
    key: &'a [u8],
}

fn parse_spki(der: &[u8]) -> Option<Spki<'_>> {
    let mut whole = Der(der);
    let mut info = Der(whole.take(SEQUENCE)?);
    let mut identifier = Der(info.take(SEQUENCE)?);
    let algorithm = identifier.take(OBJECT_IDENTIFIER)?;
    let curve =
        if identifier.0.first() == Some(&OBJECT_IDENTIFIER) { identifier.take(OBJECT_IDENTIFIER) } else { None };
    // The first byte says how many bits of the last one do not count: here it is always whole bytes.
    let (unused, key) = info.take(BIT_STRING)?.split_first()?;
    let is_whole = *unused == 0 && whole.0.is_empty() && info.0.is_empty();
    is_whole.then_some(Spki { algorithm, curve, key })
}

/// Tells whether it is an uncompressed point of two coordinates of that many bytes.
fn is_point(key: &[u8], coordinate: usize) -> bool {
    key.len() == 1 + 2 * coordinate && key[0] == 4
}

/// Gives the length of the modulus of an `RSAPublicKey` (RFC 8017, A.1.1).
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let modulus = Der(Der(key).take(SEQUENCE)?).take(INTEGER)?;
    let first = modulus.iter().position(|byte| *byte != 0)?;
    Some((modulus.len() - first) * 8 - modulus[first].leading_zeros() as usize)
}

/// What is left to read of a text in DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next value, which has this tag. Keys have at most 64 KiB.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let [found, length, rest @ ..] = self.0 else { return None };
        let (length, rest) = match (*length, rest) {
            (short @ ..=0x7f, rest) => (usize::from(short), rest),
            (0x81, [length @ 0x80..=0xff, rest @ ..]) => (usize::from(*length), rest),
            (0x82, [high @ 1..=0xff, low, rest @ ..]) => (usize::from(*high) << 8 | usize::from(*low), rest),
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length).filter(|_| *found == tag)?;
        self.0 = rest;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::super::fixture::*;
    use super::*;

    fn key(pem: &str) -> PublicKey {
        PublicKey::from_pem(pem.as_bytes()).unwrap_or_else(|found| panic!("{found}: {pem}"))
    }

    fn found(pem: &[u8]) -> String {
        PublicKey::from_pem(pem).err().unwrap()
    }

    #[test]
    fn each_kind_of_key_accepts_its_own_signature_and_no_other() {
        let all = [SKOPEO, P384_KEY, RSA_KEY, ED25519_KEY];
        for (pem, signature) in all {
            let signature = STANDARD.decode(signature).unwrap();
            let key = key(pem);
            assert!(key.has_signed(PAYLOAD.as_bytes(), &signature), "{pem}");
            // Every byte counts, of the payload and of the signature, and so does each one more or less.
            for at in 0..PAYLOAD.len() {
                let mut tampered = PAYLOAD.as_bytes().to_vec();
                tampered[at] ^= 1;
                assert!(!key.has_signed(&tampered, &signature), "{at} {pem}");
            }
            for at in 0..signature.len() {
                let mut tampered = signature.clone();
                tampered[at] ^= 1;
                assert!(!key.has_signed(PAYLOAD.as_bytes(), &tampered), "{at} {pem}");
            }
            assert!(!key.has_signed(PAYLOAD.as_bytes(), &[&signature[..], &[0]].concat()));
            assert!(!key.has_signed(PAYLOAD.as_bytes(), &signature[..signature.len() - 1]));
            assert!(!key.has_signed(PAYLOAD.as_bytes(), &[]));
            assert!(!key.has_signed(&[], &signature));
            for (other, _) in all.iter().filter(|(other, _)| *other != pem) {
                assert!(!self::key(other).has_signed(PAYLOAD.as_bytes(), &signature));
            }
        }
        // It is SHA-256, whatever the curve.
        assert!(!key(P384_KEY.0).has_signed(PAYLOAD.as_bytes(), &STANDARD.decode(P384_BY_SHA384).unwrap()));
    }

    #[test]
    fn what_is_no_key_says_what_it_is() {
        let certificate = SKOPEO.0.replace("PUBLIC KEY", "CERTIFICATE");
        for (pem, expected) in [
            ("", "none"),
            ("words", "none"),
            (&certificate, "none"),
            (P521_KEY, "ECDSA on another curve"),
            (SECP256K1_KEY, "ECDSA on another curve"),
            (RSA_1024_KEY, "RSA of 1024 bits"),
            ("-----BEGIN PUBLIC KEY-----\nAAEC\n-----END PUBLIC KEY-----\n", "one that is no SubjectPublicKeyInfo"),
        ] {
            assert_eq!(found(pem.as_bytes()), expected, "{pem}");
        }
        // Of several the first counts, and words around it do not.
        let two = format!("words\n{}{}", SKOPEO.0, ED25519_KEY.0);
        assert!(key(&two).has_signed(PAYLOAD.as_bytes(), &STANDARD.decode(SKOPEO.1).unwrap()));
    }

    #[test]
    fn a_key_that_is_cut_or_longer_is_none() {
        for (pem, _) in [SKOPEO, P384_KEY, RSA_KEY, ED25519_KEY] {
            let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
            assert!(PublicKey::from_spki(&der).is_ok());
            for length in 0..der.len() {
                assert!(PublicKey::from_spki(&der[..length]).is_err(), "{length}");
            }
            assert!(PublicKey::from_spki(&[&der[..], &[0]].concat()).is_err());
            // Whatever a byte becomes, it is refused or another key; nothing panics.
            for at in 0..der.len() {
                for byte in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut other = der.clone();
                    other[at] = byte;
                    drop(PublicKey::from_spki(&other));
                }
            }
        }
    }
}
