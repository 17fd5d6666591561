// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One bundle's life: create, start, kill, delete, state
