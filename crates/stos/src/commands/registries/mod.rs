// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands about registries.

pub mod explain;
pub mod login;
