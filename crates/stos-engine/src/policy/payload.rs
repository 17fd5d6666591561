// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a sigstore signature signs: a document of simple signing, which names a manifest and what it is signed as.
//!
//! It is read as strictly as upstream does (`UntrustedSigstorePayload` of containers/image): objects have the keys that they must
//! have, each once, and no others. In `optional`, which cosign writes as `null` where it has nothing to say, anything else may stand
//! besides the creator and the time; none of it counts.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};

/// The one type of payload that there is, of cosign and of containers/image.
const TYPE: &str = "cosign container image signature";

/// What is claimed of an image. Nothing is proved by it before its signature is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// The manifest, as the digest is written.
    pub manifest: String,
    /// What it is signed as: a reference; by cosign a repository.
    pub identity: String,
}

impl Payload {
    /// Reads a payload.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Object(document) = serde_json::from_slice::<Object<Document>>(bytes).map_err(|error| error.to_string())?;
        let Critical { kind, image, identity } = document.critical.0;
        if kind != TYPE {
            return Err(format!("critical.type is {kind:?}, expected {TYPE:?}"));
        }
        Ok(Self { manifest: image.0.manifest, identity: identity.0.reference })
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    critical: Object<Critical>,
    #[serde(rename = "optional", deserialize_with = "object_or_null")]
    _optional: (),
}

#[derive(serde::Deserialize)]
struct Optional {
    #[serde(default, rename = "creator")]
    _creator: Option<String>,
    #[serde(default)]
    timestamp: Option<f64>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Object<Image>,
    identity: Object<Identity>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    manifest: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

/// What is written as an object: a derived reader would take a list of the fields too.
struct Object<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for OfObject<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(OfObject(PhantomData)).map(Self)
    }
}

fn object_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    let optional = Option::<Object<Optional>>::deserialize(deserializer)?;
    match optional.and_then(|optional| optional.0.timestamp) {
        Some(seconds) if seconds.fract() != 0.0 => Err(D::Error::custom("optional.timestamp is no whole number")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{IMAGE, MANIFEST, PAYLOAD};
    use super::*;

    #[test]
    fn what_skopeo_and_cosign_write_is_read() {
        let skopeo = Payload::parse(PAYLOAD.as_bytes()).unwrap();
        assert_eq!(skopeo, Payload { manifest: MANIFEST.to_owned(), identity: IMAGE.to_owned() });
        let cosign = r#"{"critical":{"identity":{"docker-reference":"r.example/a"},"image":{"docker-manifest-digest":"sha256:00"},"type":"cosign container image signature"},"optional":null}"#;
        let read = Payload::parse(cosign.as_bytes()).unwrap();
        assert_eq!((read.manifest.as_str(), read.identity.as_str()), ("sha256:00", "r.example/a"));
        let annotated = cosign.replace("null", r#"{"commit": ["x", {"a": 1}]}"#);
        assert_eq!(Payload::parse(annotated.as_bytes()), Ok(read));
    }

    #[test]
    fn anything_else_is_refused() {
        let good = r#"{"critical":{"identity":{"docker-reference":"r.example/a"},"image":{"docker-manifest-digest":"sha256:00"},"type":"cosign container image signature"},"optional":null}"#;
        for (from, to) in [
            (r#""optional":null"#, r#""optional":[]"#),
            (r#""optional":null"#, r#""optional":1"#),
            (r#""optional":null"#, r#""optional":{"creator":1}"#),
            (r#""optional":null"#, r#""optional":{"creator":"a","creator":"b"}"#),
            (r#""optional":null"#, r#""optional":{"timestamp":"1"}"#),
            (r#""optional":null"#, r#""optional":{"timestamp":1.5}"#),
            (r#","optional":null"#, ""),
            (r#""optional":null"#, r#""Optional":null"#),
            (r#""optional":null"#, r#""optional":null,"optional":null"#),
            (r#""optional":null"#, r#""optional":null,"more":null"#),
            (
                r#""docker-reference":"r.example/a""#,
                r#""docker-reference":"r.example/a","docker-reference":"r.example/b""#,
            ),
            (r#""docker-reference":"r.example/a""#, r#""docker-reference":null"#),
            (r#""docker-reference":"r.example/a""#, ""),
            (r#"{"docker-reference":"r.example/a"}"#, r#"["r.example/a"]"#),
            (r#"{"docker-manifest-digest":"sha256:00"}"#, r#"["sha256:00"]"#),
            (r#""docker-manifest-digest""#, r#""Docker-Manifest-Digest""#),
            (r#""sha256:00""#, "0"),
            ("cosign container", "Cosign container"),
            (r#""cosign container image signature""#, r#""atomic container signature""#),
            (r#""cosign container image signature""#, "null"),
            (r#""type""#, r#""extra":1,"type""#),
            (r#","optional":null}"#, r#","optional":null}{}"#),
            (r#","optional":null}"#, r#","optional":null"#),
        ] {
            assert!(good.contains(from));
            let text = good.replacen(from, to, 1);
            assert!(Payload::parse(text.as_bytes()).is_err(), "{text}");
        }
        let list = r#"[[["r.example/a"],["sha256:00"],"cosign container image signature"],null]"#;
        for text in ["", "null", "{}", "[]", "\u{feff}{}", list] {
            assert!(Payload::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Payload::parse(b"\xff").is_err());
        assert!(Payload::parse("[".repeat(1 << 20).as_bytes()).is_err());
        let told = Payload::parse(good.replace("cosign", "x").as_bytes()).unwrap_err();
        assert_eq!(
            told,
            r#"critical.type is "x container image signature", expected "cosign container image signature""#
        );
    }
}
