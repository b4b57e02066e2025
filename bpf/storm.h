/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Does the pod flood its network? What a switch copies to every port has limits, in packets
 * a second: broadcast, multicast, and unicast to hosts that nobody has heard of.
 */
#ifndef __WEIR_STORM_H
#define __WEIR_STORM_H

/* The entries of weir_storm and of weir_storm_ticks. */
enum weir_storm {
	WEIR_STORM_BROADCAST,
	WEIR_STORM_MULTICAST,
	WEIR_STORM_UNKNOWN,
	WEIR_STORM_MAX,
};

/* For each storm the time that one packet takes at its limit, in ticks; 0 for no limit. */
const volatile __u64 weir_storm_ticks[WEIR_STORM_MAX];

/* When all that has passed is paid for. At rest a second is saved up. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WEIR_STORM_MAX);
	__type(key, __u32);
	__type(value, __u64);
} weir_storm SEC(".maps");

/* Hosts of the network that are known at a time, where unicast to unknown ones has a limit;
 * else the agent makes room for one.
 */
#define WEIR_HEARD_MAX 1024

struct weir_mac {
	__u8 address[ETH_ALEN];
	__u16 unused;
};

/* The MACs that the pod has heard, those that it has not for longest go first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WEIR_HEARD_MAX);
	__type(key, struct weir_mac);
	__type(value, __u8);
} weir_heard SEC(".maps");

static __always_inline struct weir_mac weir_mac_of(const __u8 *address)
{
	struct weir_mac mac = {};

	__builtin_memcpy(mac.address, address, ETH_ALEN);
	return mac;
}

/* Remembers who has sent an arriving frame. Written only when it is news, as writing takes
 * a lock.
 */
static __always_inline void weir_hear(struct __sk_buff *skb)
{
	const struct ethhdr *eth = (void *)(long)skb->data;
	struct weir_mac mac;
	__u8 heard = 1;

	if (!weir_storm_ticks[WEIR_STORM_UNKNOWN] || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return;
	mac = weir_mac_of(eth->h_source);
	if (!bpf_map_lookup_elem(&weir_heard, &mac))
		bpf_map_update_elem(&weir_heard, &mac, &heard, BPF_ANY);
}

static __always_inline bool weir_is_heard(const __u8 *address)
{
	struct weir_mac mac = weir_mac_of(address);

	return bpf_map_lookup_elem(&weir_heard, &mac);
}

/* As weir_admits, for so many packets, and with no patience. */
static __always_inline bool weir_storm_admits(enum weir_storm storm, __u64 packets)
{
	__u64 now = bpf_ktime_get_ns() * WEIR_TICKS_PER_NS, paid, *bucket;
	__u32 key = storm;

	bucket = bpf_map_lookup_elem(&weir_storm, &key);
	if (!bucket)
		return false;
	paid = *(volatile __u64 *)bucket;
	if (weir_is_after(paid, now))
		return false;
	if (now - paid > WEIR_TICKS_PER_S)
		__sync_val_compare_and_swap(bucket, paid, now - WEIR_TICKS_PER_S);
	__sync_fetch_and_add(bucket, packets * weir_storm_ticks[storm]);
	return true;
}

/* The verdict on an otherwise allowed packet that the pod sends. */
static __always_inline enum weir_verdict weir_storms(struct __sk_buff *skb, __u64 packets)
{
	const struct ethhdr *eth = (void *)(long)skb->data;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return WEIR_MALFORMED;
	switch (weir_class_of(eth->h_dest)) {
	case WEIR_BROADCAST:
		if (weir_storm_ticks[WEIR_STORM_BROADCAST] && !weir_storm_admits(WEIR_STORM_BROADCAST, packets))
			return WEIR_BROADCAST_STORM;
		return WEIR_ALLOWED;
	case WEIR_MULTICAST:
		if (weir_storm_ticks[WEIR_STORM_MULTICAST] && !weir_storm_admits(WEIR_STORM_MULTICAST, packets))
			return WEIR_MULTICAST_STORM;
		return WEIR_ALLOWED;
	default:
		if (weir_storm_ticks[WEIR_STORM_UNKNOWN] && !weir_is_heard(eth->h_dest) &&
		    !weir_storm_admits(WEIR_STORM_UNKNOWN, packets))
			return WEIR_UNKNOWN_STORM;
		return WEIR_ALLOWED;
	}
}

#endif
