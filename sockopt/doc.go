// SPDX-License-Identifier: Apache-2.0

// Package sockopt denies the sockets of guarded network namespaces what goes round the
// guard: PACKET_QDISC_BYPASS and AF_XDP, with which a container that has CAP_NET_RAW sends
// past tc.
//
// One program serves the node. It sits at the root of the cgroup v2 hierarchy, which has
// every process of a node, also on one whose controllers are those of v1, and knows
// guarded namespaces by their cookies. Its link and map are pinned in the directory of
// every guard that wants them: a new agent finds them in any one, and they go with the
// last. Nothing of it touches a packet.
package sockopt
