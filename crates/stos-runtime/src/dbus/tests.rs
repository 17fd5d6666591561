// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The client against a peer that speaks from a script, and against dbus-daemon where that is installed.
