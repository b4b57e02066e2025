/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Is what arrives meant for the pod? */
#ifndef __WEIR_ARRIVAL_H
#define __WEIR_ARRIVAL_H

/* A unicast frame for another MAC comes only where somebody listens to all. */
static __always_inline enum weir_verdict weir_arrival(struct __sk_buff *skb, const struct weir_facts *facts)
{
	const struct ethhdr *eth = (void *)(long)skb->data;

	if (!weir_checks_for(WEIR_CHECK_DESTINATION))
		return WEIR_ALLOWED;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return WEIR_MALFORMED;
	if (eth->h_dest[0] & WEIR_MAC_GROUP || weir_owns_mac(facts, eth->h_dest))
		return WEIR_ALLOWED;
	return WEIR_FOREIGN_DESTINATION;
}

#endif
