// SPDX-License-Identifier: Apache-2.0 OR MIT
//! OCI distribution client: resolve and fetch
