/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Numbers of the protocols that the kernel's user headers do not name. */
#ifndef __WEIR_PROTOCOLS_H
#define __WEIR_PROTOCOLS_H

#define WEIR_VLAN_LEN 4		     /* IEEE 802.1Q, 9.6 */
#define WEIR_SCTP_HEADER_LEN 12	     /* RFC 9260, 3.1 */
#define WEIR_ARP_ETHERNET 1	     /* RFC 826 */
#define WEIR_ARP_REQUEST 1	     /* RFC 826 */
#define WEIR_IPV4_OFFSET_MASK 0x1fff /* RFC 791, 3.1: fragment offset */
#define WEIR_DHCP_SERVER_PORT 67     /* RFC 2131, 4.1 */
#define WEIR_DHCP_CLIENT_PORT 68
#define WEIR_DHCPV6_SERVER_PORT 547 /* RFC 8415, 7.2 */
#define WEIR_DHCPV6_CLIENT_PORT 546
#define WEIR_ICMP_REDIRECT 5  /* RFC 792 */
#define WEIR_IGMP_QUERY 0x11  /* RFC 3376, 4.1: of all versions */
#define WEIR_ROUTING_TYPE_0 0 /* RFC 5095 */

/* Options of IPv4 (RFC 791, 3.1). */
#define WEIR_OPTION_END 0
#define WEIR_OPTION_NOP 1
#define WEIR_OPTION_LSRR 131 /* loose source and record route */
#define WEIR_OPTION_SSRR 137 /* strict source and record route */

/* Types of ICMPv6 (RFC 4443 and the documents that it names). */
#define WEIR_MLD_QUERY 130		/* RFC 2710 */
#define WEIR_MLD_REPORT 131		/* RFC 2710 */
#define WEIR_MLD_DONE 132		/* RFC 2710 */
#define WEIR_ROUTER_SOLICITATION 133	/* RFC 4861 */
#define WEIR_ROUTER_ADVERTISEMENT 134	/* RFC 4861 */
#define WEIR_REDIRECT 137		/* RFC 4861 */
#define WEIR_NEIGHBOUR_SOLICITATION 135 /* RFC 4861 */
#define WEIR_NEIGHBOUR_ADVERTISEMENT 136
#define WEIR_MLD2_REPORT 143 /* RFC 3810 */

/* Neighbour discovery (RFC 4861, 4): where the options of each message begin, and
 * those that name a link-layer address.
 */
#define WEIR_ND_HOP_LIMIT 255
#define WEIR_ND_SOLICITATION_LEN 8   /* of a router */
#define WEIR_ND_ADVERTISEMENT_LEN 16 /* of a router */
#define WEIR_ND_NEIGHBOUR_LEN 24
#define WEIR_ND_REDIRECT_LEN 40
#define WEIR_ND_SOURCE_ADDRESS 1
#define WEIR_ND_TARGET_ADDRESS 2

#endif
