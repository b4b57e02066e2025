/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What does the network allow to pass? An ordered list of rules for each direction, of
 * which the first that matches decides. The peer's address gives the bitmap of the rules
 * that have it, protocol and port give another; the lowest bit of both is the rule. So it
 * takes two lookups, whatever the number of rules.
 */
#ifndef __WEIR_RULES_H
#define __WEIR_RULES_H

/* Rules of a direction: the bits of a bitmap. */
#define WEIR_RULES_MAX 64

/* What weir_rule_of returns beside the number of a rule. */
#define WEIR_NO_RULE 0xffff
#define WEIR_RULE_UNREADABLE 0xfffe

/* How many rules each direction has. Without any there is no code for them. */
const volatile __u32 weir_rules[WEIR_DIRECTIONS];
/* Those that deny, as a bitmap. */
const volatile __u64 weir_denies[WEIR_DIRECTIONS];

/* A verdict, and the number of the rule of its direction that decided, or WEIR_NO_RULE. */
struct weir_judgement {
	enum weir_verdict verdict;
	__u32 rule;
};

/* Bits of the keys that are always compared. */
#define WEIR_PEER_FIXED_BITS 32
#define WEIR_SERVICE_BITS 32

struct weir_peer {
	__u32 bits; /* of what follows that are compared */
	__u8 direction;
	__u8 version; /* of IP */
	__u8 unused[2];
	__be32 address[4]; /* of IPv4 the first alone */
};

/* Sized by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__type(key, struct weir_peer);
	__type(value, __u64);
} weir_peers SEC(".maps");

/* A fragment that is not the first has no port. */
enum weir_part {
	WEIR_PART_WHOLE = 0,
	WEIR_PART_LATER = 1 << 1,
};

struct weir_service {
	__u32 bits;
	__u8 part; /* a weir_direction and a weir_part, or'ed */
	__u8 protocol;
	__be16 port; /* of the destination */
};

/* Sized by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__type(key, struct weir_service);
	__type(value, __u64);
} weir_services SEC(".maps");

/* What each rule has decided: those of ingress, then those of egress. Sized by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weir_count);
} weir_hits SEC(".maps");

/* The number of the lowest bit that is set: how many there are below it. The sums are
 * those of pairs of bits, of four, and of bytes.
 */
static __always_inline __u32 weir_lowest_bit(__u64 bits)
{
	__u64 below = (bits - 1) & ~bits;

	below -= below >> 1 & 0x5555555555555555ULL;
	below = (below & 0x3333333333333333ULL) + (below >> 2 & 0x3333333333333333ULL);
	below = (below + (below >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return below * 0x0101010101010101ULL >> 56;
}

static __always_inline bool weir_has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* Without these IPv6 does not live: neighbour discovery and membership of groups. */
static __always_inline bool weir_is_vital(__u8 type)
{
	return (type >= WEIR_MLD_QUERY && type <= WEIR_REDIRECT) || type == WEIR_MLD2_REPORT;
}

static __always_inline __u32 weir_match(const struct weir_peer *peer, const struct weir_service *service)
{
	const __u64 *by_peer, *by_service;
	__u64 matching;

	by_peer = bpf_map_lookup_elem(&weir_peers, peer);
	if (!by_peer)
		return WEIR_NO_RULE;
	by_service = bpf_map_lookup_elem(&weir_services, service);
	if (!by_service)
		return WEIR_NO_RULE;
	matching = *by_peer & *by_service;
	return matching ? weir_lowest_bit(matching) : WEIR_NO_RULE;
}

static __always_inline __u32 weir_rule_ipv4(struct __sk_buff *skb, __u32 direction)
{
	struct weir_peer peer = {.bits = WEIR_PEER_FIXED_BITS + 32, .direction = direction, .version = 4};
	struct weir_service service = {.bits = WEIR_SERVICE_BITS, .part = direction};
	struct iphdr ip;

	if (!weir_read(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return WEIR_RULE_UNREADABLE;
	peer.address[0] = direction == WEIR_INGRESS ? ip.saddr : ip.daddr;
	service.protocol = ip.protocol;
	if (ip.frag_off & bpf_htons(WEIR_IPV4_OFFSET_MASK))
		service.part |= WEIR_PART_LATER;
	else if (weir_has_ports(ip.protocol) &&
		 !weir_read(skb, ETH_HLEN + ip.ihl * 4 + sizeof(__be16), &service.port, sizeof(service.port)))
		return WEIR_RULE_UNREADABLE;
	return weir_match(&peer, &service);
}

static __always_inline __u32 weir_rule_ipv6(struct __sk_buff *skb, __u32 direction)
{
	struct weir_peer peer = {.bits = WEIR_PEER_FIXED_BITS + 128, .direction = direction, .version = 6};
	struct weir_service service = {.bits = WEIR_SERVICE_BITS, .part = direction};
	__u32 header, offset;
	struct ipv6hdr ip;
	__u8 type;

	if (!weir_read(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 6)
		return WEIR_RULE_UNREADABLE;
	__builtin_memcpy(peer.address, direction == WEIR_INGRESS ? &ip.saddr : &ip.daddr, sizeof(peer.address));
	header = WEIR_HEADER(WEIR_HEADERS_LEN, ip.nexthdr);
	if (weir_is_walked(ip.nexthdr))
		header = weir_walk_ipv6(skb, ip.nexthdr);
	if (header & WEIR_WALK_CUT)
		return WEIR_RULE_UNREADABLE;
	service.protocol = WEIR_PROTOCOL(header);
	offset = WEIR_OFFSET(header & ~(WEIR_WALK_ROUTED | WEIR_WALK_FIRST));
	if (header & WEIR_WALK_FRAGMENT) {
		service.part |= WEIR_PART_LATER;
	} else if (weir_has_ports(service.protocol)) {
		if (!weir_read(skb, offset + sizeof(__be16), &service.port, sizeof(service.port)))
			return WEIR_RULE_UNREADABLE;
	} else if (service.protocol == IPPROTO_ICMPV6) {
		if (!weir_read(skb, offset, &type, sizeof(type)))
			return WEIR_RULE_UNREADABLE;
		if (weir_is_vital(type))
			return WEIR_NO_RULE;
	}
	return weir_match(&peer, &service);
}

/* The rule of a direction that decides on a packet. Global, so that it is proved once. */
__noinline __u32 weir_rule_of(struct __sk_buff *skb, __u32 direction)
{
	__be16 ethertype;

	if (!weir_rules[WEIR_INGRESS] && !weir_rules[WEIR_EGRESS])
		return WEIR_NO_RULE;
	if (!weir_read(skb, __builtin_offsetof(struct ethhdr, h_proto), &ethertype, sizeof(ethertype)))
		return WEIR_RULE_UNREADABLE;
	if (ethertype == bpf_htons(ETH_P_IP))
		return weir_rule_ipv4(skb, direction);
	if (ethertype == bpf_htons(ETH_P_IPV6))
		return weir_rule_ipv6(skb, direction);
	return WEIR_NO_RULE;
}

/* The judgement on an otherwise allowed packet, which is counted by its rule. */
static __always_inline struct weir_judgement weir_judge(struct __sk_buff *skb, enum weir_direction direction,
							struct weir_count size)
{
	struct weir_judgement judgement = {.verdict = WEIR_ALLOWED, .rule = WEIR_NO_RULE};
	struct weir_count *hits;
	__u32 rule, key;

	if (!weir_rules[direction])
		return judgement;
	rule = weir_rule_of(skb, direction);
	if (rule == WEIR_RULE_UNREADABLE)
		judgement.verdict = WEIR_MALFORMED;
	if (rule >= WEIR_RULES_MAX)
		return judgement;
	judgement.rule = rule;
	if (weir_denies[direction] >> rule & 1)
		judgement.verdict = WEIR_RULE_DENIED;
	key = direction == WEIR_INGRESS ? rule : weir_rules[WEIR_INGRESS] + rule;
	hits = bpf_map_lookup_elem(&weir_hits, &key);
	if (hits) {
		hits->packets += size.packets;
		hits->bytes += size.bytes;
	}
	return judgement;
}

#endif
