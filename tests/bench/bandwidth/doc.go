// SPDX-License-Identifier: Apache-2.0

// Package bandwidth measures what TCP gets of the bandwidth that is set for an
// attachment, at rates from 1 Mbit/s to 10 Gbit/s. Its figures are in
// docs/performance.md.
package bandwidth
