// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DATA-ROOT: layout, blobs, references, names, staging, locks
