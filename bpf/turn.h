/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who has judged a packet before, where there are programs on the master. */
#ifndef __WEIR_TURN_H
#define __WEIR_TURN_H

/* What a program of ingress is to do. */
enum weir_turn {
	WEIR_TURN_ONLY,	  /* judge and count */
	WEIR_TURN_FIRST,  /* on the master: judge, and count what is dropped */
	WEIR_TURN_SECOND, /* on the interface: count what was judged on the master */
	WEIR_TURN_LAST,	  /* on the master, for an interface that does not see it: judge and count */
	WEIR_TURN_ROUND,  /* refuse: it was sent past the guard of a neighbour */
};

/*
 * Whether a packet without a stamp is of a neighbour on the master, which has no leave to
 * send past its guard, or says that it is another. Global, as it is for few packets.
 */
__noinline int weir_came_round(struct __sk_buff *skb, __u32 master)
{
	const struct weir_owner *owner = weir_owner_of(skb, master);
	const struct weir_local *local = weir_local_source(skb, master);

	if (owner && (!local || local->pod != owner->pod))
		return true;
	return local && !(local->flags & WEIR_LOCAL_ROUND);
}

static __always_inline enum weir_turn weir_ingress_turn(struct __sk_buff *skb, const struct weir_control *control)
{
	__u32 stamp = skb->tc_index;

	if (!control->master || stamp == WEIR_STAMP_SENT || stamp == WEIR_STAMP_ARRIVED)
		return WEIR_TURN_ONLY;
	if (skb->ifindex == control->master) {
		if (stamp == WEIR_STAMP_JUDGE)
			return WEIR_TURN_FIRST;
		if (stamp == WEIR_STAMP_LAST)
			return WEIR_TURN_LAST;
	}
	if (stamp == WEIR_STAMP_RECEIVED && !weir_distrusts())
		return WEIR_TURN_SECOND;
	return weir_came_round(skb, control->master) ? WEIR_TURN_ROUND : WEIR_TURN_ONLY;
}

static __always_inline int weir_stamp(struct __sk_buff *skb, enum weir_stamp stamp)
{
	skb->tc_index = stamp;
	return TC_ACT_UNSPEC;
}

#endif
