/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How hosts are known by their addresses. */
#ifndef __WEIR_ADDRESS_H
#define __WEIR_ADDRESS_H

/* What an attachment is known by in a table. */
enum weir_member_kind {
	WEIR_MEMBER_MAC,
	WEIR_MEMBER_ADDRESS,
};

/* The addresses of an ARP packet for IPv4 over Ethernet (RFC 826). */
struct weir_arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target_ip[4];
} __attribute__((packed));

/* The lowest bit of a MAC's first byte (IEEE 802, 8.2): it is of a group. */
#define WEIR_MAC_GROUP 1

#endif
