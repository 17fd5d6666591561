// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A signature that skopeo 1.22 has made (`copy --sign-by-sigstore-private-key`), and others of its payload by OpenSSL; each
//! with its key. The private keys are gone.

use super::key::PublicKey;

/// The image that skopeo has signed.
pub const IMAGE: &str = "127.0.0.1:5599/t/signed:1";
/// Its manifest.
pub const MANIFEST: &str = "sha256:0b765a8cb9b66c85712c708bbc7abdfe59a67b704180e9be224658e65b01b115";
/// What it has signed.
pub const PAYLOAD: &str = r#"{"critical":{"identity":{"docker-reference":"127.0.0.1:5599/t/signed:1"},"image":{"docker-manifest-digest":"sha256:0b765a8cb9b66c85712c708bbc7abdfe59a67b704180e9be224658e65b01b115"},"type":"cosign container image signature"},"optional":{"creator":"containers/image 5.39.1","timestamp":1795666941}}"#;
/// The key of skopeo, on P-256, and its signature.
pub const SKOPEO: (&str, &str) = (
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEZCks7eRq/lQg+npPSxWc4a8Zq+Z0\nd65lJF7j0U0m9zqkIwCe5Q+18kBzxEJRkpBaaU/A+TzEFoF7SmqvYnA/gw==\n-----END PUBLIC KEY-----\n",
    "MEUCIQDpqU2TDP/WpBNRqyORJqudbCQtE19fmk0YS9YskACfDgIgJ5dne8jI5v0+sPNlEQuuL2KvW73JxV2o1gDj/wVa4dg=",
);
/// A key on P-384.
pub const P384_KEY: (&str, &str) = (
    "-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE7mGyh04NMcYrOkwTiQ7N7jvpnyEaoocL\nzXIj6jgWba7fZb8ruzhcSbZHmoy/7EmvgkM/vIYE4VTuxt8ZI3BNBy9x7gmfxfXb\nxeBfCL0piep67FbCzQ++v29/QODUUn7B\n-----END PUBLIC KEY-----\n",
    "MGYCMQDfPk8pK0BDN2R3Cf4k++BxqAmJb98slFD45tnsfIFFSzAcpPGUwiDAea7cBEl1fJQCMQD7qMrRJ7z5y8pEdPI7GYXOjR1aeX8LtDwgsIhL/hNQtsR+Q37vmX7rhCz3QwG7Ynw=",
);
/// A key of RSA.
pub const RSA_KEY: (&str, &str) = (
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAo3TBrTuiNW+YLO/UnfWA\n0r5ut7ZxJH1rPDOwShSuF5HJY/zXHtGz1FrxeEb1t6hgnlkMBE3znvn8F07220b3\nOIcfBpDsrL2ZCo9XLgkcQlQoP+sGC3Wj+D49XlstQEmWs4Bx9OSOz1fUekozJQZt\ngLD45QlochaYrXsv9WKyi4Rp4iNHPPdIOe8gm09uHM9XjnqfptUE84hSdqKk5hsA\nYarG/RUHxJhxRBRwkAdJA/O8hq7HHwAJ21SbGn9EH93Fn9uEe4pi5/Tcj05rmnll\nXNAq8EfnarGnCSKphDKAm7Tha+JVQav/zKYvDggqop0JSnkgf5E0iXsAIZS1sFNZ\n3QIDAQAB\n-----END PUBLIC KEY-----\n",
    "exrLv+EV2a1hJdLtD07nPxsuEyuzFlvJbLbPAL0DR0MZRx033d7QLmET2z47jwXwwUBfIVHuVT3SMO6+wiUtLue0Py/RdcEiNxv0rVPyZWp1NfbGm+OYa9oixna1plCWOkT+iDy/deWHH8ycfQgQ/2a8oze20TT6voLPMjplA9hDg3L0NzdDDiCuJhpgw9s/0TQj1UkjZQXcmiu9ma6qGrat4ibMQNRO4589w4HIydsc4NRvjoY3givCR4LmV6US2erCkmEghKsYyJMIWqzmtzz4TVz+iaEgx+/wSMtiB8Q10PMeORpcZ2V4iJpV/YQnRDveLKaeS3mnpCoTV+inGA==",
);
/// A key of Ed25519.
pub const ED25519_KEY: (&str, &str) = (
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAfTddQms00eQ6aouBa9VNJK68B1VkOcdDVrFJ2IxF7jE=\n-----END PUBLIC KEY-----\n",
    "hiTRz/vHB6Vm1vDTROnvIi2nAz4hpYrB3BGsoka8LCnq0d0v9Zm0i0Xs+uXhvbeM0NowldAFVV1QKrqmEGpVCQ==",
);
/// A signature by [`P384_KEY`] over SHA-384.
pub const P384_BY_SHA384: &str = "MGQCMQDe1flF4oq8oe7Lejp2ek74tdubGlMOq15P9/K39iySRN8tSdu1Y+x1SDepNf8zYqsCLzjB0ohhjykUuPsO79NmpWBx7BkjXgyIGftQPC49WS6gkNi+2AemUmZXzyLmg+L9";
/// A key on P-521.
pub const P521_KEY: &str = "-----BEGIN PUBLIC KEY-----\nMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBzbvyY1jN2zsKhHePrBFX5VJ9aKrJ\nDveQci6AnQbQVE85cT0ZTzUr0zHFN9B5fTidmgpdcZ9oS9YHWPvegVMXXrQAmxuk\nksO3esLQ7Dbmowoiyq1DcbeELm36EyH5/b+9+T0LoF0ofxC1bZ89TN4mXkN2hs2W\n5guxqmhYTDVJ0PKDnI8=\n-----END PUBLIC KEY-----\n";
/// A key on a curve of another family.
pub const SECP256K1_KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEMRsQxBGVTapQT1H6L6ZimZD8f+r1j8MQ\nZ3M8gVkG8ZT1EMR+4/3Z0/7eHuAGCX21P3ep+S+yrzyGoSReH6gspA==\n-----END PUBLIC KEY-----\n";
/// A key that is too short.
pub const RSA_1024_KEY: &str = "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDjoYTUuLw75ofjUZ6Uc/3X1i9t\nqoWpjn/F+XcWi/uurFEN1U5xBPj74QTPQ7FLqZRpktNz+nwcx1ZrdyEZS+Z52oTJ\nUaoGi7Avvg/Sx0Qf/Zwhrs41wYLaI/vxnI/k/0RkTBtHtsUkmXPpkWde+SVafyBj\nf707HN3Df63YIg5B4wIDAQAB\n-----END PUBLIC KEY-----\n";

/// Gives a key.
pub fn key(pem: &str) -> PublicKey {
    PublicKey::from_pem(pem.as_bytes()).unwrap()
}
