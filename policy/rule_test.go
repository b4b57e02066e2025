// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got, err := Parse([]byte(`[
		{"name": "web", "direction": "egress", "action": "allow", "cidrs": ["10.0.0.0/8", "2001:db8::/32"],
		 "protocol": "tcp", "ports": ["80", "8000-8100"]},
		{"action": "deny"}]`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Rule{
		{
			Name: "web", Direction: Egress, Action: Allow, Protocol: "tcp",
			CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
			Ports: []Ports{{80, 80}, {8000, 8100}},
		},
		{Action: Deny},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if a, b := Label(got, 0), Label(got, 1); a != "web" || b != "1" {
		t.Errorf("labels %q and %q", a, b)
	}
}

func TestParseRefuses(t *testing.T) {
	many := func(n int, text string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(text+",", n), ",") + "]"
	}
	tests := []struct{ rules, want string }{
		{`{}`, "rules: want a list of objects"},
		{`[1]`, "rules[0]: want an object"},
		{`[null]`, "rules[0]: want an object"},
		{`[{"action":"deny"},{"action":"drop"}]`, `rules[1].action: "drop" is neither "allow" nor "deny"`},
		{`[{}]`, `rules[0].action: "" is neither`},
		{`[{"action":"deny","port":"80"}]`, "rules[0].port: no such key"},
		{`[{"action":"deny","direction":"in"}]`, `rules[0].direction: "in" is neither`},
		{`[{"action":"deny","name":"7"}]`, `rules[0].name: "7"`},
		{`[{"action":"deny","name":"a"},{"action":"deny","name":"a"}]`, `rules[1].name: "a" is that of rules[0]`},
		{`[{"action":"deny","cidrs":["10.0.0.1/8"]}]`, "rules[0].cidrs: 10.0.0.1/8 has host bits: want 10.0.0.0/8"},
		{`[{"action":"deny","cidrs":["10.0.0.0/33"]}]`, "rules[0].cidrs: "},
		{`[{"action":"deny","cidrs":["10.0.0.1"]}]`, "rules[0].cidrs: "},
		{`[{"action":"deny","cidrs":["::ffff:10.0.0.0/104"]}]`, "rules[0].cidrs: "},
		{`[{"action":"deny","cidrs":[]}]`, "rules[0].cidrs: leave it out for all"},
		{`[{"action":"deny","cidrs":[""]}]`, "rules[0].cidrs: an empty one"},
		{`[{"action":"deny","cidrs":["::/0","::/0"]}]`, "rules[0].cidrs: ::/0 twice"},
		{`[{"action":"deny","cidrs":` + many(17, `"::/0"`) + `}]`, "rules[0].cidrs: 17 of them, want 16 at most"},
		{`[{"action":"deny","protocol":"http"}]`, `rules[0].protocol: "http" is none of`},
		{`[{"action":"deny","protocol":"256"}]`, `rules[0].protocol: "256" is none of`},
		{`[{"action":"deny","protocol":6}]`, "rules[0].protocol: "},
		{`[{"action":"deny","ports":["80"]}]`, `rules[0].ports: only with the protocol`},
		{`[{"action":"deny","protocol":"icmp","ports":["80"]}]`, `rules[0].ports: only with the protocol`},
		{`[{"action":"deny","protocol":"tcp","ports":["90-80"]}]`, `rules[0].ports: "90-80" ends before it begins`},
		{`[{"action":"deny","protocol":"tcp","ports":["65536"]}]`, `rules[0].ports: "65536" is neither`},
		{`[{"action":"deny","protocol":"tcp","ports":["http"]}]`, `rules[0].ports: "http" is neither`},
		{`[{"action":"deny","protocol":"tcp","ports":[80]}]`, `rules[0].ports: `},
		{`[{"action":"deny","protocol":"tcp","ports":` + many(17, `"1"`) + `}]`, "rules[0].ports: 17 of them, want 16 at most"},
		{many(65, `{"action":"deny"}`), "rules: 65 of ingress, want 64 at most"},
	}
	for i, test := range tests {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			_, err := Parse([]byte(test.rules))
			if !errors.Is(err, ErrRule) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: error %v, want %q", test.rules, err, test.want)
			}
		})
	}
}
