// SPDX-License-Identifier: Apache-2.0

package hostdevice

import (
	"fmt"
	"net"
	"slices"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// unused finds what the node would lose with the interface.
func unused(host *netns.Namespace, link netlink.Link) error {
	a := link.Attrs()
	switch {
	case a.Flags&net.FlagLoopback != 0:
		return fmt.Errorf("%w: it is the loopback interface", ErrInUse)
	case a.MasterIndex != 0:
		return fmt.Errorf("%w: it is a port of %s", ErrInUse, nameOf(host, a.MasterIndex))
	}
	links, err := linksOf(host)
	if err != nil {
		return err
	}
	for _, l := range links {
		other := l.Attrs()
		if other.MasterIndex == a.Index {
			return fmt.Errorf("%w: %s is a port of it", ErrInUse, other.Name)
		}
		if other.ParentIndex == a.Index && other.NetNsID < 0 && l.Type() != "veth" {
			return fmt.Errorf("%w: the %s %s is on it", ErrInUse, l.Type(), other.Name)
		}
	}
	return nil
}

func nameOf(host *netns.Namespace, index int) string {
	link, err := host.Netlink().LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("interface %d", index)
	}
	return link.Attrs().Name
}

// withoutDefaultRoute refuses the interface that the node reaches the world by: the
// one of either family's default route, of several the one with the least metric.
// A default route behind that, such as DHCP leaves on every card, is no hindrance.
func withoutDefaultRoute(host *netns.Namespace, link netlink.Link) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netns.Dump(func() ([]netlink.Route, error) { return host.Netlink().RouteList(nil, family) })
		if err != nil {
			return fmt.Errorf("listing the routes: %w", err)
		}
		for _, r := range bestDefaults(routes) {
			if leadsThrough(r, link.Attrs().Index) {
				return fmt.Errorf("%w: the node's default route is through it", ErrInUse)
			}
		}
	}
	return nil
}

// bestDefaults are the default routes of the least metric: IPv6 may have several.
func bestDefaults(routes []netlink.Route) []netlink.Route {
	var best []netlink.Route
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST || r.Dst != nil && !netif.IsDefault(*r.Dst) {
			continue
		}
		if len(best) > 0 && r.Priority < best[0].Priority {
			best = nil
		}
		if len(best) == 0 || r.Priority == best[0].Priority {
			best = append(best, r)
		}
	}
	return best
}

func leadsThrough(r netlink.Route, index int) bool {
	for _, hop := range r.MultiPath {
		if hop.LinkIndex == index {
			return true
		}
	}
	return r.LinkIndex == index
}

const (
	// netnsImmutable is IFLA_NETNS_IMMUTABLE, since Linux 6.15.
	netnsImmutable = 67
	// netnsLocal is among an interface's features what kernels before 6.12 have instead.
	netnsLocal = "netns-local"
)

// fixedKinds are those that no kernel moves: 6.12 to 6.14 do not tell of any.
var fixedKinds = []string{"bridge", "bond", "team", "vrf", "openvswitch"}

// movable refuses what the kernel would refuse to move, before the interface has
// lost anything by the attempt. What no kernel tells, the attempt does.
func movable(host *netns.Namespace, link netlink.Link) error {
	if slices.Contains(fixedKinds, link.Type()) {
		return ErrImmovable
	}
	var fixed bool
	err := host.Do(func() (err error) {
		fixed, err = isImmutable(link.Attrs().Index)
		if err == nil && !fixed {
			fixed = isLocal(link.Attrs().Name)
		}
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("asking whether it can be moved: %w", err)
	case fixed:
		return ErrImmovable
	}
	return nil
}

// isImmutable asks the kernel for an attribute that package netlink does not read.
func isImmutable(index int) (bool, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(index)
	request.AddData(message)
	answers, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return false, err
	}
	for _, answer := range answers {
		attributes, err := nl.ParseRouteAttr(answer[unix.SizeofIfInfomsg:])
		if err != nil {
			return false, err
		}
		for _, a := range attributes {
			if a.Attr.Type == netnsImmutable && len(a.Value) > 0 {
				return a.Value[0] != 0, nil
			}
		}
	}
	return false, nil
}

// isLocal is false for an interface that has no features to tell.
func isLocal(name string) bool {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return false
	}
	defer e.Close()
	features, err := e.Features(name)
	return err == nil && features[netnsLocal]
}
