// SPDX-License-Identifier: Apache-2.0

//go:build netns

package netif

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// site is a node whose eth1 is on a wire with an outside host, and a pod.
type site struct {
	outside, node, pod *lan.Host
	host, inPod        *netns.Namespace
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{outside: lan.NewHost(t), node: lan.NewHost(t), pod: lan.NewHost(t)}
	lan.Join(t, s.outside, "eth0", s.node, "eth1")
	s.outside.Address("eth0", "192.0.2.1/24", "2001:db8::1/64")
	s.host, s.inPod = open(t, s.node.Path()), open(t, s.pod.Path())
	return s
}

func open(t *testing.T, path string) *netns.Namespace {
	t.Helper()
	n, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// macvlan is the link that the tests create.
func (s *site) macvlan() netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.ParentIndex = s.node.Link("eth1").Attrs().Index
	return &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
}

func (s *site) create(t *testing.T) netlink.Link {
	t.Helper()
	link, err := Create(s.host, s.inPod, s.macvlan(), "net1")
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// result is that of an interface net1 with addresses, each with its gateway.
func result(link netlink.Link, addressesAndGateways ...string) *current.Result {
	r := &current.Result{Interfaces: []*current.Interface{
		{Name: link.Attrs().Name, Mac: link.Attrs().HardwareAddr.String(), Sandbox: "/pod"},
	}}
	for pair := range slices.Chunk(addressesAndGateways, 2) {
		r.IPs = append(r.IPs, ipConfig(pair[0], pair[1], current.Int(0)))
	}
	return r
}

func names(t *testing.T, in *netns.Namespace) []string {
	t.Helper()
	links, err := netns.Dump(in.Netlink().LinkList)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	slices.Sort(names)
	return names
}

func TestNetnsCreate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lan.Join(t, s.node, "net1", lan.NewHost(t), "peer")
	want := s.node.Link("net1").Attrs().HardwareAddr
	link := s.create(t)

	if diff := cmp.Diff(s.pod.Link("net1").Attrs(), link.Attrs()); diff != "" {
		t.Errorf("Create returned another link than the kernel has (-want +got):\n%s", diff)
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		t.Error("the link is up")
	}
	if got := s.node.Link("net1").Attrs().HardwareAddr; !bytes.Equal(got, want) {
		t.Errorf("the node's own net1 changed: %s, was %s", got, want)
	}
}

func TestNetnsCreateLeavesNothingOnError(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.create(t)
	before := names(t, s.inPod)
	nowhere := s.macvlan()
	nowhere.Attrs().ParentIndex = 1 << 20
	for _, c := range []struct {
		name, ifname string
		link         netlink.Link
		want         error
	}{
		{"the name is taken", "net1", s.macvlan(), unix.EEXIST},
		{"no parent", "net2", nowhere, unix.ENODEV},
		{"no name for an interface", "net/2", s.macvlan(), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			link, err := Create(s.host, s.inPod, c.link, c.ifname)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("Create = %v, %v; want %v", link, err, c.want)
			}
			if diff := cmp.Diff(before, names(t, s.inPod)); diff != "" {
				t.Errorf("interfaces in the pod changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestNetnsDelete(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	before := names(t, s.inPod)
	s.create(t)
	leftover := s.macvlan()
	leftover.Attrs().Name = temporaryName("net1")
	leftover.Attrs().Namespace = netlink.NsFd(s.inPod.Fd())
	if err := s.node.Netlink().LinkAdd(leftover); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Delete(s.inPod, "net1"); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(before, names(t, s.inPod)); diff != "" {
			t.Errorf("interfaces in the pod (-before Create +after Delete):\n%s", diff)
		}
	}
}

// What the interface announces when it comes up reaches the wire.
func TestNetnsConfigureAnnounces(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	capture := s.outside.Capture("eth0")
	link := s.create(t)
	mac := link.Attrs().HardwareAddr
	if err := Configure(s.inPod, "net1", result(link, "192.0.2.2/24", "", "2001:db8::2/64", "2001:db8::1")); err != nil {
		t.Fatal(err)
	}
	arp := func() bool {
		return slices.ContainsFunc(capture.Frames(), func(c lan.Captured) bool { return isGratuitousARP(c.Data, mac, "192.0.2.2") })
	}
	na := func() bool {
		return slices.ContainsFunc(capture.Frames(), func(c lan.Captured) bool { return isUnsolicitedNA(c.Data, mac, "2001:db8::2") })
	}
	for deadline := time.Now().Add(5 * time.Second); !arp() || !na(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("of %d frames a gratuitous ARP: %t, an unsolicited advertisement: %t", len(capture.Frames()), arp(), na())
		}
	}
}

func isGratuitousARP(frame []byte, mac net.HardwareAddr, ip string) bool {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	a, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP)
	if !ok {
		return false
	}
	want := net.ParseIP(ip).To4()
	return bytes.Equal(a.SourceHwAddress, mac) && bytes.Equal(a.SourceProtAddress, want) && bytes.Equal(a.DstProtAddress, want)
}

func isUnsolicitedNA(frame []byte, mac net.HardwareAddr, ip string) bool {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	eth, isEthernet := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	return ok && isEthernet && bytes.Equal(eth.SrcMAC, mac) && !na.Solicited() && na.TargetAddress.Equal(net.ParseIP(ip))
}

func fullResult(link netlink.Link) *current.Result {
	table, scope := 1000, int(netlink.SCOPE_LINK)
	r := result(link, "192.0.2.2/24", "192.0.2.1", "2001:db8::2/64", "2001:db8::1")
	r.Routes = []*types.Route{
		{Dst: prefix("0.0.0.0/0")},
		{Dst: prefix("::/0")},
		{Dst: prefix("192.0.2.0/24"), GW: net.ParseIP("192.0.2.1")},
		{Dst: prefix("10.1.0.0/16"), GW: net.ParseIP("192.0.2.9"), MTU: 1400, AdvMSS: 1300, Priority: 5},
		{Dst: prefix("10.2.0.0/16"), Table: &table},
		{Dst: prefix("10.3.0.0/16"), GW: net.IPv4zero, Scope: &scope},
		{Dst: prefix("2001:db8:1::/48"), MTU: 1400, AdvMSS: 1300, Priority: 5, Table: &table},
		{Dst: prefix("2001:db8:2::/48"), GW: net.ParseIP("2001:db8::8")},
		{Dst: prefix("2001:db8:2::/48"), GW: net.ParseIP("2001:db8::9")},
	}
	return r
}

func TestNetnsConfigureAndCheck(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.pod.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0) })
	s.pod.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0) })
	link := s.create(t)
	made := fullResult(link)
	if err := Configure(s.inPod, "net1", made); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Check(s.inPod, "net1", made); err != nil {
			t.Errorf("checking what was just made:\n%v", err)
		}
	}
	for key, want := range map[string]string{
		"ipv4/conf/net1/arp_notify": "1", "ipv6/conf/net1/ndisc_notify": "1", "ipv6/conf/net1/keep_addr_on_down": "1",
		"ipv6/conf/net1/disable_ipv6": "0", "ipv6/conf/lo/disable_ipv6": "0",
	} {
		s.pod.Do(func() error {
			got, err := os.ReadFile("/proc/sys/net/" + key)
			if strings.TrimSpace(string(got)) != want {
				t.Errorf("net/%s is %q, want %s", key, got, want)
			}
			return err
		})
	}
	if n := s.pod.Ping(t.Context(), "192.0.2.1", 1); n != 1 {
		t.Error("the outside host did not answer over IPv4")
	}
	if n := s.pod.Ping(t.Context(), "2001:db8::1", 1); n != 1 {
		t.Error("the outside host did not answer over IPv6")
	}
}

func TestNetnsCheckFindsEachDrift(t *testing.T) {
	t.Parallel()
	h := func(s *site) *netlink.Handle { return s.pod.Netlink() }
	dropRoute := func(dst string) func(s *site, l netlink.Link) error {
		return func(s *site, l netlink.Link) error {
			n := prefix(dst)
			return h(s).RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &n})
		}
	}
	dropAddress := func(address string) func(s *site, l netlink.Link) error {
		return func(s *site, l netlink.Link) error {
			n := prefix(address)
			return h(s).AddrDel(l, &netlink.Addr{IPNet: &n})
		}
	}
	for _, c := range []struct {
		name string
		do   func(s *site, l netlink.Link) error
		want string
	}{
		{"deleted", func(s *site, l netlink.Link) error { return h(s).LinkDel(l) }, "net1: interface is missing"},
		{"down", func(s *site, l netlink.Link) error { return h(s).LinkSetDown(l) }, "net1: state is down, want up"},
		{
			"another MAC",
			func(s *site, l netlink.Link) error {
				return h(s).LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
			},
			"net1: MAC is 02:00:00:00:00:01, want ",
		},
		{"IPv4 address gone", dropAddress("192.0.2.2/24"), "net1: address 192.0.2.2/24 is missing"},
		{"IPv6 address gone", dropAddress("2001:db8::2/64"), "net1: address 2001:db8::2/64 is missing"},
		{"default route gone", dropRoute("0.0.0.0/0"), "net1: route 0.0.0.0/0 via 192.0.2.1 is missing"},
		{"IPv6 default route gone", dropRoute("::/0"), "net1: route ::/0 via 2001:db8::1 is missing"},
		{"route gone", dropRoute("10.1.0.0/16"), "net1: route 10.1.0.0/16 via 192.0.2.9 metric 5 mtu 1400 advmss 1300 is missing"},
		{
			"a route's attribute changed",
			func(s *site, l netlink.Link) error {
				n := prefix("10.1.0.0/16")
				return h(s).RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &n, Gw: net.ParseIP("192.0.2.9"), Priority: 5, MTU: 1300})
			},
			"net1: route 10.1.0.0/16 via 192.0.2.9 metric 5 mtu 1400 advmss 1300 is missing",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			link := s.create(t)
			made := fullResult(link)
			if err := errors.Join(Configure(s.inPod, "net1", made), Check(s.inPod, "net1", made)); err != nil {
				t.Fatal(err)
			}
			if err := c.do(s, link); err != nil {
				t.Fatal(err)
			}
			err := Check(s.inPod, "net1", made)
			var drift *DriftError
			if !errors.As(err, &drift) || drift.Interface != "net1" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check: %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestNetnsConfigureWithoutAddresses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	link := s.create(t)
	made := result(link)
	if err := errors.Join(Configure(s.inPod, "net1", made), Check(s.inPod, "net1", made)); err != nil {
		t.Error(err)
	}
}

func TestNetnsConfigureRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	link := s.create(t)
	if err := Configure(s.inPod, "net9", result(link)); !errors.Is(err, ErrNotFound) {
		t.Errorf("an interface that is not there: %v", err)
	}
	strange := result(link, "192.0.2.2/24", "")
	strange.IPs[0].Interface = current.Int(3)
	if err := Configure(s.inPod, "net1", strange); err == nil || !strings.Contains(err.Error(), "192.0.2.2/24") {
		t.Errorf("an address of no interface: %v", err)
	}
	unreachable := result(link, "192.0.2.2/24", "")
	unreachable.Routes = []*types.Route{{Dst: prefix("10.0.0.0/8"), GW: net.ParseIP("198.51.100.1")}}
	if err := Configure(s.inPod, "net1", unreachable); !errors.Is(err, unix.ENETUNREACH) || !strings.Contains(err.Error(), "10.0.0.0/8 via 198.51.100.1") {
		t.Errorf("a route by a gateway that no address reaches: %v", err)
	}
}

func TestNetnsConfigureFindsADuplicateAddress(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	link := s.create(t)
	made := result(link, "2001:db8::1/64", "2001:db8::9")
	err := Configure(s.inPod, "net1", made)
	if !errors.Is(err, ErrDuplicateAddress) || !strings.Contains(err.Error(), "2001:db8::1/64") {
		t.Errorf("Configure: %v", err)
	}
	if err := Check(s.inPod, "net1", made); err == nil || !strings.Contains(err.Error(), "address 2001:db8::1/64 is that of another host too") {
		t.Errorf("Check: %v", err)
	}
}

func TestNetnsAddresses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	link := s.create(t)
	if err := Configure(s.inPod, "net1", result(link, "192.0.2.2/24", "", "2001:db8::2/64", "")); err != nil {
		t.Fatal(err)
	}
	got, err := Addresses(s.inPod, "net1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"192.0.2.2/24", "2001:db8::2/64"} {
		if !slices.Contains(got, netip.MustParsePrefix(want)) {
			t.Errorf("%s is not in %v", want, got)
		}
	}
	if len(got) != 3 || !slices.ContainsFunc(got, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() }) {
		t.Errorf("%v lacks the link-local address, or has more", got)
	}
	if _, err := Addresses(s.inPod, "net9"); !errors.Is(err, ErrNotFound) {
		t.Errorf("of an interface that is not there: %v", err)
	}
}

func TestNetnsMaster(t *testing.T) {
	t.Parallel()
	defaultBy := func(gateways ...string) func(t *testing.T, s *site) {
		return func(t *testing.T, s *site) {
			s.node.Address("eth1", "192.0.2.2/24", "2001:db8::2/64")
			for i, gw := range gateways {
				n := prefix("0.0.0.0/0")
				if strings.Contains(gw, ":") {
					n = prefix("::/0")
				}
				route := &netlink.Route{LinkIndex: s.node.Link("eth1").Attrs().Index, Dst: &n, Gw: net.ParseIP(gw), Priority: 100 - i}
				if err := s.node.Netlink().RouteAdd(route); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, c := range []struct {
		name, master string
		prepare      func(t *testing.T, s *site)
		want         string
		err          error
	}{
		{"named", "eth1", nil, "eth1", nil},
		{"named and missing", "eth9", nil, "", ErrNotFound},
		{"no default route", "", nil, "", ErrNoDefaultRoute},
		{"by the IPv4 default route", "", defaultBy("192.0.2.1"), "eth1", nil},
		{"by the IPv6 default route", "", defaultBy("2001:db8::1"), "eth1", nil},
		{"by the default route of the lower metric", "", func(t *testing.T, s *site) {
			defaultBy("192.0.2.1")(t, s)
			lan.Join(t, s.outside, "eth9", s.node, "eth2")
			s.node.Address("eth2", "198.51.100.2/24")
			n := prefix("0.0.0.0/0")
			route := &netlink.Route{LinkIndex: s.node.Link("eth2").Attrs().Index, Dst: &n, Gw: net.ParseIP("198.51.100.1"), Priority: 5}
			if err := s.node.Netlink().RouteAdd(route); err != nil {
				t.Fatal(err)
			}
		}, "eth2", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if c.prepare != nil {
				c.prepare(t, s)
			}
			got, err := Master(s.host, c.master)
			if c.err != nil {
				var field *FieldError
				if !errors.Is(err, c.err) || !errors.As(err, &field) || field.Field != "master" {
					t.Errorf("Master = %v, %v; want %v", got, err, c.err)
				}
				return
			}
			if err != nil || got.Attrs().Name != c.want {
				t.Errorf("Master = %v, %v; want %s", got, err, c.want)
			}
		})
	}
}

func TestNetnsValidateMaster(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lan.Join(t, s.outside, "eth9", s.node, "port0")
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0", TxQLen: -1}, Mode: netlink.TUNTAP_MODE_TUN}
	if err := errors.Join(
		s.node.Netlink().LinkAdd(bridge),
		s.node.Netlink().LinkSetMaster(s.node.Link("port0"), bridge),
	); err != nil {
		t.Fatal(err)
	}
	s.node.Do(func() error { return netlink.LinkAdd(tun) })
	for _, c := range []struct{ master, want string }{
		{"eth1", ""},
		{"br0", ""},
		{"lo", `master "lo": not an Ethernet interface, which macvlan needs`},
		{"tun0", `master "tun0": not an Ethernet interface, which macvlan needs`},
		{"port0", `master "port0": in use by another kind of interface: it is a port of br0 and cannot carry macvlan`},
	} {
		t.Run(c.master, func(t *testing.T) {
			got := ""
			if err := ValidateMaster(s.host, s.node.Link(c.master), "macvlan"); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// ValidateName says of a name what the kernel says of it.
func TestNetnsValidateNameAgreesWithTheKernel(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	index := s.create(t).Attrs().Index
	rapid.Check(t, func(t *rapid.T) {
		// A NUL ends a name on its way to the kernel, a percent sign numbers it.
		name := rapid.StringOfN(rapid.RuneFrom([]rune("ab/:. \t\u00a0\u0120é~")), 0, 16, 18).Draw(t, "name")
		link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
		kernel := s.pod.Netlink().LinkSetName(link, name)
		if ours := ValidateName(name); (ours == nil) != (kernel == nil) {
			t.Errorf("%q: the kernel says %v, ValidateName %v", name, kernel, ours)
		}
	})
}
