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
#include "address.h"
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
#include "ring.h"
#include "turn.h"
#include "drop.h"

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
const enum weir_owner_kind *const weir_owner_kinds __attribute__((unused));
/* So too what the buffer holds, of which a map's BTF knows nothing. */
const struct weir_drop *const weir_drop_layout __attribute__((unused));

static __always_inline struct weir_judgement weir_received(struct __sk_buff *skb, const struct weir_facts *facts,
							   struct weir_count size)
{
	struct weir_judgement judgement = {.verdict = weir_arrival(skb, facts), .rule = WEIR_NO_RULE};

	if (judgement.verdict == WEIR_ALLOWED)
		judgement.verdict = weir_isolation(skb, true);
	if (judgement.verdict == WEIR_ALLOWED)
		judgement = weir_judge(skb, WEIR_INGRESS, size);
	return judgement;
}

static __always_inline struct weir_judgement weir_sent(struct __sk_buff *skb, const struct weir_facts *facts,
						       struct weir_count size)
{
	struct weir_judgement judgement = {.verdict = weir_source(skb, facts), .rule = WEIR_NO_RULE};

	if (judgement.verdict == WEIR_ALLOWED)
		judgement.verdict = weir_conduct(skb);
	if (judgement.verdict == WEIR_ALLOWED)
		judgement.verdict = weir_isolation(skb, false);
	if (judgement.verdict == WEIR_ALLOWED)
		judgement = weir_judge(skb, WEIR_EGRESS, size);
	return judgement;
}

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
	struct weir_judgement judgement = {.verdict = WEIR_ALLOWED, .rule = WEIR_NO_RULE};
	enum weir_verdict verdict;
	enum weir_turn turn;
	struct weir_count size;

	if (!counters || !control || !facts)
		return TC_ACT_SHOT;
	turn = weir_ingress_turn(skb, control);
	size = weir_size_of(skb);
	if (turn == WEIR_TURN_ROUND)
		judgement.verdict = WEIR_BYPASSED;
	else if (turn != WEIR_TURN_SECOND)
		judgement = weir_received(skb, facts, size);
	verdict = judgement.verdict;
	if (turn == WEIR_TURN_FIRST && verdict == WEIR_ALLOWED)
		return weir_stamp(skb, WEIR_STAMP_RECEIVED);
	if (verdict == WEIR_ALLOWED)
		verdict = weir_limit(WEIR_INGRESS, size.bytes);
	weir_count(&counters->ingress, verdict, size);
	if (verdict != WEIR_ALLOWED)
		return weir_drop(skb, WEIR_INGRESS, verdict, judgement.rule);
	weir_hear(skb);
	weir_count_traffic(skb, &counters->ingress_allowed, size);
	return turn == WEIR_TURN_LAST ? TC_ACT_UNSPEC : control->ingress_action;
}

SEC("tc")
int weir_egress(struct __sk_buff *skb)
{
	struct weir_counters *counters = weir_counters_of();
	const struct weir_facts *facts = weir_facts_now();
	__u32 stamp = skb->tc_index;
	struct weir_judgement judgement;
	enum weir_verdict verdict;
	struct weir_count size;

	if (!counters || !facts)
		return TC_ACT_SHOT;
	size = weir_size_of(skb);
	judgement = weir_sent(skb, facts, size);
	verdict = judgement.verdict;
	if (stamp == WEIR_STAMP_AGAIN && verdict == WEIR_ALLOWED)
		return weir_stamp(skb, WEIR_STAMP_SENT);
	if (verdict == WEIR_ALLOWED)
		verdict = weir_storms(skb, size.packets);
	if (verdict == WEIR_ALLOWED)
		verdict = weir_limit(WEIR_EGRESS, size.bytes);
	weir_count(&counters->egress, verdict, size);
	if (verdict != WEIR_ALLOWED)
		return weir_drop(skb, WEIR_EGRESS, verdict, judgement.rule);
	weir_count_traffic(skb, &counters->egress_allowed, size);
	if (stamp == WEIR_STAMP_JUDGE)
		return weir_stamp(skb, WEIR_STAMP_SENT);
	/* Of a packet whose chain ends the kernel makes the stamp of this. */
	skb->tc_classid = WEIR_STAMP_SENT;
	/* The guard has the last word: no filter behind it may rewrite a source. */
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
