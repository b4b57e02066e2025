// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bridge_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"

	"github.com/weir-cni/weir/bridge"
	"github.com/weir-cni/weir/netif"
)

// vlans lists those of a port, such as "100 native" and "200".
func (s *site) vlans(t *testing.T, name string) []string {
	t.Helper()
	index := int32(s.node.Link(name).Attrs().Index)
	listed := list(t, func() ([]*nl.BridgeVlanInfo, error) {
		all, err := s.host.Netlink().BridgeVlanList()
		return all[index], err
	})
	lines := make([]string, len(listed))
	for i, v := range listed {
		lines[i] = fmt.Sprint(v.Vid)
		if v.PortVID() && v.EngressUntag() {
			lines[i] += " native"
		}
	}
	return lines
}

func TestKernelsVLANsOfAPort(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, config string
		want         []string
	}{
		{"none", `{"vlan":0}`, []string{"1 native"}},
		{"one", `{"vlan":100}`, []string{"100 native"}},
		{"the default one", `{"vlan":1}`, []string{"1 native"}},
		{"one, and the default one kept", `{"vlan":100,"preserveDefaultVlan":true}`, []string{"1", "100 native"}},
		{"a trunk", `{"vlanTrunk":[{"id":42},{"minID":200,"maxID":202}]}`, []string{"1 native", "42", "200", "201", "202"}},
		{"one and a trunk", `{"vlan":100,"vlanTrunk":[{"minID":200,"maxID":201}]}`, []string{"100 native", "200", "201"}},
		{"one of the trunk", `{"vlan":100,"vlanTrunk":[{"minID":99,"maxID":101}]}`, []string{"99", "100 native", "101"}},
		{"an empty trunk", `{"vlanTrunk":[]}`, []string{"1 native"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.attach(t, "a", c.config)
			got := s.vlans(t, p.port())
			if c.name == "one, and the default one kept" {
				// It is not the native one any more, but its frames leave untagged.
				got = slices.Sorted(slices.Values(got))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("unexpected VLANs (-want +got):\n%s", diff)
			}
			filtering := s.node.Link("cni0").(*netlink.Bridge).VlanFiltering
			if got, want := filtering != nil && *filtering, c.config != `{"vlan":0}`; got != want {
				t.Errorf("the bridge filters VLANs: %t, want %t", got, want)
			}
		})
	}
}

func TestKernelsVLANWholeTrunk(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.attach(t, "a", `{"vlanTrunk":[{"minID":1,"maxID":4094}]}`)
	if got := len(s.vlans(t, p.port())); got != 4094 {
		t.Errorf("%d VLANs", got)
	}
}

func TestKernelsVLANIsolation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.attach(t, "a", `{"vlan":100,}`, "192.0.2.11/24", "2001:db8::11/64")
	b := s.attach(t, "b", `{"vlan":100,}`, "192.0.2.12/24", "2001:db8::12/64")
	c := s.attach(t, "c", `{"vlan":200,}`, "192.0.2.13/24", "2001:db8::13/64")
	reaches(t, a.Host, "192.0.2.12")
	reaches(t, b.Host, "2001:db8::11")
	none(t, a.Host, "192.0.2.13")
	none(t, c.Host, "2001:db8::12")
}

// A pod with a trunk is in each of its VLANs by a tagged interface of its own.
func TestKernelsVLANTrunkTraffic(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	trunk := s.attach(t, "trunk", `{"vlanTrunk":[{"id":100},{"id":200}]}`)
	a := s.attach(t, "a", `{"vlan":100,}`, "192.0.2.11/24")
	b := s.attach(t, "b", `{"vlan":200,}`, "198.51.100.11/24")
	c := s.attach(t, "c", `{"vlan":300,}`, "203.0.113.11/24")
	for vid, address := range map[int]string{100: "192.0.2.1/24", 200: "198.51.100.1/24", 300: "203.0.113.1/24"} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = fmt.Sprintf("v%d", vid), trunk.Link("net1").Attrs().Index
		if err := trunk.Netlink().LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: vid}); err != nil {
			t.Fatal(err)
		}
		trunk.Address(attrs.Name, address)
		trunk.Up(attrs.Name)
	}
	reaches(t, a.Host, "192.0.2.1")
	reaches(t, b.Host, "198.51.100.1")
	none(t, c.Host, "203.0.113.1")
}

// The gateway of a VLAN is an interface in that VLAN, the fourth of the result.
func TestKernelsVLANGateway(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const config = `{"bridge":"br0","vlan":100,"mtu":1400,"isDefaultGateway":true,"ipMasq":true,}`
	a := s.attach(t, "a", config, "192.0.2.11/24", "2001:db8::11/64")
	b := s.attach(t, "b", config, "192.0.2.12/24")
	other := s.attach(t, "other", `{"bridge":"br0","vlan":200,"isGateway":true,}`, "198.51.100.11/24")
	attrs := s.node.Link("br0.100").Attrs()
	want := &current.Interface{Name: "br0.100", Mac: attrs.HardwareAddr.String(), Mtu: 1400}
	for _, p := range []*pod{a, b} {
		if diff := cmp.Diff(want, p.result.Interfaces[3]); diff != "" {
			t.Errorf("unexpected interface (-want +got):\n%s", diff)
		}
	}
	same(t, "addresses of the bridge", nil, s.addresses(t, "br0"))
	same(t, "addresses in VLAN 100", []string{"192.0.2.1/24", "2001:db8::1/64"}, s.addresses(t, "br0.100"))
	same(t, "addresses in VLAN 200", []string{"198.51.100.1/24"}, s.addresses(t, "br0.200"))
	for _, address := range []string{"192.0.2.1", "2001:db8::1", "192.0.2.12"} {
		reaches(t, a.Host, address)
	}
	reaches(t, other.Host, "198.51.100.1")
	if got := source(t, s.outside, a.Host, "203.0.113.1"); got != "203.0.113.2" {
		t.Errorf("the server sees %s", got)
	}

	conflict := newPod(t, parse(t, `{"bridge":"br0","vlan":100,"isGateway":true,"ipam":{"type":"test"}}`), "conflict")
	before := s.state(t)
	if err := conflict.add(t, s.host, "198.51.100.12/24"); !errors.Is(err, bridge.ErrAddressConflict) {
		t.Errorf("an address in the way: %v", err)
	}
	if err := conflict.delete(s.host); err != nil {
		t.Fatal(err)
	}
	same(t, "state after the refusal", before, s.state(t))

	// It outlives the pods, as the bridge does.
	for _, p := range []*pod{a, b, other} {
		if err := p.delete(s.host); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "addresses in the end", []string{"192.0.2.1/24", "2001:db8::1/64"}, s.addresses(t, "br0.100"))
}

func TestKernelsVLANGatewayConcurrently(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var group errgroup.Group
	for i := range 6 {
		p := newPod(t, parse(t, `{"vlan":100,"isGateway":true,"ipam":{"type":"test"}}`), fmt.Sprint(i))
		group.Go(func() error { return p.add(t, s.host, fmt.Sprintf("192.0.2.%d/24", 10+i)) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	ports := 0
	for _, l := range list(t, s.host.Netlink().LinkList) {
		if l.Attrs().MasterIndex == s.node.Link("cni0").Attrs().Index {
			ports++
		}
	}
	if ports != 7 {
		t.Errorf("the bridge has %d ports, want those of 6 pods and the gateway's", ports)
	}
}

func TestKernelsVLANCheckFindsEachDrift(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(s *site, port netlink.Link) error
		want string
	}{
		{"not in its VLAN", func(s *site, port netlink.Link) error {
			return s.host.Netlink().BridgeVlanDel(port, 100, false, false, false, true)
		}, ": VLAN 100 is none, want native"},
		{"tagged", func(s *site, port netlink.Link) error {
			return s.host.Netlink().BridgeVlanAdd(port, 100, false, false, false, true)
		}, ": VLAN 100 is tagged, want native"},
		{"half", func(s *site, port netlink.Link) error {
			return s.host.Netlink().BridgeVlanAdd(port, 100, false, true, false, true)
		}, ": VLAN 100 is partly native, want native"},
		{"in another too", func(s *site, port netlink.Link) error {
			return s.host.Netlink().BridgeVlanAdd(port, 300, false, false, false, true)
		}, ": VLAN 300 is tagged, want none"},
		{"not in the trunk", func(s *site, port netlink.Link) error {
			return s.host.Netlink().BridgeVlanDel(port, 200, false, false, false, true)
		}, ": VLAN 200 is none, want tagged"},
		{"no gateway", func(s *site, _ netlink.Link) error { return netif.Delete(s.host, "cni0.100") }, "cni0.100: gateway is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.attach(t, "a", `{"vlan":100,"vlanTrunk":[{"id":200}],"isGateway":true,}`, "192.0.2.11/24")
			if err := c.do(s, s.node.Link(p.port())); err != nil {
				t.Fatal(err)
			}
			if err := p.check(s.host); !errors.As(err, new(*netif.DriftError)) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check: %v\nwant %s", err, c.want)
			}
		})
	}
}
