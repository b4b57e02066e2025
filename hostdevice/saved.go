// SPDX-License-Identifier: Apache-2.0

package hostdevice

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
)

// Saved is what a device was like on the node, for JSON.
type Saved struct {
	// Name, Alias, MAC, MTU and Up are those of the interface.
	Name  string           `json:"name"`
	Alias string           `json:"alias,omitempty"`
	MAC   net.HardwareAddr `json:"mac,omitempty"`
	MTU   int              `json:"mtu"`
	Up    bool             `json:"up"`
	// Addresses are those that somebody gave it; what the kernel makes of its own
	// it makes again.
	Addresses []Address `json:"addresses,omitempty"`
	// Routes are those through it that somebody made, in all tables.
	Routes []Route `json:"routes,omitempty"`
	// Kind, Permanent and Parent tell the device from others: its kind to the
	// kernel, the MAC that was burnt in, and the device below on its bus (Linux
	// 5.13). One that has neither of the latter is known by its names.
	Kind      string           `json:"kind"`
	Permanent net.HardwareAddr `json:"permanent,omitempty"`
	Parent    string           `json:"parent,omitempty"`
	// Temporary is its name on the way.
	Temporary string `json:"temporary"`
}

// Address is an address of an interface.
type Address struct {
	IP        net.IP     `json:"ip"`
	Prefix    int        `json:"prefix"`
	Peer      *net.IPNet `json:"peer,omitempty"`
	Broadcast net.IP     `json:"broadcast,omitempty"`
	Label     string     `json:"label,omitempty"`
	Flags     int        `json:"flags,omitempty"`
	Scope     int        `json:"scope,omitempty"`
}

// Route is a route through an interface.
type Route struct {
	// Dst is nil for a default route.
	Dst      *net.IPNet `json:"dst,omitempty"`
	Gateway  net.IP     `json:"gateway,omitempty"`
	Source   net.IP     `json:"source,omitempty"`
	Table    int        `json:"table"`
	Metric   int        `json:"metric,omitempty"`
	Scope    int        `json:"scope,omitempty"`
	Protocol int        `json:"protocol,omitempty"`
	MTU      int        `json:"mtu,omitempty"`
	// OnLink is set when the gateway is taken for a neighbour whatever its address.
	OnLink bool `json:"onLink,omitempty"`
}

// Save says what the device is like now. It is nil for a device without an
// interface.
func (c *Config) Save(host *netns.Namespace) (*Saved, error) {
	if c.IsUserspace() {
		return nil, nil //nolint:nilnil // There is nothing to put back.
	}
	link, err := c.find(host)
	if err != nil {
		return nil, err
	}
	a := link.Attrs()
	s := &Saved{
		Name: a.Name, Alias: a.Alias, MAC: a.HardwareAddr, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0,
		Kind: link.Type(), Permanent: a.PermHWAddr, Parent: parentOf(a), Temporary: temporaryName(a),
	}
	if s.Addresses, err = addressesOf(host, link); err != nil {
		return nil, err
	}
	if s.Routes, err = routesOf(host, link); err != nil {
		return nil, err
	}
	return s, nil
}

func parentOf(a *netlink.LinkAttrs) string {
	if a.ParentDev == "" {
		return ""
	}
	return a.ParentDevBus + "/" + a.ParentDev
}

// temporaryName is one that no other device of the node has.
func temporaryName(a *netlink.LinkAttrs) string {
	hash := fnv.New32a()
	fmt.Fprint(hash, a.Name, a.Index, a.HardwareAddr)
	return fmt.Sprintf("weir-%08x", hash.Sum32())
}

func addressesOf(host *netns.Namespace, link netlink.Link) ([]Address, error) {
	held, err := netns.Dump(func() ([]netlink.Addr, error) { return host.Netlink().AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of %s: %w", link.Attrs().Name, err)
	}
	var all []Address
	for _, a := range held {
		// Neither what has a lifetime, from DHCP or advertisements, nor the kernel's
		// own link-local address: whoever made them makes them anew.
		if a.Flags&unix.IFA_F_PERMANENT == 0 || a.IP.To4() == nil && a.IP.IsLinkLocalUnicast() {
			continue
		}
		ones, _ := a.Mask.Size()
		all = append(all, Address{IP: a.IP, Prefix: ones, Peer: a.Peer, Broadcast: a.Broadcast, Label: a.Label,
			Flags: a.Flags & (unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MCAUTOJOIN), Scope: a.Scope})
	}
	return all, nil
}

// routesOf are the routes through an interface alone that the kernel did not make
// itself.
func routesOf(host *netns.Namespace, link netlink.Link) ([]Route, error) {
	held, err := netns.Dump(func() ([]netlink.Route, error) {
		return host.Netlink().RouteListFiltered(netlink.FAMILY_ALL,
			&netlink.Route{LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("listing the routes of %s: %w", link.Attrs().Name, err)
	}
	var all []Route
	for _, r := range held {
		if r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA || r.Type != unix.RTN_UNICAST || len(r.MultiPath) > 0 {
			continue
		}
		all = append(all, Route{Dst: r.Dst, Gateway: r.Gw, Source: r.Src, Table: r.Table, Metric: r.Priority, Scope: int(r.Scope),
			Protocol: int(r.Protocol), MTU: r.MTU, OnLink: r.Flags&int(netlink.FLAG_ONLINK) != 0})
	}
	return all, nil
}

// isOf tells whether an interface is that of the saved device, whatever it is called
// and wherever it is by now.
func (s *Saved) isOf(link netlink.Link) bool {
	a := link.Attrs()
	if link.Type() != s.Kind {
		return false
	}
	if s.Parent != "" || len(s.Permanent) > 0 {
		return parentOf(a) == s.Parent && bytes.Equal(a.PermHWAddr, s.Permanent)
	}
	return a.Name == s.Temporary || a.Alias == s.Name || a.Name == s.Name && bytes.Equal(a.HardwareAddr, s.MAC)
}

// in finds the device in a namespace; nil when it is not there.
func (s *Saved) in(ns *netns.Namespace) (netlink.Link, error) {
	links, err := linksOf(ns)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(links, s.isOf)
	if i < 0 {
		return nil, nil
	}
	return links[i], nil
}

// Restore puts the device back to where and what it was, from wherever it is: in the
// pod, on the node under any name, on its way, or untouched. The pod is nil when its
// namespace is gone; then a device of hardware is with the node again, and one of
// software gone, which is no error.
func Restore(host, pod *netns.Namespace, name string, s *Saved) error {
	if s == nil {
		return nil
	}
	if err := s.bringHome(host, pod); err != nil {
		return fmt.Errorf("taking %s, once %s, back from the pod: %w", name, s.Name, err)
	}
	link, err := s.in(host)
	if err != nil || link == nil {
		return err
	}
	if err := s.putBack(host, link); err != nil {
		return fmt.Errorf("restoring %s: %w", s.Name, err)
	}
	return nil
}

func (s *Saved) bringHome(host, pod *netns.Namespace) error {
	if pod == nil {
		return nil
	}
	link, err := s.in(pod)
	if err != nil || link == nil {
		return err
	}
	if err := s.sendOff(pod, link, s.Name); err != nil {
		return err
	}
	return pod.Netlink().LinkSetNsFd(link, host.Fd())
}

// putBack gives an interface that is on the node what it has no more.
func (s *Saved) putBack(host *netns.Namespace, link netlink.Link) error {
	steps := []struct {
		what string
		is   bool
		do   func(h *netlink.Handle) error
	}{
		{"name", link.Attrs().Name == s.Name, func(h *netlink.Handle) error { return s.rename(h, link) }},
		{"alias", link.Attrs().Alias == s.Alias, func(h *netlink.Handle) error { return h.LinkSetAlias(link, s.Alias) }},
		{"MAC", bytes.Equal(link.Attrs().HardwareAddr, s.MAC), func(h *netlink.Handle) error { return h.LinkSetHardwareAddr(link, s.MAC) }},
		{"MTU", link.Attrs().MTU == s.MTU, func(h *netlink.Handle) error { return h.LinkSetMTU(link, s.MTU) }},
		{"addresses", false, func(h *netlink.Handle) error { return s.putAddresses(host, link) }},
		{"state", !s.Up, func(h *netlink.Handle) error { return h.LinkSetUp(link) }},
		{"routes", !s.Up, func(h *netlink.Handle) error { return s.putRoutes(h, link) }},
	}
	for _, step := range steps {
		if step.is {
			continue
		}
		if err := step.do(host.Netlink()); err != nil {
			return fmt.Errorf("its %s: %w", step.what, err)
		}
	}
	return nil
}

// rename needs the interface down on kernels before 6.2.
func (s *Saved) rename(h *netlink.Handle, link netlink.Link) error {
	if err := h.LinkSetDown(link); err != nil {
		return err
	}
	return h.LinkSetName(link, s.Name)
}

// putAddresses takes away first what has another label than it had: with a rename
// the kernel changes them.
func (s *Saved) putAddresses(host *netns.Namespace, link netlink.Link) error {
	h := host.Netlink()
	held, err := addressesOf(host, link)
	if err != nil {
		return err
	}
	for _, a := range held {
		if !slices.ContainsFunc(s.Addresses, a.equal) {
			if err := h.AddrDel(link, a.netlink()); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("%s: %w", a.IP, err)
			}
		}
	}
	for _, a := range s.Addresses {
		if err := h.AddrAdd(link, a.netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", a.IP, err)
		}
	}
	return nil
}

func (a Address) equal(other Address) bool {
	return a.IP.Equal(other.IP) && a.Prefix == other.Prefix && a.Label == other.Label
}

func (a Address) netlink() *netlink.Addr {
	bits := 8 * net.IPv6len
	if a.IP.To4() != nil {
		bits = 8 * net.IPv4len
	}
	addr := &netlink.Addr{
		IPNet: &net.IPNet{IP: a.IP, Mask: net.CIDRMask(a.Prefix, bits)}, Peer: a.Peer, Broadcast: a.Broadcast,
		Flags: a.Flags, Scope: a.Scope,
	}
	if a.IP.To4() != nil {
		addr.Label = a.Label
	}
	return addr
}

func (s *Saved) putRoutes(h *netlink.Handle, link netlink.Link) error {
	for _, r := range s.Routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: r.Dst, Gw: r.Gateway, Src: r.Source, Table: r.Table,
			Priority: r.Metric, Scope: netlink.Scope(r.Scope), Protocol: netlink.RouteProtocol(r.Protocol), MTU: r.MTU}
		if r.OnLink {
			route.Flags = int(netlink.FLAG_ONLINK)
		}
		if err := h.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("the route to %s: %w", r.Dst, err)
		}
	}
	return nil
}
