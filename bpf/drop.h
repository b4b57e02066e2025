/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What was dropped, for those who ask why. A drop is counted always and reported
 * to a ring while there are few: beyond WEIR_DROPS_PER_S of an attachment it is
 * only counted, and so is one that finds the ring full.
 */
#ifndef __WEIR_DROP_H
#define __WEIR_DROP_H

#define WEIR_DROP_PACKET_LEN 128

/* What one attachment may report in the long run, and after a rest of a second. */
#define WEIR_DROPS_PER_S 100
#define WEIR_DROP_NS (1000000000ULL / WEIR_DROPS_PER_S)
#define WEIR_DROP_REST_NS 1000000000ULL

/* One ring for all attachments of a node: 1,560 drops. */
#define WEIR_DROP_RING_LEN (256 * 1024)

struct weir_drop {
	__u64 time; /* of CLOCK_MONOTONIC, in nanoseconds */
	__u64 attachment;
	__u32 length;			   /* of the skb: of a GSO packet, of all its segments */
	__u32 captured;			   /* of packet, in bytes */
	__u16 rule;			   /* the one that denied it, or WEIR_NO_RULE */
	__u16 vlan_tci;			   /* of a tag that is not in packet */
	__be16 vlan_proto;		   /* 0 without such a tag */
	__u8 direction;			   /* enum weir_direction */
	__u8 verdict;			   /* enum weir_verdict */
	__u8 packet[WEIR_DROP_PACKET_LEN]; /* from the Ethernet header on; zero behind captured */
};

_Static_assert((WEIR_DROP_PACKET_LEN & (WEIR_DROP_PACKET_LEN - 1)) == 0, "its length less one is a mask");
_Static_assert(sizeof(struct weir_drop) == 32 + WEIR_DROP_PACKET_LEN, "weir_drop has no padding");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, WEIR_DROP_RING_LEN);
} weir_drops SEC(".maps");

/* Each drop is in one of them. */
struct weir_samples {
	__u64 sampled;
	__u64 limited;
	__u64 ring_full;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weir_samples);
} weir_samples SEC(".maps");

/* When all that was reported is paid for, at WEIR_DROP_NS each. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} weir_drop_paid SEC(".maps");

/* Which attachment this is, in its drops. */
const volatile __u64 weir_attachment;

/* The coarse clock is read in a fraction of the time, and a tick of it is short beside
 * WEIR_DROP_NS. Of CPUs that find the same time one reports.
 */
static __always_inline bool weir_may_report(__u64 now)
{
	__u32 only = 0;
	__u64 *paid = bpf_map_lookup_elem(&weir_drop_paid, &only), was, from;

	if (!paid)
		return false;
	was = *(volatile __u64 *)paid;
	if ((__s64)(was - now) > 0)
		return false;
	from = now - was > WEIR_DROP_REST_NS ? now - WEIR_DROP_REST_NS : was;
	return __sync_val_compare_and_swap(paid, was, from + WEIR_DROP_NS) == was;
}

static __always_inline bool weir_write_drop(struct __sk_buff *skb, __u64 kind)
{
	struct weir_drop *drop = bpf_ringbuf_reserve(&weir_drops, sizeof(*drop), 0);
	__u64 length = skb->len;

	if (!drop)
		return false;
	__builtin_memset(drop, 0, sizeof(*drop));
	drop->time = bpf_ktime_get_ns();
	drop->attachment = weir_attachment;
	drop->length = length;
	drop->rule = kind >> 16;
	drop->direction = kind >> 8;
	drop->verdict = kind;
	if (skb->vlan_present) {
		drop->vlan_tci = skb->vlan_tci;
		drop->vlan_proto = skb->vlan_proto;
	}
	if (length > WEIR_DROP_PACKET_LEN)
		length = WEIR_DROP_PACKET_LEN;
	/* Once more what the compiler knows, from 1 to the most: the verifier of Linux 5.10
	 * follows it in this form alone.
	 */
	asm volatile("" : "+r"(length));
	length = ((length - 1) & (WEIR_DROP_PACKET_LEN - 1)) + 1;
	if (!bpf_skb_load_bytes(skb, 0, drop->packet, length))
		drop->captured = length;
	bpf_ringbuf_submit(drop, 0);
	return true;
}

/* What a drop is, in one argument: a global function takes few. */
#define WEIR_DROP_KIND(direction, verdict, rule) ((__u64)(rule) << 16 | (direction) << 8 | (verdict))

/* Global, so that it is verified once and not behind every verdict. */
__noinline int weir_report(struct __sk_buff *skb, __u64 kind)
{
	__u32 only = 0;
	struct weir_samples *samples = bpf_map_lookup_elem(&weir_samples, &only);

	if (!samples)
		return 0;
	if (!weir_may_report(bpf_ktime_get_coarse_ns()))
		samples->limited++;
	else if (weir_write_drop(skb, kind))
		samples->sampled++;
	else
		samples->ring_full++;
	return 0;
}

/* What becomes of a packet that was counted under a verdict other than allowed. A rule
 * that let it pass is not why it is dropped.
 */
static __always_inline int weir_drop(struct __sk_buff *skb, __u8 direction, __u8 verdict, __u16 rule)
{
	if (verdict != WEIR_RULE_DENIED)
		rule = WEIR_NO_RULE;
	weir_report(skb, WEIR_DROP_KIND(direction, verdict, rule));
	return TC_ACT_SHOT;
}

#endif
