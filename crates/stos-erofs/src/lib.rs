// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Indexes a tar stream, merges layers, writes and checks EROFS metadata: pure, Read in and Write out
