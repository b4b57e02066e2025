// SPDX-License-Identifier: Apache-2.0

// Package drops takes in what guards report of the packets that they drop, and hands it
// out.
//
// Rings reads the ring buffers that guards write to, each once, whoever made it. Journal
// keeps the last drops of each attachment and passes new ones on to followers, of which
// none can hold it up: one that is too slow misses some, and is told how many.
package drops
