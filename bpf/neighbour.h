/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Does the pod speak for itself in neighbour discovery (RFC 4861)? For IPv6 it is what
 * ARP is for IPv4, with more places in which to lie: the target, and the options that
 * name a link-layer address.
 */
#ifndef __WEIR_NEIGHBOUR_H
#define __WEIR_NEIGHBOUR_H

/* Options of a message that are walked: more than any host has to send. */
#define WEIR_ND_OPTIONS_MAX 16

/* The start of every option (RFC 4861, 4.6), and the MAC of those that name one. */
struct weir_nd_option {
	__u8 type;
	__u8 length; /* in 8 bytes */
	__u8 mac[ETH_ALEN];
};

/* The fixed part of a message is so long; 0 for one that is none. */
static __always_inline __u32 weir_nd_length(__u8 type)
{
	switch (type) {
	case WEIR_ROUTER_SOLICITATION:
		return WEIR_ND_SOLICITATION_LEN;
	case WEIR_ROUTER_ADVERTISEMENT:
		return WEIR_ND_ADVERTISEMENT_LEN;
	case WEIR_NEIGHBOUR_SOLICITATION:
	case WEIR_NEIGHBOUR_ADVERTISEMENT:
		return WEIR_ND_NEIGHBOUR_LEN;
	case WEIR_REDIRECT:
		return WEIR_ND_REDIRECT_LEN;
	}
	return 0;
}

/* Whether an option names the sender's own link-layer address: a source's always, a
 * target's in an advertisement of itself.
 */
static __always_inline bool weir_names_sender(__u8 type, __u8 option)
{
	return option == WEIR_ND_SOURCE_ADDRESS ||
	       (option == WEIR_ND_TARGET_ADDRESS && type == WEIR_NEIGHBOUR_ADVERTISEMENT);
}

/*
 * The options of a message of a type, from offset to end. An unspecified source has no
 * link-layer address to name (RFC 4861, 7.1.1). Global, as it loops.
 */
__noinline int weir_nd_options(struct __sk_buff *skb, __u32 offset, __u32 end, __u32 type, __u32 unspecified)
{
	const struct weir_facts *facts = weir_facts_now();
	struct weir_nd_option option;

	if (!facts)
		return WEIR_MALFORMED;
#pragma clang loop unroll(disable)
	for (int i = 0; i < WEIR_ND_OPTIONS_MAX && offset < end; i++) {
		if (!weir_load(skb, offset, &option, sizeof(option)) || !option.length)
			return WEIR_MALFORMED;
		if (weir_names_sender(type, option.type)) {
			if (unspecified || option.length != 1)
				return WEIR_MALFORMED;
			if (weir_checks_for(WEIR_CHECK_MAC) && !weir_owns_mac(facts, option.mac))
				return WEIR_SPOOFED_NEIGHBOUR;
		}
		offset += option.length * 8;
	}
	return offset == end ? WEIR_ALLOWED : WEIR_MALFORMED;
}

/* A neighbour solicitation from nowhere asks whether an address is taken: the pod may
 * ask for its own. What it advertises is its own as well.
 */
static __always_inline bool weir_is_about_sender(__u8 type, bool unspecified)
{
	return type == WEIR_NEIGHBOUR_ADVERTISEMENT || (type == WEIR_NEIGHBOUR_SOLICITATION && unspecified);
}

/* The verdict on the message of neighbour discovery at an offset. Global, as few packets
 * are one.
 */
__noinline int weir_neighbour(struct __sk_buff *skb, __u32 offset)
{
	const struct weir_facts *facts = weir_facts_now();
	struct weir_ipv6 source, target;
	struct ipv6hdr ip;
	__u8 message[2]; /* type and code */
	__u32 length, end;
	bool unspecified;

	if (!facts || !weir_load(skb, ETH_HLEN, &ip, sizeof(ip)) || !weir_load(skb, offset, message, sizeof(message)))
		return WEIR_MALFORMED;
	length = weir_nd_length(message[0]);
	end = WEIR_HEADERS_LEN + bpf_ntohs(ip.payload_len);
	if (!length || ip.hop_limit != WEIR_ND_HOP_LIMIT || message[1] || offset + length > end)
		return WEIR_MALFORMED;
	__builtin_memcpy(&source, &ip.saddr, sizeof(source));
	unspecified = weir_is_unspecified(&source);
	if (weir_checks_for(WEIR_CHECK_IPV6) && weir_is_about_sender(message[0], unspecified)) {
		if (!weir_load(skb, offset + 8, &target, sizeof(target)))
			return WEIR_MALFORMED;
		if (!weir_owns_ipv6(facts, &target))
			return WEIR_SPOOFED_NEIGHBOUR;
	}
	return weir_nd_options(skb, offset + length, end, message[0], unspecified);
}

#endif
