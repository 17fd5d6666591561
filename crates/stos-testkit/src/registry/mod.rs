// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Registries for tests: a plain one, and hostile ones that break one promise each.
