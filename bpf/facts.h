/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs know of the attachment that they guard: its addresses, in
 * a map that the agent rewrites when they change, and its checks, constants
 * from which the verifier removes what is not used.
 */
#ifndef __WEIR_FACTS_H
#define __WEIR_FACTS_H

/* Source prefixes that an attachment may have, for each family. */
#define WEIR_PREFIXES_MAX 16

/* An entry of weir_checks is on when its bit is set. */
enum weir_check {
	WEIR_CHECK_MAC = 1 << 0,
	WEIR_CHECK_IPV4 = 1 << 1,
	WEIR_CHECK_IPV6 = 1 << 2,
	WEIR_CHECK_VLAN = 1 << 3,
	WEIR_CHECK_DHCP = 1 << 4,
	WEIR_CHECK_ROUTER = 1 << 5,
	WEIR_CHECK_SOURCE_ROUTE = 1 << 6,
	WEIR_CHECK_ETHERTYPE = 1 << 7,
	WEIR_CHECK_ARP = 1 << 8,
	WEIR_CHECK_NEIGHBOUR = 1 << 9,
	WEIR_CHECK_DOUBLE_TAG = 1 << 10,
	WEIR_CHECK_ROUTING_HEADER = 1 << 11,
	WEIR_CHECK_DESTINATION = 1 << 12,
	WEIR_CHECK_QUERIER = 1 << 13,
	/* Those for which a packet is looked into behind its IP header. */
	WEIR_CHECK_CONDUCT = WEIR_CHECK_DHCP | WEIR_CHECK_ROUTER | WEIR_CHECK_SOURCE_ROUTE | WEIR_CHECK_NEIGHBOUR |
			     WEIR_CHECK_ROUTING_HEADER | WEIR_CHECK_QUERIER,
};

/* Addresses are in network byte order, host bits zero. */
struct weir_prefix4 {
	__be32 address;
	__be32 mask;
};

/* An IPv6 address as it lies in memory, first half first. */
struct weir_ipv6 {
	__be64 half[2];
};

struct weir_prefix6 {
	struct weir_ipv6 address;
	struct weir_ipv6 mask;
};

struct weir_facts {
	__u8 mac[ETH_ALEN];
	__u8 prefixes4_len; /* at most WEIR_PREFIXES_MAX */
	__u8 prefixes6_len; /* at most WEIR_PREFIXES_MAX */
	struct weir_prefix4 prefixes4[WEIR_PREFIXES_MAX];
	struct weir_prefix6 prefixes6[WEIR_PREFIXES_MAX];
};

/*
 * The agent writes the next slot and then turns to it, so that a packet meets the
 * old facts or the new ones, whole. Before it writes a slot that was in use it
 * waits for a grace period; with four it need not while an attachment is made.
 */
#define WEIR_SLOTS 4

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WEIR_SLOTS);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__type(key, __u32);
	__type(value, struct weir_facts);
} weir_facts SEC(".maps");

struct weir_control {
	__u32 slot; /* of weir_facts, below WEIR_SLOTS */
	/*
	 * What ingress returns for an allowed packet: TC_ACT_UNSPEC leaves the
	 * pod's own filters their turn; TC_ACT_OK ends the chain, so that of
	 * two hooks that both hold the program only the first counts.
	 */
	__s32 ingress_action;
	/* Number of the master, if the programs on it are in force; else 0. */
	__u32 master;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__type(key, __u32);
	__type(value, struct weir_control);
} weir_control SEC(".maps");

/* The checks of this attachment, or'ed. */
const volatile enum weir_check weir_checks;

static __always_inline bool weir_checks_for(enum weir_check check)
{
	return weir_checks & check;
}

static __always_inline const struct weir_control *weir_control_of(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&weir_control, &only);
}

static __always_inline const struct weir_facts *weir_facts_now(void)
{
	const struct weir_control *control = weir_control_of();
	__u32 slot;

	if (!control)
		return NULL;
	slot = control->slot;
	return bpf_map_lookup_elem(&weir_facts, &slot);
}

static __always_inline bool weir_owns_mac(const struct weir_facts *facts, const __u8 *mac)
{
	const __u16 *a = (const __u16 *)facts->mac;
	const __u16 *b = (const __u16 *)mac;

	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]));
}

static __always_inline bool weir_in_prefix4(const struct weir_prefix4 *p, __be32 address)
{
	return (address & p->mask) == p->address;
}

static __always_inline bool weir_in_prefix6(const struct weir_prefix6 *p, __be64 a, __be64 b)
{
	return !(((a & p->mask.half[0]) ^ p->address.half[0]) | ((b & p->mask.half[1]) ^ p->address.half[1]));
}

/*
 * What loops, and is not on the path of most packets, is a global function: the
 * verifier proves it once, by itself, and not again on every path to it. A call
 * costs a packet some 10 ns, so the first prefix is looked at in place. The arguments are numbers, which kernels
 * before 5.12 demand.
 */
__noinline int weir_owns_ipv4_beyond_first(__be32 address)
{
	const struct weir_facts *facts = weir_facts_now();

	if (!facts)
		return false;
#pragma clang loop unroll(disable)
	for (__u32 i = 1; i < WEIR_PREFIXES_MAX && i < facts->prefixes4_len; i++) {
		if (weir_in_prefix4(&facts->prefixes4[i], address))
			return true;
	}
	return false;
}

/* The two halves of the address. */
__noinline int weir_owns_ipv6_beyond_first(__be64 a, __be64 b)
{
	const struct weir_facts *facts = weir_facts_now();

	if (!facts)
		return false;
#pragma clang loop unroll(disable)
	for (__u32 i = 1; i < WEIR_PREFIXES_MAX && i < facts->prefixes6_len; i++) {
		if (weir_in_prefix6(&facts->prefixes6[i], a, b))
			return true;
	}
	return false;
}

static __always_inline bool weir_owns_ipv4(const struct weir_facts *facts, __be32 address)
{
	if (!facts->prefixes4_len)
		return false;
	return weir_in_prefix4(&facts->prefixes4[0], address) || weir_owns_ipv4_beyond_first(address);
}

static __always_inline bool weir_owns_ipv6(const struct weir_facts *facts, const struct weir_ipv6 *address)
{
	if (!facts->prefixes6_len)
		return false;
	return weir_in_prefix6(&facts->prefixes6[0], address->half[0], address->half[1]) ||
	       weir_owns_ipv6_beyond_first(address->half[0], address->half[1]);
}

#endif
