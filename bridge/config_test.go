// SPDX-License-Identifier: Apache-2.0

package bridge_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/bridge"
	"github.com/weir-cni/weir/netif"
)

func mac(s string) net.HardwareAddr {
	parsed, err := net.ParseMAC(s)
	if err != nil {
		return nil
	}
	return parsed
}

func TestParse(t *testing.T) {
	t.Parallel()
	plain := func(change func(*bridge.Config)) *bridge.Config {
		c := &bridge.Config{Bridge: "cni0", IPMasqBackend: "nftables"}
		change(c)
		return c
	}
	for _, c := range []struct {
		name, config, args string
		want               *bridge.Config
	}{
		{"nothing given", `{}`, "", plain(func(*bridge.Config) {})},
		{"an empty name", `{"bridge":""}`, "", plain(func(*bridge.Config) {})},
		{
			"all keys",
			`{"type":"bridge","bridge":"br1","isGateway":true,"isDefaultGateway":true,"forceAddress":true,"ipMasq":true,
			  "ipMasqBackend":"iptables","mtu":9000,"hairpinMode":true,"vlan":7,"vlanTrunk":[{"id":9}],"preserveDefaultVlan":true,
			  "macspoofchk":true,"enabledad":true,"portIsolation":true,"mac":"02:00:00:00:00:01","ipam":{"type":"static"}}`, "",
			&bridge.Config{
				Bridge: "br1", Layer3: true, IsGateway: true, IsDefaultGateway: true, ForceAddress: true, IPMasq: true,
				IPMasqBackend: "iptables", MTU: 9000, MAC: mac("02:00:00:00:00:01"), HairpinMode: true, VLAN: 7,
				Trunk: []bridge.VLANRange{{First: 9, Last: 9}}, VLANFiltering: true, PreserveDefaultVLAN: true,
				MACSpoofCheck: true, EnableDAD: true, PortIsolation: true,
			},
		},
		{"promiscuous", `{"promiscMode":true}`, "", plain(func(c *bridge.Config) { c.PromiscMode = true })},
		{"a default gateway is a gateway", `{"isDefaultGateway":true}`, "", plain(func(c *bridge.Config) { c.IsGateway, c.IsDefaultGateway = true, true })},
		{"stays down", `{"disableContainerInterface":true}`, "", plain(func(c *bridge.Config) { c.DisableContainerInterface = true })},
		{"an ipam without a type is none", `{"ipam":{},"disableContainerInterface":true}`, "", plain(func(c *bridge.Config) { c.DisableContainerInterface = true })},
		{"a backend that is not asked for", `{"ipMasqBackend":"pf"}`, "", plain(func(c *bridge.Config) { c.IPMasqBackend = "pf" })},
		{"keys of others", `{"dns":{},"x":[1]}`, "", plain(func(*bridge.Config) {})},
		{"the last VLAN", `{"vlan":4094}`, "", plain(func(c *bridge.Config) { c.VLAN, c.VLANFiltering = 4094, true })},
		{"an empty trunk", `{"vlanTrunk":[]}`, "", plain(func(c *bridge.Config) { c.VLANFiltering = true })},
		{"no trunk", `{"vlanTrunk":null}`, "", plain(func(*bridge.Config) {})},
		{"an empty entry", `{"vlanTrunk":[{}]}`, "", plain(func(c *bridge.Config) { c.VLANFiltering = true })},
		{
			"a trunk of all kinds",
			`{"vlanTrunk":[{"minID":100,"maxID":105},{"id":4094},{"id":1,"minID":104,"maxID":110},{"id":2},{"id":111}]}`, "",
			plain(func(c *bridge.Config) {
				c.VLANFiltering = true
				c.Trunk = []bridge.VLANRange{{First: 1, Last: 2}, {First: 100, Last: 111}, {First: 4094, Last: 4094}}
			}),
		},
		{
			"MAC of the arguments goes before the key", `{"mac":"02:00:00:00:00:01"}`, "MAC=02:00:00:00:00:02",
			plain(func(c *bridge.Config) { c.MAC = mac("02:00:00:00:00:02") }),
		},
		{
			"MAC of args goes before that of the arguments", `{"args":{"cni":{"mac":"02:00:00:00:00:03"}}}`, "K8S_POD_NAME=a;MAC=02:00:00:00:00:02",
			plain(func(c *bridge.Config) { c.MAC = mac("02:00:00:00:00:03") }),
		},
		{
			"MAC of the runtime goes before all", `{"args":{"cni":{"mac":"02:00:00:00:00:03"}},"runtimeConfig":{"mac":"02:00:00:00:00:04"}}`, "",
			plain(func(c *bridge.Config) { c.MAC = mac("02:00:00:00:00:04") }),
		},
		{
			"a long name without a gateway in the VLAN", `{"bridge":"br-0123456789ab","vlan":100,"isGateway":true}`, "",
			plain(func(c *bridge.Config) {
				c.Bridge, c.VLAN, c.VLANFiltering, c.IsGateway = "br-0123456789ab", 100, true, true
			}),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := bridge.Parse([]byte(c.config), c.args)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("unexpected configuration (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const notATrunk = "vlanTrunk: want a list of objects, each with id, or with minID and maxID, whole numbers all"
	for _, c := range []struct{ name, config, args, field, message string }{
		{"no JSON", `{`, "", "configuration", "configuration: unexpected end of JSON input"},
		{"no object", `[]`, "", "configuration", "configuration: is a JSON array, want an object"},
		{"bridge as a number", `{"bridge":1}`, "", "bridge", "bridge: is a JSON number, want a string"},
		{"a name with a slash", `{"bridge":"br/0"}`, "", "bridge", `bridge: interface name "br/0": the kernel does not allow "/" in it`},
		{"a name too long", `{"bridge":"br-0123456789abc"}`, "", "bridge", `bridge: interface name "br-0123456789abc": 16 bytes, at most 15 fit`},
		{"gateway as text", `{"isGateway":"yes"}`, "", "isGateway", "isGateway: is a JSON string, want true or false"},
		{"mtu as text", `{"mtu":"1400"}`, "", "mtu", "mtu: is a JSON string, want a whole number"},
		{"negative mtu", `{"mtu":-1}`, "", "mtu", "mtu -1: want 0 or 68 to 65535"},
		{"small mtu", `{"mtu":67}`, "", "mtu", "mtu 67: want 0 or 68 to 65535"},
		{"large mtu", `{"mtu":65536}`, "", "mtu", "mtu 65536: want 0 or 68 to 65535"},
		{"negative vlan", `{"vlan":-1}`, "", "vlan", "vlan -1: want 0 to 4094"},
		{"reserved vlan", `{"vlan":4095}`, "", "vlan", "vlan 4095: want 0 to 4094"},
		{"hairpin and promiscuous", `{"hairpinMode":true,"promiscMode":true}`, "", "promiscMode", "promiscMode true: excludes hairpinMode"},
		{
			"down with addresses", `{"disableContainerInterface":true,"ipam":{"type":"static"}}`, "", "disableContainerInterface",
			"disableContainerInterface true: excludes ipam: an interface that stays down has no use for addresses",
		},
		{"unknown backend", `{"ipMasq":true,"ipMasqBackend":"pf"}`, "", "ipMasqBackend", `ipMasqBackend "pf": want nftables or iptables`},
		{"trunk as a number", `{"vlanTrunk":7}`, "", "vlanTrunk", notATrunk},
		{"trunk of numbers", `{"vlanTrunk":[7]}`, "", "vlanTrunk", notATrunk},
		{"trunk of text", `{"vlanTrunk":[{"id":"7"}]}`, "", "vlanTrunk", notATrunk},
		{"null in a trunk", `{"vlanTrunk":[{"id":7},null]}`, "", "vlanTrunk", "vlanTrunk: entry 1: is null, want an object"},
		{"trunk of VLAN 0", `{"vlanTrunk":[{"id":0}]}`, "", "vlanTrunk", "vlanTrunk: entry 0: id 0: want 1 to 4094"},
		{"trunk from VLAN 0", `{"vlanTrunk":[{"minID":0,"maxID":2}]}`, "", "vlanTrunk", "vlanTrunk: entry 0: minID 0: want 1 to 4094"},
		{"trunk to VLAN 4095", `{"vlanTrunk":[{"minID":1,"maxID":4095}]}`, "", "vlanTrunk", "vlanTrunk: entry 0: maxID 4095: want 1 to 4094"},
		{"trunk without an end", `{"vlanTrunk":[{"minID":1}]}`, "", "vlanTrunk", "vlanTrunk: entry 0: minID needs maxID"},
		{"trunk without a beginning", `{"vlanTrunk":[{"id":4,"maxID":1}]}`, "", "vlanTrunk", "vlanTrunk: entry 0: maxID needs minID"},
		{"trunk backwards", `{"vlanTrunk":[{"minID":2,"maxID":1}]}`, "", "vlanTrunk", "vlanTrunk: entry 0: minID 2: is above maxID 1"},
		{
			"a name too long for a gateway in a VLAN", `{"bridge":"br-0123456789","vlan":100,"isDefaultGateway":true,"ipam":{"type":"static"}}`, "", "bridge",
			`bridge "br-0123456789": a gateway in a VLAN has its name and number: interface name "br-0123456789.100": 17 bytes, at most 15 fit`,
		},
		{"mac is none", `{"mac":"x"}`, "", "mac", `mac "x": address x: invalid MAC address`},
		{"mac of a group", `{"mac":"01:00:5e:00:00:01"}`, "", "mac", `mac "01:00:5e:00:00:01": is a group's, not one interface's`},
		{"mac of zeros", `{"mac":"00:00:00:00:00:00"}`, "", "mac", `mac "00:00:00:00:00:00": is all zero`},
		{"mac of 8 bytes", `{"mac":"02:00:00:00:00:00:00:01"}`, "", "mac", `mac "02:00:00:00:00:00:00:01": is 8 bytes long, want 6`},
		{"bad mac that is overruled", `{"mac":"x"}`, "MAC=02:00:00:00:00:02", "mac", `mac "x": address x: invalid MAC address`},
		{"bad mac of the arguments", `{}`, "MAC=x", "CNI_ARGS MAC", `CNI_ARGS MAC "x": address x: invalid MAC address`},
		{"bad mac of args", `{"args":{"cni":{"mac":"x"}}}`, "", "args.cni.mac", `args.cni.mac "x": address x: invalid MAC address`},
		{"bad mac of the runtime", `{"runtimeConfig":{"mac":"x"}}`, "", "runtimeConfig.mac", `runtimeConfig.mac "x": address x: invalid MAC address`},
		{"arguments without a value", `{}`, "MAC", "CNI_ARGS", `CNI_ARGS "MAC": ARGS: invalid pair "MAC"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := bridge.Parse([]byte(c.config), c.args)
			var field *netif.FieldError
			if !errors.As(err, &field) || field.Field != c.field || err.Error() != c.message {
				t.Errorf("Parse = %v, %v;\nwant an error of field %s: %s", got, err, c.field, c.message)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, config := range []string{
		`{}`, `{"bridge":"br1","vlan":7,"mtu":1400,"mac":"02:00:00:00:00:01"}`, `{"runtimeConfig":{"mac":"x"}}`, `[`, `null`, `{"mtu":1e99}`,
		`{"vlanTrunk":[{"id":9},{"minID":100,"maxID":105},null]}`, `{"vlanTrunk":[{"id":-1}]}`, `{"ipMasq":true,"ipMasqBackend":"iptables","ipam":{"type":"x"}}`,
	} {
		f.Add([]byte(config), "IgnoreUnknown=1;MAC=02:00:00:00:00:02")
		f.Add([]byte(config), "CommonArgs=1;=;IgnoreUnknown=x")
	}
	f.Fuzz(func(t *testing.T, config []byte, args string) {
		got, err := bridge.Parse(config, args)
		if err != nil {
			if !errors.As(err, new(*netif.FieldError)) {
				t.Errorf("error without a field: %v", err)
			}
			return
		}
		if got.Bridge == "" || strings.ContainsAny(got.Bridge, "/ ") || got.VLAN > 4094 || got.MAC != nil && (len(got.MAC) != 6 || got.MAC[0]&1 != 0) {
			t.Errorf("accepted %+v", got)
		}
		last := 0
		for _, r := range got.Trunk {
			if int(r.First) <= last || r.Last < r.First || r.Last > 4094 {
				t.Errorf("accepted the trunk %v", got.Trunk)
			}
			// Ranges that touch are one.
			last = int(r.Last) + 1
		}
	})
}
