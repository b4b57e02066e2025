// SPDX-License-Identifier: Apache-2.0

// Package bridge makes interfaces of type bridge: one end of a veth pair in the
// pod, the other a port of a bridge on the host, which may be the pod's gateway
// and masquerade what it sends elsewhere.
//
// A [Config] comes from Parse, which looks at the text alone; Validate looks at
// the node and touches nothing; Create makes the bridge, if there is none, and
// the pair, both ends down, and leaves nothing on error. Complete works the
// gateways into what the IPAM plugin gave. ConfigureHost sets the host's side up,
// which a Delete undoes; the pod's end is package netif's. The bridge itself, with
// its gateway addresses and the interface that carries those of a VLAN, is shared
// and outlives every Delete.
//
// Nothing is kept between calls: the kernel is the state, and masquerade rules
// are found by their [Owner]. Calls for different pods may run at the same time,
// also for one bridge. A fault in the configuration is a netif.FieldError, a
// difference that Check finds a netif.DriftError.
package bridge
