// SPDX-License-Identifier: Apache-2.0

// Package bench measures whole processes: an ADD and a DEL of weir beside those of
// the reference plugin, in one run on one machine, and where the time of an ADD
// goes. Its figures are in docs/performance.md.
package bench
