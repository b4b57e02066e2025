// SPDX-License-Identifier: Apache-2.0

// Package ipvlan makes interfaces of type ipvlan: all with the MAC of the master
// that they share, told apart by their addresses.
//
// A [Config] comes from Parse, which looks at the text alone; Validate looks at
// the node and touches nothing; Create makes the interface in the pod, down and
// without addresses, and leaves nothing on error. The rest of an interface's life
// is package netif's. A fault in the configuration is a netif.FieldError.
//
// The mode is the master's, not the interface's: an interface made in another
// mode takes all others of its master along. Check finds that.
package ipvlan
