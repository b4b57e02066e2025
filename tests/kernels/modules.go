// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/weir-cni/weir/tests/kernels/guest"

// modules are those that the tests may need.
func modules() []guest.Module {
	return []guest.Module{
		{Name: "crc32c_generic", Optional: true}, // asked for by alias, by libcrc32c
		{Name: "af_packet", Optional: true},
		{Name: "ipv6", Optional: true},
		{Name: "virtio_pci", Optional: true}, // the network cards
		{Name: "virtio_net"},
		{Name: "vmxnet3"},
		{Name: "veth"},
		{Name: "bridge"},
		{Name: "macvlan"},
		{Name: "ipvlan"},
		// The interfaces which some modules bring along are not what a test expects.
		{Name: "dummy", Options: "numdummies=0"},
		{Name: "ifb", Options: "numifbs=0"},
		{Name: "8021q"},
		{Name: "vxlan"},
		{Name: "tun"},
		{Name: "sch_ingress"},
		{Name: "sch_fq"},
		{Name: "sch_htb"},
		{Name: "sch_tbf", Optional: true},
		{Name: "sch_netem", Optional: true},
		{Name: "cls_bpf"},
		{Name: "cls_matchall"},
		{Name: "cls_u32", Optional: true},
		{Name: "act_bpf"},
		{Name: "act_gact"},
		{Name: "act_mirred"},
		{Name: "act_police", Optional: true},
		{Name: "act_skbedit", Optional: true},
		{Name: "act_vlan", Optional: true},
		{Name: "nf_conntrack"},
		{Name: "nf_tables"},
		{Name: "nft_ct", Optional: true},
		{Name: "nft_chain_nat", Optional: true},
		{Name: "nft_masq", Optional: true},
		{Name: "sctp", Optional: true},
		{Name: "macvtap", Optional: true},
		{Name: "netkit", Optional: true}, // since 6.7
	}
}
