// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

// placeDefaultRoute has the one network whose element of the annotation has the
// key default-route keep a default route, and no other (NPWG specification
// 4.1.2.1.9). The selections are those of the delegates, nil where a delegate is of
// none.
func placeDefaultRoute(delegates []state.Delegate, selections []*Selection) error {
	place := slices.IndexFunc(selections, wantsDefaultRoute)
	if place < 0 {
		return nil
	}
	if other := slices.IndexFunc(selections[place+1:], wantsDefaultRoute); other >= 0 {
		return fmt.Errorf("default-route: networks %s and %s both have it, and only one keeps the default route",
			selections[place].network(), selections[place+1+other].network())
	}
	for i := range delegates {
		delegates[i].NoDefaultRoute = i != place
	}
	for _, gateway := range selections[place].GatewayRequest {
		if addr, ok := netip.AddrFromSlice(gateway); ok {
			delegates[place].Gateways = append(delegates[place].Gateways, addr.Unmap())
		}
	}
	return nil
}

func wantsDefaultRoute(s *Selection) bool { return s != nil && s.GatewayRequest != nil }

// checkSoleDefaultRoute refuses a second element with the key default-route.
func checkSoleDefaultRoute(annotation string, selections []Selection) error {
	first := -1
	for i := range selections {
		s := &selections[i]
		switch {
		case !wantsDefaultRoute(s):
		case first < 0:
			first = i
		default:
			return &SelectionError{annotation, i + 1, s.Name, "default-route",
				fmt.Errorf("element %d (%s) has it already, and only one network keeps the default route", first+1, selections[first].Name)}
		}
	}
	return nil
}

func checkGateways(gateways []net.IP) error {
	for _, g := range gateways {
		switch {
		case g == nil:
			return errors.New("null entry")
		case g.IsUnspecified(), g.IsMulticast(), g.IsLoopback():
			return fmt.Errorf("%s is no gateway's address", g)
		}
	}
	return nil
}

// reroute leaves in a result the default routes that the record wants.
func (j *job) reroute(result *current.Result) {
	instead := gatewayRoutes(j.stored.Gateways)
	result.Routes = slices.DeleteFunc(result.Routes, func(r *types.Route) bool {
		return netif.IsDefault(r.Dst) && (j.stored.NoDefaultRoute || sameFamily(instead, r))
	})
	result.Routes = append(result.Routes, instead...)
}

func sameFamily(routes []*types.Route, r *types.Route) bool {
	return slices.ContainsFunc(routes, func(other *types.Route) bool {
		return (other.Dst.IP.To4() != nil) == (r.Dst.IP.To4() != nil)
	})
}

// firstIPv6Metric is what the kernel gives an IPv6 route without a metric
// (IP6_RT_PRIO_USER); an IPv4 route has then 0.
const firstIPv6Metric = 1024

// gatewayRoutes are default routes to gateways, of which a former one goes before
// a later one of its family.
func gatewayRoutes(gateways []netip.Addr) []*types.Route {
	var routes []*types.Route
	next := map[bool]int{false: 0, true: firstIPv6Metric}
	for _, g := range gateways {
		zero := netip.IPv4Unspecified()
		if g.Is6() {
			zero = netip.IPv6Unspecified()
		}
		routes = append(routes, &types.Route{
			Dst:      net.IPNet{IP: zero.AsSlice(), Mask: net.CIDRMask(0, zero.BitLen())},
			GW:       g.AsSlice(),
			Priority: next[g.Is6()],
		})
		next[g.Is6()]++
	}
	return routes
}

// rerouteMade does for an interface that plugins made what reroute does for one
// that is still to be configured.
func (d *executed) rerouteMade(pod *netns.Namespace, result *current.Result) error {
	if !d.stored.NoDefaultRoute && len(d.stored.Gateways) == 0 {
		return nil
	}
	if err := netif.ReplaceDefaultRoutes(pod, d.stored.Interface, gatewayRoutes(d.stored.Gateways)); err != nil {
		return err
	}
	d.reroute(result)
	return d.remember(result)
}
