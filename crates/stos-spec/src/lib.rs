// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Digests, references, platforms, manifests and configs of OCI images: pure types and rules
