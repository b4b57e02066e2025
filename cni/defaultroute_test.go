// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/state"
)

func TestPlaceDefaultRoute(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, annotation, want string }{
		{"nobody asks", `[{"name":"a"},{"name":"b"}]`, "keeps keeps keeps"},
		{"null asks for nothing", `[{"name":"a"},{"name":"b","default-route":null}]`, "keeps keeps keeps"},
		{"one without gateways", `[{"name":"a"},{"name":"b","default-route":[]}]`, "yields yields keeps"},
		{"one with gateways", `[{"name":"a","default-route":["192.0.2.1","2001:db8::1"]},{"name":"b"}]`, "yields keeps[192.0.2.1,2001:db8::1] yields"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			selections, err := ParseSelections(test.annotation, "pods")
			if err != nil {
				t.Fatal(err)
			}
			delegates, of := make([]state.Delegate, 1+len(selections)), []*Selection{nil}
			for i := range selections {
				of = append(of, &selections[i])
			}
			if err := placeDefaultRoute(delegates, of); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range delegates {
				got = append(got, sayDefaultRoute(d))
			}
			if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func sayDefaultRoute(d state.Delegate) string {
	if d.NoDefaultRoute {
		return "yields"
	}
	var gateways []string
	for _, g := range d.Gateways {
		gateways = append(gateways, g.String())
	}
	if len(gateways) == 0 {
		return "keeps"
	}
	return "keeps[" + strings.Join(gateways, ",") + "]"
}

func TestReroute(t *testing.T) {
	t.Parallel()
	const given = `{"cniVersion":"1.1.0","routes":[
		{"dst":"0.0.0.0/0","gw":"192.0.2.254"},{"dst":"::/0"},{"dst":"198.51.100.0/24"},{"dst":"0.0.0.0/1"}]}`
	tests := []struct{ name, stored, want string }{
		{"as it is", `{}`, "0.0.0.0/0 via 192.0.2.254, ::/0, 198.51.100.0/24, 0.0.0.0/1"},
		{"another has it", `{"noDefaultRoute":true}`, "198.51.100.0/24, 0.0.0.0/1"},
		{"a gateway", `{"gateways":["192.0.2.1"]}`, "::/0, 198.51.100.0/24, 0.0.0.0/1, 0.0.0.0/0 via 192.0.2.1"},
		{"several", `{"gateways":["192.0.2.1","2001:db8::1","192.0.2.2","2001:db8::2"]}`,
			"198.51.100.0/24, 0.0.0.0/1, 0.0.0.0/0 via 192.0.2.1, ::/0 via 2001:db8::1 metric 1024, " +
				"0.0.0.0/0 via 192.0.2.2 metric 1, ::/0 via 2001:db8::2 metric 1025"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			j := &job{stored: &state.Delegate{}}
			if err := json.Unmarshal([]byte(test.stored), j.stored); err != nil {
				t.Fatal(err)
			}
			result := &current.Result{}
			if err := json.Unmarshal([]byte(given), result); err != nil {
				t.Fatal(err)
			}
			j.reroute(result)
			if diff := cmp.Diff(test.want, sayRoutes(result)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func sayRoutes(result *current.Result) string {
	var routes []string
	for _, r := range result.Routes {
		text := r.Dst.String()
		if r.GW != nil {
			text += " via " + r.GW.String()
		}
		if r.Priority != 0 {
			metric, _ := json.Marshal(r.Priority)
			text += " metric " + string(metric)
		}
		routes = append(routes, text)
	}
	return strings.Join(routes, ", ")
}
