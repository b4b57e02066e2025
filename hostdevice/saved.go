// SPDX-License-Identifier: Apache-2.0

package hostdevice

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
)

// Saved is what a device was like on the node, for JSON.
type Saved struct {
	// Name, AltNames, Alias, MAC, MTU and Up are those of the interface.
	Name     string           `json:"name"`
	AltNames []string         `json:"altNames,omitempty"`
	Alias    string           `json:"alias,omitempty"`
	MAC      net.HardwareAddr `json:"mac,omitempty"`
	MTU      int              `json:"mtu"`
	Up       bool             `json:"up"`
	// Flags are of IFF_PROMISC, IFF_ALLMULTI and IFF_NOARP those that somebody set.
	Flags uint32 `json:"flags,omitempty"`
	// Addresses are all but IPv6's temporary ones (RFC 8981), which are drawn anew.
	Addresses []Address `json:"addresses,omitempty"`
	// Routes are those through it alone, in all tables, that neither the kernel nor
	// a router advertisement made: those come again by themselves.
	Routes []Route `json:"routes,omitempty"`
	// Kind, Permanent and Parent tell the device from others: its kind to the
	// kernel, the MAC that was burnt in (Linux 5.6), and the device below on its bus
	// (5.13). One that has neither of the latter is known by Index and its names.
	Kind      string           `json:"kind"`
	Permanent net.HardwareAddr `json:"permanent,omitempty"`
	Parent    string           `json:"parent,omitempty"`
	Index     int              `json:"index"`
	// Temporary is its name on the way.
	Temporary string `json:"temporary"`
	// Time is when it was like this, which lifetimes count from.
	Time time.Time `json:"time"`
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
	// Lifetime is nil for ever.
	Lifetime *Lifetime `json:"lifetime,omitempty"`
}

// Lifetime is what is left of an address's, in seconds; the largest number is for
// ever.
type Lifetime struct {
	Valid     uint32 `json:"valid"`
	Preferred uint32 `json:"preferred"`
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
	AdvMSS   int        `json:"advmss,omitempty"`
	// OnLink is set when the gateway is taken for a neighbour whatever its address.
	OnLink bool `json:"onLink,omitempty"`
}

// keptFlags are what a pod may change of an interface that stays with it.
const keptFlags = unix.IFF_PROMISC | unix.IFF_ALLMULTI | unix.IFF_NOARP

// Save says what the device is like now, touching nothing. It is nil for a device
// without an interface.
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
		Name: a.Name, AltNames: a.AltNames, Alias: a.Alias, MAC: a.HardwareAddr, MTU: a.MTU,
		Up: a.Flags&net.FlagUp != 0, Flags: a.RawFlags & keptFlags,
		Kind: link.Type(), Permanent: a.PermHWAddr, Parent: parentOf(a), Index: a.Index,
		Temporary: temporaryName(a), Time: time.Now(),
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
		// For IPv4 the same bit says that an address is not the first of its network.
		if a.IP.To4() == nil && a.Flags&unix.IFA_F_TEMPORARY != 0 {
			continue
		}
		all = append(all, addressOf(a))
	}
	return all, nil
}

// settable are the flags of an address that are not the kernel's to set.
const settable = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MCAUTOJOIN | unix.IFA_F_MANAGETEMPADDR

func addressOf(a netlink.Addr) Address {
	ones, _ := a.Mask.Size()
	saved := Address{
		IP: a.IP, Prefix: ones, Peer: a.Peer, Broadcast: a.Broadcast, Label: a.Label,
		Flags: a.Flags & settable, Scope: a.Scope,
	}
	if a.Flags&unix.IFA_F_PERMANENT == 0 || uint32(a.PreferedLft) != forever {
		saved.Lifetime = &Lifetime{Valid: uint32(a.ValidLft), Preferred: uint32(a.PreferedLft)}
	}
	return saved
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
		all = append(all, Route{
			Dst: r.Dst, Gateway: r.Gw, Source: r.Src, Table: r.Table, Metric: r.Priority, Scope: int(r.Scope),
			Protocol: int(r.Protocol), MTU: r.MTU, AdvMSS: r.AdvMSS, OnLink: r.Flags&int(netlink.FLAG_ONLINK) != 0,
		})
	}
	return all, nil
}

// isOf tells whether an interface is that of the saved device, whatever it is called
// and wherever it is by now; name is the one for the pod. An alias alone proves
// nothing of a device of software: anybody may have given it to any of them.
func (s *Saved) isOf(link netlink.Link, name string) bool {
	a := link.Attrs()
	marked := a.Alias == s.Name || a.Name == s.Temporary
	switch {
	case link.Type() != s.Kind:
		return false
	case s.Parent != "":
		// A virtual function gets another permanent MAC from its driver now and then.
		return parentOf(a) == s.Parent && (bytes.Equal(a.PermHWAddr, s.Permanent) || marked)
	case len(s.Permanent) > 0:
		return bytes.Equal(a.PermHWAddr, s.Permanent)
	case a.Name == s.Temporary, marked && (a.Name == name || a.Name == s.Name):
		return true
	case a.Index == s.Index:
		return marked || bytes.Equal(a.HardwareAddr, s.MAC)
	case s.Kind == hardware:
		return marked
	}
	return a.Name == s.Name && bytes.Equal(a.HardwareAddr, s.MAC)
}

// hardware is the kind of what package rtnetlink made none of.
const hardware = "device"
