// SPDX-License-Identifier: Apache-2.0

// Package bugreport collects what somebody needs to understand weir on a node, without the
// secrets of that node.
//
// Configurations of CNI may hold anything, so it is not secrets that are looked for: of a
// configuration or record a value is kept where its key is known to hold none, and all
// others are replaced. Of files that are no configuration nothing but the name is told.
//
// Imports: bugreport -> doctor, inspect, loader, state.
package bugreport
