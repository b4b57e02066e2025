// SPDX-License-Identifier: Apache-2.0

// Package netns opens network namespaces and speaks netlink inside them.
//
// A [Namespace] keeps its namespace alive from Open to Close, whatever becomes
// of the path that it was opened by. Its netlink socket was made inside it, so
// almost nothing needs a thread to enter the namespace; [Namespace.Do] is for
// what does: files below /proc/sys, AF_PACKET sockets.
//
// A path that leads nowhere is [ErrNotFound], one that leads to something else
// [ErrNotNamespace]; both are told apart with errors.Is.
package netns
