// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SHA-256 digests under names that say what they prove.
//!
//! A digest is 32 bytes from the moment it is read: a string that is really a path (CVE-2024-3727) never gets that far.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::manifest::Descriptor;
use crate::text::cut;

/// A digest that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The algorithm is not `sha256`, the one that registries use.
    #[error("digest {text:?}: expected the algorithm sha256, found {algorithm:?}")]
    UnsupportedAlgorithm {
        /// The digest as given.
        text: String,
        /// What stands before its colon.
        algorithm: String,
    },
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("digest {text:?}: expected \"sha256:\" and 64 lower-case hexadecimal digits")]
    Malformed {
        /// The digest as given, cut.
        text: String,
    },
    /// The bytes are not those that the digest promised.
    #[error("{what}: expected digest {expected}, found {found}")]
    Mismatch {
        /// What was hashed.
        what: String,
        /// The digest that its descriptor gives.
        expected: BlobDigest,
        /// The digest of the bytes.
        found: BlobDigest,
    },
    /// There are more or fewer bytes than the descriptor promised.
    #[error("{what}: expected {expected} bytes, found {found}")]
    SizeMismatch {
        /// What was measured.
        what: String,
        /// The size that its descriptor gives, in bytes.
        expected: u64,
        /// The size of what came, in bytes.
        found: u64,
    },
}

fn parse_sha256(text: &str) -> Result<[u8; 32], DigestError> {
    let malformed = || DigestError::Malformed { text: cut(text) };
    let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
    if algorithm != "sha256" {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+._-".contains(&byte);
        if algorithm.is_empty() || algorithm.len() > 40 || !algorithm.bytes().all(word) {
            return Err(malformed());
        }
        return Err(DigestError::UnsupportedAlgorithm { text: cut(text), algorithm: algorithm.to_owned() });
    }
    parse_hex(hex).ok_or_else(malformed)
}

/// What stands before the digits.
const ALGORITHM: &str = "sha256:";

/// The digits of a digest. They are printed and made paths of by the hundred in one create: no formatting machinery here, and no branch, so
/// that the compiler takes many at once.
fn to_hex(bytes: &[u8; 32]) -> [u8; 64] {
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    let mut hex = [0; 64];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
    hex
}

fn as_text(ascii: &[u8]) -> &str {
    std::str::from_utf8(ascii).unwrap_or_else(|_| unreachable!("digits are ASCII"))
}

/// A digest with its algorithm, as text.
struct DigestText([u8; 71]);

impl DigestText {
    fn of(bytes: &[u8; 32]) -> Self {
        let mut text = [0; 71];
        text[..ALGORITHM.len()].copy_from_slice(ALGORITHM.as_bytes());
        text[ALGORITHM.len()..].copy_from_slice(&to_hex(bytes));
        Self(text)
    }

    fn as_str(&self) -> &str {
        as_text(&self.0)
    }
}

/// Gives 32 bytes as 64 lower-case hexadecimal digits.
pub fn hex_of(bytes: &[u8; 32]) -> String {
    as_text(&to_hex(bytes)).to_owned()
}

/// Reads what [`hex_of`] gives; `None` where it is anything else.
pub fn parse_hex(hex: &str) -> Option<[u8; 32]> {
    let hex: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let mut is_wrong = false;
    let mut nibble = |byte: u8| {
        let (digit, letter) = (byte.wrapping_sub(b'0'), byte.wrapping_sub(b'a'));
        is_wrong |= digit >= 10 && letter >= 6;
        if digit < 10 { digit } else { letter.wrapping_add(10) & 0xf }
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
    }
    (!is_wrong).then_some(bytes)
}

/// Reads a digest from wherever its text lies, without a copy.
struct DigestVisitor;

impl serde::de::Visitor<'_> for DigestVisitor {
    type Value = [u8; 32];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sha256 digest")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<[u8; 32], E> {
        parse_sha256(text).map_err(E::custom)
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes the 32 bytes of a SHA-256.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Gives the 32 bytes of the SHA-256.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Hashes `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }

            /// Gives the 64 hexadecimal digits, without the algorithm: a safe file name.
            pub fn hex(&self) -> String {
                hex_of(&self.0)
            }

            /// Reads the 64 hexadecimal digits that [`hex`](Self::hex) gives; `None` where it is anything else.
            pub fn from_hex(hex: &str) -> Option<Self> {
                parse_hex(hex).map(Self)
            }

            /// Gives the first twelve digits, as people quote them.
            pub fn short(&self) -> String {
                self.hex()[..12].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(DigestText::of(&self.0).as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(sha256:{})"), self.hex())
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                parse_sha256(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(DigestText::of(&self.0).as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(DigestVisitor).map(Self)
            }
        }
    };
}

id_type! {
    /// The digest of a blob as a registry keeps it: a manifest, a configuration, a layer in its compressed form.
    BlobDigest
}
id_type! {
    /// The digest of an uncompressed layer tar (image-spec, config.md "Layer DiffID").
    DiffId
}
id_type! {
    /// The digest that names a stack of layers (image-spec, config.md "Layer ChainID").
    ChainId
}

impl ChainId {
    /// Computes the chainID of `layers`, the lowest first. `None` for no layers: nothing has no name.
    ///
    /// `ChainID(L₀) = DiffID(L₀)`, `ChainID(L₀|…|Lₙ) = SHA256(ChainID(L₀|…|Lₙ₋₁) + " " + DiffID(Lₙ))`.
    pub fn of_layers(layers: &[DiffId]) -> Option<Self> {
        let (first, rest) = layers.split_first()?;
        let base = Self(first.0);
        let joined = |chain: Self, layer: &DiffId| {
            let mut text = [b' '; 143];
            text[..71].copy_from_slice(&DigestText::of(&chain.0).0);
            text[72..].copy_from_slice(&DigestText::of(&layer.0).0);
            Self::of(&text)
        };
        Some(rest.iter().fold(base, joined))
    }
}

/// Computes a SHA-256 from pieces.
#[derive(Clone, Default)]
pub struct DigestHasher(Sha256);

impl DigestHasher {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Gives the 32 bytes of the digest.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Bytes whose size and digest are those that a descriptor promised, or a value read from such bytes.
///
/// A function that must not see unverified bytes takes this type, and then cannot be handed any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    digest: BlobDigest,
}

impl Verified<Vec<u8>> {
    /// Accepts `bytes` if their size and digest are those of `descriptor`; `what` names them in the error.
    pub fn check(bytes: Vec<u8>, descriptor: &Descriptor, what: &str) -> Result<Self, DigestError> {
        if bytes.len() as u64 != descriptor.size {
            return Err(DigestError::SizeMismatch {
                what: what.to_owned(),
                expected: descriptor.size,
                found: bytes.len() as u64,
            });
        }
        Self::check_digest(bytes, descriptor.digest, what)
    }

    /// Accepts `bytes` if their digest is `expected`, where no size is known.
    pub fn check_digest(bytes: Vec<u8>, expected: BlobDigest, what: &str) -> Result<Self, DigestError> {
        let found = BlobDigest::of(&bytes);
        if found != expected {
            return Err(DigestError::Mismatch { what: what.to_owned(), expected, found });
        }
        Ok(Self { value: bytes, digest: expected })
    }

    /// Takes `bytes` as they are, under the digest that they have: for those that were asked for by a tag.
    pub fn trust(bytes: Vec<u8>) -> Self {
        let digest = BlobDigest::of(&bytes);
        Self { value: bytes, digest }
    }
}

impl<T> Verified<T> {
    /// Gives what was verified.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// Gives the digest of the verified bytes.
    pub fn digest(&self) -> BlobDigest {
        self.digest
    }

    /// Gives what was verified, without its proof.
    pub fn into_inner(self) -> T {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digits_are_lower_case_and_hexadecimal_wherever_they_stand() {
        let good = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef].repeat(4);
        let id = DiffId::from_bytes(good.try_into().unwrap());
        assert_eq!(id.to_string(), format!("sha256:{}", "0123456789abcdef".repeat(4)));
        assert_eq!(id.to_string().parse(), Ok(id));
        for at in [0, 1, 31, 62, 63] {
            for byte in 0..128_u8 {
                let mut hex = id.hex().into_bytes();
                hex[at] = byte;
                let hex = String::from_utf8(hex).unwrap();
                let is_digit = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                let parsed = DiffId::from_hex(&hex);
                assert_eq!(parsed.is_some(), is_digit, "{hex}");
                assert!(parsed.is_none_or(|parsed| parsed.hex() == hex), "{hex}");
            }
        }
    }

    #[test]
    fn a_digest_is_read_and_printed_alike() {
        let digest: BlobDigest = EMPTY.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest, BlobDigest::of(b""));
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(BlobDigest::from_hex(&digest.hex()), Some(digest));
        assert_eq!(serde_json::from_str::<BlobDigest>(&serde_json::to_string(&digest).unwrap()).unwrap(), digest);
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        // The third is the path of CVE-2024-3727.
        for text in [
            "",
            "sha256",
            "sha256:../../../../etc/passwd",
            "sha256:",
            "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            "sha256:e3b0",
            ":e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "../x:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert!(matches!(text.parse::<BlobDigest>(), Err(DigestError::Malformed { .. })), "{text}");
        }
        let sha512 = format!("sha512:{}", "0".repeat(128));
        assert!(matches!(sha512.parse::<DiffId>(), Err(DigestError::UnsupportedAlgorithm { .. })));
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b, c) = (DiffId::of(b"a"), DiffId::of(b"b"), DiffId::of(b"c"));
        assert_eq!(ChainId::of_layers(&[]), None);
        assert_eq!(ChainId::of_layers(&[a]).unwrap().to_string(), a.to_string());
        let ab = ChainId::of(format!("{a} {b}").as_bytes());
        assert_eq!(ChainId::of_layers(&[a, b]), Some(ab));
        assert_eq!(ChainId::of_layers(&[a, b, c]), Some(ChainId::of(format!("{ab} {c}").as_bytes())));
    }

    #[test]
    fn verified_bytes_have_the_promised_size_and_digest() {
        let descriptor = |size, digest| Descriptor::new("application/json", digest, size);
        let good = descriptor(2, BlobDigest::of(b"{}"));
        assert_eq!(Verified::check(b"{}".to_vec(), &good, "config").unwrap().digest(), good.digest);
        let error = Verified::check(b"{} ".to_vec(), &good, "config").unwrap_err();
        assert_eq!(error, DigestError::SizeMismatch { what: "config".into(), expected: 2, found: 3 });
        let error = Verified::check(b"[]".to_vec(), &good, "config").unwrap_err();
        assert!(matches!(error, DigestError::Mismatch { .. }));
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut hasher = DigestHasher::default();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), *BlobDigest::of(b"abc").as_bytes());
    }
}
