// SPDX-License-Identifier: Apache-2.0

package ipvlan_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/ipvlan"
	"github.com/weir-cni/weir/netif"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, config string
		want         *ipvlan.Config
	}{
		{"nothing given", `{}`, &ipvlan.Config{Mode: "l2"}},
		{
			"all keys", `{"type":"ipvlan","master":"eth1","mode":"l3","mtu":1400,"linkInContainer":true}`,
			&ipvlan.Config{Master: "eth1", Mode: "l3", MTU: 1400, LinkInContainer: true},
		},
		{"l3s", `{"mode":"l3s"}`, &ipvlan.Config{Mode: "l3s"}},
		{
			"chained", `{"cniVersion":"1.0.0","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}]}}`,
			&ipvlan.Config{Master: "eth0", Mode: "l2"},
		},
		{
			"chained in an old version", `{"cniVersion":"0.3.1","prevResult":{"interfaces":[{"name":"eth0","sandbox":"/x"}]}}`,
			&ipvlan.Config{Master: "eth0", Mode: "l2"},
		},
		{
			"a named master goes before the chain's", `{"master":"eth1","prevResult":{"interfaces":[{"name":"eth0"}]}}`,
			&ipvlan.Config{Master: "eth1", Mode: "l2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := ipvlan.Parse([]byte(c.config), "MAC=x;IgnoreUnknown=1")
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
	const noSingle = "master: is not given, and prevResult has no single named interface to take"
	for _, c := range []struct{ name, config, field, message string }{
		{"no JSON", `{`, "configuration", "configuration: unexpected end of JSON input"},
		{"no object", `7`, "configuration", "configuration: is a JSON number, want an object"},
		{"unknown mode", `{"mode":"bridge"}`, "mode", `mode "bridge": want l2, l3 or l3s`},
		{"mode of another case", `{"mode":"L2"}`, "mode", `mode "L2": want l2, l3 or l3s`},
		{"mtu as text", `{"mtu":"1400"}`, "mtu", "mtu: is a JSON string, want a whole number"},
		{"negative mtu", `{"mtu":-1}`, "mtu", "mtu -1: is negative"},
		{"master as a number", `{"master":1}`, "master", "master: is a JSON number, want a string"},
		{"chained without an interface", `{"cniVersion":"1.0.0","prevResult":{"cniVersion":"1.0.0"}}`, "master", noSingle},
		{"chained with two", `{"cniVersion":"1.0.0","prevResult":{"interfaces":[{"name":"a"},{"name":"b"}]}}`, "master", noSingle},
		{"chained with one unnamed", `{"cniVersion":"1.0.0","prevResult":{"interfaces":[{"name":""}]}}`, "master", noSingle},
		{"chained with null", `{"cniVersion":"1.0.0","prevResult":{"interfaces":[null]}}`, "master", noSingle},
		{"prevResult is text", `{"cniVersion":"1.0.0","prevResult":"x"}`, "prevResult", "prevResult: is a JSON string, want an object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := ipvlan.Parse([]byte(c.config), "")
			var field *netif.FieldError
			if !errors.As(err, &field) || field.Field != c.field || err.Error() != c.message {
				t.Errorf("Parse = %v, %v;\nwant an error of field %s: %s", got, err, c.field, c.message)
			}
		})
	}
}

func TestParseRefusesABadPrevResult(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]string{
		"unknown version":   `{"cniVersion":"9.9.9","prevResult":{"interfaces":[{"name":"a"}]}}`,
		"bad address":       `{"cniVersion":"1.0.0","prevResult":{"interfaces":[{"name":"a"}],"ips":[{"address":"x"}]}}`,
		"interfaces a text": `{"cniVersion":"1.0.0","prevResult":{"interfaces":"a"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ipvlan.Parse([]byte(config), "")
			var field *netif.FieldError
			if !errors.As(err, &field) || field.Field != "prevResult" {
				t.Errorf("Parse: %v; want an error of field prevResult", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, config := range []string{
		`{}`, `{"mode":"l3s","mtu":1400}`, `[`, `null`, `{"mtu":1e99}`, `{"prevResult":{}}`,
		`{"cniVersion":"1.0.0","prevResult":{"interfaces":[null]}}`,
		`{"cniVersion":"0.2.0","prevResult":{"ip4":{"ip":"192.0.2.1/24"}}}`,
		`{"cniVersion":"1.1.0","prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"192.0.2.1/24","interface":0}]}}`,
	} {
		f.Add([]byte(config))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		got, err := ipvlan.Parse(config, "")
		if err != nil {
			if !errors.As(err, new(*netif.FieldError)) {
				t.Errorf("error without a field: %v", err)
			}
			return
		}
		if got.MTU < 0 || got.Mode == "" {
			t.Errorf("accepted %+v", got)
		}
	})
}
