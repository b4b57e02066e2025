/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Counting as the wire sees it. One skb may stand for many frames: what the
 * stack hands to tc is segmented after egress and was coalesced before
 * ingress, and skb->len holds their headers once.
 */
#ifndef __WEIR_COUNT_H
#define __WEIR_COUNT_H

/* IPv6 extension headers that are walked to find the transport header. */
#define WEIR_EXTENSIONS_MAX 6

struct weir_count {
	__u64 packets;
	__u64 bytes; /* the Ethernet header and a VLAN tag included, the FCS not */
};

#define WEIR_COUNTER(upper, lower) struct weir_count lower;

/* A counter for every verdict, in the order of enum weir_verdict. */
struct weir_verdicts {
	WEIR_VERDICTS(WEIR_COUNTER)
};

_Static_assert(sizeof(struct weir_verdicts) == WEIR_VERDICT_MAX * sizeof(struct weir_count),
	       "weir_verdicts has a counter for every verdict and nothing else");

/* Whom a packet is for, and what protocol it is of. Lists as that of the verdicts is. */
#define WEIR_CLASSES(X) X(UNICAST, unicast) X(MULTICAST, multicast) X(BROADCAST, broadcast)
#define WEIR_FAMILIES(X) X(TCP, tcp) X(UDP, udp) X(ICMP, icmp) X(SCTP, sctp) X(ARP, arp) X(OTHER, other)

enum weir_class {
	WEIR_CLASSES(WEIR_ENUMERATOR) WEIR_CLASS_MAX,
};

enum weir_family {
	WEIR_FAMILIES(WEIR_ENUMERATOR) WEIR_FAMILY_MAX,
};

struct weir_families {
	WEIR_FAMILIES(WEIR_COUNTER)
};

#define WEIR_FAMILIES_OF(upper, lower) struct weir_families lower;

/* The allowed packets of one direction. */
struct weir_classes {
	WEIR_CLASSES(WEIR_FAMILIES_OF)
};

_Static_assert(sizeof(struct weir_classes) == WEIR_CLASS_MAX * WEIR_FAMILY_MAX * sizeof(struct weir_count),
	       "weir_classes has a counter for every class and family and nothing else");

/* The directions are the pod's: ingress is what it receives. */
struct weir_counters {
	struct weir_verdicts ingress;
	struct weir_verdicts egress;
	struct weir_classes ingress_allowed;
	struct weir_classes egress_allowed;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weir_counters);
} weir_counters SEC(".maps");

static __always_inline __u32 weir_transport_length(struct __sk_buff *skb, __u8 protocol, __u32 offset)
{
	struct tcphdr tcp;

	switch (protocol) {
	case IPPROTO_TCP:
		if (!weir_load(skb, offset, &tcp, sizeof(tcp)))
			return 0;
		return tcp.doff * 4;
	case IPPROTO_UDP:
		return sizeof(struct udphdr);
	case IPPROTO_SCTP:
		return WEIR_SCTP_HEADER_LEN;
	default:
		return 0;
	}
}

static __always_inline bool weir_is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS;
}

/* A protocol and where its header begins, as one number: what a global function
 * may take and return.
 */
#define WEIR_HEADER(offset, protocol) ((__u32)(offset) << 8 | (protocol))
#define WEIR_OFFSET(header) ((header) >> 8)
#define WEIR_PROTOCOL(header) ((__u8)(header))

/* The header behind the IPv6 extension headers. Global, as it loops. */
__noinline __u32 weir_skip_extensions(struct __sk_buff *skb, __u32 header)
{
	struct ipv6_opt_hdr extension;
	__u32 offset = WEIR_OFFSET(header);
	__u8 next = WEIR_PROTOCOL(header);

#pragma clang loop unroll(disable)
	for (int i = 0; i < WEIR_EXTENSIONS_MAX; i++) {
		if (!weir_is_extension(next))
			break;
		if (!weir_load(skb, offset, &extension, sizeof(extension)))
			break;
		next = extension.nexthdr;
		offset += (extension.hdrlen + 1) * 8;
	}
	return WEIR_HEADER(offset, next);
}

/* Length of the headers that every segment of a GSO packet repeats. Global, as it
 * is only for packets that stand for many.
 */
__noinline __u32 weir_headers_length(struct __sk_buff *skb)
{
	__u32 header, offset = ETH_HLEN;
	struct ipv6hdr ipv6;
	struct iphdr ipv4;

	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		if (!weir_load(skb, offset, &ipv4, sizeof(ipv4)))
			return offset;
		offset += ipv4.ihl * 4;
		return offset + weir_transport_length(skb, ipv4.protocol, offset);
	case bpf_htons(ETH_P_IPV6):
		if (!weir_load(skb, offset, &ipv6, sizeof(ipv6)))
			return offset;
		header = weir_skip_extensions(skb, WEIR_HEADER(offset + sizeof(ipv6), ipv6.nexthdr));
		offset = WEIR_OFFSET(header);
		return offset + weir_transport_length(skb, WEIR_PROTOCOL(header), offset);
	default:
		return offset;
	}
}

/* How many frames the skb stands for. A device that takes frames from outside
 * the kernel (tun, virtio) may leave gso_segs at 0 for the stack to compute.
 */
static __always_inline __u32 weir_segments(struct __sk_buff *skb, __u32 headers)
{
	__u32 size = skb->gso_size;

	if (skb->gso_segs)
		return skb->gso_segs;
	if (!size || skb->len <= headers)
		return 1;
	return (skb->len - headers + size - 1) / size;
}

/* What the skb is on the wire. */
static __always_inline struct weir_count weir_size_of(struct __sk_buff *skb)
{
	struct weir_count size = {.packets = 1, .bytes = skb->len};
	__u32 headers;

	if (skb->gso_size) {
		headers = weir_headers_length(skb);
		size.packets = weir_segments(skb, headers);
		size.bytes += (size.packets - 1) * headers;
	}
	if (skb->vlan_present)
		size.bytes += size.packets * WEIR_VLAN_LEN;
	return size;
}

static __always_inline struct weir_counters *weir_counters_of(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&weir_counters, &only);
}

/* Counts the packet under a verdict. Nothing else counts, and every packet comes
 * through here once.
 */
static __always_inline void weir_count(struct weir_verdicts *verdicts, enum weir_verdict verdict,
				       struct weir_count size)
{
	struct weir_count *count = (struct weir_count *)verdicts + verdict;

	if (verdict >= WEIR_VERDICT_MAX)
		return;
	count->packets += size.packets;
	count->bytes += size.bytes;
}

#endif
