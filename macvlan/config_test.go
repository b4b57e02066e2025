// SPDX-License-Identifier: Apache-2.0

package macvlan_test

import (
	"errors"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/macvlan"
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
	for _, c := range []struct {
		name, config, args string
		want               *macvlan.Config
	}{
		{"nothing given", `{}`, "", &macvlan.Config{Mode: "bridge"}},
		{
			"all keys",
			`{"type":"macvlan","master":"eth1","mode":"vepa","mtu":1400,"mac":"02:00:00:00:00:01","linkInContainer":true,"bcqueuelen":7}`, "",
			&macvlan.Config{Master: "eth1", Mode: "vepa", MTU: 1400, MAC: mac("02:00:00:00:00:01"), LinkInContainer: true, BCQueueLen: 7},
		},
		{"private", `{"mode":"private"}`, "", &macvlan.Config{Mode: "private"}},
		{"passthru", `{"mode":"passthru"}`, "", &macvlan.Config{Mode: "passthru"}},
		{"keys of others", `{"ipam":{"type":"static"},"dns":{},"x":[1]}`, "", &macvlan.Config{Mode: "bridge"}},
		{
			"MAC of the arguments goes before the key", `{"mac":"02:00:00:00:00:01"}`, "MAC=02:00:00:00:00:02",
			&macvlan.Config{Mode: "bridge", MAC: mac("02:00:00:00:00:02")},
		},
		{
			"MAC of the runtime goes before all", `{"mac":"02:00:00:00:00:01","runtimeConfig":{"mac":"02:00:00:00:00:03"}}`, "MAC=02:00:00:00:00:02",
			&macvlan.Config{Mode: "bridge", MAC: mac("02:00:00:00:00:03")},
		},
		{
			"arguments of others", `{}`, "K8S_POD_NAME=a;IP=192.0.2.1/24;MAC=02:00:00:00:00:02",
			&macvlan.Config{Mode: "bridge", MAC: mac("02:00:00:00:00:02")},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := macvlan.Parse([]byte(c.config), c.args)
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
	for _, c := range []struct{ name, config, args, field, message string }{
		{"no JSON", `{`, "", "configuration", "configuration: unexpected end of JSON input"},
		{"no object", `[]`, "", "configuration", "configuration: is a JSON array, want an object"},
		{"unknown mode", `{"mode":"l2"}`, "", "mode", `mode "l2": want bridge, private, vepa or passthru`},
		{"mode of another case", `{"mode":"Bridge"}`, "", "mode", `mode "Bridge": want bridge, private, vepa or passthru`},
		{"source mode", `{"mode":"source"}`, "", "mode", `mode "source": want bridge, private, vepa or passthru`},
		{"mtu as text", `{"mtu":"1400"}`, "", "mtu", "mtu: is a JSON string, want a whole number"},
		{"mtu with a fraction", `{"mtu":1400.5}`, "", "mtu", "mtu: is a JSON number 1400.5, want a whole number"},
		{"negative mtu", `{"mtu":-1}`, "", "mtu", "mtu -1: is negative"},
		{"master as a number", `{"master":1}`, "", "master", "master: is a JSON number, want a string"},
		{"negative queue", `{"bcqueuelen":-1}`, "", "bcqueuelen", "bcqueuelen: is a JSON number -1, want a whole number from 0 to 4294967295"},
		{"mac is none", `{"mac":"x"}`, "", "mac", `mac "x": address x: invalid MAC address`},
		{"mac of a group", `{"mac":"01:00:5e:00:00:01"}`, "", "mac", `mac "01:00:5e:00:00:01": is a group's, not one interface's`},
		{"mac for all", `{"mac":"ff:ff:ff:ff:ff:ff"}`, "", "mac", `mac "ff:ff:ff:ff:ff:ff": is a group's, not one interface's`},
		{"mac of zeros", `{"mac":"00:00:00:00:00:00"}`, "", "mac", `mac "00:00:00:00:00:00": is all zero`},
		{"mac of 8 bytes", `{"mac":"02:00:00:00:00:00:00:01"}`, "", "mac", `mac "02:00:00:00:00:00:00:01": is 8 bytes long, want 6`},
		{"bad mac that is overruled", `{"mac":"x"}`, "MAC=02:00:00:00:00:02", "mac", `mac "x": address x: invalid MAC address`},
		{"bad mac of the arguments", `{}`, "MAC=x", "CNI_ARGS MAC", `CNI_ARGS MAC "x": address x: invalid MAC address`},
		{"bad mac of the runtime", `{"runtimeConfig":{"mac":"x"}}`, "", "runtimeConfig.mac", `runtimeConfig.mac "x": address x: invalid MAC address`},
		{"arguments without a value", `{}`, "MAC", "CNI_ARGS", `CNI_ARGS "MAC": ARGS: invalid pair "MAC"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := macvlan.Parse([]byte(c.config), c.args)
			var field *netif.FieldError
			if !errors.As(err, &field) || field.Field != c.field || err.Error() != c.message {
				t.Errorf("Parse = %v, %v;\nwant an error of field %s: %s", got, err, c.field, c.message)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, config := range []string{
		`{}`, `{"mode":"vepa","mtu":1400,"mac":"02:00:00:00:00:01"}`, `{"runtimeConfig":{"mac":"x"}}`, `[`, `null`, `{"mtu":1e99}`,
	} {
		f.Add([]byte(config), "IgnoreUnknown=1;MAC=02:00:00:00:00:02")
		f.Add([]byte(config), "CommonArgs=1;=;IgnoreUnknown=x")
	}
	f.Fuzz(func(t *testing.T, config []byte, args string) {
		got, err := macvlan.Parse(config, args)
		if err != nil {
			if !errors.As(err, new(*netif.FieldError)) {
				t.Errorf("error without a field: %v", err)
			}
			return
		}
		if got.MTU < 0 || got.Mode == "" || got.MAC != nil && (len(got.MAC) != 6 || got.MAC[0]&1 != 0) {
			t.Errorf("accepted %+v", got)
		}
	})
}
