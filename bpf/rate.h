/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Is there bandwidth left? A token bucket for each direction, kept as one number:
 * the time at which all that has passed is paid for at the rate. A packet passes
 * when that time is not in the future, whatever its length, and is then added to
 * it: so a bucket may owe one packet, and none is too long for it.
 */
#ifndef __WEIR_RATE_H
#define __WEIR_RATE_H

/* The entries of weir_rate. */
enum weir_direction {
	WEIR_INGRESS,
	WEIR_EGRESS,
	WEIR_DIRECTIONS,
};

/* Time is in ticks of the monotonic clock, fine enough for the shortest frame at
 * 100 Gbit/s. They wrap after 36 years; only their differences are looked at.
 */
#define WEIR_TICKS_PER_NS 16
#define WEIR_TICKS_PER_S (1000000000ULL * WEIR_TICKS_PER_NS)

/*
 * How long after a drop unused time is kept whole. TCP answers a drop with a
 * silence: 200 ms until it sends again, doubled each time that is lost, and 500 ms
 * when its own host dropped (TCP_RESOURCE_PROBE_INTERVAL). Where a round trip is
 * much shorter than that, nothing else slows it down, and a bucket that overflows
 * meanwhile gives it a tenth of its rate.
 */
#define WEIR_PATIENCE (4 * WEIR_TICKS_PER_S)

struct weir_rate {
	__u64 bits_per_second; /* of frames as weir_count has them; 0 when unlimited */
	__u64 burst;	       /* ticks that a direction at rest saves up */
	__u64 paid;	       /* when all that has passed is paid for */
	__u64 dropped;	       /* when a packet was last dropped */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WEIR_DIRECTIONS);
	__type(key, __u32);
	__type(value, struct weir_rate);
} weir_rate SEC(".maps");

/* Whether this attachment may have rates at all. */
const volatile bool weir_limits_rate;

static __always_inline bool weir_is_after(__u64 a, __u64 b)
{
	return (__s64)(a - b) > 0;
}

/* Rounded up, so that no packet is free at any rate. */
static __always_inline __u64 weir_ticks_for(__u64 bytes, __u64 bits_per_second)
{
	return (bytes * 8 * WEIR_TICKS_PER_S + bits_per_second - 1) / bits_per_second;
}

/*
 * No lock is taken: of CPUs that find the bucket open at the same time each passes
 * one packet, and all of them are paid for.
 */
static __always_inline bool weir_admits(struct weir_rate *rate, __u64 bits_per_second, __u64 bytes)
{
	__u64 now = bpf_ktime_get_ns() * WEIR_TICKS_PER_NS;
	__u64 paid = *(volatile __u64 *)&rate->paid;

	if (weir_is_after(paid, now)) {
		rate->dropped = now;
		return false;
	}
	/* When this finds another value, another CPU has cut the savings already. */
	if (now - paid > rate->burst && weir_is_after(now, rate->dropped + WEIR_PATIENCE))
		__sync_val_compare_and_swap(&rate->paid, paid, now - rate->burst);
	__sync_fetch_and_add(&rate->paid, weir_ticks_for(bytes, bits_per_second));
	return true;
}

/* The verdict on an otherwise allowed packet of so many bytes on the wire. */
static __always_inline enum weir_verdict weir_limit(enum weir_direction direction, __u64 bytes)
{
	__u32 key = direction;
	struct weir_rate *rate;
	__u64 bits_per_second;

	if (!weir_limits_rate)
		return WEIR_ALLOWED;
	rate = bpf_map_lookup_elem(&weir_rate, &key);
	if (!rate)
		return WEIR_RATE_LIMITED;
	bits_per_second = *(volatile __u64 *)&rate->bits_per_second;
	if (!bits_per_second || weir_admits(rate, bits_per_second, bytes))
		return WEIR_ALLOWED;
	return WEIR_RATE_LIMITED;
}

#endif
