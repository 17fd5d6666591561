// SPDX-License-Identifier: Apache-2.0 OR MIT
//! See `stos_fuzz_targets::registries_conf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stos_fuzz_targets::registries_conf(data));
