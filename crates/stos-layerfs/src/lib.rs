// SPDX-License-Identifier: Apache-2.0 OR MIT
//! LayerFS: ingest, layers, chains and mount plans
