/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * May the two of a network talk to each other (RFC 5517)? The attachment's own role is a
 * constant; those of the others are in a table that the agent keeps. Who is not in it, a
 * gateway say, talks to all.
 */
#ifndef __WEIR_ISOLATION_H
#define __WEIR_ISOLATION_H

/* Roles of members. One that talks to all, as a promiscuous one does, has none. */
enum weir_role {
	WEIR_ROLE_NONE,
	WEIR_ROLE_ISOLATED,
	WEIR_ROLE_COMMUNITY,
};

struct weir_member_key {
	/* An IPv6 address, an IPv4 address mapped into one (RFC 4291, 2.5.5.2), or a MAC
	 * and zeros.
	 */
	__u8 address[16];
	__u32 kind; /* enum weir_member_kind */
};

struct weir_member {
	__u32 role; /* enum weir_role */
	__u32 unused;
	__u64 community; /* 0 for an isolated one */
};

/* Keys of a segment: those of some 16,000 members with a MAC, two IPv6 addresses and one
 * of IPv4 each.
 */
#define WEIR_MEMBERS_MAX 65536

/* The members of the segment that are not promiscuous. The attachments of a segment on
 * this node share it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WEIR_MEMBERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__type(key, struct weir_member_key);
	__type(value, struct weir_member);
} weir_members SEC(".maps");

/* The attachment's own role and community. */
const volatile enum weir_role weir_role;
const volatile __u64 weir_community;

#define WEIR_ND_TARGET_OFFSET 8 /* RFC 4861, 4.3 and 4.4 */

/* Whether there is a member by this key to which the attachment may not talk. */
static __always_inline bool weir_is_apart(const struct weir_member_key *key)
{
	const struct weir_member *member = bpf_map_lookup_elem(&weir_members, key);

	if (!member)
		return false;
	return weir_role == WEIR_ROLE_ISOLATED || member->role == WEIR_ROLE_ISOLATED ||
	       member->community != weir_community;
}

static __always_inline bool weir_is_apart_mac(const __u8 *mac)
{
	struct weir_member_key key = {.kind = WEIR_MEMBER_MAC};

	__builtin_memcpy(key.address, mac, ETH_ALEN);
	return weir_is_apart(&key);
}

static __always_inline bool weir_is_apart_ipv4(const __u8 *address)
{
	struct weir_member_key key = {.kind = WEIR_MEMBER_ADDRESS};

	key.address[10] = key.address[11] = 0xff;
	__builtin_memcpy(key.address + 12, address, 4);
	return weir_is_apart(&key);
}

static __always_inline bool weir_is_apart_ipv6(const struct weir_ipv6 *address)
{
	struct weir_member_key key = {.kind = WEIR_MEMBER_ADDRESS};

	__builtin_memcpy(key.address, address, sizeof(*address));
	return weir_is_apart(&key);
}

/* Whether an address is one of the attachment itself, and not only in a prefix of it.
 * Global, as it loops.
 */
__noinline int weir_is_self_ipv4(__be32 address)
{
	const struct weir_facts *facts = weir_facts_now();

	if (!facts)
		return false;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WEIR_PREFIXES_MAX && i < facts->prefixes4_len; i++) {
		if (facts->prefixes4[i].address == address && facts->prefixes4[i].mask == 0xffffffff)
			return true;
	}
	return false;
}

/* The source or the destination is looked at. */
static __always_inline enum weir_verdict weir_apart_ipv4(struct __sk_buff *skb, bool receives)
{
	__u32 offset = receives ? __builtin_offsetof(struct iphdr, saddr) : __builtin_offsetof(struct iphdr, daddr);
	__u8 address[4];

	if (!weir_read(skb, ETH_HLEN + offset, address, sizeof(address)))
		return WEIR_MALFORMED;
	return weir_is_apart_ipv4(address) ? WEIR_ISOLATED : WEIR_ALLOWED;
}

/* Who asks, or is asked for. An attachment that asks whether its own address is taken,
 * or announces it (RFC 5227), asks nobody.
 */
static __always_inline enum weir_verdict weir_apart_arp(struct __sk_buff *skb, bool receives)
{
	struct weir_arp arp;
	__be32 target;

	if (!weir_read(skb, ETH_HLEN, &arp, sizeof(arp)))
		return WEIR_MALFORMED;
	__builtin_memcpy(&target, arp.target_ip, sizeof(target));
	if (receives)
		return weir_is_apart_ipv4(arp.sender_ip) ? WEIR_ISOLATED : WEIR_ALLOWED;
	return weir_is_apart_ipv4(arp.target_ip) && !weir_is_self_ipv4(target) ? WEIR_ISOLATED : WEIR_ALLOWED;
}

/*
 * The target of neighbour discovery at an offset: of a solicitation that the attachment
 * sends it is whom it looks for; of what it receives it is the sender itself in an
 * advertisement, and in a solicitation from nowhere.
 */
static __always_inline enum weir_verdict weir_apart_target(struct __sk_buff *skb, __u32 offset, bool unspecified,
							   bool receives)
{
	struct weir_ipv6 target;
	bool asks, tells;
	__u8 type;

	if (!weir_read(skb, offset, &type, sizeof(type)))
		return WEIR_MALFORMED;
	asks = type == WEIR_NEIGHBOUR_SOLICITATION && !unspecified;
	tells = type == WEIR_NEIGHBOUR_ADVERTISEMENT || (type == WEIR_NEIGHBOUR_SOLICITATION && unspecified);
	if (receives ? !tells : !asks)
		return WEIR_ALLOWED;
	if (!weir_read(skb, offset + WEIR_ND_TARGET_OFFSET, &target, sizeof(target)))
		return WEIR_MALFORMED;
	return weir_is_apart_ipv6(&target) ? WEIR_ISOLATED : WEIR_ALLOWED;
}

static __always_inline enum weir_verdict weir_apart_ipv6(struct __sk_buff *skb, bool receives)
{
	struct ipv6hdr ip;
	struct weir_ipv6 source, destination;
	__u32 header;

	if (!weir_read(skb, ETH_HLEN, &ip, sizeof(ip)))
		return WEIR_MALFORMED;
	__builtin_memcpy(&source, &ip.saddr, sizeof(source));
	__builtin_memcpy(&destination, &ip.daddr, sizeof(destination));
	if (weir_is_apart_ipv6(receives ? &source : &destination))
		return WEIR_ISOLATED;
	header = WEIR_HEADER(WEIR_HEADERS_LEN, ip.nexthdr);
	if (weir_is_walked(ip.nexthdr))
		header = weir_walk_ipv6(skb, ip.nexthdr);
	if (header & WEIR_WALK_CUT)
		return WEIR_MALFORMED;
	/* RFC 6980, 5: of fragments nobody takes neighbour discovery. */
	if (header & (WEIR_WALK_FRAGMENT | WEIR_WALK_FIRST) || WEIR_PROTOCOL(header) != IPPROTO_ICMPV6)
		return WEIR_ALLOWED;
	return weir_apart_target(skb, WEIR_OFFSET(header & ~WEIR_WALK_ROUTED), weir_is_unspecified(&source), receives);
}

/*
 * The verdict on a frame of the other in one direction: by MAC, and by address, which a
 * gateway between the two would leave. Members that share a MAC are known by address alone.
 */
static __always_inline enum weir_verdict weir_isolation(struct __sk_buff *skb, bool receives)
{
	struct ethhdr eth;

	if (weir_role == WEIR_ROLE_NONE)
		return WEIR_ALLOWED;
	if (!weir_read(skb, 0, &eth, sizeof(eth)))
		return WEIR_MALFORMED;
	if (weir_is_apart_mac(receives ? eth.h_source : eth.h_dest))
		return WEIR_ISOLATED;
	switch (eth.h_proto) {
	case bpf_htons(ETH_P_IP):
		return weir_apart_ipv4(skb, receives);
	case bpf_htons(ETH_P_IPV6):
		return weir_apart_ipv6(skb, receives);
	case bpf_htons(ETH_P_ARP):
		return weir_apart_arp(skb, receives);
	}
	return WEIR_ALLOWED;
}

#endif
