// SPDX-License-Identifier: Apache-2.0

// Package frame says in a line what an Ethernet frame is, of which perhaps only the
// beginning is there. What it says has no text of the frame's own in it: names of
// protocols, numbers and addresses alone, so that it can be shown on any terminal.
package frame
