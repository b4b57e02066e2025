// SPDX-License-Identifier: Apache-2.0

package hostdevice

import (
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// What tells a device from others, by what is known of it.
func TestIsOf(t *testing.T) {
	t.Parallel()
	own, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	card := &Saved{Name: "eth1", MAC: own, Kind: hardware, Permanent: own, Parent: "pci/0000:3b:00.1", Index: 7, Temporary: "weir-1"}
	old := &Saved{Name: "eth1", MAC: own, Kind: hardware, Permanent: own, Index: 7, Temporary: "weir-1"}
	oldest := &Saved{Name: "eth1", MAC: own, Kind: hardware, Index: 7, Temporary: "weir-1"}
	cable := &Saved{Name: "dev0", MAC: own, Kind: "veth", Index: 7, Temporary: "weir-1"}
	parent := func(a netlink.LinkAttrs) netlink.LinkAttrs {
		a.ParentDevBus, a.ParentDev = "pci", "0000:3b:00.1"
		return a
	}
	for _, c := range []struct {
		name string
		s    *Saved
		a    netlink.LinkAttrs
		want bool
	}{
		{"a card under any name", card, parent(netlink.LinkAttrs{Name: "dev12", PermHWAddr: own, HardwareAddr: other, Index: 3}), true},
		{"the other port of the card", card, parent(netlink.LinkAttrs{Name: "eth1", PermHWAddr: other, HardwareAddr: own, Index: 7}), false},
		{"a card that its driver gave another MAC", card, parent(netlink.LinkAttrs{Name: "net1", Alias: "eth1", PermHWAddr: other}), true},
		{"another card with the names and the MAC", card, netlink.LinkAttrs{Name: "eth1", Alias: "eth1", PermHWAddr: own, Index: 7}, false},
		{"no parent known, the MAC burnt in", old, netlink.LinkAttrs{Name: "dev12", PermHWAddr: own}, true},
		{"no parent known, another MAC burnt in", old, netlink.LinkAttrs{Name: "eth1", Alias: "eth1", PermHWAddr: other, Index: 7}, false},
		{"nothing known but the mark", oldest, netlink.LinkAttrs{Name: "dev12", Alias: "eth1"}, true},
		{"nothing known, no mark", oldest, netlink.LinkAttrs{Name: "dev12", HardwareAddr: own}, false},
		{"software untouched", cable, netlink.LinkAttrs{Name: "dev0", HardwareAddr: own, Index: 7}, true},
		{"software on its way", cable, netlink.LinkAttrs{Name: "weir-1", HardwareAddr: other, Index: 9}, true},
		{"software in the pod", cable, netlink.LinkAttrs{Name: "net1", Alias: "dev0", HardwareAddr: other, Index: 9}, true},
		{"software that has the index only", cable, netlink.LinkAttrs{Name: "eth0", HardwareAddr: other, Index: 7}, false},
		{"software that has the alias only", cable, netlink.LinkAttrs{Name: "cable", Alias: "dev0", HardwareAddr: other, Index: 9}, false},
		{"software that has the name only", cable, netlink.LinkAttrs{Name: "dev0", HardwareAddr: other, Index: 9}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var link netlink.Link = &netlink.Device{LinkAttrs: c.a}
			if c.s.Kind == "veth" {
				link = &netlink.Veth{LinkAttrs: c.a}
			}
			if got := c.s.isOf(link, "net1"); got != c.want {
				t.Errorf("isOf = %t", got)
			}
			if c.s.isOf(&netlink.Bridge{LinkAttrs: c.a}, "net1") {
				t.Error("a bridge is taken for it")
			}
		})
	}
}

func TestBestDefaults(t *testing.T) {
	t.Parallel()
	some := &net.IPNet{IP: net.IP{10, 0, 0, 0}, Mask: net.CIDRMask(8, 32)}
	all := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	route := func(index, metric int) netlink.Route {
		return netlink.Route{LinkIndex: index, Dst: all, Priority: metric, Type: unix.RTN_UNICAST}
	}
	unreachable := route(9, 0)
	unreachable.Type = unix.RTN_UNREACHABLE
	for _, c := range []struct {
		name   string
		routes []netlink.Route
		want   []int
	}{
		{"none", []netlink.Route{{LinkIndex: 1, Dst: some, Type: unix.RTN_UNICAST}, unreachable}, nil},
		{"without a destination", []netlink.Route{{LinkIndex: 1, Type: unix.RTN_UNICAST}}, []int{1}},
		{"the least metric", []netlink.Route{route(1, 200), route(2, 100), route(3, 300)}, []int{2}},
		{"two as good", []netlink.Route{route(1, 200), route(2, 100), route(3, 100)}, []int{2, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			best := bestDefaults(c.routes)
			for i, r := range best {
				if len(best) != len(c.want) || r.LinkIndex != c.want[i] {
					t.Errorf("bestDefaults = %v, want %v", best, c.want)
				}
			}
			if len(best) != len(c.want) {
				t.Errorf("%d routes, want %d", len(best), len(c.want))
			}
		})
	}
}

func TestLifetimesRunDown(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		lifetime := rapid.Uint32().Draw(t, "lifetime")
		since := time.Duration(rapid.Int64().Draw(t, "since"))
		got := left(lifetime, since)
		switch {
		case lifetime == forever && got != forever:
			t.Errorf("of ever there is %d left", got)
		case got > lifetime:
			t.Errorf("%d of %d is left", got, lifetime)
		case lifetime != forever && since > time.Duration(lifetime)*time.Second && got != 0:
			t.Errorf("%d of %d is left after %s", got, lifetime, since)
		case since < time.Second && got != lifetime:
			t.Errorf("%d of %d is left after %s", got, lifetime, since)
		}
	})
}
