// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/ipvlan"
	"github.com/weir-cni/weir/macvlan"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// maker makes an interface in a pod, as a type and mode of network does.
type maker interface {
	Create(host, pod *netns.Namespace, name string) (*current.Interface, error)
}

// slaves are pods on one master, the first of them guarded, and a host outside
// that knows the way to them.
type slaves struct {
	outside *lan.Host
	pods    []*lan.Host
	guard   *Guard
}

func addressOf(pod int) string { return fmt.Sprintf("198.51.100.%d", 11+pod) }

func newSlaves(t *testing.T, config maker, pods int, resolves bool) *slaves {
	t.Helper()
	s := &slaves{outside: lan.NewHost(t)}
	node := lan.NewHost(t)
	lan.Join(t, s.outside, "eth0", node, "eth1")
	s.outside.Address("eth0", "192.0.2.1/24", "198.51.100.1/24")
	node.Address("eth1", "192.0.2.2/24")
	host := openHost(t, node)
	for i := range pods {
		s.pods = append(s.pods, lan.NewHost(t))
		ns := openHost(t, s.pods[i])
		if _, err := config.Create(host, ns, "net1"); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			s.guard = guardOf(t, ns, s.pods[i])
		}
		s.pods[i].Up("net1")
		s.pods[i].Address("net1", addressOf(i)+"/24")
		if !resolves {
			s.routeByNode(t, i)
		}
	}
	return s
}

func openHost(t *testing.T, h *lan.Host) *netns.Namespace {
	t.Helper()
	ns, err := netns.Open(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func guardOf(t *testing.T, ns *netns.Namespace, pod *lan.Host) *Guard {
	t.Helper()
	loader, err := New()
	if err != nil {
		t.Fatal(err)
	}
	mac := pod.Link("net1").Attrs().HardwareAddr
	spec := Spec{Dir: pinDir(t, "net1"), Interface: "net1", Checks: allChecks, Addresses: Addresses{
		MAC: mac, Prefixes: []netip.Prefix{netip.MustParsePrefix(addressOf(0) + "/32"), netip.PrefixFrom(LinkLocal(mac), 128)},
	}}
	guard, err := loader.Load(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := loader.Attach(Place{Namespace: ns, Interface: "net1"}, guard, spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = guard.Close() })
	return guard
}

// routeByNode tells the outside host that a pod that answers no ARP is behind the
// node, and the pod that the outside host is behind net1.
func (s *slaves) routeByNode(t *testing.T, pod int) {
	t.Helper()
	there := &net.IPNet{IP: net.ParseIP(addressOf(pod)).To4(), Mask: net.CIDRMask(32, 32)}
	out := &netlink.Route{LinkIndex: s.outside.Link("eth0").Attrs().Index, Dst: there, Gw: net.IP{192, 0, 2, 2}}
	if err := s.outside.Netlink().RouteAdd(out); err != nil {
		t.Fatal(err)
	}
	lanNet := &net.IPNet{IP: net.IP{192, 0, 2, 0}, Mask: net.CIDRMask(24, 32)}
	back := &netlink.Route{LinkIndex: s.pods[pod].Link("net1").Attrs().Index, Dst: lanNet, Scope: netlink.SCOPE_LINK}
	if err := s.pods[pod].Netlink().RouteAdd(back); err != nil {
		t.Fatal(err)
	}
}

// sees says in which directions the hooks of the first pod see the pings that
// somebody sends to it, and their answers.
func (s *slaves) sees(t *testing.T, from *lan.Host) (seen [2]bool) {
	t.Helper()
	const pings = 3
	before, err := s.guard.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if got := from.Ping(t.Context(), addressOf(0), pings); got != pings {
		t.Fatalf("%d of %d pings answered", got, pings)
	}
	after, err := s.guard.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		seen[d] = after.Of(d, bpf.Allowed).Packets-before.Of(d, bpf.Allowed).Packets >= pings
	}
	return seen
}

var both = [2]bool{bpf.Ingress: true, bpf.Egress: true}

// These two are the table of docs/guard.md.

func TestNetnsHooksOfMacvlan(t *testing.T) {
	slaves := map[string]int{"bridge": 2, "private": 2, "vepa": 2, "passthru": 1}
	for mode, pods := range slaves {
		t.Run(mode, func(t *testing.T) {
			config, err := macvlan.Parse([]byte(`{"master":"eth1","mode":"`+mode+`"}`), "")
			if err != nil {
				t.Fatal(err)
			}
			s := newSlaves(t, config, pods, true)
			if got := s.sees(t, s.outside); got != both {
				t.Errorf("from outside: %v", got)
			}
			if mode != "bridge" {
				return // no slave reaches another
			}
			if got := s.sees(t, s.pods[1]); got != both {
				t.Errorf("from another slave: %v", got)
			}
		})
	}
}

func TestKernelsHooksOfIpvlan(t *testing.T) {
	tests := []struct {
		mode                  string
		resolves              bool // answers ARP
		fromOutside, fromPeer [2]bool
	}{
		{"l2", true, both, both},
		{"l3", false, both, both},
		{"l3s", false, [2]bool{bpf.Ingress: false, bpf.Egress: true}, both},
	}
	for _, test := range tests {
		t.Run(test.mode, func(t *testing.T) {
			config, err := ipvlan.Parse([]byte(`{"master":"eth1","mode":"`+test.mode+`"}`), "")
			if err != nil {
				t.Fatal(err)
			}
			s := newSlaves(t, config, 2, test.resolves)
			if got := s.sees(t, s.outside); got != test.fromOutside {
				t.Errorf("from outside: ingress and egress seen %v, want %v", got, test.fromOutside)
			}
			if got := s.sees(t, s.pods[1]); got != test.fromPeer {
				t.Errorf("from another slave: ingress and egress seen %v, want %v", got, test.fromPeer)
			}
		})
	}
}
