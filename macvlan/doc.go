// SPDX-License-Identifier: Apache-2.0

// Package macvlan makes interfaces of type macvlan: each with a MAC of its own on
// a master that they share.
//
// A [Config] comes from Parse, which looks at the text alone; Validate looks at
// the node and touches nothing; Create makes the interface in the pod, down and
// without addresses, and leaves nothing on error. The rest of an interface's life
// is package netif's. A fault in the configuration is a netif.FieldError.
package macvlan
