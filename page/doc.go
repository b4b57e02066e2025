// SPDX-License-Identifier: Apache-2.0

// Package page is the agent's own page: the node's attachments, their rates as small graphs,
// what was dropped and why. The browser asks the agent for the counters and works the rates
// out; nothing comes from elsewhere, and nothing can be changed.
package page
