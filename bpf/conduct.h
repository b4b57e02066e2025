/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * May a pod send this at all? What only routers, queriers and DHCP servers send, packets that
 * name the way they are to take, neighbour discovery for others, and ethertypes that the
 * network is not for.
 */
#ifndef __WEIR_CONDUCT_H
#define __WEIR_CONDUCT_H

/* IPv4 options that are walked (RFC 791, 3.1: 40 bytes in all, one at least each). */
#define WEIR_OPTIONS_MAX 40

/* What weir_walk_ipv6 has found, beside a WEIR_HEADER. */
enum weir_walk {
	WEIR_WALK_ROUTED = 1U << 30,   /* a routing header of type 0 */
	WEIR_WALK_FRAGMENT = 1U << 29, /* a fragment that is not the first */
	WEIR_WALK_CUT = 1U << 28,      /* a header is missing, out of its place, or one too many */
	WEIR_WALK_FIRST = 1U << 27,    /* the first fragment, which may be the only one */
};

/* An extension header of IPv6, up to the type of a routing header. */
struct weir_extension {
	__u8 next;
	__u8 length; /* in 8 bytes, without the first; of an AH in 4 bytes, without two */
	__u8 type;
	__u8 reserved;
} __attribute__((packed));

/* RFC 8200, 4.5: the offset is in the upper 13 bits. */
struct weir_fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset;
} __attribute__((packed));

#define WEIR_FRAGMENT_OFFSET_MASK 0xfff8
#define WEIR_FRAGMENT_HEADER_LEN 8

static __always_inline bool weir_is_walked(__u8 next)
{
	return weir_is_extension(next) || next == IPPROTO_FRAGMENT || next == IPPROTO_AH;
}

/*
 * Whether a header may follow one of another type. Hop-by-hop options come first (RFC
 * 8200, 4.1). Behind a fragment header there may be none that a later fragment could
 * overlap, but for that of authentication, which covers what follows it.
 */
static __always_inline bool weir_may_follow(__u8 next, __u8 after)
{
	if (next == IPPROTO_HOPOPTS)
		return false;
	return after != IPPROTO_FRAGMENT || next == IPPROTO_AH || !weir_is_walked(next);
}

/*
 * The header behind all extension headers of an IPv6 packet whose first is next, as a
 * WEIR_HEADER, and a weir_walk. Of a fragment that is not the first it has the protocol
 * alone. Global, as it loops.
 */
__noinline __u32 weir_walk_ipv6(struct __sk_buff *skb, __u32 next)
{
	__u32 offset = ETH_HLEN + sizeof(struct ipv6hdr), found = 0;
	struct weir_extension header;
	struct weir_fragment fragment;

	next &= 0xff;
#pragma clang loop unroll(disable)
	for (int i = 0; i < WEIR_EXTENSIONS_MAX; i++) {
		if (!weir_is_walked(next))
			return WEIR_HEADER(offset, next) | found;
		if (!weir_load(skb, offset, &header, sizeof(header)))
			return WEIR_WALK_CUT | found;
		if (next == IPPROTO_FRAGMENT) {
			__builtin_memcpy(&fragment, &header, sizeof(fragment));
			if (fragment.offset & bpf_htons(WEIR_FRAGMENT_OFFSET_MASK))
				return WEIR_WALK_FRAGMENT | found | header.next;
			found |= WEIR_WALK_FIRST;
			offset += WEIR_FRAGMENT_HEADER_LEN;
		} else if (next == IPPROTO_AH) {
			offset += (header.length + 2) * 4;
		} else {
			if (next == IPPROTO_ROUTING && header.type == WEIR_ROUTING_TYPE_0)
				found |= WEIR_WALK_ROUTED;
			offset += (header.length + 1) * 8;
		}
		if (!weir_may_follow(header.next, next))
			return WEIR_WALK_CUT | found;
		next = header.next;
	}
	return (weir_is_walked(next) ? WEIR_WALK_CUT : WEIR_HEADER(offset, next)) | found;
}

/*
 * Whether the options of an IPv4 header, from offset to end, have a source route (RFC 791,
 * 3.1). Options that contradict themselves end the search, as they do for a receiver.
 * Global, as it loops; of an argument the verifier assumes nothing, so that it does not
 * tell apart every way through the loop.
 */
__noinline int weir_is_source_routed(struct __sk_buff *skb, __u32 offset, __u32 end)
{
	__u8 option[2]; /* type and length, which that of one byte does not have */
	__u32 length;

#pragma clang loop unroll(disable)
	for (int i = 0; i < WEIR_OPTIONS_MAX && offset < end; i++) {
		if (!weir_load(skb, offset, option, sizeof(option)) || option[0] == WEIR_OPTION_END)
			return false;
		if (option[0] == WEIR_OPTION_LSRR || option[0] == WEIR_OPTION_SSRR)
			return true;
		length = option[0] == WEIR_OPTION_NOP ? 1 : option[1];
		if (!length)
			return false;
		offset += length;
	}
	return false;
}

/* A UDP packet from a server's port to a client's. */
static __always_inline enum weir_verdict weir_conduct_udp(struct __sk_buff *skb, __u32 offset, __u16 server,
							  __u16 client)
{
	__be16 ports[2];

	if (!weir_checks_for(WEIR_CHECK_DHCP))
		return WEIR_ALLOWED;
	if (!weir_read(skb, offset, ports, sizeof(ports)))
		return WEIR_MALFORMED;
	return ports[0] == bpf_htons(server) && ports[1] == bpf_htons(client) ? WEIR_ROGUE_DHCP : WEIR_ALLOWED;
}

static __always_inline enum weir_verdict weir_conduct_icmp(struct __sk_buff *skb, __u32 offset)
{
	__u8 type;

	if (!weir_checks_for(WEIR_CHECK_ROUTER))
		return WEIR_ALLOWED;
	if (!weir_read(skb, offset, &type, sizeof(type)))
		return WEIR_MALFORMED;
	return type == WEIR_ICMP_REDIRECT ? WEIR_ROGUE_ROUTER : WEIR_ALLOWED;
}

/* Who is asked for its groups answers, and a switch takes the one who asks for the querier. */
static __always_inline enum weir_verdict weir_conduct_igmp(struct __sk_buff *skb, __u32 offset)
{
	__u8 type;

	if (!weir_checks_for(WEIR_CHECK_QUERIER))
		return WEIR_ALLOWED;
	if (!weir_read(skb, offset, &type, sizeof(type)))
		return WEIR_MALFORMED;
	return type == WEIR_IGMP_QUERY ? WEIR_ROGUE_QUERIER : WEIR_ALLOWED;
}

/* A message of which found is what weir_walk_ipv6 has found on the way. */
static __always_inline enum weir_verdict weir_conduct_icmpv6(struct __sk_buff *skb, __u32 offset, __u32 found)
{
	__u8 type;

	if (!weir_checks_for(WEIR_CHECK_ROUTER | WEIR_CHECK_NEIGHBOUR | WEIR_CHECK_QUERIER))
		return WEIR_ALLOWED;
	if (!weir_read(skb, offset, &type, sizeof(type)))
		return WEIR_MALFORMED;
	if (type == WEIR_MLD_QUERY && weir_checks_for(WEIR_CHECK_QUERIER))
		return WEIR_ROGUE_QUERIER;
	if (type < WEIR_ROUTER_SOLICITATION || type > WEIR_REDIRECT)
		return WEIR_ALLOWED;
	if (weir_checks_for(WEIR_CHECK_ROUTER) && (type == WEIR_ROUTER_ADVERTISEMENT || type == WEIR_REDIRECT))
		return WEIR_ROGUE_ROUTER;
	if (!weir_checks_for(WEIR_CHECK_NEIGHBOUR))
		return WEIR_ALLOWED;
	/* RFC 6980, 5: neighbour discovery is not fragmented. */
	if (found & WEIR_WALK_FIRST)
		return WEIR_MALFORMED;
	return weir_neighbour(skb, offset);
}

static __always_inline enum weir_verdict weir_conduct_ipv4(struct __sk_buff *skb)
{
	const struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
	__u32 header_len;
	__u8 protocol;
	__be16 fragment;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return WEIR_MALFORMED;
	header_len = ip->ihl * 4;
	protocol = ip->protocol;
	fragment = ip->frag_off;
	if (header_len > sizeof(*ip) && weir_checks_for(WEIR_CHECK_SOURCE_ROUTE) &&
	    weir_is_source_routed(skb, ETH_HLEN + sizeof(*ip), ETH_HLEN + header_len))
		return WEIR_SOURCE_ROUTED;
	if (fragment & bpf_htons(WEIR_IPV4_OFFSET_MASK))
		return WEIR_ALLOWED; /* its first fragment decides */
	if (protocol == IPPROTO_UDP)
		return weir_conduct_udp(skb, ETH_HLEN + header_len, WEIR_DHCP_SERVER_PORT, WEIR_DHCP_CLIENT_PORT);
	if (protocol == IPPROTO_ICMP)
		return weir_conduct_icmp(skb, ETH_HLEN + header_len);
	if (protocol == IPPROTO_IGMP)
		return weir_conduct_igmp(skb, ETH_HLEN + header_len);
	return WEIR_ALLOWED;
}

static __always_inline enum weir_verdict weir_conduct_ipv6(struct __sk_buff *skb)
{
	const struct ipv6hdr *ip = (void *)(long)skb->data + ETH_HLEN;
	__u32 header, offset;
	__u8 next;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return WEIR_MALFORMED;
	next = ip->nexthdr;
	header = WEIR_HEADER(ETH_HLEN + sizeof(*ip), next);
	if (weir_is_walked(next)) {
		header = weir_walk_ipv6(skb, next);
		if (header & WEIR_WALK_ROUTED && weir_checks_for(WEIR_CHECK_ROUTING_HEADER))
			return WEIR_ROUTING_HEADER;
		if (header & WEIR_WALK_CUT)
			return WEIR_MALFORMED;
		if (header & WEIR_WALK_FRAGMENT)
			return WEIR_ALLOWED; /* its first fragment decides */
	}
	offset = WEIR_OFFSET(header & ~(WEIR_WALK_ROUTED | WEIR_WALK_FIRST));
	if (WEIR_PROTOCOL(header) == IPPROTO_UDP)
		return weir_conduct_udp(skb, offset, WEIR_DHCPV6_SERVER_PORT, WEIR_DHCPV6_CLIENT_PORT);
	if (WEIR_PROTOCOL(header) == IPPROTO_ICMPV6)
		return weir_conduct_icmpv6(skb, offset, header);
	return WEIR_ALLOWED;
}

/* The verdict on a packet whose source is the pod's own. */
static __always_inline enum weir_verdict weir_conduct(struct __sk_buff *skb)
{
	const struct ethhdr *eth = (void *)(long)skb->data;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return WEIR_MALFORMED;
	switch (eth->h_proto) {
	case bpf_htons(ETH_P_IP):
		return weir_checks_for(WEIR_CHECK_CONDUCT) ? weir_conduct_ipv4(skb) : WEIR_ALLOWED;
	case bpf_htons(ETH_P_IPV6):
		return weir_checks_for(WEIR_CHECK_CONDUCT) ? weir_conduct_ipv6(skb) : WEIR_ALLOWED;
	case bpf_htons(ETH_P_ARP):
		return WEIR_ALLOWED;
	}
	/* The tags of a trunk are the network's to sort. */
	if (!weir_checks_for(WEIR_CHECK_ETHERTYPE) || weir_is_vlan(eth->h_proto))
		return WEIR_ALLOWED;
	return WEIR_FOREIGN_ETHERTYPE;
}

#endif
