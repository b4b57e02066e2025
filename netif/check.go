// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
)

// FindKind finds an interface of the pod that must be of a type such as
// "macvlan"; that it is missing or of another is a DriftError.
func FindKind(pod *netns.Namespace, name, kind string) (netlink.Link, error) {
	link, err := find(pod, name)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, missing(name)
	case err != nil:
		return nil, err
	case link.Type() != kind:
		return nil, &DriftError{Interface: name, What: "type", Got: link.Type(), Want: kind}
	}
	return link, nil
}

func missing(name string) error {
	return &DriftError{Interface: name, What: "interface", Got: "missing"}
}

// CheckMTU compares the MTU of an interface with that of its configuration,
// where 0 stands for whatever the master has.
func CheckMTU(link netlink.Link, want int) error {
	attrs := link.Attrs()
	if want == 0 || attrs.MTU == want {
		return nil
	}
	return &DriftError{Interface: attrs.Name, What: "MTU", Got: strconv.Itoa(attrs.MTU), Want: strconv.Itoa(want)}
}

// Check compares an interface of the pod with the CNI result of its making: it
// is there and up, with its MAC, its addresses and its routes. What it has
// besides is its own affair, and so is the MTU, which follows the master's where
// the configuration gives none. Every difference is a DriftError, all of them
// joined.
func Check(pod *netns.Namespace, name string, result *current.Result) error {
	link, err := find(pod, name)
	if errors.Is(err, ErrNotFound) {
		return missing(name)
	}
	if err != nil {
		return err
	}
	ips, err := assignedTo(name, result)
	if err != nil {
		return err
	}
	return errors.Join(
		checkLink(link, result),
		checkAddresses(pod, link, ips),
		checkRoutes(pod, link, routesOf(result, link.Attrs().Index, gatewaysOf(ips))),
	)
}

func checkLink(link netlink.Link, result *current.Result) error {
	attrs := link.Attrs()
	if attrs.Flags&net.FlagUp == 0 {
		return &DriftError{Interface: attrs.Name, What: "state", Got: "down", Want: "up"}
	}
	for _, made := range result.Interfaces {
		// The same name without a sandbox is the host's.
		if made.Name != attrs.Name || made.Sandbox == "" || made.Mac == "" {
			continue
		}
		if got := attrs.HardwareAddr.String(); got != made.Mac {
			return &DriftError{Interface: attrs.Name, What: "MAC", Got: got, Want: made.Mac}
		}
	}
	return nil
}

func checkAddresses(pod *netns.Namespace, link netlink.Link, ips []*current.IPConfig) error {
	held, err := addressesOf(pod, link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	var errs []error
	for _, ip := range ips {
		want := prefixOf(ip.Address)
		drift := &DriftError{Interface: link.Attrs().Name, What: fmt.Sprintf("address %s", want)}
		i := slices.IndexFunc(held, func(a netlink.Addr) bool { return prefixOf(*a.IPNet) == want })
		switch {
		case i < 0:
			drift.Got = "missing"
		case held[i].Flags&unix.IFA_F_DADFAILED != 0:
			drift.Got = "that of another host too"
		default:
			continue
		}
		errs = append(errs, drift)
	}
	return errors.Join(errs...)
}

func checkRoutes(pod *netns.Namespace, link netlink.Link, wanted []netlink.Route) error {
	if len(wanted) == 0 {
		return nil
	}
	// Asking for the table 0 is asking for all of them.
	held, err := netns.Dump(func() ([]netlink.Route, error) {
		return pod.Netlink().RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("listing the routes: %w", err)
	}
	var errs []error
	for _, want := range wanted {
		if !slices.ContainsFunc(held, func(have netlink.Route) bool { return serves(have, want) }) {
			errs = append(errs, &DriftError{Interface: link.Attrs().Name, What: "route " + describe(want), Got: "missing"})
		}
	}
	return errors.Join(errs...)
}
