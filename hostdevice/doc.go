// SPDX-License-Identifier: Apache-2.0

// Package hostdevice gives a pod a device of the node: it moves the device into
// the pod's network namespace, and back as it was.
//
// A [Config] comes from Parse, which looks at the text alone; Validate looks at
// the node and touches nothing. Save says what the device is like, for the caller
// to keep before Move; Restore puts it back from wherever a Move that was cut off,
// or the end of the pod's namespace, has left it, and may be called again.
//
// The device bears a mark, its name on the node as its alias, from the first thing
// that Move does to it to the last that Restore does. What is not marked is the
// operator's, and Restore leaves it as it is. A device of hardware is known again by
// its place on its bus and the MAC burnt in, one of software by its names and its
// index.
//
// A fault in the configuration is a netif.FieldError, a difference that Check finds
// a netif.DriftError; the sentinels say why.
package hostdevice
