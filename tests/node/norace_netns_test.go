// SPDX-License-Identifier: Apache-2.0

//go:build netns && !race

package node

// raced is set when the test runs with the race detector, as the agent then does.
const raced = false
