// SPDX-License-Identifier: Apache-2.0

// Package throughput measures what traffic loses to the guard: a guarded pod and a
// bare one, each on a node of its own, take turns, run by run.
package throughput
