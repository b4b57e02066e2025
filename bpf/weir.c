//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The two programs of an attachment. Directions are the pod's: weir_ingress
 * sees what the pod receives, weir_egress what it sends, wherever they are
 * attached.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "protocols.h"
#include "verdict.h"
#include "read.h"
#include "facts.h"
#include "count.h"
#include "source.h"
#include "neighbour.h"
#include "conduct.h"
#include "arrival.h"
#include "rate.h"
#include "traffic.h"
#include "storm.h"
#include "isolation.h"
#include "rules.h"

/* bpftool prog show prints these beside each program. */
const volatile char bpf_metadata_pod[128];
const volatile char bpf_metadata_interface[16];
const volatile char bpf_metadata_network[128];
const volatile char bpf_metadata_container[80];
/* Which build of the programs this is: an agent replaces those of another one. */
const volatile char bpf_metadata_build[16];
/* What it was made with: an agent replaces it when that has changed. */
const volatile char bpf_metadata_settings[16];
/* Of its rules alone: while they are the same, their hits go on. */
const volatile char bpf_metadata_rules[16];

/* Keeps the enums in the object's BTF, from which the Go constants are made. */
const enum weir_verdict *const weir_verdicts __attribute__((unused));
const enum weir_class *const weir_classes __attribute__((unused));
const enum weir_family *const weir_families __attribute__((unused));
const enum weir_member_kind *const weir_member_kinds __attribute__((unused));

/*
 * Without its maps a program can neither judge nor count: it closes. The maps
 * are arrays, whose entries are always there.
 */
SEC("tc")
int weir_ingress(struct __sk_buff *skb)
{
	struct weir_counters *counters = weir_counters_of();
	const struct weir_control *control = weir_control_of();
	const struct weir_facts *facts = weir_facts_now();
	enum weir_verdict verdict;
	struct weir_count size;

	if (!counters || !control || !facts)
		return TC_ACT_SHOT;
	verdict = weir_arrival(skb, facts);
	if (verdict == WEIR_ALLOWED)
		verdict = weir_isolation(skb, true);
	size = weir_size_of(skb);
	if (verdict == WEIR_ALLOWED)
		verdict = weir_judge(skb, WEIR_INGRESS, size).verdict;
	if (verdict == WEIR_ALLOWED)
		verdict = weir_limit(WEIR_INGRESS, size.bytes);
	weir_count(&counters->ingress, verdict, size);
	if (verdict != WEIR_ALLOWED)
		return TC_ACT_SHOT;
	weir_hear(skb);
	weir_count_traffic(skb, &counters->ingress_allowed, size);
	return control->ingress_action;
}

SEC("tc")
int weir_egress(struct __sk_buff *skb)
{
	struct weir_counters *counters = weir_counters_of();
	const struct weir_facts *facts = weir_facts_now();
	enum weir_verdict verdict;
	struct weir_count size;

	if (!counters || !facts)
		return TC_ACT_SHOT;
	verdict = weir_source(skb, facts);
	if (verdict == WEIR_ALLOWED)
		verdict = weir_conduct(skb);
	if (verdict == WEIR_ALLOWED)
		verdict = weir_isolation(skb, false);
	size = weir_size_of(skb);
	if (verdict == WEIR_ALLOWED)
		verdict = weir_judge(skb, WEIR_EGRESS, size).verdict;
	if (verdict == WEIR_ALLOWED)
		verdict = weir_storms(skb, size.packets);
	if (verdict == WEIR_ALLOWED)
		verdict = weir_limit(WEIR_EGRESS, size.bytes);
	weir_count(&counters->egress, verdict, size);
	if (verdict != WEIR_ALLOWED)
		return TC_ACT_SHOT;
	weir_count_traffic(skb, &counters->egress_allowed, size);
	/* The guard has the last word: no filter behind it may rewrite a source. */
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
