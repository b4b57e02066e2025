// SPDX-License-Identifier: Apache-2.0

//go:build netns

package ipvlan_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/ipvlan"
	"github.com/weir-cni/weir/macvlan"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// site is a node whose eth1 is on a wire with an outside host; each has
// addresses there. The outside host sends what is for the pods of l3 and l3s to
// the node.
type site struct {
	outside, node *lan.Host
	host          *netns.Namespace
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{outside: lan.NewHost(t), node: lan.NewHost(t)}
	lan.Join(t, s.outside, "eth0", s.node, "eth1")
	s.outside.Address("eth0", "192.0.2.1/24", "2001:db8::1/64")
	s.node.Address("eth1", "192.0.2.2/24", "2001:db8::2/64")
	s.route(t, "198.51.100.0/24", "192.0.2.2")
	s.route(t, "2001:db8:1::/64", "2001:db8::2")
	s.host = open(t, s.node)
	return s
}

func (s *site) route(t *testing.T, dst, gw string) {
	t.Helper()
	n := ipNet(dst)
	route := &netlink.Route{LinkIndex: s.outside.Link("eth0").Attrs().Index, Dst: &n, Gw: net.ParseIP(gw)}
	if err := s.outside.Netlink().RouteAdd(route); err != nil {
		t.Fatal(err)
	}
}

func ipNet(prefix string) net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
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

func parse(t *testing.T, config string) *ipvlan.Config {
	t.Helper()
	c, err := ipvlan.Parse([]byte(config), "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pod is a pod with an ipvlan interface net1.
type pod struct {
	*lan.Host
	ns     *netns.Namespace
	result *current.Result
}

// attach makes a pod with the configured net1, which has the addresses, and with
// default routes by net1.
func (s *site) attach(t *testing.T, c *ipvlan.Config, addresses ...string) *pod {
	t.Helper()
	p := &pod{Host: lan.NewHost(t)}
	p.ns = open(t, p.Host)
	p.add(t, c, s.host, addresses...)
	return p
}

func (p *pod) add(t *testing.T, c *ipvlan.Config, host *netns.Namespace, addresses ...string) {
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
		p.assign(a, c.Mode == "l2")
	}
	if err := netif.Configure(p.ns, "net1", p.result); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Check(host, p.ns, "net1"), netif.Check(p.ns, "net1", p.result)); err != nil {
		t.Fatal(err)
	}
}

// assign gives net1 an address and a default route, by the outside host where
// the interface resolves neighbours.
func (p *pod) assign(address string, gateway bool) {
	ipc := &current.IPConfig{Interface: current.Int(0), Address: ipNet(address)}
	all, by := "0.0.0.0/0", "192.0.2.1"
	if ipc.Address.IP.To4() == nil {
		all, by = "::/0", "2001:db8::1"
	}
	if gateway {
		ipc.Gateway = net.ParseIP(by)
	}
	p.result.IPs = append(p.result.IPs, ipc)
	p.result.Routes = append(p.result.Routes, &types.Route{Dst: ipNet(all)})
}

func reaches(t *testing.T, from *lan.Host, address string) {
	t.Helper()
	for range 5 {
		if from.Ping(t.Context(), address, 1) == 1 {
			return
		}
	}
	t.Errorf("%s did not answer", address)
}

func TestKernelsModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode string
		a, b []string
	}{
		{"l2", []string{"192.0.2.11/24", "2001:db8::11/64"}, []string{"192.0.2.12/24", "2001:db8::12/64"}},
		{"l3", []string{"198.51.100.11/24", "2001:db8:1::11/64"}, []string{"198.51.100.12/24", "2001:db8:1::12/64"}},
		{"l3s", []string{"198.51.100.11/24", "2001:db8:1::11/64"}, []string{"198.51.100.12/24", "2001:db8:1::12/64"}},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			config := parse(t, `{"master":"eth1","mode":"`+c.mode+`"}`)
			a, b := s.attach(t, config, c.a...), s.attach(t, config, c.b...)
			if got, want := a.result.Interfaces[0].Mac, s.node.Link("eth1").Attrs().HardwareAddr.String(); got != want {
				t.Errorf("MAC is %s, want the master's, %s", got, want)
			}
			for i := range c.a {
				ofA, ofB := netip.MustParsePrefix(c.a[i]).Addr().String(), netip.MustParsePrefix(c.b[i]).Addr().String()
				reaches(t, s.outside, ofA)
				reaches(t, s.outside, ofB)
				reaches(t, a.Host, ofB)
				reaches(t, b.Host, ofA)
			}
			reaches(t, a.Host, "192.0.2.1")
			reaches(t, a.Host, "2001:db8::1")
		})
	}
}

func TestKernelsOptions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lan.Join(t, s.node, "net1", lan.NewHost(t), "peer0")
	a := s.attach(t, parse(t, `{"master":"eth1","mtu":1400}`), "192.0.2.11/24")
	mac := s.node.Link("eth1").Attrs().HardwareAddr.String()
	want := &current.Interface{Name: "net1", Mac: mac, Mtu: 1400, Sandbox: a.Path()}
	if diff := cmp.Diff(want, a.result.Interfaces[0]); diff != "" {
		t.Errorf("unexpected interface (-want +got):\n%s", diff)
	}
	link, ok := a.Link("net1").(*netlink.IPVlan)
	if !ok || link.MTU != 1400 || link.Mode != netlink.IPVLAN_MODE_L2 {
		t.Errorf("unexpected link %+v", link)
	}
	if b := s.attach(t, parse(t, `{"master":"eth1"}`)); b.result.Interfaces[0].Mtu != 1500 {
		t.Errorf("MTU is %d where none is given, want the master's 1500", b.result.Interfaces[0].Mtu)
	}
}

func TestKernelsDefaultRouteMaster(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	all := ipNet("::/0")
	route := &netlink.Route{LinkIndex: s.node.Link("eth1").Attrs().Index, Dst: &all, Gw: net.ParseIP("2001:db8::1")}
	if err := s.node.Netlink().RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	config := parse(t, `{}`)
	a := s.attach(t, config, "192.0.2.11/24")
	reaches(t, s.outside, "192.0.2.11")
	master, err := config.MasterLink(s.host, a.ns)
	if err != nil || master.Attrs().Name != "eth1" {
		t.Errorf("MasterLink = %v, %v; want eth1", master, err)
	}
}

func TestKernelsLinkInContainer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := &pod{Host: lan.NewHost(t)}
	p.ns = open(t, p.Host)
	lan.Join(t, p.Host, "eth1", lan.NewHost(t), "peer0")
	p.add(t, parse(t, `{"master":"eth1","linkInContainer":true}`), s.host)
	if got, want := p.Link("net1").Attrs().ParentIndex, p.Link("eth1").Attrs().Index; got != want {
		t.Errorf("net1 is on interface %d, want the pod's eth1, %d", got, want)
	}
	chained := parse(t, `{"linkInContainer":true,"cniVersion":"1.0.0","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"net1"}]}}`)
	if err := chained.Validate(s.host, p.ns); err != nil {
		t.Fatal(err)
	}
	if _, err := chained.Create(s.host, p.ns, "net2"); err != nil {
		t.Fatal(err)
	}
	if err := chained.Check(s.host, p.ns, "net2"); err != nil {
		t.Errorf("an ipvlan made on an ipvlan: %v", err)
	}
}

func TestKernelsValidateRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lan.Join(t, s.outside, "eth9", s.node, "port0")
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}
	if err := errors.Join(s.node.Netlink().LinkAdd(bridge), s.node.Netlink().LinkSetMaster(s.node.Link("port0"), bridge)); err != nil {
		t.Fatal(err)
	}
	pod := open(t, lan.NewHost(t))
	for _, c := range []struct{ name, config, field, message string }{
		{"missing master", `{"master":"eth9"}`, "master", `master "eth9": no such interface`},
		{"no default route", `{}`, "master", "master: there is no default route whose device could be the master"},
		{"loopback", `{"master":"lo"}`, "master", `master "lo": not an Ethernet interface, which ipvlan needs`},
		{"a bridge's port", `{"master":"port0"}`, "master", `master "port0": in use by another kind of interface: it is a port of br0 and cannot carry ipvlan`},
		{"mtu above the master's", `{"master":"eth1","mtu":1501}`, "mtu", "mtu 1501: want 0, or 68 to 1500, the MTU of master eth1"},
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
}

// device is what both types are.
type device interface {
	Validate(host, pod *netns.Namespace) error
	Create(host, pod *netns.Namespace, name string) (*current.Interface, error)
}

// A master carries macvlan or ipvlan; the second of them is told of the first
// though its interfaces are in another namespace.
func TestKernelsMasterCarriesTheOther(t *testing.T) {
	t.Parallel()
	mac, err := macvlan.Parse([]byte(`{"master":"eth1"}`), "")
	if err != nil {
		t.Fatal(err)
	}
	ipv := parse(t, `{"master":"eth1"}`)
	for _, c := range []struct {
		name          string
		first, second device
		up            bool
		// inValidate: the kernel tells of it before the attempt.
		inValidate bool
	}{
		{"ipvlan on macvlan", mac, ipv, true, true},
		{"ipvlan on macvlan that is down", mac, ipv, false, true},
		{"macvlan on ipvlan", ipv, mac, true, false},
		{"macvlan on ipvlan that is down", ipv, mac, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			first, second := lan.NewHost(t), open(t, lan.NewHost(t))
			if _, err := c.first.Create(s.host, open(t, first), "net1"); err != nil {
				t.Fatal(err)
			}
			if c.up {
				first.Up("net1")
			}
			if err := c.second.Validate(s.host, second); c.inValidate != errors.Is(err, netif.ErrMasterBusy) {
				t.Errorf("Validate: %v", err)
			}
			_, err := c.second.Create(s.host, second, "net1")
			var field *netif.FieldError
			if !errors.Is(err, netif.ErrMasterBusy) || !errors.As(err, &field) || field.Field != "master" || field.Value != "eth1" {
				t.Fatalf("Create: %v", err)
			}
			for _, word := range []string{"eth1", "ipvlan", "macvlan"} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not name %s", err, word)
				}
			}
			if _, err := second.Netlink().LinkByName("net1"); !netif.IsNotFound(err) {
				t.Errorf("net1 is there: %v", err)
			}
		})
	}
}

func TestKernelsMacvlanOnAnIPVlanInterface(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.attach(t, parse(t, `{"master":"eth1"}`))
	config, err := macvlan.Parse([]byte(`{"master":"net1","linkInContainer":true}`), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := config.Validate(s.host, a.ns); err == nil || err.Error() != `master "net1": is an ipvlan interface, which cannot carry macvlan` {
		t.Errorf("Validate: %v", err)
	}
}

func TestKernelsCheckFindsEachDrift(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(t *testing.T, s *site, p *pod) error
		want string
	}{
		{"deleted", func(_ *testing.T, _ *site, p *pod) error { return netif.Delete(p.ns, "net1") }, "net1: interface is missing"},
		{"another type", func(t *testing.T, _ *site, p *pod) error {
			err := netif.Delete(p.ns, "net1")
			lan.Join(t, p.Host, "net1", lan.NewHost(t), "peer0")
			return err
		}, "net1: type is veth, want ipvlan"},
		{"another pod's mode", func(t *testing.T, s *site, _ *pod) error {
			s.attach(t, parse(t, `{"master":"eth1","mode":"l3s"}`))
			return nil
		}, "net1: mode is l3s, want l2"},
		{"another MTU", func(_ *testing.T, s *site, _ *pod) error {
			return s.node.Netlink().LinkSetMTU(s.node.Link("eth1"), 1300)
		}, "net1: MTU is 1300, want 1400"},
		{"the master's name is nobody's", func(_ *testing.T, s *site, _ *pod) error {
			h := s.node.Netlink()
			return errors.Join(h.LinkSetDown(s.node.Link("eth1")), h.LinkSetName(s.node.Link("eth1"), "eth5"))
		}, "want eth1, which is gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			config := parse(t, `{"master":"eth1","mtu":1400}`)
			p := s.attach(t, config)
			if err := c.do(t, s, p); err != nil {
				t.Fatal(err)
			}
			err := config.Check(s.host, p.ns, "net1")
			var drift *netif.DriftError
			if !errors.As(err, &drift) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check: %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestKernelsAddAndDeleteRepeatedly(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := &pod{Host: lan.NewHost(t)}
	p.ns = open(t, p.Host)
	for range 3 {
		p.add(t, parse(t, `{"master":"eth1"}`), s.host, "192.0.2.11/24")
		for range 2 {
			if err := netif.Delete(p.ns, "net1"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A kernel without ipvlan says so before the attempt as well as after it.
func TestNetnsKernelWithoutIPVlan(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	config := parse(t, `{"master":"eth1"}`)
	pod := open(t, lan.NewHost(t))
	before := config.Validate(s.host, pod)
	_, after := config.Create(s.host, pod, "net1")
	for _, err := range []error{before, after} {
		if err != nil && (!errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "the kernel has no ipvlan")) {
			t.Errorf("got %v", err)
		}
	}
	if (before == nil) != (after == nil) {
		t.Errorf("Validate says %v, Create %v", before, after)
	}
}

// Validating leaves the node as it was, and the master free.
func TestKernelsValidateTouchesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	before, err := netns.Dump(s.host.Netlink().LinkList)
	if err != nil {
		t.Fatal(err)
	}
	if err := parse(t, `{"master":"eth1"}`).Validate(s.host, open(t, lan.NewHost(t))); err != nil {
		t.Error(err)
	}
	after, err := netns.Dump(s.host.Netlink().LinkList)
	if err != nil || len(after) != len(before) {
		t.Errorf("the node has %d interfaces (%v), had %d", len(after), err, len(before))
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}
	if err := errors.Join(s.node.Netlink().LinkAdd(bridge), s.node.Netlink().LinkSetMaster(s.node.Link("eth1"), bridge)); err != nil {
		t.Errorf("the master is no longer free: %v", err)
	}
}
