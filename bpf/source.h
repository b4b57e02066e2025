/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Is what the pod sends its own, and whole? Source MAC, VLAN tags, lengths, IPv4 and
 * IPv6 source, ARP sender.
 */
#ifndef __WEIR_SOURCE_H
#define __WEIR_SOURCE_H

/* The longest headers that are read in place: Ethernet and IPv6. */
#define WEIR_HEADERS_LEN (ETH_HLEN + sizeof(struct ipv6hdr))

/* What follows the ethertype of a VLAN tag (IEEE 802.1Q, 9.6). */
struct weir_tag {
	__be16 control;
	__be16 ethertype;
};

static __always_inline bool weir_is_vlan(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD) ||
	       ethertype == bpf_htons(ETH_P_QINQ1);
}

/* RFC 2131: before it has an address, a client sends from 0.0.0.0 port 68 to
 * port 67. An IPv4 packet that is not the first fragment has no ports.
 */
static __always_inline bool weir_is_dhcp_request(struct __sk_buff *skb, const struct iphdr *ip)
{
	__u32 offset = ETH_HLEN + ip->ihl * 4;
	struct udphdr udp;

	if (ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(WEIR_IPV4_OFFSET_MASK))
		return false;
	if (!weir_load(skb, offset, &udp, sizeof(udp)))
		return false;
	return udp.source == bpf_htons(WEIR_DHCP_CLIENT_PORT) && udp.dest == bpf_htons(WEIR_DHCP_SERVER_PORT);
}

static __always_inline enum weir_verdict weir_source_ipv4(struct __sk_buff *skb, const struct weir_facts *facts)
{
	void *end = (void *)(long)skb->data_end;
	const struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
	struct iphdr copy;

	if ((void *)(ip + 1) > end)
		return WEIR_MALFORMED;
	copy = *ip;
	if (weir_owns_ipv4(facts, copy.saddr))
		return WEIR_ALLOWED;
	if (!copy.saddr && weir_is_dhcp_request(skb, &copy))
		return WEIR_ALLOWED;
	return WEIR_SPOOFED_IPV4;
}

static __always_inline bool weir_is_unspecified(const struct weir_ipv6 *address)
{
	return !(address->half[0] | address->half[1]);
}

/* RFC 4862 and RFC 3590: from the unspecified address come only the messages
 * of a host that has none yet: neighbour and router solicitations, MLD reports.
 * MLD carries a router alert in a hop-by-hop header (RFC 3810, 5).
 */
static __always_inline bool weir_is_addressless(struct __sk_buff *skb, __u8 next)
{
	__u32 header = weir_skip_extensions(skb, WEIR_HEADER(ETH_HLEN + sizeof(struct ipv6hdr), next));
	__u8 type;

	if (WEIR_PROTOCOL(header) != IPPROTO_ICMPV6 || !weir_load(skb, WEIR_OFFSET(header), &type, sizeof(type)))
		return false;
	return type == WEIR_NEIGHBOUR_SOLICITATION || type == WEIR_ROUTER_SOLICITATION || type == WEIR_MLD_REPORT ||
	       type == WEIR_MLD_DONE || type == WEIR_MLD2_REPORT;
}

static __always_inline enum weir_verdict weir_source_ipv6(struct __sk_buff *skb, const struct weir_facts *facts)
{
	void *end = (void *)(long)skb->data_end;
	const struct ipv6hdr *ip = (void *)(long)skb->data + ETH_HLEN;
	struct weir_ipv6 source;
	__u8 next;

	if ((void *)(ip + 1) > end)
		return WEIR_MALFORMED;
	__builtin_memcpy(&source, &ip->saddr, sizeof(source));
	next = ip->nexthdr;
	if (weir_owns_ipv6(facts, &source))
		return WEIR_ALLOWED;
	if (weir_is_unspecified(&source) && weir_is_addressless(skb, next))
		return WEIR_ALLOWED;
	return WEIR_SPOOFED_IPV6;
}

static __always_inline bool weir_is_ipv4_over_ethernet(const struct weir_arp *arp)
{
	return arp->hardware == bpf_htons(WEIR_ARP_ETHERNET) && arp->protocol == bpf_htons(ETH_P_IP) &&
	       arp->hardware_len == ETH_ALEN && arp->protocol_len == sizeof(__be32);
}

static __always_inline enum weir_verdict weir_source_arp(struct __sk_buff *skb, const struct weir_facts *facts)
{
	void *end = (void *)(long)skb->data_end;
	const struct weir_arp *arp = (void *)(long)skb->data + ETH_HLEN;
	__be32 sender;

	if ((void *)(arp + 1) > end || !weir_is_ipv4_over_ethernet(arp))
		return WEIR_MALFORMED;
	if (!weir_checks_for(WEIR_CHECK_ARP))
		return WEIR_ALLOWED;
	if (weir_checks_for(WEIR_CHECK_MAC) && !weir_owns_mac(facts, arp->sender_mac))
		return WEIR_SPOOFED_ARP_MAC;
	if (!weir_checks_for(WEIR_CHECK_IPV4))
		return WEIR_ALLOWED;
	__builtin_memcpy(&sender, arp->sender_ip, sizeof(sender));
	/* RFC 5227: a probe asks whether an address is taken and names no sender. */
	if (!sender && arp->operation == bpf_htons(WEIR_ARP_REQUEST))
		return WEIR_ALLOWED;
	return weir_owns_ipv4(facts, sender) ? WEIR_ALLOWED : WEIR_SPOOFED_ARP_IP;
}

/* Makes the headers readable in place where the packet is long enough. */
static __always_inline void weir_pull_headers(struct __sk_buff *skb)
{
	__u32 linear = skb->data_end - skb->data;
	__u32 want = skb->len < WEIR_HEADERS_LEN ? skb->len : WEIR_HEADERS_LEN;

	if (linear < want)
		bpf_skb_pull_data(skb, want);
}

/* A tag of a service provider (802.1ad, or 0x9100 before it), or a second one. */
static __always_inline bool weir_is_double_tagged(struct __sk_buff *skb, __be16 ethertype)
{
	const struct weir_tag *tag = (void *)(long)skb->data + ETH_HLEN;

	if (skb->vlan_present)
		return weir_is_vlan(ethertype) || skb->vlan_proto != bpf_htons(ETH_P_8021Q);
	if (ethertype != bpf_htons(ETH_P_8021Q))
		return true;
	/* One that there is and that cannot be read is taken for one. */
	if ((void *)(tag + 1) > (void *)(long)skb->data_end)
		return skb->len >= ETH_HLEN + WEIR_VLAN_LEN;
	return weir_is_vlan(tag->ethertype);
}

static __always_inline enum weir_verdict weir_tags(struct __sk_buff *skb, __be16 ethertype)
{
	if (!skb->vlan_present && !weir_is_vlan(ethertype))
		return WEIR_ALLOWED;
	if (weir_is_double_tagged(skb, ethertype))
		return weir_checks_for(WEIR_CHECK_DOUBLE_TAG) ? WEIR_DOUBLE_TAGGED : WEIR_ALLOWED;
	return weir_checks_for(WEIR_CHECK_VLAN) ? WEIR_VLAN_TAGGED : WEIR_ALLOWED;
}

/* RFC 791, 3.1. Only a GSO packet that is longer than the field can say has a length
 * of 0.
 */
static __always_inline enum weir_verdict weir_form_ipv4(struct __sk_buff *skb)
{
	const struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
	__u32 header, total;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end || ip->version != 4 || ip->ihl < 5)
		return WEIR_MALFORMED;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (!total && skb->gso_size)
		total = skb->len - ETH_HLEN;
	return total < header || total > skb->len - ETH_HLEN ? WEIR_MALFORMED : WEIR_ALLOWED;
}

/* RFC 8200, 3. A length of 0 is that of a jumbogram too (RFC 2675). */
static __always_inline enum weir_verdict weir_form_ipv6(struct __sk_buff *skb)
{
	const struct ipv6hdr *ip = (void *)(long)skb->data + ETH_HLEN;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end || ip->version != 6)
		return WEIR_MALFORMED;
	return bpf_ntohs(ip->payload_len) > skb->len - WEIR_HEADERS_LEN ? WEIR_MALFORMED : WEIR_ALLOWED;
}

static __always_inline enum weir_verdict weir_form(struct __sk_buff *skb, __be16 ethertype)
{
	if (ethertype == bpf_htons(ETH_P_IP))
		return weir_form_ipv4(skb);
	if (ethertype == bpf_htons(ETH_P_IPV6))
		return weir_form_ipv6(skb);
	return WEIR_ALLOWED;
}

static __always_inline enum weir_verdict weir_source(struct __sk_buff *skb, const struct weir_facts *facts)
{
	const struct ethhdr *eth;
	enum weir_verdict verdict;
	__be16 ethertype;

	weir_pull_headers(skb);
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return WEIR_MALFORMED;
	if (weir_checks_for(WEIR_CHECK_MAC) && !weir_owns_mac(facts, eth->h_source))
		return WEIR_SPOOFED_MAC;
	ethertype = eth->h_proto;
	verdict = weir_tags(skb, ethertype);
	if (verdict == WEIR_ALLOWED)
		verdict = weir_form(skb, ethertype);
	if (verdict != WEIR_ALLOWED)
		return verdict;
	if (ethertype == bpf_htons(ETH_P_IP) && weir_checks_for(WEIR_CHECK_IPV4))
		return weir_source_ipv4(skb, facts);
	if (ethertype == bpf_htons(ETH_P_IPV6) && weir_checks_for(WEIR_CHECK_IPV6))
		return weir_source_ipv6(skb, facts);
	if (ethertype == bpf_htons(ETH_P_ARP))
		return weir_source_arp(skb, facts);
	return WEIR_ALLOWED;
}

#endif
