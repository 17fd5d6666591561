// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Platforms: operating system, architecture, variant, and their many spellings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::cut;

/// A platform that cannot be read, cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform {0:?}: expected OS/ARCH or OS/ARCH/VARIANT, such as linux/amd64 or linux/arm/v7")]
pub struct PlatformError(pub String);

/// What an image was made for, in Go's words (image-spec, image-index.md "platform").
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system (`GOOS`).
    pub os: String,
    /// The architecture (`GOARCH`).
    pub architecture: String,
    /// The variant of the architecture, such as `v7` of `arm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Makes a platform of these words, normalised: `x86_64` is `amd64`, `aarch64` is `arm64`, `armhf` is `arm/v7`, and so is
    /// `arm` alone.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let mut platform = Self::normalised(os, architecture, variant);
        if platform.architecture == "arm" {
            platform.variant.get_or_insert_with(|| "v7".to_owned());
        }
        platform
    }

    /// Makes a platform of what a configuration says: as [`new`](Self::new), but a variant that is not written is none.
    ///
    /// # Errors
    /// Words are of letters, digits, `.`, `_` and `-`; `os` and `architecture` may be empty, and then fit nothing.
    pub fn of_image(os: &str, architecture: &str, variant: Option<&str>) -> Result<Self, PlatformError> {
        let words = [Some(os), Some(architecture), variant];
        if words.iter().flatten().all(|word| is_word(word)) {
            return Ok(Self::normalised(os, architecture, variant));
        }
        Err(PlatformError(words.into_iter().flatten().map(cut).collect::<Vec<_>>().join("/")))
    }

    fn normalised(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_ascii_lowercase);
        let architecture = architecture.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant) {
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant.filter(|variant| variant != "v1")),
            ("aarch64" | "arm64", variant) => {
                ("arm64", variant.filter(|variant| variant != "v8" && variant != "8" && variant != "v8.0"))
            }
            ("armhf" | "armv7l" | "armv7", _) => ("arm", Some("v7".to_owned())),
            ("armel" | "armv6l", _) => ("arm", Some("v6".to_owned())),
            ("arm", variant) => match variant.as_deref() {
                Some("5" | "6" | "7" | "8") => ("arm", variant.map(|variant| format!("v{variant}"))),
                _ => ("arm", variant),
            },
            ("i386" | "i486" | "i586" | "i686" | "386", variant) => ("386", variant),
            (other, variant) => (other, variant),
        };
        Self { os: os.to_ascii_lowercase(), architecture: architecture.to_owned(), variant }
    }

    /// Gives the platform that this binary was built for.
    pub fn host() -> Self {
        let architecture = go_architecture(std::env::consts::ARCH, cfg!(target_endian = "little"));
        Self::new(std::env::consts::OS, architecture, None)
    }

    /// Tells how well an image for `candidate` runs on `self`: `None` not at all, and the smaller the better.
    ///
    /// Only `arm` has an order of variants: a v7 host runs v6 and v5 too. Elsewhere an image without a variant fits
    /// every host, and a host without one takes the plainest image.
    pub fn fit(&self, candidate: &Self) -> Option<u8> {
        if self.os != candidate.os || self.architecture != candidate.architecture {
            return None;
        }
        if self.variant == candidate.variant {
            return Some(0);
        }
        let number = |variant: &Option<String>| variant.as_deref()?.strip_prefix('v')?.parse::<u8>().ok();
        match (number(&self.variant), number(&candidate.variant)) {
            (Some(have), Some(needs)) => (needs <= have).then(|| have - needs),
            (_, None) if candidate.variant.is_none() => Some(50),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let words: Vec<&str> = text.split('/').collect();
        let good = |word: &&str| !word.is_empty() && is_word(word);
        match words.as_slice() {
            [os, architecture] if words.iter().all(good) => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] if words.iter().all(good) => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(PlatformError(cut(text))),
        }
    }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Gives Go's word for an architecture in Rust's words.
fn go_architecture(rust: &str, is_little_endian: bool) -> &str {
    match (rust, is_little_endian) {
        ("x86", _) => "386",
        ("powerpc64", true) => "ppc64le",
        ("powerpc64", false) => "ppc64",
        ("mips64", true) => "mips64le",
        ("loongarch64", _) => "loong64",
        // The rest have one word, or are spellings that are normalised.
        (rust, _) => rust,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_normalised() {
        for (text, expected) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), expected);
        }
        for text in ["", "linux", "linux/", "linux/amd64/v2/x", "linux/a b"] {
            assert_eq!(text.parse::<Platform>(), Err(PlatformError(text.to_owned())));
        }
    }

    #[test]
    fn an_image_says_what_it_says() {
        let of = |os: &str, architecture: &str, variant| Platform::of_image(os, architecture, variant);
        assert_eq!(of("linux", "arm", None).unwrap().variant, None);
        assert_eq!(of("linux", "armhf", None).unwrap().to_string(), "linux/arm/v7");
        assert_eq!(of("", "", Some("")).unwrap(), Platform { os: "".into(), architecture: "".into(), variant: None });
        for (os, architecture, variant) in
            [("linux\u{1b}[2J", "amd64", None), ("linux", "a/b", None), ("linux", "arm", Some("v7\n"))]
        {
            assert!(of(os, architecture, variant).is_err(), "{os:?} {architecture:?}");
        }
        assert!(of("linux", &"ä".repeat(1 << 20), None).unwrap_err().to_string().len() < 2000);
    }

    #[test]
    fn the_host_is_named_in_the_words_of_go() {
        for (rust, little, go) in [
            ("x86", true, "386"),
            ("x86_64", true, "amd64"),
            ("aarch64", true, "arm64"),
            ("powerpc64", true, "ppc64le"),
            ("powerpc64", false, "ppc64"),
            ("loongarch64", true, "loong64"),
            ("s390x", false, "s390x"),
            ("riscv64", true, "riscv64"),
        ] {
            assert_eq!(Platform::new("linux", go_architecture(rust, little), None).architecture, go, "{rust}");
        }
    }

    #[test]
    fn a_host_runs_what_fits_it() {
        let fit = |host: &str, image: &str| host.parse::<Platform>().unwrap().fit(&image.parse().unwrap());
        assert_eq!(fit("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(fit("linux/amd64", "linux/arm64"), None);
        assert_eq!(fit("linux/amd64", "windows/amd64"), None);
        assert_eq!(fit("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(fit("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(fit("linux/amd64/v3", "linux/amd64"), Some(50));
        assert_eq!(fit("linux/amd64", "linux/amd64/v3"), None);
    }
}
