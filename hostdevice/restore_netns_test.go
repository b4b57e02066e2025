// SPDX-License-Identifier: Apache-2.0

//go:build netns

package hostdevice

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func prefix(t *testing.T, s string) *net.IPNet {
	t.Helper()
	p, err := netlink.ParseIPNet(s)
	must(t, err)
	return p
}

// given moves the node's dev0 into the pod as net1.
func (s *site) given(t *testing.T) *Saved {
	t.Helper()
	c := parse(t, `{"device":"dev0"}`)
	state := saved(t, c, s.host)
	_, err := c.Move(s.host, s.pod, "net1", state)
	must(t, err)
	return state
}

func (s *site) restored(t *testing.T, state *Saved, before []string) {
	t.Helper()
	for range 2 {
		must(t, Restore(s.host, s.pod, "net1", state))
		if diff := cmp.Diff(before, s.looks(t, "dev0")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// An operator's alias may be the name of any device; it makes no other one of it.
func TestNetnsRestoreLeavesOthersAlone(t *testing.T) {
	s := newSite(t)
	lan.Join(t, s.node, "cable", s.outside, "eth1")
	must(t, s.node.Netlink().LinkSetAlias(s.node.Link("cable"), "dev0"), addressed(s.host, s.node.Link("cable").Attrs().Index))
	other := s.looks(t, "cable")
	state := s.given(t)
	_ = s.pod.Close()
	s.sandbox.Remove()
	if stranded, err := state.IsStranded(s.host); stranded || err != nil {
		t.Errorf("another device is taken for it: %t, %v", stranded, err)
	}
	if err := Restore(s.host, nil, "net1", state); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(other, s.looks(t, "cable")); diff != "" {
		t.Errorf("another device (-want +got):\n%s", diff)
	}
}

// What becomes of a device that nobody took is its operator's to say.
func TestNetnsRestoreLeavesTheUntouchedAlone(t *testing.T) {
	s := newSite(t)
	state := saved(t, parse(t, `{"device":"dev0"}`), s.host)
	s.node.Address("dev0", "203.0.113.9/24")
	must(t, s.node.Netlink().LinkSetMTU(s.node.Link("dev0"), 1450))
	s.restored(t, state, s.looks(t, "dev0"))
}

// A pod can give its device the names of the node's.
func TestNetnsRestoreInSpiteOfAlternativeNames(t *testing.T) {
	s := newSite(t)
	before := s.looks(t, "dev0")
	lan.Join(t, s.node, "cable", s.outside, "eth1")
	state := s.given(t)
	link := s.sandbox.Link("net1")
	must(t, s.sandbox.Netlink().LinkAddAltName(link, "dev0"), s.sandbox.Netlink().LinkAddAltName(link, "cable"))
	s.restored(t, state, before)
}

// A route may need an address that is still looked for on the wire, or another route.
func TestNetnsRestoreRoutesThatNeedMore(t *testing.T) {
	s := newSite(t)
	h, link := s.node.Netlink(), s.node.Link("dev0")
	index := link.Attrs().Index
	must(t,
		h.AddrAdd(link, &netlink.Addr{IPNet: prefix(t, "2001:db8:5::2/64")}),
		settled(s.host, index),
		h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: prefix(t, "203.0.113.0/24"), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_STATIC}),
		h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: prefix(t, "10.0.0.0/8"), Gw: net.IP{203, 0, 113, 1}}),
		h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: prefix(t, "2001:db8:6::/48"), Src: net.ParseIP("2001:db8:5::2")}),
	)
	before := s.looks(t, "dev0")
	s.restored(t, s.given(t), before)
}

// settled waits until duplicate address detection is through.
func settled(host *netns.Namespace, index int) error {
	return until(host, index, func(held []netlink.Addr) bool {
		return !slices.ContainsFunc(held, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
	})
}

// addressed waits until the kernel has made the link-local address, which it does
// when the wire is up.
func addressed(host *netns.Namespace, index int) error {
	return until(host, index, func(held []netlink.Addr) bool {
		return slices.ContainsFunc(held, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() })
	})
}

func until(host *netns.Namespace, index int, done func([]netlink.Addr) bool) error {
	for deadline := time.Now().Add(4 * dadTimeout); time.Now().Before(deadline); time.Sleep(interval) {
		link, err := host.Netlink().LinkByIndex(index)
		if err != nil {
			return err
		}
		held, err := netns.Dump(func() ([]netlink.Addr, error) { return host.Netlink().AddrList(link, netlink.FAMILY_V6) })
		if err != nil {
			return err
		}
		if done(held) {
			return nil
		}
	}
	return unix.ETIMEDOUT
}

func TestNetnsDefaultRoutes(t *testing.T) {
	for _, test := range []struct {
		name   string
		routes func(dev, other int) []netlink.Route
		ok     bool
	}{
		{"one hop of several", func(dev, other int) []netlink.Route {
			return []netlink.Route{{Dst: prefix(t, "0.0.0.0/0"), MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: other, Gw: net.IP{198, 51, 100, 1}}, {LinkIndex: dev, Gw: net.IP{192, 0, 2, 1}}}}}
		}, false},
		{"of a router advertisement", func(dev, _ int) []netlink.Route {
			return []netlink.Route{{LinkIndex: dev, Dst: prefix(t, "::/0"), Gw: net.ParseIP("2001:db8::1"), Protocol: unix.RTPROT_RA}}
		}, false},
		{"behind a better one", func(dev, other int) []netlink.Route {
			return []netlink.Route{
				{LinkIndex: other, Dst: prefix(t, "0.0.0.0/0"), Gw: net.IP{198, 51, 100, 1}, Priority: 100},
				{LinkIndex: dev, Dst: prefix(t, "0.0.0.0/0"), Gw: net.IP{192, 0, 2, 1}, Priority: 200},
			}
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t)
			lan.Join(t, s.node, "cable", s.outside, "eth1")
			s.node.Address("cable", "198.51.100.2/25")
			for _, r := range test.routes(s.node.Link("dev0").Attrs().Index, s.node.Link("cable").Attrs().Index) {
				must(t, s.node.Netlink().RouteAdd(&r))
			}
			if err := parse(t, `{"device":"dev0"}`).Validate(s.host); (err == nil) != test.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

// What the kernel moves nowhere is told before anything is done to it.
func TestNetnsImmovable(t *testing.T) {
	s := newSite(t)
	must(t, s.node.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	must(t, s.node.Netlink().LinkSetUp(s.node.Link("br0")))
	before := s.looks(t, "br0")
	c := parse(t, `{"device":"br0"}`)
	if err := c.Validate(s.host); !errors.Is(err, ErrImmovable) || !strings.Contains(err.Error(), `device "br0"`) {
		t.Errorf("error %v", err)
	}
	if _, err := c.Move(s.host, s.pod, "net1", saved(t, c, s.host)); !errors.Is(err, ErrImmovable) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before[0], s.looks(t, "br0")[0]); diff != "" {
		t.Errorf("after a move that failed (-want +got):\n%s", diff)
	}
}

// Restore is cut off after each of its steps, with a device that its pod has changed.
func TestNetnsRestoreCutOff(t *testing.T) {
	probe := newSite(t)
	count := len(saved(t, parse(t, `{"device":"dev0"}`), probe.host).steps(probe.host, probe.node.Link("dev0")))
	for done := range count + 1 {
		t.Run(strconv.Itoa(done), func(t *testing.T) {
			s := newSite(t)
			before := s.looks(t, "dev0")
			state := s.given(t)
			h, link := s.sandbox.Netlink(), s.sandbox.Link("net1")
			must(t, h.LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0, 0, 0, 9}), h.LinkSetMTU(link, 1300), h.SetPromiscOn(link))
			if _, err := state.bringHome(s.host, s.pod, "net1"); err != nil {
				t.Fatal(err)
			}
			home := s.node.Link(state.Temporary)
			must(t, state.rename(s.host, home))
			for _, step := range state.steps(s.host, home)[:done] {
				must(t, step.do())
			}
			s.restored(t, state, before)
		})
	}
}

// A pod may have two devices that had one name on the node, one after the other.
func TestNetnsRestoreOneOfTwo(t *testing.T) {
	s := newSite(t)
	first := s.given(t)
	lan.Join(t, s.node, "dev0", s.outside, "eth1")
	c := parse(t, `{"device":"dev0"}`)
	second := saved(t, c, s.host)
	before := s.looks(t, "dev0")
	_, err := c.Move(s.host, s.pod, "net2", second)
	must(t, err)
	must(t, Restore(s.host, s.pod, "net2", second))
	if diff := cmp.Diff(before[0], s.looks(t, "dev0")[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	must(t, Check(s.pod, "net1", first))
}

// The MAC that is asked for is the device's in the pod only.
func TestNetnsMAC(t *testing.T) {
	s := newSite(t)
	before := s.looks(t, "dev0")
	c := parse(t, `{"device":"dev0","runtimeConfig":{"mac":"02:00:5e:00:53:77"}}`)
	state := saved(t, c, s.host)
	made, err := c.Move(s.host, s.pod, "net1", state)
	must(t, err)
	if got := s.sandbox.Link("net1").Attrs().HardwareAddr.String(); got != "02:00:5e:00:53:77" || made.Mac != got {
		t.Errorf("the MAC is %s, the result says %s", got, made.Mac)
	}
	must(t, Check(s.pod, "net1", state))
	s.restored(t, state, before)
}

// An address that was lent for a time has what is left of it.
func TestNetnsLifetimes(t *testing.T) {
	s := newSite(t)
	for address, valid := range map[string]int{"203.0.113.40/24": 1000, "203.0.113.41/24": 100, "2001:db8:9::9/128": 1000} {
		must(t, s.node.Netlink().AddrAdd(s.node.Link("dev0"), &netlink.Addr{IPNet: prefix(t, address), ValidLft: valid, PreferedLft: valid / 2}))
	}
	state := s.given(t)
	state.Time = state.Time.Add(-200 * time.Second)
	must(t, Restore(s.host, s.pod, "net1", state))
	held, err := addressesOf(s.host, s.node.Link("dev0"))
	must(t, err)
	got := map[string]bool{}
	for _, a := range held {
		if a.Lifetime != nil {
			got[a.IP.String()] = a.Lifetime.Valid > 780 && a.Lifetime.Valid <= 800 && a.Lifetime.Preferred > 280 && a.Lifetime.Preferred <= 300
		}
	}
	if diff := cmp.Diff(map[string]bool{"203.0.113.40": true, "2001:db8:9::9": true}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
