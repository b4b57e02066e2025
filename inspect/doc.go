// SPDX-License-Identifier: Apache-2.0

// Package inspect answers what is attached on this node and what its counters
// say: from the agent, or, when no agent answers, from its records and from the
// pinned maps themselves, which go on counting; and, from the agent alone, whether it could
// attach a pod.
package inspect
