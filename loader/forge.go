// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netns"
)

// CanForge tells whether a namespace has what its owner could forge the stamps of a guard
// with: an interface on the master of a guarded one, whose filters can set them, or queues
// behind a guard, whose filters can change what it has judged. The guarded interfaces are
// given by their numbers.
func CanForge(ns *netns.Namespace, guarded map[int]bool) (bool, error) {
	links, err := netns.Dump(ns.Netlink().LinkList)
	if err != nil {
		return false, fmt.Errorf("listing the interfaces of %s: %w", ns.Path(), err)
	}
	masters := map[int]bool{}
	for _, l := range links {
		if guarded[l.Attrs().Index] && l.Attrs().ParentIndex != 0 {
			masters[l.Attrs().ParentIndex] = true
		}
	}
	for _, l := range links {
		attrs := l.Attrs()
		switch {
		case guarded[attrs.Index]:
			queues, err := hasQueues(ns, l)
			if err != nil || queues {
				return queues, err
			}
		case attrs.NetNsID >= 0 && masters[attrs.ParentIndex]:
			return true, nil
		}
	}
	return false, nil
}

// hasQueues tells an interface with a qdisc for what it sends; those of macvlan and ipvlan
// have none by themselves.
func hasQueues(ns *netns.Namespace, l netlink.Link) (bool, error) {
	qdiscs, err := netns.Dump(func() ([]netlink.Qdisc, error) { return ns.Netlink().QdiscList(l) })
	if err != nil {
		return false, fmt.Errorf("listing the qdiscs of %s: %w", l.Attrs().Name, err)
	}
	for _, q := range qdiscs {
		if q.Attrs().Parent == netlink.HANDLE_ROOT && q.Type() != "noqueue" {
			return true, nil
		}
	}
	return false, nil
}
