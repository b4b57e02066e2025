// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bridge_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bridge"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

func TestNetnsGateway(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	config := `{"isDefaultGateway":true,}`
	a := s.attach(t, "a", config, "192.0.2.11/24", "2001:db8::11/64")
	b := s.attach(t, "b", config, "192.0.2.12/24", "2001:db8::12/64")
	for _, address := range []string{"192.0.2.1", "2001:db8::1", "192.0.2.12", "2001:db8::12", "203.0.113.2", "2001:db8:ff::2"} {
		reaches(t, a.Host, address)
	}
	reaches(t, s.node, "192.0.2.12")
	reaches(t, b.Host, "2001:db8::11")
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if got := s.sysctl(t, key); got != "1" {
			t.Errorf("%s is %s", key, got)
		}
	}
	if got := s.sysctl(t, "ipv6/conf/cni0/accept_ra"); got != "0" {
		t.Errorf("the bridge's accept_ra is %s", got)
	}
	if got := sysctlOf(t, a.Host, "ipv6/conf/net1/accept_dad"); got != "0" {
		t.Errorf("the pod's accept_dad is %s", got)
	}
}

// The interfaces of the result are the bridge, the host's end and the pod's, down
// until the host is configured.
func TestNetnsCreate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := newPod(t, parse(t, `{"bridge":"br7","mtu":1400,"mac":"02:00:00:00:00:11"}`), "a")
	made, err := p.config.Create(s.host, p.ns, "net1")
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != 3 {
		t.Fatalf("%d interfaces", len(made))
	}
	br, port, end := s.node.Link("br7"), s.node.Link(made[1].Name), p.Link("net1")
	want := []*current.Interface{
		{Name: "br7", Mac: br.Attrs().HardwareAddr.String(), Mtu: 1400},
		{Name: made[1].Name, Mac: port.Attrs().HardwareAddr.String(), Mtu: 1400},
		{Name: "net1", Mac: "02:00:00:00:00:11", Mtu: 1400, Sandbox: p.Path()},
	}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("unexpected interfaces (-want +got):\n%s", diff)
	}
	for _, l := range []netlink.Link{br, port, end} {
		if l.Attrs().Flags&net.FlagUp != 0 {
			t.Errorf("%s is up", l.Attrs().Name)
		}
	}
	if port.Attrs().MasterIndex != br.Attrs().Index || !strings.HasPrefix(made[1].Name, "veth") || len(made[1].Name) != 12 {
		t.Errorf("unexpected port %+v", port.Attrs())
	}
}

// The bridge's MAC is not that of a port that comes and goes.
func TestNetnsBridgeKeepsItsMAC(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.attach(t, "a", `{}`)
	for _, name := range []string{"b", "c", "d"} {
		s.attach(t, name, `{}`)
	}
	if err := a.delete(s.host); err != nil {
		t.Fatal(err)
	}
	if got := s.node.Link("cni0").Attrs().HardwareAddr.String(); got != a.result.Interfaces[0].Mac {
		t.Errorf("the bridge's MAC is %s, was %s", got, a.result.Interfaces[0].Mac)
	}
}

func TestNetnsLayer2(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.attach(t, "a", `{"isDefaultGateway":true,"ipMasq":true}`)
	s.attach(t, "b", `{}`)
	a.Address("net1", "192.0.2.11/24")
	if addresses := list(t, func() ([]netlink.Addr, error) {
		return s.host.Netlink().AddrList(s.node.Link("cni0"), netlink.FAMILY_V4)
	}); len(addresses) != 0 {
		t.Errorf("the bridge has %v", addresses)
	}
	if len(a.result.Routes) != 0 || len(s.rules(t)) != 0 {
		t.Errorf("routes %v, rules %v", a.result.Routes, s.rules(t))
	}
	if got := sysctlOf(t, a.Host, "ipv6/conf/net1/accept_dad"); got != "1" {
		t.Errorf("the pod's accept_dad is %s", got)
	}
}

func TestNetnsDisableContainerInterface(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.attach(t, "a", `{"disableContainerInterface":true}`)
	if p.Link("net1").Attrs().Flags&net.FlagUp != 0 {
		t.Error("the pod's end is up")
	}
	if s.node.Link(p.port()).Attrs().Flags&net.FlagUp == 0 {
		t.Error("the host's end is down")
	}
}

func TestNetnsEnableDAD(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.attach(t, "a", `{"enabledad":true,"isGateway":true,}`, "2001:db8::11/64")
	for _, key := range []string{"accept_dad", "enhanced_dad"} {
		if got := sysctlOf(t, p.Host, "ipv6/conf/net1/"+key); got != "1" {
			t.Errorf("%s is %s", key, got)
		}
	}
	other := newPod(t, p.config, "b")
	if err := other.add(t, s.host, "2001:db8::11/64"); !errors.Is(err, netif.ErrDuplicateAddress) {
		t.Errorf("a second holder of the address: %v", err)
	}
}

func TestNetnsPromisc(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.attach(t, "a", `{}`)
	if got := s.node.Link("cni0").Attrs().Promisc; got != 0 {
		t.Errorf("promiscuity is %d without being asked for", got)
	}
	s.attach(t, "b", `{"promiscMode":true}`)
	if got := s.node.Link("cni0").Attrs().Promisc; got == 0 {
		t.Error("the bridge is not promiscuous")
	}
}

func TestNetnsHairpin(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, want := range []bool{false, true} {
		p := s.attach(t, fmt.Sprint(want), fmt.Sprintf(`{"hairpinMode":%t}`, want))
		if got := s.flags(t, p.port()).Hairpin; got != want {
			t.Errorf("hairpin mode is %t, want %t", got, want)
		}
		own := p.Link("net1").Attrs().HardwareAddr
		frame := lan.Frame(t,
			&layers.Ethernet{SrcMAC: own, DstMAC: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EthernetType: 0x88b5},
			gopacket.Payload(bytes.Repeat([]byte("back"), 16)))
		capture := p.Capture("net1")
		p.Send("net1", frame)
		time.Sleep(200 * time.Millisecond)
		back := slices.ContainsFunc(capture.Stop(), func(f lan.Captured) bool { return !f.Outgoing && bytes.Equal(f.Data, frame) })
		if back != want {
			t.Errorf("hairpin mode %t: the frame came back: %t", want, back)
		}
	}
}

func TestNetnsPortIsolation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	config := `{"isGateway":true,"portIsolation":true,}`
	a := s.attach(t, "a", config, "192.0.2.11/24")
	b := s.attach(t, "b", config, "192.0.2.12/24")
	c := s.attach(t, "c", `{"isGateway":true,}`, "192.0.2.13/24")
	if !s.flags(t, b.port()).Isolated || s.flags(t, c.port()).Isolated {
		t.Error("unexpected isolation")
	}
	reaches(t, a.Host, "192.0.2.1")
	reaches(t, a.Host, "192.0.2.13")
	reaches(t, c.Host, "192.0.2.12")
	none(t, a.Host, "192.0.2.12")
}

// source is the address that a server outside sees of a client in the pod.
func source(t *testing.T, server, client *lan.Host, address string) string {
	t.Helper()
	var listener net.Listener
	server.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	})
	defer listener.Close()
	seen := make(chan string, 1)
	go func() {
		defer close(seen)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		seen <- conn.RemoteAddr().(*net.TCPAddr).IP.String()
		_ = conn.Close()
	}()
	client.Do(func() error {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		if err != nil {
			_ = listener.Close()
			return err
		}
		return conn.Close()
	})
	return <-seen
}

func TestNetnsMasquerade(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.attach(t, "a", `{"isDefaultGateway":true,"ipMasq":true,}`, "192.0.2.11/24", "2001:db8::11/64")
	plain := s.attach(t, "plain", `{"isDefaultGateway":true,}`, "192.0.2.12/24", "2001:db8::12/64")
	for _, dst := range []string{"192.0.2.0/24", "2001:db8::/64"} {
		via := net.ParseIP("203.0.113.2")
		if strings.Contains(dst, ":") {
			via = net.ParseIP("2001:db8:ff::2")
		}
		if err := s.outside.Netlink().RouteAdd(&netlink.Route{Dst: network(t, dst), Gw: via}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name           string
		server, client *lan.Host
		address, want  string
	}{
		{"masqueraded", s.outside, a.Host, "203.0.113.1", "203.0.113.2"},
		{"masqueraded, IPv6", s.outside, a.Host, "2001:db8:ff::1", "2001:db8:ff::2"},
		{"not asked for", s.outside, plain.Host, "203.0.113.1", "192.0.2.12"},
		{"not asked for, IPv6", s.outside, plain.Host, "2001:db8:ff::1", "2001:db8::12"},
		{"its own subnet", plain.Host, a.Host, "192.0.2.12", "192.0.2.11"},
		{"its own subnet, IPv6", plain.Host, a.Host, "2001:db8::12", "2001:db8::11"},
	} {
		if got := source(t, c.server, c.client, c.address); got != c.want {
			t.Errorf("%s: the server at %s sees %s, want %s", c.name, c.address, got, c.want)
		}
	}
}

// Each owner's rules come and go alone, whatever others do to the table.
func TestNetnsMasqueradeOwners(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	config := `{"isGateway":true,"ipMasq":true,}`
	a := s.attach(t, "a", config, "192.0.2.11/24", "2001:db8::11/64")
	b := s.attach(t, "b", config, "192.0.2.12/24")
	ofA, ofB := []string{"masquerade 192.0.2.11", "masquerade 2001:db8::11"}, []string{"masquerade 192.0.2.12"}
	same(t, "rules of both", slices.Sorted(slices.Values(slices.Concat(ofA, ofB))), s.rules(t))

	// Once more for the same owner.
	if err := a.config.ConfigureHost(s.host, a.id, a.port(), a.result); err != nil {
		t.Fatal(err)
	}
	same(t, "rules after a repetition", slices.Sorted(slices.Values(slices.Concat(ofA, ofB))), s.rules(t))

	// Another interface of the same container on the same network is another owner.
	other := bridge.Owner{Network: a.id.Network, ContainerID: a.id.ContainerID, Interface: "net2"}
	if err := a.config.Delete(s.host, nil, other, "net2", nil); err != nil {
		t.Fatal(err)
	}
	same(t, "rules after another's deletion", slices.Sorted(slices.Values(slices.Concat(ofA, ofB))), s.rules(t))

	// No result is needed to find them.
	if err := a.config.Delete(s.host, nil, a.id, "net1", nil); err != nil {
		t.Fatal(err)
	}
	same(t, "rules after a's deletion", ofB, s.rules(t))
	if err := b.check(s.host); err != nil {
		t.Error(err)
	}

	s.nft(t, func(conn *nftables.Conn) error {
		conn.FlushTable(&nftables.Table{Name: "weir_masquerade", Family: nftables.TableFamilyINet})
		return conn.Flush()
	})
	var drift *netif.DriftError
	if err := b.check(s.host); !errors.As(err, &drift) || drift.What != "masquerading of 192.0.2.12" {
		t.Errorf("checking after the table was flushed: %v", err)
	}
	if err := b.config.ConfigureHost(s.host, b.id, b.port(), b.result); err != nil {
		t.Fatal(err)
	}
	same(t, "rules after they were set again", ofB, s.rules(t))

	s.nft(t, func(conn *nftables.Conn) error {
		conn.FlushRuleset()
		return conn.Flush()
	})
	for range 2 {
		if err := b.delete(s.host); err != nil {
			t.Fatal(err)
		}
	}
	c := s.attach(t, "c", config, "192.0.2.13/24")
	same(t, "rules of c", []string{"masquerade 192.0.2.13"}, s.rules(t))
	if err := c.delete(s.host); err != nil {
		t.Fatal(err)
	}
	same(t, "rules in the end", nil, s.rules(t))
}

func (s *site) addresses(t *testing.T, device string) []string {
	t.Helper()
	var lines []string
	for _, a := range list(t, func() ([]netlink.Addr, error) {
		return s.host.Netlink().AddrList(s.node.Link(device), netlink.FAMILY_ALL)
	}) {
		if a.IP.IsLinkLocalUnicast() {
			continue
		}
		lines = append(lines, a.IPNet.String())
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			t.Errorf("%s is not usable yet", a.IPNet)
		}
	}
	slices.Sort(lines)
	return lines
}

func TestNetnsGatewayAddresses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.attach(t, "a", `{"isGateway":true,}`, "192.0.2.11/24", "2001:db8::11/64")
	first := []string{"192.0.2.1/24", "2001:db8::1/64"}
	same(t, "addresses", first, s.addresses(t, "cni0"))

	// The same again, and another subnet of IPv6.
	s.attach(t, "b", `{"isGateway":true,"forceAddress":true,}`, "192.0.2.12/24", "2001:db8::12/64")
	same(t, "addresses", first, s.addresses(t, "cni0"))
	s.attach(t, "c", `{"isGateway":true,}`, "2001:db8:1::11/64")
	same(t, "addresses", []string{"192.0.2.1/24", "2001:db8:1::1/64", "2001:db8::1/64"}, s.addresses(t, "cni0"))

	for _, c := range []struct{ name, address string }{
		{"another subnet of IPv4", "198.51.100.11/24"},
		{"another length", "192.0.2.13/25"},
		{"an overlapping subnet of IPv6", "2001:db8::13/48"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPod(t, parse(t, `{"isGateway":true,"ipMasq":true,"promiscMode":true,"ipam":{"type":"test"}}`), c.name)
			before := s.state(t)
			if err := p.add(t, s.host, c.address); !errors.Is(err, bridge.ErrAddressConflict) {
				t.Fatalf("add: %v", err)
			}
			if err := p.delete(s.host); err != nil {
				t.Fatal(err)
			}
			same(t, "state after the refusal", before, s.state(t))
		})
	}
	p := s.attach(t, "d", `{"isGateway":true,"forceAddress":true,}`, "198.51.100.11/24", "2001:db8::13/48")
	same(t, "addresses when forced", []string{"198.51.100.1/24", "2001:db8:1::1/64", "2001:db8::1/48"}, s.addresses(t, "cni0"))
	reaches(t, p.Host, "198.51.100.1")
	reaches(t, p.Host, "2001:db8::1")
}

func TestNetnsValidateRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := open(t, lan.NewHost(t))
	before := s.state(t)
	err := parse(t, `{"bridge":"eth1"}`).Validate(s.host, p)
	var field *netif.FieldError
	if !errors.Is(err, bridge.ErrNotBridge) || !errors.As(err, &field) || err.Error() != `bridge "eth1": exists already and is not a bridge: it is of type veth` {
		t.Errorf("another interface: %v", err)
	}
	err = (&bridge.Config{Bridge: "cni0", MAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}}).Validate(s.host, p)
	if !errors.As(err, &field) || field.Field != "mac" {
		t.Errorf("a MAC that Parse did not see: %v", err)
	}
	if err := parse(t, `{"ipMasq":true,"ipam":{"type":"test"}}`).Validate(s.host, p); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	same(t, "state after validating", before, s.state(t))
}

func TestNetnsCreateLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, config, ifname string
		want                 error
	}{
		{"the name is taken in the pod", `{}`, "eth0", bridge.ErrNameTaken},
		{"the bridge is none", `{"bridge":"eth1"}`, "net1", bridge.ErrNotBridge},
		{"no name for an interface", `{}`, "a/b", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			podHost := lan.NewHost(t)
			lan.Join(t, podHost, "eth0", lan.NewHost(t), "peer0")
			p := open(t, podHost)
			for _, existing := range []bool{false, true} {
				if existing {
					s.attach(t, "other", `{}`)
				}
				before, inPod := s.state(t), len(list(t, p.Netlink().LinkList))
				made, err := parse(t, c.config).Create(s.host, p, c.ifname)
				if err == nil || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("Create: %v, %v; want %v", made, err, c.want)
				}
				same(t, "state after the error", before, s.state(t))
				if now := len(list(t, p.Netlink().LinkList)); now != inPod {
					t.Errorf("the pod has %d interfaces, had %d", now, inPod)
				}
			}
		})
	}
}

func TestNetnsConfigureHostRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.attach(t, "a", `{}`)
	if err := s.host.Netlink().LinkSetNoMaster(s.node.Link(p.port())); err != nil {
		t.Fatal(err)
	}
	if err := p.config.ConfigureHost(s.host, p.id, p.port(), p.result); !errors.Is(err, bridge.ErrNotPort) {
		t.Errorf("not a port: %v", err)
	}
	if err := p.config.ConfigureHost(s.host, p.id, "veth0", p.result); !errors.Is(err, netif.ErrNotFound) {
		t.Errorf("no host's end: %v", err)
	}
	if err := netif.Delete(s.host, "cni0"); err != nil {
		t.Fatal(err)
	}
	if err := p.config.ConfigureHost(s.host, p.id, p.port(), p.result); !errors.Is(err, netif.ErrNotFound) {
		t.Errorf("no bridge: %v", err)
	}
}

func TestNetnsSettleTimesOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.attach(t, "a", `{}`)
	if err := p.Netlink().LinkSetDown(p.Link("net1")); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if s.node.Link(p.port()).Attrs().OperState != netlink.OperUp {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := p.config.Settle(s.host, p.port()); !errors.Is(err, bridge.ErrPortDown) {
		t.Errorf("Settle: %v", err)
	}
}

// A bridge that was there is left as it is.
func TestNetnsBridgeOfOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "br0", 1300
	if err := s.host.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	s.node.Address("br0", "192.0.2.1/24")
	p := s.attach(t, "a", `{"bridge":"br0","mtu":1300,"isGateway":true,}`, "192.0.2.11/24")
	reaches(t, p.Host, "192.0.2.1")
	if got := s.node.Link("br0").Attrs().MTU; got != 1300 {
		t.Errorf("its MTU is %d", got)
	}
	if err := p.delete(s.host); err != nil {
		t.Fatal(err)
	}
	same(t, "addresses in the end", []string{"192.0.2.1/24"}, s.addresses(t, "br0"))
}

func TestNetnsDelete(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		delete func(s *site, p *pod) error
		gone   bool
	}{
		{"twice", func(s *site, p *pod) error { return errors.Join(p.delete(s.host), p.delete(s.host)) }, true},
		{"without the pod", func(s *site, p *pod) error { return p.config.Delete(s.host, nil, p.id, "net1", p.result) }, true},
		{"without the result", func(s *site, p *pod) error { return p.config.Delete(s.host, p.ns, p.id, "net1", nil) }, true},
		{"without both", func(s *site, p *pod) error { return p.config.Delete(s.host, nil, p.id, "net1", nil) }, false},
		{"with half a result", func(s *site, p *pod) error {
			return p.config.Delete(s.host, p.ns, p.id, "net1", &current.Result{Interfaces: p.result.Interfaces[:1]})
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			config := `{"isGateway":true,"ipMasq":true,}`
			stays := s.attach(t, "stays", config, "192.0.2.11/24")
			before := s.state(t)
			p := s.attach(t, "goes", config, "192.0.2.12/24")
			if err := c.delete(s, p); err != nil {
				t.Fatal(err)
			}
			same(t, "rules", []string{"masquerade 192.0.2.11"}, s.rules(t))
			if _, err := netif.Find(s.host, p.port()); errors.Is(err, netif.ErrNotFound) != c.gone {
				t.Errorf("the host's end: %v, want it gone: %t", err, c.gone)
			}
			if c.gone {
				same(t, "state", before, s.state(t))
			}
			if err := stays.check(s.host); err != nil {
				t.Error(err)
			}
		})
	}
}

// A host's end of the same name that another has by now is not deleted.
func TestNetnsDeleteSparesOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, other := s.attach(t, "a", `{}`), s.attach(t, "b", `{}`)
	p.result.Interfaces[1].Name = other.port()
	if err := p.delete(s.host); err != nil {
		t.Fatal(err)
	}
	if err := other.check(s.host); err != nil {
		t.Error(err)
	}
	p.result.Interfaces[1] = &current.Interface{Name: "cni0", Mac: p.result.Interfaces[0].Mac}
	if err := p.delete(s.host); err != nil {
		t.Fatal(err)
	}
	s.node.Link("cni0")
}

func TestNetnsConcurrently(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const pods = 12
	var all [pods]*pod
	for i := range pods {
		config := parse(t, `{"isDefaultGateway":true,"ipMasq":true,"ipam":{"type":"test"}}`)
		all[i] = newPod(t, config, fmt.Sprint(i))
	}
	taken := lan.NewHost(t)
	lan.Join(t, taken, "net1", lan.NewHost(t), "peer0")
	refuses := open(t, taken)
	var group errgroup.Group
	for i, p := range all {
		group.Go(func() error {
			return p.add(t, s.host, fmt.Sprintf("192.0.2.%d/24", 10+i), fmt.Sprintf("2001:db8::%d/64", 10+i))
		})
		group.Go(func() error {
			if _, err := p.config.Create(s.host, refuses, "net1"); !errors.Is(err, bridge.ErrNameTaken) {
				return fmt.Errorf("a name that is taken: %w", err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := len(s.rules(t)); got != 2*pods {
		t.Errorf("%d rules, want %d", got, 2*pods)
	}
	reaches(t, all[0].Host, "192.0.2.21")
	reaches(t, all[11].Host, "2001:db8::10")
	for _, p := range all {
		group.Go(func() error { return errors.Join(p.delete(s.host), p.delete(s.host)) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	same(t, "rules in the end", nil, s.rules(t))
	for _, l := range list(t, s.host.Netlink().LinkList) {
		if l.Type() == "veth" && l.Attrs().Name != "eth1" {
			t.Errorf("%s is left", l.Attrs().Name)
		}
	}
}

func TestNetnsCheckFindsEachDrift(t *testing.T) {
	t.Parallel()
	config := `{"isGateway":true,"ipMasq":true,"mtu":1400,"mac":"02:00:00:00:00:11","hairpinMode":true,"portIsolation":true,}`
	for _, c := range []struct {
		name string
		do   func(t *testing.T, s *site, p *pod) error
		want string
	}{
		{"nothing", func(*testing.T, *site, *pod) error { return nil }, ""},
		{"the bridge is gone", func(_ *testing.T, s *site, _ *pod) error { return netif.Delete(s.host, "cni0") }, "cni0: bridge is missing"},
		{"the bridge is down", func(_ *testing.T, s *site, _ *pod) error {
			return s.host.Netlink().LinkSetDown(s.node.Link("cni0"))
		}, "cni0: state is down, want up"},
		{"the pod's end is gone", func(_ *testing.T, _ *site, p *pod) error { return netif.Delete(p.ns, "net1") }, "net1: interface is missing"},
		{"another MTU", func(_ *testing.T, _ *site, p *pod) error {
			return p.Netlink().LinkSetMTU(p.Link("net1"), 1300)
		}, "net1: MTU is 1300, want 1400"},
		{"another MAC", func(_ *testing.T, _ *site, p *pod) error {
			return p.Netlink().LinkSetHardwareAddr(p.Link("net1"), net.HardwareAddr{2, 0, 0, 0, 0, 0x12})
		}, "net1: MAC is 02:00:00:00:00:12, want 02:00:00:00:00:11"},
		{"another MAC of the host's end", func(_ *testing.T, s *site, p *pod) error {
			return s.host.Netlink().LinkSetHardwareAddr(s.node.Link(p.port()), net.HardwareAddr{2, 0, 0, 0, 0, 0x13})
		}, ": MAC is 02:00:00:00:00:13, want "},
		{"the host's end is down", func(_ *testing.T, s *site, p *pod) error {
			return s.host.Netlink().LinkSetDown(s.node.Link(p.port()))
		}, ": state is down, want up"},
		{"no port", func(_ *testing.T, s *site, p *pod) error {
			return s.host.Netlink().LinkSetNoMaster(s.node.Link(p.port()))
		}, ": bridge is none, want cni0"},
		{"another's port", func(_ *testing.T, s *site, p *pod) error {
			br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br1", TxQLen: -1}}
			return errors.Join(s.host.Netlink().LinkAdd(br), s.host.Netlink().LinkSetMaster(s.node.Link(p.port()), br))
		}, ": bridge is br1, want cni0"},
		{"hairpin mode off", func(_ *testing.T, s *site, p *pod) error {
			return s.host.Netlink().LinkSetHairpin(s.node.Link(p.port()), false)
		}, ": hairpin mode is false, want true"},
		{"not isolated", func(_ *testing.T, s *site, p *pod) error {
			return s.host.Netlink().LinkSetIsolated(s.node.Link(p.port()), false)
		}, ": isolation is false, want true"},
		{"another peer", func(t *testing.T, s *site, p *pod) error {
			err := netif.Delete(p.ns, "net1")
			lan.Join(t, p.Host, "net1", s.node, p.port())
			return err
		}, ": bridge is none, want cni0"},
		{"no gateway address", func(t *testing.T, s *site, _ *pod) error {
			return s.host.Netlink().AddrDel(s.node.Link("cni0"), &netlink.Addr{IPNet: network(t, "192.0.2.1/24")})
		}, "cni0: address 192.0.2.1/24 is missing"},
		{"no forwarding", func(_ *testing.T, s *site, _ *pod) error {
			return netif.SetSysctl(s.host, "ipv4/ip_forward", "0")
		}, "cni0: net/ipv4/ip_forward is 0, want 1"},
		{"no masquerading", func(_ *testing.T, s *site, p *pod) error {
			return p.config.Delete(s.host, nil, p.id, "net1", nil)
		}, "net1: masquerading of 192.0.2.11 is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.attach(t, "a", config, "192.0.2.11/24")
			if err := c.do(t, s, p); err != nil {
				t.Fatal(err)
			}
			err := p.check(s.host)
			switch {
			case c.want == "" && err == nil:
			case c.want == "" || !errors.As(err, new(*netif.DriftError)) || !strings.Contains(err.Error(), c.want):
				t.Errorf("Check: %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestNetnsCheckPromisc(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.attach(t, "a", `{"promiscMode":true}`)
	if err := s.host.Netlink().SetPromiscOff(s.node.Link("cni0")); err != nil {
		t.Fatal(err)
	}
	if err := p.check(s.host); err == nil || !strings.Contains(err.Error(), "cni0: promiscuous mode is off, want on") {
		t.Errorf("Check: %v", err)
	}
}

// A pod's interface works as soon as it is there, in both families.
func TestNetnsUsableAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.attach(t, "a", `{"isDefaultGateway":true,}`, "192.0.2.11/24", "2001:db8::11/64")
	for _, address := range []string{"192.0.2.1", "2001:db8::1"} {
		if p.Ping(t.Context(), address, 1) != 1 {
			t.Errorf("%s did not answer the first request", address)
		}
	}
}

func BenchmarkLife(b *testing.B) {
	node, podHost := lan.NewHost(b), lan.NewHost(b)
	host, err := netns.Open(node.Path())
	if err != nil {
		b.Fatal(err)
	}
	defer host.Close()
	p, err := netns.Open(podHost.Path())
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	config, err := bridge.Parse([]byte(`{"isGateway":true,"ipMasq":true,"ipam":{"type":"test"}}`), "")
	if err != nil {
		b.Fatal(err)
	}
	id := bridge.Owner{Network: "net", ContainerID: "a", Interface: "net1"}
	for b.Loop() {
		made, err := config.Create(host, p, "net1")
		if err != nil {
			b.Fatal(err)
		}
		address := net.IPNet{IP: net.IPv4(192, 0, 2, 11), Mask: net.CIDRMask(24, 32)}
		result := &current.Result{Interfaces: made, IPs: []*current.IPConfig{{Address: address}}}
		err = errors.Join(config.Complete(result), config.ConfigureHost(host, id, made[1].Name, result), netif.Configure(p, "net1", result))
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := config.Delete(host, p, id, "net1", result); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
