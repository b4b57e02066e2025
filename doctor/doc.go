// SPDX-License-Identifier: Apache-2.0

// Package doctor looks for what keeps weir on a node from working, or soon will: in the
// kernel, among weir's files and pins, in the runtime's configuration and at the agent. It
// changes nothing.
//
// Imports: doctor -> inspect, install, loader, state.
package doctor
