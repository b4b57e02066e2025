// SPDX-License-Identifier: Apache-2.0

//go:build netns

package macvlan_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/macvlan"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// site is a node whose eth1 is on a wire with an outside host.
type site struct {
	outside, node *lan.Host
	host          *netns.Namespace
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{outside: lan.NewHost(t), node: lan.NewHost(t)}
	lan.Join(t, s.outside, "eth0", s.node, "eth1")
	s.outside.Address("eth0", "192.0.2.1/24", "2001:db8::1/64")
	s.host = open(t, s.node)
	return s
}

func open(t *testing.T, h *lan.Host) *netns.Namespace {
	t.Helper()
	n, err := netns.Open(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func parse(t *testing.T, config string) *macvlan.Config {
	t.Helper()
	c, err := macvlan.Parse([]byte(config), "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pod is a pod with a macvlan interface net1.
type pod struct {
	*lan.Host
	ns     *netns.Namespace
	result *current.Result
}

// attach makes a pod with the configured net1, which has the addresses.
func (s *site) attach(t *testing.T, c *macvlan.Config, addresses ...string) *pod {
	t.Helper()
	p := &pod{Host: lan.NewHost(t)}
	p.ns = open(t, p.Host)
	p.add(t, c, s.host, addresses...)
	return p
}

func (p *pod) add(t *testing.T, c *macvlan.Config, host *netns.Namespace, addresses ...string) {
	t.Helper()
	if err := c.Validate(host, p.ns); err != nil {
		t.Fatal(err)
	}
	made, err := c.Create(host, p.ns, "net1")
	if err != nil {
		t.Fatal(err)
	}
	p.result = &current.Result{Interfaces: []*current.Interface{made}}
	for _, a := range addresses {
		ip, n, err := net.ParseCIDR(a)
		if err != nil {
			t.Fatal(err)
		}
		ipc := &current.IPConfig{Interface: current.Int(0), Address: net.IPNet{IP: ip, Mask: n.Mask}, Gateway: net.ParseIP("192.0.2.1")}
		if ip.To4() == nil {
			// A gateway makes Configure wait until the address is usable.
			ipc.Gateway = net.ParseIP("2001:db8::1")
		}
		p.result.IPs = append(p.result.IPs, ipc)
	}
	p.result.Routes = []*types.Route{{Dst: net.IPNet{IP: net.IPv4(198, 51, 100, 0), Mask: net.CIDRMask(24, 32)}}}
	if len(addresses) == 0 {
		p.result.Routes = nil
	}
	if err := netif.Configure(p.ns, "net1", p.result); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Check(host, p.ns, "net1"), netif.Check(p.ns, "net1", p.result)); err != nil {
		t.Fatal(err)
	}
}

func reaches(t *testing.T, from *lan.Host, address string, want bool) {
	t.Helper()
	got := from.Ping(t.Context(), address, 1) == 1
	for tries := 0; want && !got && tries < 3; tries++ {
		got = from.Ping(t.Context(), address, 1) == 1
	}
	if got != want {
		t.Errorf("%s answered: %t, want %t", address, got, want)
	}
}

// setMode changes the mode of an interface behind the configuration's back, and
// leaves it down: the request bears the name, which Linux 6.1 takes for a renaming
// that an interface must be down for.
func setMode(h *lan.Host, name string, mode netlink.MacvlanMode) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = name, h.Link(name).Attrs().Index
	link := &netlink.Macvlan{LinkAttrs: attrs, Mode: mode}
	return errors.Join(h.Netlink().LinkSetDown(link), h.Netlink().LinkModify(link))
}

func TestNetnsModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode string
		// amongThemselves: pods of one master reach each other.
		amongThemselves bool
	}{
		{"bridge", true},
		{"private", false},
		// The outside host does not reflect frames, as VEPA wants of a switch.
		{"vepa", false},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			config := parse(t, `{"master":"eth1","mode":"`+c.mode+`"}`)
			a := s.attach(t, config, "192.0.2.11/24", "2001:db8::11/64")
			b := s.attach(t, config, "192.0.2.12/24", "2001:db8::12/64")
			for _, address := range []string{"192.0.2.11", "192.0.2.12", "2001:db8::11", "2001:db8::12"} {
				reaches(t, s.outside, address, true)
			}
			reaches(t, a.Host, "192.0.2.1", true)
			reaches(t, a.Host, "2001:db8::1", true)
			reaches(t, a.Host, "192.0.2.12", c.amongThemselves)
			reaches(t, b.Host, "2001:db8::11", c.amongThemselves)
		})
	}
}

func TestNetnsPassthru(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	config := parse(t, `{"master":"eth1","mode":"passthru"}`)
	a := s.attach(t, config, "192.0.2.11/24", "2001:db8::11/64")
	if got, want := a.result.Interfaces[0].Mac, s.node.Link("eth1").Attrs().HardwareAddr.String(); got != want {
		t.Errorf("MAC is %s, want the master's, %s", got, want)
	}
	reaches(t, s.outside, "192.0.2.11", true)
	reaches(t, s.outside, "2001:db8::11", true)
	for _, mode := range []string{"passthru", "bridge"} {
		refusesCreate(t, s, `{"master":"eth1","mode":"`+mode+`"}`, macvlan.ErrNotAlone)
	}
}

// refusesCreate expects an error that only the kernel can know, and nothing of
// the attempt left.
func refusesCreate(t *testing.T, s *site, config string, want error) {
	t.Helper()
	p := open(t, lan.NewHost(t))
	made, err := parse(t, config).Create(s.host, p, "net1")
	var field *netif.FieldError
	if !errors.Is(err, want) || !errors.As(err, &field) || field.Field != "master" {
		t.Errorf("%s: %v, %v; want %v of the field master", config, made, err, want)
	}
	links, err := netns.Dump(p.Netlink().LinkList)
	if err != nil || len(links) != 1 {
		t.Errorf("%s: the pod has %d interfaces (%v)", config, len(links), err)
	}
}

func TestNetnsPassthruNeedsAMasterOfItsOwn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.attach(t, parse(t, `{"master":"eth1"}`))
	refusesCreate(t, s, `{"master":"eth1","mode":"passthru"}`, macvlan.ErrNotAlone)

	beside := newSite(t)
	if _, err := parse(t, `{"master":"eth1"}`).Create(beside.host, beside.host, "mv0"); err != nil {
		t.Fatal(err)
	}
	err := parse(t, `{"master":"eth1","mode":"passthru"}`).Validate(beside.host, open(t, lan.NewHost(t)))
	if !errors.Is(err, macvlan.ErrNotAlone) || !strings.Contains(err.Error(), `master "eth1": carries the macvlan mv0`) {
		t.Errorf("Validate beside the macvlan mv0: %v", err)
	}
}

func TestNetnsOptions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.attach(t, parse(t, `{"master":"eth1","mtu":1400,"mac":"02:00:00:00:00:11","bcqueuelen":77}`), "192.0.2.11/24")
	want := &current.Interface{Name: "net1", Mac: "02:00:00:00:00:11", Mtu: 1400, Sandbox: a.Path()}
	if diff := cmp.Diff(want, a.result.Interfaces[0]); diff != "" {
		t.Errorf("unexpected interface (-want +got):\n%s", diff)
	}
	link, ok := a.Link("net1").(*netlink.Macvlan)
	if !ok || link.MTU != 1400 || link.HardwareAddr.String() != want.Mac || link.BCQueueLen != 77 || link.Mode != netlink.MACVLAN_MODE_BRIDGE {
		t.Errorf("unexpected link %+v", link)
	}
	reaches(t, s.outside, "192.0.2.11", true)
	if b := s.attach(t, parse(t, `{"master":"eth1"}`)); b.result.Interfaces[0].Mtu != 1500 {
		t.Errorf("MTU is %d where none is given, want the master's 1500", b.result.Interfaces[0].Mtu)
	}
}

func TestNetnsDefaultRouteMaster(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.node.Address("eth1", "192.0.2.2/24")
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	route := &netlink.Route{LinkIndex: s.node.Link("eth1").Attrs().Index, Dst: all, Gw: net.ParseIP("192.0.2.1")}
	if err := s.node.Netlink().RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	config := parse(t, `{}`)
	a := s.attach(t, config, "192.0.2.11/24")
	reaches(t, s.outside, "192.0.2.11", true)
	master, err := config.MasterLink(s.host, a.ns)
	if err != nil || master.Attrs().Name != "eth1" {
		t.Errorf("MasterLink = %v, %v; want eth1", master, err)
	}
	if err := s.node.Netlink().RouteDel(route); err != nil {
		t.Fatal(err)
	}
	if err := config.Check(s.host, a.ns, "net1"); err != nil {
		t.Errorf("checking after the default route went: %v", err)
	}
}

func TestNetnsLinkInContainer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := &pod{Host: lan.NewHost(t)}
	p.ns = open(t, p.Host)
	lan.Join(t, p.Host, "eth1", lan.NewHost(t), "peer0")
	if err := parse(t, `{"master":"eth2","linkInContainer":true}`).Validate(s.host, p.ns); !errors.Is(err, netif.ErrNotFound) {
		t.Errorf("a master that the pod lacks: %v", err)
	}
	config := parse(t, `{"master":"eth1","linkInContainer":true}`)
	p.add(t, config, s.host)
	if got, want := p.Link("net1").Attrs().ParentIndex, p.Link("eth1").Attrs().Index; got != want {
		t.Errorf("net1 is on interface %d, want the pod's eth1, %d", got, want)
	}
	err := parse(t, `{"master":"eth1"}`).Check(s.host, p.ns, "net1")
	var drift *netif.DriftError
	if !errors.As(err, &drift) || drift.What != "master" {
		t.Errorf("checking against the node's eth1: %v", err)
	}
}

// A macvlan on a macvlan is made on the latter's master.
func TestNetnsMacvlanAsMaster(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.attach(t, parse(t, `{"master":"eth1"}`))
	config := parse(t, `{"master":"net1","linkInContainer":true}`)
	if err := config.Validate(s.host, a.ns); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Create(s.host, a.ns, "net2"); err != nil {
		t.Fatal(err)
	}
	if err := config.Check(s.host, a.ns, "net2"); err != nil {
		t.Error(err)
	}
}

func TestNetnsValidateRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lan.Join(t, s.outside, "eth9", s.node, "port0")
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}
	if err := errors.Join(s.node.Netlink().LinkAdd(bridge), s.node.Netlink().LinkSetMaster(s.node.Link("port0"), bridge)); err != nil {
		t.Fatal(err)
	}
	pod := open(t, lan.NewHost(t))
	own := s.node.Link("eth1").Attrs().HardwareAddr.String()
	for _, c := range []struct{ name, config, field, message string }{
		{"missing master", `{"master":"eth9"}`, "master", `master "eth9": no such interface`},
		{"no default route", `{}`, "master", "master: there is no default route whose device could be the master"},
		{"loopback", `{"master":"lo"}`, "master", `master "lo": not an Ethernet interface, which macvlan needs`},
		{"a bridge's port", `{"master":"port0"}`, "master", `master "port0": in use by another kind of interface: it is a port of br0 and cannot carry macvlan`},
		{"mtu above the master's", `{"master":"eth1","mtu":1501}`, "mtu", "mtu 1501: want 0, or 68 to 1500, the MTU of master eth1"},
		{
			"passthru with a MAC", `{"master":"eth1","mode":"passthru","mac":"02:00:00:00:00:01"}`, "mac",
			`mac "02:00:00:00:00:01": in passthru mode it is that of the master, ` + own,
		},
		{"master only on the host", `{"master":"eth1","linkInContainer":true}`, "master", `master "eth1": no such interface`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := parse(t, c.config).Validate(s.host, pod)
			var field *netif.FieldError
			if !errors.As(err, &field) || field.Field != c.field || err.Error() != c.message {
				t.Errorf("Validate: %v\nwant an error of field %s: %s", err, c.field, c.message)
			}
		})
	}
	t.Run("a MAC that Parse did not see", func(t *testing.T) {
		config := &macvlan.Config{Master: "eth1", Mode: "bridge", MAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}}
		var field *netif.FieldError
		if err := config.Validate(s.host, pod); !errors.As(err, &field) || field.Field != "mac" {
			t.Errorf("Validate: %v", err)
		}
	})
}

// What became of the master between Validate and Create is told as clearly.
func TestNetnsCreateOnABusyMaster(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}
	if err := errors.Join(s.node.Netlink().LinkAdd(bridge), s.node.Netlink().LinkSetMaster(s.node.Link("eth1"), bridge)); err != nil {
		t.Fatal(err)
	}
	refusesCreate(t, s, `{"master":"eth1"}`, netif.ErrMasterBusy)
}

func TestNetnsTwoPodsOfOneMAC(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	config := parse(t, `{"master":"eth1","mac":"02:00:00:00:00:11"}`)
	s.attach(t, config)
	second := open(t, lan.NewHost(t))
	made, err := config.Create(s.host, second, "net1")
	if err != nil {
		t.Fatal(err)
	}
	err = netif.Configure(second, "net1", &current.Result{Interfaces: []*current.Interface{made}})
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "02:00:00:00:00:11") {
		t.Errorf("Configure: %v", err)
	}
}

func TestNetnsCheckFindsEachDrift(t *testing.T) {
	t.Parallel()
	full := `{"master":"eth1","mode":"bridge","mtu":1400,"mac":"02:00:00:00:00:11"}`
	for _, c := range []struct {
		name, config string
		do           func(t *testing.T, s *site, p *pod) error
		want         string
	}{
		{"deleted", full, func(_ *testing.T, _ *site, p *pod) error { return netif.Delete(p.ns, "net1") }, "net1: interface is missing"},
		{"another type", full, func(t *testing.T, _ *site, p *pod) error {
			err := netif.Delete(p.ns, "net1")
			lan.Join(t, p.Host, "net1", lan.NewHost(t), "peer0")
			return err
		}, "net1: type is veth, want macvlan"},
		{"another mode", full, func(_ *testing.T, _ *site, p *pod) error {
			return setMode(p.Host, "net1", netlink.MACVLAN_MODE_VEPA)
		}, "net1: mode is vepa, want bridge"},
		{"a mode that no configuration has", full, func(_ *testing.T, _ *site, p *pod) error {
			return setMode(p.Host, "net1", netlink.MACVLAN_MODE_SOURCE)
		}, "net1: mode is number 5, want bridge"},
		{"another MTU", full, func(_ *testing.T, s *site, _ *pod) error {
			return s.node.Netlink().LinkSetMTU(s.node.Link("eth1"), 1300)
		}, "net1: MTU is 1300, want 1400"},
		{"another MAC", full, func(_ *testing.T, _ *site, p *pod) error {
			return p.Netlink().LinkSetHardwareAddr(p.Link("net1"), net.HardwareAddr{2, 0, 0, 0, 0, 0x12})
		}, "net1: MAC is 02:00:00:00:00:12, want 02:00:00:00:00:11"},
		{"the master's name is another's", full, func(t *testing.T, s *site, _ *pod) error {
			h := s.node.Netlink()
			err := errors.Join(h.LinkSetDown(s.node.Link("eth1")), h.LinkSetName(s.node.Link("eth1"), "eth5"))
			lan.Join(t, s.node, "eth1", lan.NewHost(t), "peer0")
			return err
		}, "want eth1, interface "},
		{"the master's name is nobody's", full, func(_ *testing.T, s *site, _ *pod) error {
			h := s.node.Netlink()
			return errors.Join(h.LinkSetDown(s.node.Link("eth1")), h.LinkSetName(s.node.Link("eth1"), "eth5"))
		}, "want eth1, which is gone"},
		{"the MTU is free", `{"master":"eth1"}`, func(_ *testing.T, s *site, _ *pod) error {
			return s.node.Netlink().LinkSetMTU(s.node.Link("eth1"), 1300)
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			config := parse(t, c.config)
			p := s.attach(t, config)
			if err := c.do(t, s, p); err != nil {
				t.Fatal(err)
			}
			err := config.Check(s.host, p.ns, "net1")
			var drift *netif.DriftError
			switch {
			case c.want == "" && err == nil:
			case c.want == "" || !errors.As(err, &drift) || !strings.Contains(err.Error(), c.want):
				t.Errorf("Check: %v\nwant %s", err, c.want)
			}
		})
	}
}

// The life of an interface, again and again, in a pod that stays.
func TestNetnsAddAndDeleteRepeatedly(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := &pod{Host: lan.NewHost(t)}
	p.ns = open(t, p.Host)
	for range 5 {
		p.add(t, parse(t, `{"master":"eth1"}`), s.host, "192.0.2.11/24")
		for range 2 {
			if err := netif.Delete(p.ns, "net1"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func BenchmarkLife(b *testing.B) {
	node, other, podHost := lan.NewHost(b), lan.NewHost(b), lan.NewHost(b)
	lan.Join(b, other, "eth0", node, "eth1")
	host, err := netns.Open(node.Path())
	if err != nil {
		b.Fatal(err)
	}
	defer host.Close()
	config, err := macvlan.Parse([]byte(`{"master":"eth1"}`), "")
	if err != nil {
		b.Fatal(err)
	}
	p, err := netns.Open(podHost.Path())
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for b.Loop() {
		if err := config.Validate(host, p); err != nil {
			b.Fatal(err)
		}
		made, err := config.Create(host, p, "net1")
		if err != nil {
			b.Fatal(err)
		}
		if err := netif.Configure(p, "net1", &current.Result{Interfaces: []*current.Interface{made}}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := netif.Delete(p, "net1"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
