// SPDX-License-Identifier: Apache-2.0

package ctl

import "github.com/weir-cni/weir/bpf"

// check is what stands behind a verdict.
type check struct {
	// because says what is wrong with the packet.
	because string
	// leave is the name in the list "allow" of the network by which it would pass; empty where
	// there is none.
	leave string
}

// checkOf is the check whose verdict it is, as docs/guard.md has it.
func checkOf(v bpf.Verdict) check {
	return map[string]check{
		"allowed":             {because: "nothing refuses it"},
		"malformed":           {because: "it is not what its headers say, or it is cut off where it is looked at"},
		"vlan_tagged":         {"the pod may not send frames with a VLAN tag", "vlan"},
		"double_tagged":       {"the pod may not send frames with two VLAN tags, or with that of a provider", "double-tags"},
		"spoofed_mac":         {"its source MAC is not the attachment's", "other-macs"},
		"spoofed_ipv4":        {"its source is not one of the attachment's IPv4 addresses", "other-addresses"},
		"spoofed_ipv6":        {"its source is not one of the attachment's IPv6 addresses", "other-addresses"},
		"spoofed_arp_mac":     {"the sender's MAC in ARP is not the attachment's", "arp-proxy"},
		"spoofed_arp_ip":      {"the sender's address in ARP is not one of the attachment's", "arp-proxy"},
		"spoofed_neighbour":   {"it tells of an address or a MAC that is not the attachment's", "nd-proxy"},
		"rate_limited":        {because: "the bandwidth of the attachment is used up at this moment"},
		"rogue_dhcp":          {"only DHCP servers send this", "dhcp-server"},
		"rogue_router":        {"only routers send this", "router"},
		"rogue_querier":       {"only multicast routers and switches ask for members of groups", "querier"},
		"source_routed":       {"it names the way that it is to take", "source-routing"},
		"routing_header":      {"it has an IPv6 routing header of type 0", "routing-header"},
		"foreign_ethertype":   {"it is neither IPv4 nor IPv6 nor ARP", "other-ethertypes"},
		"foreign_destination": {"it is for another MAC than the attachment's", "other-destination"},
		"broadcast_storm":     {because: "the pod's limit of broadcasts is used up at this moment"},
		"multicast_storm":     {because: "the pod's limit of multicasts is used up at this moment"},
		"unknown_storm":       {because: "the pod's limit of packets to MACs that it has not heard from is used up at this moment"},
		"isolated":            {because: "the network's isolation keeps the two apart"},
		"rule_denied":         {because: "a rule of the network denies it"},
		"bypassed":            {because: "a neighbour on the master sent it past its own guard"},
	}[v.Reason()]
}
