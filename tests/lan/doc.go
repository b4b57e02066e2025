// SPDX-License-Identifier: Apache-2.0

// Package lan builds small networks for tests out of real network namespaces:
// hosts joined by veth pairs, frames sent raw, and captures of what passed.
//
// Everything is named uniquely for the test process, belongs to a testing.TB
// and is gone when that test ends, however it ends. It needs root.
package lan
