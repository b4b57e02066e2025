// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/runner"
)

// staticCase is a configuration of static. field and sentinel are of the error that it gets.
type staticCase struct {
	name     string
	config   string
	args     string
	want     []string
	field    string
	sentinel error
	// lenient means that the reference plugin accepts what is refused here.
	lenient bool
}

// staticJSON is a configuration with this ipam section and further members.
func staticJSON(ipam, more string) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n","type":"macvlan","ipam":{"type":"static"%s}%s}`, ipam, more)
}

var staticGood = []staticCase{
	{
		name:   "one address",
		config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24"}]`, ""),
		want:   []string{"10.0.0.2/24"},
	},
	{
		name: "both families with gateways",
		config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"},
			{"address":"2001:db8::2/64","gateway":"fe80::1"}]`, ""),
		want: []string{"10.0.0.2/24 via 10.0.0.1", "2001:db8::2/64 via fe80::1"},
	},
	{
		name:   "gateway outside of the subnet",
		config: staticJSON(`,"addresses":[{"address":"10.0.0.2/32","gateway":"169.254.1.1"}]`, ""),
		want:   []string{"10.0.0.2/32 via 169.254.1.1"},
	},
	{
		name: "routes with every key, and DNS",
		config: staticJSON(`,"addresses":[{"address":"192.168.122.188/24"}],"routes":[
			{"dst":"0.0.0.0/0","gw":"192.168.122.1"},
			{"dst":"192.168.122.0/24","gw":"192.168.122.1","mtu":1400,"advmss":1360,"priority":7,"table":100,"scope":253},
			{"dst":"2001:db8:1::5/64"},{"dst":"10.0.0.0/8","table":0,"scope":0}],
			"dns":{"nameservers":["10.0.0.53"],"domain":"a.example","search":["b.example"],"options":["ndots:1"]}`, ""),
		want: []string{"192.168.122.188/24"},
	},
	{
		name:   "runtimeConfig alone",
		config: staticJSON("", `,"runtimeConfig":{"ips":["192.168.122.188/24","2001:db8::5/64"]}`),
		want:   []string{"192.168.122.188/24", "2001:db8::5/64"},
	},
	{
		name: "runtimeConfig replaces everything",
		config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"}]`,
			`,"args":{"cni":{"ips":["10.0.0.3/24"]}},"runtimeConfig":{"ips":["10.0.0.4/24"]}`),
		args: "IP=10.0.0.5/24;GATEWAY=10.0.0.1",
		want: []string{"10.0.0.4/24"},
	},
	{
		name: "args.cni replaces the configuration and CNI_ARGS",
		config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"}]`,
			`,"args":{"cni":{"ips":["10.0.0.3/24"]}}`),
		args: "IP=10.0.0.5/24;GATEWAY=10.0.0.1",
		want: []string{"10.0.0.3/24"},
	},
	{
		name:   "CNI_ARGS adds to the configuration",
		config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24"}]`, ""),
		args:   "IgnoreUnknown=1;K8S_POD_NAME=p;IP= 10.0.0.5/24, 2001:db8::5/64;GATEWAY=10.0.0.1,2001:db8::1",
		want:   []string{"10.0.0.2/24", "10.0.0.5/24 via 10.0.0.1", "2001:db8::5/64 via 2001:db8::1"},
	},
	{
		name:   "gateway of CNI_ARGS that is in no subnet",
		config: staticJSON("", ""),
		args:   "IP=10.0.0.5/24;GATEWAY=10.9.0.1",
		want:   []string{"10.0.0.5/24"},
	},
	{
		name:   "the same in runtimeConfig and CNI_ARGS",
		config: staticJSON("", `,"runtimeConfig":{"ips":["192.168.122.188/24"]}`),
		args:   "IgnoreUnknown=true;IP=192.168.122.188/24",
		want:   []string{"192.168.122.188/24"},
	},
	{
		name: "an invalid address that is replaced",
		config: staticJSON(`,"addresses":[{"address":"10.0.0.2"}]`,
			`,"runtimeConfig":{"ips":["10.0.0.4/24"]}`),
		want: []string{"10.0.0.4/24"},
	},
	{
		name: "old version, one of each family",
		config: `{"cniVersion":"0.2.0","name":"n","ipam":{"type":"static",
			"addresses":[{"address":"10.0.0.2/24"},{"address":"2001:db8::2/64"}]}}`,
		want: []string{"10.0.0.2/24", "2001:db8::2/64"},
	},
	{
		name: "0.3.1, two of a family",
		config: `{"cniVersion":"0.3.1","name":"n","ipam":{"type":"static","routes":[{"dst":"10.1.0.0/16","gw":"10.0.0.1"}],
			"addresses":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"address":"10.0.1.2/24"}]}}`,
		want: []string{"10.0.0.2/24 via 10.0.0.1", "10.0.1.2/24"},
	},
}

var staticBad = []staticCase{
	{
		name: "no address", config: staticJSON("", ""),
		field: "ipam.addresses", sentinel: ErrNoAddress, lenient: true,
	},
	{
		name: "empty lists", config: staticJSON(`,"addresses":[]`, `,"args":{"cni":{"ips":[]}},"runtimeConfig":{"ips":[]}`),
		field: "ipam.addresses", sentinel: ErrNoAddress, lenient: true,
	},
	{
		name: "null address", config: staticJSON(`,"addresses":[null]`, ""),
		field: "ipam.addresses[0].address", sentinel: ErrMissing,
	},
	{
		name: "no prefix", config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24"},{"address":"10.0.1.2"}]`, ""),
		field: "ipam.addresses[1].address", sentinel: ErrNoPrefix,
	},
	{
		name: "not an address", config: staticJSON(`,"addresses":[{"address":"ten"}]`, ""),
		field: "ipam.addresses[0].address", sentinel: ErrInvalid,
	},
	{
		name: "prefix too long", config: staticJSON(`,"addresses":[{"address":"10.0.0.2/33"}]`, ""),
		field: "ipam.addresses[0].address", sentinel: ErrInvalid,
	},
	{
		name: "IPv4 in IPv6 form", config: staticJSON(`,"addresses":[{"address":"::ffff:10.0.0.2/120"}]`, ""),
		field: "ipam.addresses[0].address", sentinel: ErrInvalid, lenient: true,
	},
	{
		name: "unspecified", config: staticJSON(`,"addresses":[{"address":"::/0"}]`, ""),
		field: "ipam.addresses[0].address", sentinel: ErrInvalid, lenient: true,
	},
	{
		name: "multicast", config: staticJSON(`,"addresses":[{"address":"224.0.0.5/24"}]`, ""),
		field: "ipam.addresses[0].address", sentinel: ErrInvalid, lenient: true,
	},
	{
		name: "zone", config: staticJSON(`,"addresses":[{"address":"fe80::1%eth0/64"}]`, ""),
		field: "ipam.addresses[0].address", sentinel: ErrInvalid,
	},
	{
		name: "twice", config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24"},{"address":"10.0.0.2/16"}]`, ""),
		field: "ipam.addresses[1].address", sentinel: ErrDuplicate, lenient: true,
	},
	{
		name: "addresses is a map", config: staticJSON(`,"addresses":{"address":"10.0.0.2/24"}`, ""),
		field: "ipam.addresses", sentinel: ErrInvalid,
	},
	{
		name: "address is a number", config: staticJSON(`,"addresses":[{"address":10}]`, ""),
		field: "ipam.addresses.address", sentinel: ErrInvalid,
	},
	{
		name: "gateway is not an address", config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24","gateway":"10.0.0.1/24"}]`, ""),
		field: "ipam.addresses[0].gateway", sentinel: ErrInvalid,
	},
	{
		name: "IPv6 gateway of IPv4", config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24","gateway":"2001:db8::1"}]`, ""),
		field: "ipam.addresses[0].gateway", sentinel: ErrFamily, lenient: true,
	},
	{
		name: "IPv4 gateway of IPv6", config: staticJSON(`,"addresses":[{"address":"2001:db8::2/64","gateway":"10.0.0.1"}]`, ""),
		field: "ipam.addresses[0].gateway", sentinel: ErrFamily, lenient: true,
	},
	{
		name: "runtimeConfig without prefix", config: staticJSON("", `,"runtimeConfig":{"ips":["10.0.0.2/24","10.0.0.3"]}`),
		args: "IP=10.0.0.2/24,10.0.0.3", field: "runtimeConfig.ips[1]", sentinel: ErrNoPrefix,
	},
	{
		name: "twice in runtimeConfig", config: staticJSON("", `,"runtimeConfig":{"ips":["10.0.0.2/24","10.0.0.2/24"]}`),
		field: "runtimeConfig.ips[1]", sentinel: ErrDuplicate, lenient: true,
	},
	{
		name: "args.cni without prefix", config: staticJSON("", `,"args":{"cni":{"ips":["10.0.0.3"]}}`),
		field: "args.cni.ips[0]", sentinel: ErrNoPrefix,
	},
	{
		name: "CNI_ARGS without prefix", config: staticJSON("", ""), args: "IP=10.0.0.3",
		field: "CNI_ARGS.IP", sentinel: ErrNoPrefix,
	},
	{
		name: "CNI_ARGS with an empty address", config: staticJSON("", ""), args: "IP=10.0.0.3/24,",
		field: "CNI_ARGS.IP", sentinel: ErrMissing,
	},
	{
		name: "CNI_ARGS gateway", config: staticJSON("", ""), args: "IP=10.0.0.3/24;GATEWAY=gw",
		field: "CNI_ARGS.GATEWAY", sentinel: ErrInvalid,
	},
	{
		name: "CNI_ARGS pair", config: staticJSON("", ""), args: "IP",
		field: "CNI_ARGS", sentinel: ErrInvalid,
	},
	{
		name: "CNI_ARGS unknown key", config: staticJSON("", ""), args: "IP=10.0.0.3/24;K8S_POD_NAME=p",
		field: "CNI_ARGS", sentinel: ErrInvalid,
	},
	{
		name: "CNI_ARGS gives another prefix", config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24"}]`, ""),
		args: "IP=10.0.0.2/16", field: "CNI_ARGS.IP", sentinel: ErrDuplicate, lenient: true,
	},
	{
		name: "old version, two of a family",
		config: `{"cniVersion":"0.2.0","name":"n","ipam":{"type":"static",
			"addresses":[{"address":"10.0.0.2/24"},{"address":"10.0.1.2/24"}]}}`,
		field: "cniVersion", sentinel: ErrInvalid,
	},
	badRoute("without destination", `{"gw":"10.0.0.1"}`, "dst", ErrMissing, true),
	badRoute("without prefix", `{"dst":"10.1.0.0"}`, "dst", ErrNoPrefix, false),
	badRoute("with host bits", `{"dst":"10.1.0.1/16"}`, "dst", ErrInvalid, true),
	badRoute("null", `null`, "dst", ErrMissing, true),
	badRoute("with a bad gateway", `{"dst":"10.1.0.0/16","gw":"x"}`, "gw", ErrInvalid, false),
	badRoute("with a gateway of another family", `{"dst":"10.1.0.0/16","gw":"fe80::1"}`, "gw", ErrFamily, true),
	badRoute("with a negative MTU", `{"dst":"10.1.0.0/16","mtu":-1}`, "mtu", ErrInvalid, true),
	badRoute("with a negative advmss", `{"dst":"10.1.0.0/16","advmss":-1}`, "advmss", ErrInvalid, true),
	badRoute("with a large priority", `{"dst":"10.1.0.0/16","priority":4294967296}`, "priority", ErrInvalid, true),
	badRoute("with a negative table", `{"dst":"10.1.0.0/16","table":-1}`, "table", ErrInvalid, true),
	badRoute("with a large scope", `{"dst":"10.1.0.0/16","scope":256}`, "scope", ErrInvalid, true),
}

func badRoute(name, route, key string, sentinel error, lenient bool) staticCase {
	return staticCase{
		name: "route " + name, field: "ipam.routes[1]." + key, sentinel: sentinel, lenient: lenient,
		config: staticJSON(`,"addresses":[{"address":"10.0.0.2/24"}],"routes":[{"dst":"::/0"},`+route+`]`, ""),
	}
}

func TestStaticAdds(t *testing.T) {
	t.Parallel()
	for _, tc := range staticGood {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := mustParse(t, tc.config, tc.args)
			for range 2 {
				result := mustAdd(t, p, Request{ContainerID: "c", IfName: "net1"})
				if diff := cmp.Diff(tc.want, addresses(result)); diff != "" {
					t.Errorf("unexpected addresses (-want +got):\n%s", diff)
				}
				if len(result.Interfaces) > 0 {
					t.Errorf("got interfaces: %v", result.Interfaces)
				}
			}
		})
	}
}

func TestStaticRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range staticBad {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p, err := Parse([]byte(tc.config), nil, tc.args, &runner.Runner{})
			if p != nil {
				t.Errorf("got a plugin: %v", p)
			}
			wantField(t, err, tc.field, tc.sentinel)
		})
	}
}

func TestStaticPassesRoutesAndDNS(t *testing.T) {
	t.Parallel()
	p := mustParse(t, staticGood[3].config, "")
	result := mustAdd(t, p, Request{})
	table, scope, zero := 100, 253, 0
	want := []*types.Route{
		{Dst: mustNet(t, "0.0.0.0/0"), GW: mustIP(t, "192.168.122.1")},
		{
			Dst: mustNet(t, "192.168.122.0/24"), GW: mustIP(t, "192.168.122.1"),
			MTU: 1400, AdvMSS: 1360, Priority: 7, Table: &table, Scope: &scope,
		},
		{Dst: mustNet(t, "2001:db8:1::5/64")},
		{Dst: mustNet(t, "10.0.0.0/8"), Table: &zero, Scope: &zero},
	}
	if diff := cmp.Diff(want, result.Routes); diff != "" {
		t.Errorf("unexpected routes (-want +got):\n%s", diff)
	}
	dns := types.DNS{
		Nameservers: []string{"10.0.0.53"}, Domain: "a.example",
		Search: []string{"b.example"}, Options: []string{"ndots:1"},
	}
	if diff := cmp.Diff(dns, result.DNS); diff != "" {
		t.Errorf("unexpected DNS (-want +got):\n%s", diff)
	}
}

func TestStaticResultIsTheCallers(t *testing.T) {
	t.Parallel()
	p := mustParse(t, staticGood[3].config, "")
	first := mustAdd(t, p, Request{})
	first.IPs[0].Address.IP[0] = 1
	*first.Routes[1].Table = 1
	first.DNS.Search[0] = "changed"
	second := mustAdd(t, p, Request{})
	if second.IPs[0].Address.IP[0] == 1 || *second.Routes[1].Table == 1 || second.DNS.Search[0] == "changed" {
		t.Errorf("a change of one result shows in the next: %v", second)
	}
}

func TestStaticCheck(t *testing.T) {
	t.Parallel()
	const ipam = `,"addresses":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"address":"2001:db8::2/64"}]`
	for name, tc := range map[string]struct {
		prev     string
		field    string
		sentinel error
	}{
		"all there": {prev: `{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.2/24"},
			{"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"address":"2001:db8::2/64","gateway":"2001:db8::1"}]}`},
		"no result":         {"", "prevResult", ErrMissing},
		"null result":       {"null", "prevResult", ErrMissing},
		"unknown version":   {`{"cniVersion":"9.0.0"}`, "prevResult", ErrInvalid},
		"null address":      {`{"cniVersion":"1.1.0","ips":[null]}`, "prevResult.ips[0]", ErrMissing},
		"one missing":       {`{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"}]}`, "prevResult.ips", ErrMissing},
		"another gateway":   {`{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.9"}]}`, "prevResult.ips[0].gateway", ErrInvalid},
		"no gateway at all": {`{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}`, "prevResult.ips[0].gateway", ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := staticJSON(ipam, "")
			p := mustParse(t, config, "")
			if tc.prev != "" {
				config = staticJSON(ipam, `,"prevResult":`+tc.prev)
			}
			for range 2 {
				err := p.Check(t.Context(), Request{Config: []byte(config)})
				if tc.sentinel == nil && err != nil {
					t.Error(err)
				}
				if tc.sentinel != nil {
					wantField(t, err, tc.field, tc.sentinel)
				}
			}
		})
	}
}
