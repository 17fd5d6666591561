// SPDX-License-Identifier: Apache-2.0 OR MIT
//! For tests only: registries, image and tar builders, tree comparison, privilege guards
pub mod registry;
