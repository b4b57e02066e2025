// SPDX-License-Identifier: Apache-2.0

package bridge_test

import (
	"errors"
	"net"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/bridge"
)

// ipamResult is what an IPAM plugin would give; pairs of address and gateway.
func ipamResult(t *testing.T, pairs [][2]string, routes ...*types.Route) *current.Result {
	t.Helper()
	result := &current.Result{Routes: routes}
	for _, pair := range pairs {
		result.IPs = append(result.IPs, &current.IPConfig{Address: *network(t, pair[0]), Gateway: net.ParseIP(pair[1])})
	}
	return result
}

// network is an address with its mask.
func network(t *testing.T, s string) *net.IPNet {
	t.Helper()
	ip, n, err := net.ParseCIDR(s)
	if err != nil {
		t.Fatal(err)
	}
	return &net.IPNet{IP: ip, Mask: n.Mask}
}

func route(t *testing.T, dst, gw string) *types.Route {
	t.Helper()
	return &types.Route{Dst: *network(t, dst), GW: net.ParseIP(gw)}
}

// told is a result in short.
func told(result *current.Result) []string {
	var lines []string
	for _, ip := range result.IPs {
		lines = append(lines, ip.Address.String()+" via "+ip.Gateway.String())
	}
	for _, r := range result.Routes {
		lines = append(lines, "route "+r.Dst.String()+" via "+r.GW.String())
	}
	return lines
}

func TestComplete(t *testing.T) {
	t.Parallel()
	both := [][2]string{{"192.0.2.7/24", ""}, {"2001:db8::7/64", ""}}
	for _, c := range []struct {
		name, config string
		ips          [][2]string
		routes       []*types.Route
		want         []string
	}{
		{"no gateway", `{}`, both, nil, []string{"192.0.2.7/24 via <nil>", "2001:db8::7/64 via <nil>"}},
		{"a gateway", `{"isGateway":true}`, both, nil, []string{"192.0.2.7/24 via 192.0.2.1", "2001:db8::7/64 via 2001:db8::1"}},
		{
			"a gateway of the plugin", `{"isGateway":true}`, [][2]string{{"192.0.2.7/24", "192.0.2.254"}}, nil,
			[]string{"192.0.2.7/24 via 192.0.2.254"},
		},
		{
			"a default gateway", `{"isDefaultGateway":true}`, both, nil,
			[]string{
				"192.0.2.7/24 via 192.0.2.1", "2001:db8::7/64 via 2001:db8::1",
				"route 0.0.0.0/0 via 192.0.2.1", "route ::/0 via 2001:db8::1",
			},
		},
		{
			"two addresses of a family", `{"isDefaultGateway":true}`, [][2]string{{"192.0.2.7/24", ""}, {"198.51.100.7/24", ""}}, nil,
			[]string{"192.0.2.7/24 via 192.0.2.1", "198.51.100.7/24 via 198.51.100.1", "route 0.0.0.0/0 via 192.0.2.1"},
		},
		{
			"a default route of the plugin", `{"isDefaultGateway":true}`, both, []*types.Route{route(t, "0.0.0.0/0", "192.0.2.9")},
			[]string{
				"192.0.2.7/24 via 192.0.2.1", "2001:db8::7/64 via 2001:db8::1",
				"route 0.0.0.0/0 via 192.0.2.9", "route ::/0 via 2001:db8::1",
			},
		},
		{
			"one without a gateway", `{"isDefaultGateway":true}`, both[:1], []*types.Route{route(t, "0.0.0.0/0", "")},
			[]string{"192.0.2.7/24 via 192.0.2.1", "route 0.0.0.0/0 via <nil>"},
		},
		{"a subnet of one", `{"isGateway":true}`, [][2]string{{"192.0.2.7/32", ""}}, nil, []string{"192.0.2.7/32 via 192.0.2.8"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config, err := bridge.Parse([]byte(c.config), "")
			if err != nil {
				t.Fatal(err)
			}
			config.Layer3 = true
			result := ipamResult(t, c.ips, c.routes...)
			if err := config.Complete(result); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, told(result)); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
			for _, ip := range result.IPs {
				if ip.Interface == nil || *ip.Interface != 2 {
					t.Errorf("%s is of interface %v, want 2", &ip.Address, ip.Interface)
				}
			}
		})
	}
}

func TestCompleteWithoutIPAM(t *testing.T) {
	t.Parallel()
	result := &current.Result{}
	if err := (&bridge.Config{IsGateway: true, IsDefaultGateway: true}).Complete(result); err != nil || len(result.Routes) != 0 {
		t.Errorf("Complete: %v, %v", err, result)
	}
}

func TestCompleteRefuses(t *testing.T) {
	t.Parallel()
	config := &bridge.Config{Layer3: true, IsGateway: true}
	if err := config.Complete(&current.Result{}); !errors.Is(err, bridge.ErrNoAddress) {
		t.Errorf("no address: %v", err)
	}
	for _, c := range []struct {
		name string
		ip   current.IPConfig
		want string
	}{
		{"no address at all", current.IPConfig{}, "address <nil>: is of neither IPv4 nor IPv6"},
		{
			"a mask of the other family", current.IPConfig{Address: net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(64, 128)}},
			"address 192.0.2.7/0: has the mask ffffffffffffffff0000000000000000, which is none of its family",
		},
		{
			"a gateway of the other family", current.IPConfig{Address: *network(t, "192.0.2.7/24"), Gateway: net.ParseIP("2001:db8::1")},
			"address 192.0.2.7/24: gateway 2001:db8::1 is of the other family",
		},
		{
			"the last of all addresses", current.IPConfig{Address: *network(t, "255.255.255.255/32")},
			"address 255.255.255.255/32: its subnet has no address for the gateway",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if err := config.Complete(&current.Result{IPs: []*current.IPConfig{&c.ip}}); err == nil || err.Error() != c.want {
				t.Errorf("Complete: %v\nwant %s", err, c.want)
			}
		})
	}
}
