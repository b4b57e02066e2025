//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Denies the sockets of guarded network namespaces what goes round tc. One program for the
 * whole node, at the root of the cgroups.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_packet.h>

#include <bpf/bpf_helpers.h>

/* linux/socket.h, which has them for the kernel alone. */
#define WEIR_SOL_PACKET 263
#define WEIR_SOL_XDP 283

/* What a program of this type returns: EPERM, or the kernel goes on. */
enum weir_socket_answer {
	WEIR_SOCKET_DENIED,
	WEIR_SOCKET_GOES_ON,
};

/* Network namespaces that are guarded at a time, which is more than a node has pods. */
#define WEIR_GUARDED_MAX 16384

/* The cookies of guarded network namespaces. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WEIR_GUARDED_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u8);
} weir_guarded SEC(".maps");

static __always_inline bool weir_goes_round(const struct bpf_sockopt *option)
{
	if (option->level == WEIR_SOL_XDP)
		return true;
	return option->level == WEIR_SOL_PACKET && option->optname == PACKET_QDISC_BYPASS;
}

SEC("cgroup/setsockopt")
int weir_setsockopt(struct bpf_sockopt *option)
{
	__u64 cookie;

	/*
	 * The kernel has copied a page of the value at most. Of a longer one (iptables' tables)
	 * it takes the whole again only if it is told that the copy has none.
	 */
	if (option->optlen > option->optval_end - option->optval)
		option->optlen = 0;
	if (!weir_goes_round(option))
		return WEIR_SOCKET_GOES_ON;
	cookie = bpf_get_netns_cookie(option);
	return bpf_map_lookup_elem(&weir_guarded, &cookie) ? WEIR_SOCKET_DENIED : WEIR_SOCKET_GOES_ON;
}

char _license[] SEC("license") = "Dual BSD/GPL";
