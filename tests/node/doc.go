// SPDX-License-Identifier: Apache-2.0

// Package node tests weir from end to end: the binaries weir, weir-agent and
// weirctl as they are installed, on a node, an outside host and pods that are
// network namespaces. Nothing of the agent runs in the test's own process.
//
// The binaries are built once for each test process, the agent with the race
// detector when the test has it. Where there is no Go tool, they are taken from
// the folder build of the module; WEIR_BIN_DIR names another.
package node
