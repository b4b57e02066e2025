// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
)

// IsDefault tells whether a destination is that of a default route of either
// family.
func IsDefault(dst net.IPNet) bool {
	ones, bits := dst.Mask.Size()
	return ones == 0 && bits > 0 && dst.IP.IsUnspecified()
}

// ReplaceDefaultRoutes takes the default routes of both families from a pod's
// interface, in the main table, or of one family where the routes that are to come
// instead are of that alone, and then adds those. An interface that is not there
// has none.
func ReplaceDefaultRoutes(pod *netns.Namespace, name string, instead []*types.Route) error {
	link, err := find(pod, name)
	switch {
	case errors.Is(err, ErrNotFound) && len(instead) == 0:
		return nil
	case err != nil:
		return err
	}
	held, err := netns.Dump(func() ([]netlink.Route, error) { return pod.Netlink().RouteList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("listing the routes of %s: %w", name, err)
	}
	for _, r := range held {
		if !isDefaultRoute(r) || !replaces(instead, r) {
			continue
		}
		if err := pod.Netlink().RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("removing the default route of %s: %w", name, err)
		}
	}
	return addRoutes(pod, routesOf(&current.Result{Routes: instead}, link.Attrs().Index, gateways{}))
}

func isDefaultRoute(r netlink.Route) bool { return r.Dst == nil || IsDefault(*r.Dst) }

func replaces(instead []*types.Route, held netlink.Route) bool {
	if len(instead) == 0 {
		return true
	}
	for _, r := range instead {
		if (r.Dst.IP.To4() != nil) == (held.Family == netlink.FAMILY_V4) {
			return true
		}
	}
	return false
}
