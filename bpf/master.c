//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The programs on the masters of macvlan and ipvlan, where no pod can reach. They hold no
 * checks of their own: they find whose a packet is and call the program of that
 * attachment. One set serves all masters of a node.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "protocols.h"
#include "address.h"
#include "ring.h"

/* Attachments on all masters of a node. */
#define WEIR_SLOTS_MAX 4096

/* The programs of each attachment, by slot: weir_egress and weir_ingress. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, WEIR_SLOTS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} weir_senders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, WEIR_SLOTS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} weir_receivers SEC(".maps");

/* Which build of the programs this is. */
const volatile char bpf_metadata_build[16];

/* No attachment of the master. */
#define WEIR_NO_SLOT (-1)

/*
 * The slot of the attachment whose guard is to judge what was sent: one of the pod's that
 * sent it, rather than the one that the packet says it is from. Global, as it is for few
 * packets.
 */
__noinline __s32 weir_sender_slot(struct __sk_buff *skb, __u32 master)
{
	const struct weir_owner *owner = weir_owner_of(skb, master);
	const struct weir_local *local = weir_local_source(skb, master);

	if (owner && (!local || local->pod != owner->pod))
		return owner->slot;
	return local ? (__s32)local->slot : WEIR_NO_SLOT;
}

/*
 * Has the guard of the sender judge a packet that it has not seen, or, as long as stamps
 * are not believed, once more.
 */
static __always_inline int weir_have_judged(struct __sk_buff *skb)
{
	bool again = skb->tc_index == WEIR_STAMP_SENT;
	__s32 slot;

	if (again && !weir_distrusts())
		return TC_ACT_UNSPEC;
	slot = weir_sender_slot(skb, skb->ifindex);
	if (slot == WEIR_NO_SLOT)
		return TC_ACT_UNSPEC;
	skb->tc_index = again ? WEIR_STAMP_AGAIN : WEIR_STAMP_JUDGE;
	bpf_tail_call(skb, &weir_senders, slot);
	/* The attachment is being taken away. */
	return TC_ACT_SHOT;
}

/* What leaves the node by a master. */
SEC("tc")
int weir_leaving(struct __sk_buff *skb)
{
	return weir_have_judged(skb);
}

/* What comes in at a master from a neighbour on it. What comes from outside has no socket. */
SEC("tc")
int weir_crossing(struct __sk_buff *skb)
{
	return skb->sk ? weir_have_judged(skb) : TC_ACT_UNSPEC;
}

/* Has the guard of the receiver judge a packet before any socket can read it. */
static __always_inline int weir_hand_over(struct __sk_buff *skb, const struct weir_local *local)
{
	if (!local) {
		skb->tc_index = WEIR_STAMP_ARRIVED;
		return TC_ACT_UNSPEC;
	}
	skb->tc_index = local->flags & WEIR_LOCAL_LAST ? WEIR_STAMP_LAST : WEIR_STAMP_JUDGE;
	bpf_tail_call(skb, &weir_receivers, local->slot);
	return TC_ACT_SHOT;
}

/* Behind weir_crossing on a master of macvlan: receivers are known by their MACs. */
SEC("tc")
int weir_to_mac(struct __sk_buff *skb)
{
	__u8 mac[ETH_ALEN];

	if (skb->vlan_present || bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
		return weir_hand_over(skb, NULL);
	return weir_hand_over(skb, weir_local_mac(skb->ifindex, mac));
}

/*
 * Behind weir_crossing on a master of ipvlan: receivers are known by their addresses. What
 * is for a group meets the guards of its members, and so does ARP.
 */
SEC("tc")
int weir_to_address(struct __sk_buff *skb)
{
	const struct weir_local *local = NULL;
	struct ethhdr eth;

	if (skb->vlan_present || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) || eth.h_dest[0] & WEIR_MAC_GROUP)
		return weir_hand_over(skb, NULL);
	if (eth.h_proto == bpf_htons(ETH_P_IP))
		local = weir_local_ipv4(skb, skb->ifindex, __builtin_offsetof(struct iphdr, daddr));
	else if (eth.h_proto == bpf_htons(ETH_P_IPV6))
		local = weir_local_ipv6(skb, skb->ifindex, __builtin_offsetof(struct ipv6hdr, daddr));
	return weir_hand_over(skb, local);
}

char _license[] SEC("license") = "Dual BSD/GPL";
