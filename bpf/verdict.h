/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What can become of a packet. This list is the only one: the Go constants,
 * the names of the counters, the metrics' reason label and the documentation
 * are generated from it or checked against it.
 *
 * One line a verdict: name of the enumerator, name of its counter.
 * New ones go to the end, so that a number never changes its meaning.
 */
#ifndef __WEIR_VERDICT_H
#define __WEIR_VERDICT_H

/* clang-format off */
#define WEIR_VERDICTS(X)                            \
	X(ALLOWED, allowed)                         \
	X(MALFORMED, malformed)                     \
	X(VLAN_TAGGED, vlan_tagged)                 \
	X(SPOOFED_MAC, spoofed_mac)                 \
	X(SPOOFED_IPV4, spoofed_ipv4)               \
	X(SPOOFED_IPV6, spoofed_ipv6)               \
	X(SPOOFED_ARP_MAC, spoofed_arp_mac)         \
	X(SPOOFED_ARP_IP, spoofed_arp_ip)           \
	X(RATE_LIMITED, rate_limited)               \
	X(ROGUE_DHCP, rogue_dhcp)                   \
	X(ROGUE_ROUTER, rogue_router)               \
	X(SOURCE_ROUTED, source_routed)             \
	X(FOREIGN_ETHERTYPE, foreign_ethertype)     \
	X(SPOOFED_NEIGHBOUR, spoofed_neighbour)     \
	X(DOUBLE_TAGGED, double_tagged)             \
	X(ROUTING_HEADER, routing_header)           \
	X(FOREIGN_DESTINATION, foreign_destination) \
	X(BROADCAST_STORM, broadcast_storm)         \
	X(MULTICAST_STORM, multicast_storm)         \
	X(UNKNOWN_STORM, unknown_storm)             \
	X(ISOLATED, isolated)                       \
	X(RULE_DENIED, rule_denied)                 \
	X(BYPASSED, bypassed)                       \
	X(ROGUE_QUERIER, rogue_querier)
/* clang-format on */

#define WEIR_ENUMERATOR(upper, lower) WEIR_##upper,

enum weir_verdict {
	WEIR_VERDICTS(WEIR_ENUMERATOR)
	/* Not a verdict: how many there are. */
	WEIR_VERDICT_MAX,
};

#endif
