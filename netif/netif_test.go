// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestValidateName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		ok   bool
	}{
		{"net1", true},
		{"a", true},
		{"eth0.100", true},
		{"fifteen-bytes-1", true},
		{"...", true},
		{"ü", true},
		{"", false},
		{".", false},
		{"..", false},
		{"sixteen-bytes-12", false},
		{"a/b", false},
		{"a:b", false},
		{"a b", false},
		{"a\tb", false},
		{"a\nb", false},
		{"a\x00", false},
		{"net%d", false},
		{"à", false}, // its second byte is 0xa0
	} {
		t.Run(fmt.Sprintf("%q", c.name), func(t *testing.T) {
			t.Parallel()
			if err := ValidateName(c.name); (err == nil) != c.ok {
				t.Errorf("ValidateName(%q) = %v", c.name, err)
			}
		})
	}
}

func TestTemporaryNamesAreValidAndApart(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		if err := ValidateName(temporaryName(a)); err != nil {
			t.Error(err)
		}
		if a != b && len(a) < 4 && len(b) < 4 && temporaryName(a) == temporaryName(b) {
			t.Errorf("%q and %q share a temporary name", a, b)
		}
	})
}

func TestErrorsSayWhat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want string
		err  error
	}{
		{`master "eth9": no such interface`, NewFieldError("master", "eth9", ErrNotFound)},
		{`master: ` + ErrNoDefaultRoute.Error(), NewFieldError("master", nil, ErrNoDefaultRoute)},
		{`mtu -1: is negative`, NewFieldError("mtu", -1, errors.New("is negative"))},
		{`net1: mode is vepa, want bridge`, &DriftError{Interface: "net1", What: "mode", Got: "vepa", Want: "bridge"}},
		{`net1: interface is missing`, missing("net1")},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if !errors.Is(NewFieldError("master", "eth9", ErrNotFound), ErrNotFound) {
		t.Error("a FieldError hides its cause")
	}
	for _, err := range []error{ErrNotFound, unix.ENODEV, netlink.LinkNotFoundError{}, fmt.Errorf("x: %w", ErrNotFound)} {
		if !IsNotFound(err) {
			t.Errorf("%T does not mean that it was not found", err)
		}
	}
	if IsNotFound(nil) || IsNotFound(unix.EPERM) {
		t.Error("no error, or another, means that it was not found")
	}
}

func prefix(s string) net.IPNet {
	ip, n, err := net.ParseCIDR(s)
	if err != nil {
		return net.IPNet{}
	}
	return net.IPNet{IP: ip, Mask: n.Mask}
}

func ipConfig(address, gateway string, index *int) *current.IPConfig {
	return &current.IPConfig{Interface: index, Address: prefix(address), Gateway: net.ParseIP(gateway)}
}

func TestGatewaysOfTheirFamilies(t *testing.T) {
	t.Parallel()
	g := gatewaysOf([]*current.IPConfig{
		ipConfig("192.0.2.2/24", "", nil),
		ipConfig("2001:db8::2/64", "", nil),
		ipConfig("192.0.2.3/24", "192.0.2.1", nil),
		ipConfig("192.0.2.4/24", "192.0.2.9", nil),
		ipConfig("2001:db8::3/64", "2001:db8::1", nil),
	})
	for destination, want := range map[string]string{"0.0.0.0": "192.0.2.1", "10.0.0.0": "192.0.2.1", "::": "2001:db8::1"} {
		if got := g.towards(net.ParseIP(destination)); got.String() != want {
			t.Errorf("towards %s: %s, want %s", destination, got, want)
		}
	}
}

func TestRoutesOf(t *testing.T) {
	t.Parallel()
	table, scope, unspecified := 1000, int(netlink.SCOPE_LINK), 0
	result := &current.Result{Routes: []*types.Route{
		{Dst: prefix("10.0.0.0/8")},
		{Dst: prefix("10.1.0.0/16"), GW: net.ParseIP("192.0.2.9"), MTU: 1400, AdvMSS: 1300, Priority: 5, Table: &table},
		{Dst: prefix("10.2.0.0/16"), Scope: &scope, Table: &unspecified},
		{Dst: prefix("::/0")},
		{Dst: prefix("10.3.0.0/16"), GW: net.IPv4zero},
	}}
	var got []string
	for _, r := range routesOf(result, 7, gateways{ipv4: net.ParseIP("192.0.2.1")}) {
		if r.LinkIndex != 7 {
			t.Errorf("route %s leads to interface %d", describe(r), r.LinkIndex)
		}
		got = append(got, describe(r))
	}
	want := []string{
		"10.0.0.0/8 via 192.0.2.1",
		"10.1.0.0/16 via 192.0.2.9 metric 5 table 1000 mtu 1400 advmss 1300",
		"10.2.0.0/16 via 192.0.2.1 scope 253",
		"::/0",
		"10.3.0.0/16",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unexpected routes (-want +got):\n%s", diff)
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	dst, other := prefix("10.0.0.0/8"), prefix("10.0.0.0/9")
	six := prefix("2001:db8::/32")
	base := netlink.Route{LinkIndex: 3, Dst: &dst, Gw: net.ParseIP("192.0.2.1"), Table: 254}
	with := func(change func(r *netlink.Route)) netlink.Route {
		r := base
		change(&r)
		return r
	}
	for _, c := range []struct {
		name       string
		have, want netlink.Route
		ok         bool
	}{
		{"the same", base, base, true},
		{"the kernel filled in", with(func(r *netlink.Route) { r.Priority, r.MTU, r.AdvMSS = 1024, 1500, 1460 }), base, true},
		{"another destination", with(func(r *netlink.Route) { r.Dst = &other }), base, false},
		{"no destination", with(func(r *netlink.Route) { r.Dst = nil }), base, false},
		{"another table", with(func(r *netlink.Route) { r.Table = 100 }), base, false},
		{"another gateway", with(func(r *netlink.Route) { r.Gw = net.ParseIP("192.0.2.2") }), base, false},
		{"no gateway", with(func(r *netlink.Route) { r.Gw = nil }), base, false},
		{"another interface", with(func(r *netlink.Route) { r.LinkIndex = 4 }), base, false},
		{"another scope", with(func(r *netlink.Route) { r.Scope = netlink.SCOPE_LINK }), base, false},
		{"metric missing", base, with(func(r *netlink.Route) { r.Priority = 5 }), false},
		{"mtu missing", base, with(func(r *netlink.Route) { r.MTU = 1400 }), false},
		{"advmss missing", base, with(func(r *netlink.Route) { r.AdvMSS = 1300 }), false},
		{
			"one hop of several",
			with(func(r *netlink.Route) {
				r.LinkIndex, r.Gw = 0, nil
				r.MultiPath = []*netlink.NexthopInfo{{LinkIndex: 4}, {LinkIndex: 3, Gw: net.ParseIP("192.0.2.1")}}
			}),
			base, true,
		},
		{
			"a scope for IPv6", with(func(r *netlink.Route) { r.Dst = &six }),
			with(func(r *netlink.Route) { r.Dst, r.Scope = &six, netlink.SCOPE_LINK }), true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := serves(c.have, c.want); got != c.ok {
				t.Errorf("serves = %t", got)
			}
		})
	}
}

func TestDefaultDevice(t *testing.T) {
	t.Parallel()
	all, some := prefix("0.0.0.0/0"), prefix("10.0.0.0/8")
	for _, c := range []struct {
		name   string
		routes []netlink.Route
		want   int
	}{
		{"none", nil, 0},
		{"others only", []netlink.Route{{Dst: &some, LinkIndex: 1, Type: unix.RTN_UNICAST}}, 0},
		{"first of two", []netlink.Route{{Dst: &all, LinkIndex: 2, Type: unix.RTN_UNICAST}, {Dst: &all, LinkIndex: 3, Type: unix.RTN_UNICAST}}, 2},
		{"without a destination", []netlink.Route{{LinkIndex: 2, Type: unix.RTN_UNICAST}}, 2},
		{"unreachable is none", []netlink.Route{{Dst: &all, LinkIndex: 1, Type: unix.RTN_UNREACHABLE}}, 0},
		{"several hops", []netlink.Route{{Dst: &all, Type: unix.RTN_UNICAST, MultiPath: []*netlink.NexthopInfo{{LinkIndex: 5}, {LinkIndex: 6}}}}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := defaultDevice(c.routes); got != c.want {
				t.Errorf("defaultDevice = %d, want %d", got, c.want)
			}
		})
	}
}

func TestAssignedTo(t *testing.T) {
	t.Parallel()
	result := &current.Result{
		Interfaces: []*current.Interface{{Name: "net1"}, {Name: "other"}},
		IPs:        []*current.IPConfig{ipConfig("192.0.2.2/24", "", current.Int(0)), ipConfig("192.0.2.3/24", "", nil)},
	}
	ips, err := assignedTo("net1", result)
	if err != nil || len(ips) != 1 || ips[0] != result.IPs[0] {
		t.Errorf("assignedTo = %v, %v", ips, err)
	}
	for _, index := range []int{-1, 1, 2} {
		result.IPs[1].Interface = &index
		if _, err := assignedTo("net1", result); err == nil || !strings.Contains(err.Error(), "192.0.2.3/24") {
			t.Errorf("an address of interface %d: %v", index, err)
		}
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	type document struct {
		Flag  bool
		Count uint32
		List  []string
		Inner struct{ Name string }
	}
	for _, c := range []struct{ config, want string }{
		{`{"flag":1}`, "flag: is a JSON number, want true or false"},
		{`{"count":-1}`, "count: is a JSON number -1, want a whole number from 0 to 4294967295"},
		{`{"list":7}`, "list: is a JSON number, want a []string"},
		{`{"inner":{"name":[]}}`, "inner.name: is a JSON array, want a string"},
		{`"x"`, "configuration: is a JSON string, want an object"},
		{``, "configuration: unexpected end of JSON input"},
		{`{}{}`, "configuration: invalid character '{' after top-level value"},
	} {
		err := Decode([]byte(c.config), &document{})
		if err == nil || !strings.EqualFold(err.Error(), c.want) {
			t.Errorf("Decode(%s): %v, want %s", c.config, err, c.want)
		}
	}
	if err := Decode([]byte(`{"flag":true,"unknown":1}`), &document{}); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
}
