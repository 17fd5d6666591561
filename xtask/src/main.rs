// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The front door for developers.
fn main() {}
