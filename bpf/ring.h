/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs on masters and those of attachments tell each other. A packet that
 * meets several of them bears a stamp, skb->tc_index, which the kernel keeps from one
 * namespace to the next and no socket can set. A packet that was sent past the guard of
 * its sender bears none.
 */
#ifndef __WEIR_RING_H
#define __WEIR_RING_H

/* Values that the classid of a filter is unlikely to have. */
enum weir_stamp {
	WEIR_STAMP_NONE = 0,
	/* The sender's guard has judged it. */
	WEIR_STAMP_SENT = 0x7701,
	/* The receiver's guard has, on the master. */
	WEIR_STAMP_RECEIVED = 0x7702,
	/* It came in through the master, and no guard has judged it. */
	WEIR_STAMP_ARRIVED = 0x7703,
	/*
	 * From a program on a master to that of an attachment: judge it for the
	 * first time, judge it again, or judge it for the last time. It is replaced
	 * before anybody else sees it.
	 */
	WEIR_STAMP_JUDGE = 0x7704,
	WEIR_STAMP_AGAIN = 0x7705,
	WEIR_STAMP_LAST = 0x7706,
};

/* What an attachment on a master is found by. */
struct weir_local_key {
	__u8 address[16]; /* as in weir_member_key */
	__u32 kind;	  /* enum weir_member_kind */
	__u32 master;	  /* number of the interface */
};

enum weir_local_flag {
	/* Past the master, what comes for it from outside meets no program (ipvlan l3s). */
	WEIR_LOCAL_LAST = 1 << 0,
	/* It has leave to send past its own guard. */
	WEIR_LOCAL_ROUND = 1 << 1,
};

struct weir_local {
	__u64 pod;   /* which attachments with the same have in common */
	__u32 slot;  /* of weir_senders and weir_receivers */
	__u32 flags; /* enum weir_local_flag, or'ed */
};

/* Each attachment has up to 33 keys: a MAC, or its addresses. */
#define WEIR_LOCALS_MAX 65536

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WEIR_LOCALS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__type(key, struct weir_local_key);
	__type(value, struct weir_local);
} weir_locals SEC(".maps");

/* Whose a socket is: the cookie of its network namespace, or the number of its cgroup. */
enum weir_owner_kind {
	WEIR_OWNER_NETNS,
	WEIR_OWNER_CGROUP,
};

struct weir_owner_key {
	__u64 id;
	enum weir_owner_kind kind;
	__u32 master; /* number of the interface */
};

/* Pods with attachments, by both kinds and on several masters each. */
#define WEIR_OWNERS_MAX 16384

struct weir_owner {
	__u64 pod;  /* as in weir_local */
	__u32 slot; /* of one attachment that the pod has on the master */
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WEIR_OWNERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__type(key, struct weir_owner_key);
	__type(value, struct weir_owner);
} weir_owners SEC(".maps");

struct weir_ring {
	/*
	 * Set while a pod of the node is able to forge what its own guard has said: stamps
	 * are not believed then.
	 */
	__u32 distrusts;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__type(key, __u32);
	__type(value, struct weir_ring);
} weir_ring SEC(".maps");

/* Whether bpf_get_netns_cookie is there for programs of tc. */
const volatile bool weir_has_cookie;

static __always_inline bool weir_distrusts(void)
{
	__u32 only = 0;
	const struct weir_ring *ring = bpf_map_lookup_elem(&weir_ring, &only);

	return !ring || ring->distrusts;
}

static __always_inline const struct weir_local *weir_local_mac(__u32 master, const __u8 *mac)
{
	struct weir_local_key key = {.kind = WEIR_MEMBER_MAC, .master = master};

	__builtin_memcpy(key.address, mac, ETH_ALEN);
	return bpf_map_lookup_elem(&weir_locals, &key);
}

static __always_inline const struct weir_local *weir_local_ipv4(struct __sk_buff *skb, __u32 master, __u32 offset)
{
	struct weir_local_key key = {.kind = WEIR_MEMBER_ADDRESS, .master = master};

	key.address[10] = key.address[11] = 0xff;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + offset, key.address + 12, 4))
		return NULL;
	return bpf_map_lookup_elem(&weir_locals, &key);
}

static __always_inline const struct weir_local *weir_local_ipv6(struct __sk_buff *skb, __u32 master, __u32 offset)
{
	struct weir_local_key key = {.kind = WEIR_MEMBER_ADDRESS, .master = master};

	if (bpf_skb_load_bytes(skb, ETH_HLEN + offset, key.address, sizeof(key.address)))
		return NULL;
	return bpf_map_lookup_elem(&weir_locals, &key);
}

/*
 * The attachment that a packet says it is from: by its MAC or, where the attachments of a
 * master share one, by its address.
 */
static __always_inline const struct weir_local *weir_local_source(struct __sk_buff *skb, __u32 master)
{
	const struct weir_local *local;
	struct ethhdr eth;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return NULL;
	local = weir_local_mac(master, eth.h_source);
	if (local)
		return local;
	switch (eth.h_proto) {
	case bpf_htons(ETH_P_IP):
		return weir_local_ipv4(skb, master, __builtin_offsetof(struct iphdr, saddr));
	case bpf_htons(ETH_P_IPV6):
		return weir_local_ipv6(skb, master, __builtin_offsetof(struct ipv6hdr, saddr));
	case bpf_htons(ETH_P_ARP):
		return weir_local_ipv4(skb, master, __builtin_offsetof(struct weir_arp, sender_ip));
	}
	return NULL;
}

/* Levels below the root at which a pod's cgroup may be: /kubepods/pod..., with a class of
 * service between, and with slices of systemd around.
 */
#define WEIR_CGROUP_LEVEL_MIN 1
#define WEIR_CGROUP_LEVEL_MAX 5

static __always_inline const struct weir_owner *weir_owner_by(__u64 id, enum weir_owner_kind kind, __u32 master)
{
	struct weir_owner_key key = {.id = id, .kind = kind, .master = master};

	return id ? bpf_map_lookup_elem(&weir_owners, &key) : NULL;
}

static __always_inline const struct weir_owner *weir_owner_by_cgroup(struct __sk_buff *skb, __u32 master)
{
	const struct weir_owner *owner = NULL;

#pragma clang loop unroll(disable)
	for (int level = WEIR_CGROUP_LEVEL_MIN; level <= WEIR_CGROUP_LEVEL_MAX && !owner; level++)
		owner = weir_owner_by(bpf_skb_ancestor_cgroup_id(skb, level), WEIR_OWNER_CGROUP, master);
	return owner;
}

/*
 * Whose the socket is that sent the packet, which stays with it from one namespace to the
 * next. What the kernel answers by itself has none, nor has a copy of a broadcast.
 */
static __always_inline const struct weir_owner *weir_owner_of(struct __sk_buff *skb, __u32 master)
{
	if (!skb->sk)
		return NULL;
	if (weir_has_cookie)
		return weir_owner_by(bpf_get_netns_cookie(skb), WEIR_OWNER_NETNS, master);
	return weir_owner_by_cgroup(skb, master);
}

#endif
