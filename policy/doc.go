// SPDX-License-Identifier: Apache-2.0

// Package policy is about what a network allows to pass: the rules of its configuration, and the
// tables that the programs look them up in. It touches nothing.
package policy
