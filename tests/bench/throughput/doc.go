// SPDX-License-Identifier: Apache-2.0

// Package throughput measures what traffic loses to the guard: a guarded interface and a
// bare one beside it take turns, run by run.
package throughput
