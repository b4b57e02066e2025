// SPDX-License-Identifier: Apache-2.0

// Package agent is weir on a node: it serves the requests of the CNI plugin and
// of weirctl on a unix socket, holds the guards of every attachment, takes over
// what an earlier agent left, and exports metrics.
//
// The agent may be killed at any instant. What is on disk and in bpffs is all
// that it needs to go on: a sandbox whose ADD was under way is undone, the
// guards of the others are opened again from their pins, where they went on
// enforcing and counting.
//
// It is the only package that knows all the others.
package agent
