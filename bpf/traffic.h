/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is it that passes? Allowed packets by how many they are for and by protocol. Every
 * one of them is in one counter of the table, so that a row, a column and the whole can be
 * added up.
 */
#ifndef __WEIR_TRAFFIC_H
#define __WEIR_TRAFFIC_H

/* Where the protocol of IPv4 and the next header of IPv6 are (RFC 791, 3.1; RFC 8200, 3). */
#define WEIR_IPV4_PROTOCOL_OFFSET (ETH_HLEN + __builtin_offsetof(struct iphdr, protocol))
#define WEIR_IPV6_NEXT_OFFSET (ETH_HLEN + __builtin_offsetof(struct ipv6hdr, nexthdr))

static __always_inline enum weir_family weir_family_of_protocol(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return WEIR_TCP;
	case IPPROTO_UDP:
		return WEIR_UDP;
	case IPPROTO_SCTP:
		return WEIR_SCTP;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return WEIR_ICMP;
	}
	return WEIR_OTHER;
}

static __always_inline enum weir_family weir_family_of(struct __sk_buff *skb, __be16 ethertype)
{
	__u8 protocol;

	switch (ethertype) {
	case bpf_htons(ETH_P_ARP):
		return WEIR_ARP;
	case bpf_htons(ETH_P_IP):
		if (!weir_read(skb, WEIR_IPV4_PROTOCOL_OFFSET, &protocol, sizeof(protocol)))
			return WEIR_OTHER;
		return weir_family_of_protocol(protocol);
	case bpf_htons(ETH_P_IPV6):
		if (!weir_read(skb, WEIR_IPV6_NEXT_OFFSET, &protocol, sizeof(protocol)))
			return WEIR_OTHER;
		if (weir_is_walked(protocol))
			protocol = WEIR_PROTOCOL(weir_walk_ipv6(skb, protocol));
		return weir_family_of_protocol(protocol);
	}
	return WEIR_OTHER;
}

/* IEEE 802, 8.2: the lowest bit of the first byte is set for a group, and all are for
 * everybody.
 */
static __always_inline enum weir_class weir_class_of(const __u8 *destination)
{
	const __u16 *words = (const __u16 *)destination;

	if (!(destination[0] & WEIR_MAC_GROUP))
		return WEIR_UNICAST;
	return (words[0] & words[1] & words[2]) == 0xffff ? WEIR_BROADCAST : WEIR_MULTICAST;
}

/* Counts an allowed packet once more, by class and family. */
static __always_inline void weir_count_traffic(struct __sk_buff *skb, struct weir_classes *classes,
					       struct weir_count size)
{
	const struct ethhdr *eth = (void *)(long)skb->data;
	enum weir_class class = WEIR_UNICAST;
	enum weir_family family = WEIR_OTHER;
	struct weir_count *count;

	if ((void *)(eth + 1) <= (void *)(long)skb->data_end) {
		class = weir_class_of(eth->h_dest);
		family = weir_family_of(skb, eth->h_proto);
	}
	count = (struct weir_count *)classes + class * WEIR_FAMILY_MAX + family;
	count->packets += size.packets;
	count->bytes += size.bytes;
}

#endif
