// SPDX-License-Identifier: Apache-2.0

//go:build netns

package hostdevice

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// site is a node with a device, one end of a cable whose other end is outside, and a
// pod.
type site struct {
	node, outside, sandbox *lan.Host
	host, pod              *netns.Namespace
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{node: lan.NewHost(t), outside: lan.NewHost(t), sandbox: lan.NewHost(t)}
	lan.Join(t, s.node, "dev0", s.outside, "eth0")
	s.node.Address("dev0", "192.0.2.2/24", "2001:db8::2/64")
	s.outside.Address("eth0", "192.0.2.1/24", "2001:db8::1/64")
	s.host, s.pod = open(t, s.node), open(t, s.sandbox)
	s.configure(t)
	return s
}

func open(t *testing.T, h *lan.Host) *netns.Namespace {
	t.Helper()
	ns, err := netns.Open(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// configure gives the device all that is to be restored.
func (s *site) configure(t *testing.T) {
	t.Helper()
	h, link := s.node.Netlink(), s.node.Link("dev0")
	_, dst, _ := net.ParseCIDR("198.51.100.0/24")
	_, dst6, _ := net.ParseCIDR("2001:db8:1::/48")
	for _, err := range []error{
		h.LinkSetAlias(link, "uplink to the press"),
		h.LinkAddAltName(link, "the-press-that-prints"),
		h.LinkAddAltName(link, "press0"),
		h.LinkSetAllmulticastOn(link),
		addressed(s.host, link.Attrs().Index),
		h.LinkSetMTU(link, 1400),
		h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: net.IP{192, 0, 2, 1}, Priority: 7}),
		h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst6, Gw: net.ParseIP("2001:db8::1"), Table: 100}),
		h.AddrAdd(link, &netlink.Addr{IPNet: prefix(t, "192.0.2.77/24"), Broadcast: net.IPv4zero}),
		h.AddrAdd(link, &netlink.Addr{IPNet: prefix(t, "203.0.113.65/32"), Peer: prefix(t, "203.0.113.66/32"), Broadcast: net.IPv4zero}),
		h.AddrAdd(link, &netlink.Addr{IPNet: prefix(t, "fe80::53/64"), Flags: unix.IFA_F_NODAD}),
		h.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{192, 0, 2, 9}, Mask: net.CIDRMask(32, 32)}, Label: "dev0:second", Scope: unix.RT_SCOPE_HOST}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *site) looks(t *testing.T, name string) []string {
	t.Helper()
	return looks(t, s.host, name)
}

// looks is what an operator sees of a device. The kernel's own addresses and their
// routes come when they come.
func looks(t *testing.T, host *netns.Namespace, name string) []string {
	t.Helper()
	link, err := host.Netlink().LinkByName(name)
	if err != nil {
		return nil
	}
	a := link.Attrs()
	all := []string{fmt.Sprintf("%s %q %s %s mtu %d alias %q up %t flags %x",
		a.Name, a.AltNames, link.Type(), a.HardwareAddr, a.MTU, a.Alias, a.Flags&net.FlagUp != 0, a.RawFlags&keptFlags)}
	addresses, err := netns.Dump(func() ([]netlink.Addr, error) { return host.Netlink().AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addresses {
		all = append(all, fmt.Sprintf("%s peer %s broadcast %s label %s scope %d flags %x", addr.IPNet, addr.Peer, addr.Broadcast, addr.Label,
			addr.Scope, addr.Flags&^unix.IFA_F_TENTATIVE))
	}
	routes, err := netns.Dump(func() ([]netlink.Route, error) {
		return host.Netlink().RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: a.Index}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Dst != nil && (r.Dst.IP.IsLinkLocalUnicast() || r.Dst.IP.IsMulticast()) || r.Table == unix.RT_TABLE_LOCAL {
			continue
		}
		all = append(all, fmt.Sprintf("route %s via %s table %d metric %d scope %d", r.Dst, r.Gw, r.Table, r.Priority, r.Scope))
	}
	slices.Sort(all[1:])
	return all
}

func parse(t *testing.T, config string) *Config {
	t.Helper()
	c, err := Parse([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// saved is what Save says, as it comes back from a record.
func saved(t *testing.T, c *Config, host *netns.Namespace) *Saved {
	t.Helper()
	s, err := c.Save(host)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back *Saved
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return back
}

// A device is moved in and comes back as it was, whatever the pod did to it.
func TestNetnsThereAndBack(t *testing.T) {
	tests := []struct {
		name   string
		config func(*site) string
		inPod  func(*testing.T, *lan.Host)
		up     bool
	}{
		{"by name", func(*site) string { return `{"device":"dev0"}` }, func(*testing.T, *lan.Host) {}, true},
		{"by MAC", func(s *site) string { return `{"hwaddr":"` + s.node.Link("dev0").Attrs().HardwareAddr.String() + `"}` },
			func(*testing.T, *lan.Host) {}, true},
		{"a device that is down", func(*site) string { return `{"device":"dev0"}` }, func(*testing.T, *lan.Host) {}, false},
		{"the pod changes all", func(*site) string { return `{"device":"dev0"}` }, func(t *testing.T, p *lan.Host) {
			h, link := p.Netlink(), p.Link("net1")
			for _, err := range []error{
				h.LinkSetMTU(link, 1300), h.LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0, 0, 0, 9}), h.LinkSetUp(link),
				h.SetPromiscOn(link), h.LinkSetAllmulticastOff(link), h.LinkSetARPOff(link),
				h.LinkDelAltName(link, "press0"), h.LinkAddAltName(link, "mine"),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			p.Address("net1", "203.0.113.1/24")
		}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t)
			if !test.up {
				if err := s.node.Netlink().LinkSetDown(s.node.Link("dev0")); err != nil {
					t.Fatal(err)
				}
			}
			before := s.looks(t, "dev0")
			c := parse(t, test.config(s))
			if err := c.Validate(s.host); err != nil {
				t.Fatal(err)
			}
			state := saved(t, c, s.host)
			made, err := c.Move(s.host, s.pod, "net1", state)
			if err != nil {
				t.Fatal(err)
			}
			s.checkInPod(t, made.Mac)
			if err := Check(s.pod, "net1", state); err != nil {
				t.Error(err)
			}
			test.inPod(t, s.sandbox)
			for range 2 {
				if err := Restore(s.host, s.pod, "net1", state); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(before, s.looks(t, "dev0")); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
			if test.up {
				if got := s.outside.Ping(t.Context(), "192.0.2.2", 1); got != 1 {
					t.Error("the device does not answer")
				}
			}
		})
	}
}

func (s *site) checkInPod(t *testing.T, mac string) {
	t.Helper()
	link := s.sandbox.Link("net1")
	a := link.Attrs()
	if a.HardwareAddr.String() != mac || a.Flags&net.FlagUp != 0 || a.Alias != "dev0" {
		t.Errorf("in the pod it is %+v", a)
	}
	if got := s.looks(t, "dev0"); got != nil {
		t.Errorf("on the node there is still %v", got)
	}
}

// Wherever a process was killed, Restore brings the device back.
func TestNetnsRestoreFromAnywhere(t *testing.T) {
	move := func(t *testing.T, s *site, link string) {
		t.Helper()
		if err := s.host.Netlink().LinkSetNsFd(s.node.Link(link), s.pod.Fd()); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		to   func(*testing.T, *site, *Saved)
	}{
		{"untouched", func(*testing.T, *site, *Saved) {}},
		{"marked", func(_ *testing.T, s *site, _ *Saved) {
			_ = s.node.Netlink().LinkSetAlias(s.node.Link("dev0"), "dev0")
		}},
		{"down", func(_ *testing.T, s *site, _ *Saved) {
			_ = s.node.Netlink().LinkSetAlias(s.node.Link("dev0"), "dev0")
			_ = s.node.Netlink().LinkSetDown(s.node.Link("dev0"))
		}},
		{"renamed", func(_ *testing.T, s *site, state *Saved) { _ = state.sendOff(s.host, s.node.Link("dev0")) }},
		{"moved and not named", func(t *testing.T, s *site, state *Saved) {
			_ = state.sendOff(s.host, s.node.Link("dev0"))
			move(t, s, state.Temporary)
		}},
		{"on its way back", func(t *testing.T, s *site, state *Saved) {
			if _, err := parse(t, `{"device":"dev0"}`).Move(s.host, s.pod, "net1", state); err != nil {
				t.Fatal(err)
			}
			if _, err := state.bringHome(s.host, s.pod, "net1"); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t)
			before := s.looks(t, "dev0")
			state := saved(t, parse(t, `{"device":"dev0"}`), s.host)
			test.to(t, s, state)
			for range 2 {
				if err := Restore(s.host, s.pod, "net1", state); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(before, s.looks(t, "dev0")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Where the name is taken meanwhile nothing is lost: the pod keeps the device until
// the name is free, and the node's other device is left alone.
func TestNetnsNamesThatAreTaken(t *testing.T) {
	s := newSite(t)
	c := parse(t, `{"device":"dev0"}`)
	state := saved(t, c, s.host)
	before := s.looks(t, "dev0")

	lan.Join(t, s.sandbox, "net1", s.outside, "eth1")
	if _, err := c.Move(s.host, s.pod, "net1", state); !errors.Is(err, unix.EEXIST) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, s.looks(t, "dev0")); diff != "" {
		t.Errorf("after a move that failed (-want +got):\n%s", diff)
	}
	if _, err := c.Move(s.host, s.pod, "net2", state); err != nil {
		t.Fatal(err)
	}
	lan.Join(t, s.node, "dev0", s.outside, "eth2")
	other := s.looks(t, "dev0")
	if err := Restore(s.host, s.pod, "net2", state); !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "dev0") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(other[0], s.looks(t, "dev0")[0]); diff != "" {
		t.Errorf("the other device (-want +got):\n%s", diff)
	}
	if err := s.node.Netlink().LinkDel(s.node.Link("dev0")); err != nil {
		t.Fatal(err)
	}
	if err := Restore(s.host, s.pod, "net2", state); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, s.looks(t, "dev0")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A device of software ends with the pod's namespace: there is nothing to restore.
func TestNetnsNamespaceDies(t *testing.T) {
	s := newSite(t)
	c := parse(t, `{"device":"dev0"}`)
	state := saved(t, c, s.host)
	if _, err := c.Move(s.host, s.pod, "net1", state); err != nil {
		t.Fatal(err)
	}
	_ = s.pod.Close()
	s.sandbox.Remove()
	for range 2 {
		if err := Restore(s.host, nil, "net1", state); err != nil {
			t.Error(err)
		}
	}
}

// What the node needs, and what another pod has, is refused before it is touched.
func TestNetnsDevicesInUse(t *testing.T) {
	onNode := func(t *testing.T, _ *site, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name, config string
		use          func(*testing.T, *site)
		want         error
		says         string
	}{
		{"the loopback", `{"device":"lo"}`, func(*testing.T, *site) {}, ErrInUse, "loopback"},
		{"a port of a bridge", `{"device":"dev0"}`, func(t *testing.T, s *site) {
			h := s.node.Netlink()
			onNode(t, s, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
			onNode(t, s, h.LinkSetMaster(s.node.Link("dev0"), s.node.Link("br0")))
		}, ErrInUse, "port of br0"},
		{"a bridge with ports", `{"device":"br0"}`, func(t *testing.T, s *site) {
			h := s.node.Netlink()
			onNode(t, s, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
			onNode(t, s, h.LinkSetMaster(s.node.Link("dev0"), s.node.Link("br0")))
		}, ErrInUse, "dev0"},
		{"a master", `{"device":"dev0"}`, func(t *testing.T, s *site) {
			onNode(t, s, s.node.Netlink().LinkAdd(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{
				Name: "mac0", ParentIndex: s.node.Link("dev0").Attrs().Index,
			}, Mode: netlink.MACVLAN_MODE_BRIDGE}))
		}, ErrInUse, "macvlan mac0"},
		{"the default route's", `{"device":"dev0"}`, func(t *testing.T, s *site) {
			onNode(t, s, s.node.Netlink().RouteAdd(&netlink.Route{LinkIndex: s.node.Link("dev0").Attrs().Index, Gw: net.IP{192, 0, 2, 1}}))
		}, ErrInUse, "default route"},
		{"another pod's", `{"device":"dev0"}`, func(t *testing.T, s *site) {
			c := parse(t, `{"device":"dev0"}`)
			_, err := c.Move(s.host, open(t, lan.NewHost(t)), "net1", saved(t, c, s.host))
			onNode(t, s, err)
		}, netif.ErrNotFound, `device "dev0"`},
		{"of a MAC that nobody has", `{"hwaddr":"02:00:5e:00:53:ff"}`, func(*testing.T, *site) {}, netif.ErrNotFound, "hwaddr"},
		{"of a PCI address that nobody has", `{"pciBusID":"ffff:ff:1f.7"}`, func(*testing.T, *site) {}, nil, "no such device"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t)
			test.use(t, s)
			err := parse(t, test.config).Validate(s.host)
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want %v with %q", err, test.want, test.says)
			}
		})
	}
}

func TestNetnsCheckFindsAnotherDevice(t *testing.T) {
	s := newSite(t)
	c := parse(t, `{"device":"dev0"}`)
	state := saved(t, c, s.host)
	if err := Check(s.pod, "net1", state); !errors.As(err, new(*netif.DriftError)) {
		t.Errorf("before it is there: %v", err)
	}
	lan.Join(t, s.sandbox, "net1", s.outside, "eth1")
	if err := Check(s.pod, "net1", state); !errors.As(err, new(*netif.DriftError)) {
		t.Errorf("another device: %v", err)
	}
}
