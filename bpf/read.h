/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading a packet. What is not linear may be memory that its sender can still change
 * (PACKET_TX_RING), so that is copied before it is looked at: what was judged is what
 * leaves.
 */
#ifndef __WEIR_READ_H
#define __WEIR_READ_H

/* Where a header begins at most that is read in place. */
#define WEIR_IN_PLACE_MAX 128

/* Copies so many bytes from wherever they are; false where the packet has none. */
static __always_inline bool weir_load(struct __sk_buff *skb, __u32 offset, void *to, __u32 len)
{
	__u32 linear = skb->data_end - skb->data;

	/* An error is negative, and so an offset behind every packet. */
	if (offset + len > linear)
		offset |= bpf_skb_pull_data(skb, offset + len);
	return !bpf_skb_load_bytes(skb, offset, to, len);
}

/*
 * The same, in place where they are linear: that saves most packets a call of some
 * 20 ns.
 */
static __always_inline bool weir_read(struct __sk_buff *skb, __u32 offset, void *to, __u32 len)
{
	const void *from = (void *)(long)skb->data;

	/* The verifier follows the number that is compared, and none that it is made of. */
	asm volatile("" : "+r"(offset));
	if (offset <= WEIR_IN_PLACE_MAX) {
		from += offset;
		if (from + len <= (void *)(long)skb->data_end) {
			__builtin_memcpy(to, from, len);
			return true;
		}
	}
	return weir_load(skb, offset, to, len);
}

#endif
