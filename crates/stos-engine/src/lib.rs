// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images and containers: pull, validate, create, start, monitor
