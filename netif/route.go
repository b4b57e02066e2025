// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
)

// gateways are those of an interface's addresses, the first of each family;
// nil where there is none.
type gateways struct{ ipv4, ipv6 net.IP }

func gatewaysOf(ips []*current.IPConfig) gateways {
	var g gateways
	for _, ip := range ips {
		switch {
		case ip.Gateway == nil:
		case ip.Gateway.To4() == nil && g.ipv6 == nil:
			g.ipv6 = ip.Gateway
		case ip.Gateway.To4() != nil && g.ipv4 == nil:
			g.ipv4 = ip.Gateway
		}
	}
	return g
}

func (g gateways) towards(dst net.IP) net.IP {
	if dst.To4() != nil {
		return g.ipv4
	}
	return g.ipv6
}

// routesOf is what a result's routes are to the kernel. CNI 1.1's attributes are
// all there; it has none for the preferred source.
func routesOf(result *current.Result, index int, g gateways) []netlink.Route {
	routes := make([]netlink.Route, 0, len(result.Routes))
	for _, r := range result.Routes {
		route := netlink.Route{
			LinkIndex: index,
			Dst:       &r.Dst,
			Gw:        r.GW,
			MTU:       r.MTU,
			AdvMSS:    r.AdvMSS,
			Priority:  r.Priority,
			Table:     unix.RT_TABLE_MAIN,
		}
		switch {
		case r.GW == nil:
			route.Gw = g.towards(r.Dst.IP)
		case r.GW.IsUnspecified():
			// To the kernel 0.0.0.0 is no gateway at all.
			route.Gw = nil
		}
		if r.Table != nil && *r.Table != unix.RT_TABLE_UNSPEC {
			route.Table = *r.Table
		}
		if r.Scope != nil {
			route.Scope = netlink.Scope(*r.Scope)
		}
		routes = append(routes, route)
	}
	return routes
}

// addRoutes adds a second route to one destination beside the first, so that
// several gateways share IPv6 traffic.
func addRoutes(pod *netns.Namespace, routes []netlink.Route) error {
	for _, r := range routes {
		if err := pod.Netlink().RouteAddEcmp(&r); err != nil {
			return fmt.Errorf("adding the route %s: %w", describe(r), err)
		}
	}
	return nil
}

// describe prints a route as "ip route" does.
func describe(r netlink.Route) string {
	var b strings.Builder
	b.WriteString(prefixOf(*r.Dst).String())
	if r.Gw != nil {
		fmt.Fprintf(&b, " via %s", r.Gw)
	}
	for _, attribute := range []struct {
		name  string
		value int
		usual int
	}{
		{"metric", r.Priority, 0},
		{"table", r.Table, unix.RT_TABLE_MAIN},
		{"scope", int(r.Scope), unix.RT_SCOPE_UNIVERSE},
		{"mtu", r.MTU, 0},
		{"advmss", r.AdvMSS, 0},
	} {
		if attribute.value != attribute.usual {
			fmt.Fprintf(&b, " %s %d", attribute.name, attribute.value)
		}
	}
	return b.String()
}

// serves says whether a route of the kernel is the wanted one. What the wanted
// one leaves open, the kernel may have filled in.
func serves(have, want netlink.Route) bool {
	return have.Dst != nil && prefixOf(*have.Dst) == prefixOf(*want.Dst) &&
		have.Table == want.Table &&
		(want.Priority == 0 || have.Priority == want.Priority) &&
		(want.MTU == 0 || have.MTU == want.MTU) &&
		(want.AdvMSS == 0 || have.AdvMSS == want.AdvMSS) &&
		// IPv6 routes have no scope.
		(want.Dst.IP.To4() == nil || have.Scope == want.Scope) &&
		leadsTo(have, want)
}

func leadsTo(have, want netlink.Route) bool {
	for _, hop := range hopsOf(have) {
		if hop.LinkIndex == want.LinkIndex && hop.Gw.Equal(want.Gw) {
			return true
		}
	}
	return false
}

// hopsOf lists a route's next hops, one unless it is a multipath route.
func hopsOf(r netlink.Route) []*netlink.NexthopInfo {
	if len(r.MultiPath) > 0 {
		return r.MultiPath
	}
	return []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
}

// prefixOf is the zero Prefix for what is none.
func prefixOf(n net.IPNet) netip.Prefix {
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}
