// SPDX-License-Identifier: Apache-2.0

package hostdevice

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
)

const (
	// forever is a lifetime without end (INFINITY_LIFE_TIME).
	forever = math.MaxUint32
	// returnTimeout bounds the wait for a device of a namespace that has ended: the
	// kernel takes namespaces apart in its own time, several of them at once.
	returnTimeout = 20 * time.Second
	// dadTimeout bounds the wait for duplicate address detection (RFC 4862 5.4.2).
	dadTimeout = 5 * time.Second
	// interval is how often either is looked at.
	interval = 20 * time.Millisecond
)

// Restore puts the device back to where and what it was, from wherever it is: in the
// pod, on the node under any name, on its way, or untouched, and then leaves it as it
// is. One that another pod has is not touched.
//
// The pod is nil when its namespace is gone. Then a device of software is gone too,
// which is no error, and one of hardware is with the node again, which may take the
// kernel a while that Restore waits. One that neither comes back within twenty seconds
// nor has left its bus is ErrElsewhere; Restore can be called again.
func Restore(host, pod *netns.Namespace, name string, s *Saved) error {
	if s == nil {
		return nil
	}
	taken, err := s.bringHome(host, pod, name)
	if err != nil {
		return fmt.Errorf("taking %s, once %s, back from the pod: %w", name, s.Name, err)
	}
	link, err := s.atHome(host, pod, name)
	if err != nil {
		return fmt.Errorf("restoring %s: %w", s.Name, err)
	}
	if link == nil || !taken && !s.isDisturbed(link.Attrs()) {
		return nil
	}
	if err := s.putBack(host, link); err != nil {
		return fmt.Errorf("restoring %s: %w", s.Name, err)
	}
	return nil
}

// bringHome says whether the device was in the pod.
func (s *Saved) bringHome(host, pod *netns.Namespace, name string) (bool, error) {
	if pod == nil {
		return false, nil
	}
	link, err := s.in(pod, name)
	if err != nil || link == nil {
		return false, err
	}
	// With a name that another of the node's has it would not get there.
	if err := s.dropAltNames(pod, link); err != nil {
		return true, err
	}
	if err := s.sendOff(pod, link); err != nil {
		return true, err
	}
	return true, pod.Netlink().LinkSetNsFd(link, host.Fd())
}

// in finds the device in a namespace; nil when it is not there.
func (s *Saved) in(ns *netns.Namespace, name string) (netlink.Link, error) {
	links, err := linksOf(ns)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return s.isOf(l, name) })
	if i < 0 {
		return nil, nil
	}
	return links[i], nil
}

// atHome finds the device on the node. It is nil when it exists no more, and when it
// is neither there nor in the pod that is there still: then another pod got it.
func (s *Saved) atHome(host, pod *netns.Namespace, name string) (netlink.Link, error) {
	if pod != nil {
		return s.in(host, name)
	}
	return s.await(host, name)
}

// await finds the device on the node; nil when it exists no more.
func (s *Saved) await(host *netns.Namespace, name string) (netlink.Link, error) {
	for deadline := time.Now().Add(returnTimeout); ; time.Sleep(interval) {
		link, err := s.in(host, name)
		if err != nil || link != nil {
			return link, err
		}
		if !s.isOnBus() {
			// It may have come home between the two looks.
			return s.in(host, name)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: it is in another one still", ErrElsewhere)
		}
	}
}

// isOnBus tells whether the device has an interface somewhere.
func (s *Saved) isOnBus() bool {
	bus, device, ok := strings.Cut(s.Parent, "/")
	return ok && bus != "" && hasInterface(filepath.Join(buses, bus, "devices", device))
}

// isDisturbed tells a device that a Move or a Restore is not through with from one
// that is the operator's again, or still, to change. The mark is the first that the
// former gets and the last that the latter loses; only a pod could have taken it off,
// and no pod's device comes home up.
func (s *Saved) isDisturbed(a *netlink.LinkAttrs) bool {
	isUp := a.Flags&net.FlagUp != 0
	return a.Name != s.Name || a.Alias == s.Name ||
		!isUp && (s.Up || a.MTU != s.MTU || !bytes.Equal(a.HardwareAddr, s.MAC))
}

// IsStranded tells that the device is on the node again without having been
// restored, as when the pod's namespace has ended.
func (s *Saved) IsStranded(host *netns.Namespace) (bool, error) {
	link, err := s.in(host, s.Name)
	if err != nil || link == nil {
		return false, err
	}
	return link.Attrs().Alias == s.Name && s.Alias != s.Name, nil
}

// step is one of those that make a device what it was.
type step struct {
	what string
	do   func() error
}

// steps end with the alias: see isDisturbed.
func (s *Saved) steps(host *netns.Namespace, link netlink.Link) []step {
	h, a := host.Netlink(), link.Attrs()
	return []step{
		{"MAC", func() error {
			return unless(bytes.Equal(a.HardwareAddr, s.MAC), func() error { return h.LinkSetHardwareAddr(link, s.MAC) })
		}},
		{"MTU", func() error { return unless(a.MTU == s.MTU, func() error { return h.LinkSetMTU(link, s.MTU) }) }},
		{"flags", func() error { return s.putFlags(h, link) }},
		{"alternative names", func() error { return s.putAltNames(host, link) }},
		{"addresses", func() error { return s.putAddresses(host, link) }},
		{"state", func() error { return unless(!s.Up, func() error { return h.LinkSetUp(link) }) }},
		{"routes", func() error { return unless(!s.Up, func() error { return s.putRoutes(h, link) }) }},
	}
}

func unless(done bool, do func() error) error {
	if done {
		return nil
	}
	return do()
}

// putBack gives an interface that is on the node what it has no more. What cannot be
// given back keeps it from nothing else but its name does: without that it is not
// what the node knows.
func (s *Saved) putBack(host *netns.Namespace, link netlink.Link) error {
	if err := s.rename(host, link); err != nil {
		return fmt.Errorf("its name: %w", err)
	}
	var errs []error
	for _, step := range s.steps(host, link) {
		if err := step.do(); err != nil {
			errs = append(errs, fmt.Errorf("its %s: %w", step.what, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if err := host.Netlink().LinkSetAlias(link, s.Alias); err != nil {
		return fmt.Errorf("its alias: %w", err)
	}
	return nil
}

// rename needs the interface down on kernels before 6.2, and its name for nobody,
// itself included, an alternative one.
func (s *Saved) rename(host *netns.Namespace, link netlink.Link) error {
	if err := s.dropAltNames(host, link); err != nil || link.Attrs().Name == s.Name {
		return err
	}
	h := host.Netlink()
	// Whoever looks for it after this must know it by more than its name.
	if err := h.LinkSetAlias(link, s.Name); err != nil {
		return err
	}
	if err := h.LinkSetDown(link); err != nil {
		return err
	}
	return h.LinkSetName(link, s.Name)
}

// dropAltNames takes away those that a pod gave it.
func (s *Saved) dropAltNames(ns *netns.Namespace, link netlink.Link) error {
	for _, alt := range link.Attrs().AltNames {
		if slices.Contains(s.AltNames, alt) {
			continue
		}
		if err := ns.Netlink().LinkDelAltName(link, alt); err != nil {
			return fmt.Errorf("taking the alternative name %s away: %w", alt, err)
		}
	}
	return nil
}

// putAltNames reads what there is anew: the kernel drops those that collide when it
// gives a device back.
func (s *Saved) putAltNames(host *netns.Namespace, link netlink.Link) error {
	now, err := host.Netlink().LinkByIndex(link.Attrs().Index)
	if err != nil {
		return err
	}
	for _, alt := range s.AltNames {
		if slices.Contains(now.Attrs().AltNames, alt) {
			continue
		}
		if err := host.Netlink().LinkAddAltName(link, alt); err != nil {
			return fmt.Errorf("%s: %w", alt, err)
		}
	}
	return nil
}

func (s *Saved) putFlags(h *netlink.Handle, link netlink.Link) error {
	for _, f := range []struct {
		flag     uint32
		set, not func(netlink.Link) error
	}{
		{unix.IFF_PROMISC, h.SetPromiscOn, h.SetPromiscOff},
		{unix.IFF_ALLMULTI, h.LinkSetAllmulticastOn, h.LinkSetAllmulticastOff},
		{unix.IFF_NOARP, h.LinkSetARPOff, h.LinkSetARPOn},
	} {
		var err error
		switch has, had := link.Attrs().RawFlags&f.flag != 0, s.Flags&f.flag != 0; {
		case had && !has:
			err = f.set(link)
		case has && !had:
			err = f.not(link)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putAddresses first takes away what was renamed with the interface: the kernel
// changes the labels of IPv4 addresses.
func (s *Saved) putAddresses(host *netns.Namespace, link netlink.Link) error {
	h := host.Netlink()
	held, err := addressesOf(host, link)
	if err != nil {
		return err
	}
	for _, a := range held {
		if !slices.ContainsFunc(s.Addresses, a.isRelabelled) {
			continue
		}
		if err := h.AddrDel(link, a.netlink(0)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("%s: %w", a.IP, err)
		}
	}
	since := time.Since(s.Time)
	for _, a := range s.Addresses {
		if a.hasExpired(since) {
			continue
		}
		if err := h.AddrAdd(link, a.netlink(since)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", a.IP, err)
		}
	}
	return nil
}

func (a Address) isRelabelled(was Address) bool {
	return a.IP.Equal(was.IP) && a.Prefix == was.Prefix && a.Label != was.Label
}

func (a Address) hasExpired(since time.Duration) bool {
	return a.Lifetime != nil && left(a.Lifetime.Valid, since) == 0
}

// left is what a time leaves of a lifetime.
func left(lifetime uint32, since time.Duration) uint32 {
	if lifetime == forever {
		return forever
	}
	return lifetime - uint32(min(max(since/time.Second, 0), time.Duration(lifetime)))
}

// netlink is the address as it is a time later.
func (a Address) netlink(since time.Duration) *netlink.Addr {
	bits := 8 * net.IPv6len
	if a.IP.To4() != nil {
		bits = 8 * net.IPv4len
	}
	addr := &netlink.Addr{
		IPNet: &net.IPNet{IP: a.IP, Mask: net.CIDRMask(a.Prefix, bits)}, Peer: a.Peer,
		Flags: a.Flags, Scope: a.Scope, Label: a.Label,
	}
	// Package netlink sends as many bytes as it is given, and JSON gives sixteen; where
	// it is given none, it makes an address up.
	addr.Broadcast = a.Broadcast.To4()
	if a.Broadcast == nil {
		addr.Broadcast = net.IPv4zero
	}
	if a.Lifetime != nil {
		addr.ValidLft, addr.PreferedLft = int(left(a.Lifetime.Valid, since)), int(left(a.Lifetime.Preferred, since))
	}
	return addr
}

// putRoutes begins with those that make the gateways of others neighbours.
func (s *Saved) putRoutes(h *netlink.Handle, link netlink.Link) error {
	direct := func(r Route) int { return min(len(r.Gateway), 1) }
	routes := slices.SortedStableFunc(slices.Values(s.Routes), func(a, b Route) int { return direct(a) - direct(b) })
	deadline := time.Now().Add(dadTimeout)
	for _, r := range routes {
		if err := putRoute(h, r.netlink(link), deadline); err != nil {
			return fmt.Errorf("the route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// putRoute waits for the source of an IPv6 route: the kernel takes no address for one
// until duplicate address detection is through with it.
func putRoute(h *netlink.Handle, route *netlink.Route, deadline time.Time) error {
	for ; ; time.Sleep(interval) {
		err := h.RouteAdd(route)
		switch {
		case errors.Is(err, unix.EEXIST):
			return nil
		case errors.Is(err, unix.EINVAL) && route.Src != nil && route.Src.To4() == nil && time.Now().Before(deadline):
			continue
		}
		return err
	}
}

func (r Route) netlink(link netlink.Link) *netlink.Route {
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: r.Dst, Gw: r.Gateway, Src: r.Source, Table: r.Table,
		Priority: r.Metric, Scope: netlink.Scope(r.Scope), Protocol: netlink.RouteProtocol(r.Protocol), MTU: r.MTU, AdvMSS: r.AdvMSS,
	}
	if r.OnLink {
		route.Flags = int(netlink.FLAG_ONLINK)
	}
	return route
}
