// SPDX-License-Identifier: Apache-2.0

package attachment

import (
	"errors"
	"strings"
	"testing"
)

func TestValidateContainerID(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, id string
		ok       bool
	}{
		{"a runtime's", strings.Repeat("0123456789abcdef", 4), true},
		{"every character allowed", "a_b.c-D9", true},
		{"none", "", false},
		{"begins with a dot", ".a", false},
		{"a path", "../../etc", false},
		{"a newline at the end", "a\n", false},
		{"endless", strings.Repeat("a", 201), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := ValidateContainerID(test.id)
			if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("error %v, want ok %v", err, test.ok)
			}
		})
	}
}

func TestPinNames(t *testing.T) {
	t.Parallel()
	tests := []struct{ id, ifname, short, long string }{
		{"0123456789abcdef", "net1", "0123456789ab-net1", "0123456789abcdef-net1"},
		{"abc", "net1", "abc-net1", "abc-net1"},
		{"a.b", "net1.5", "a%2Eb-net1%2E5", "a%2Eb-net1%2E5"},
	}
	for _, test := range tests {
		id := ID{test.id, test.ifname}
		if got := id.PinName(); got != test.short {
			t.Errorf("%s: short %s, want %s", id, got, test.short)
		}
		if got := id.LongPinName(); got != test.long {
			t.Errorf("%s: long %s, want %s", id, got, test.long)
		}
	}
}

func FuzzPinName(f *testing.F) {
	f.Add("0123456789abcdef", "net1")
	f.Add(strings.Repeat(".", 200), "a.b")
	f.Fuzz(func(t *testing.T, container, ifname string) {
		id := ID{container, ifname}
		if ValidateContainerID(container) != nil || len(ifname) > 15 || strings.Contains(ifname, "/") {
			return
		}
		for _, name := range []string{id.PinName(), id.LongPinName()} {
			if len(name) > pinNameMax || strings.ContainsAny(name, "./") {
				t.Errorf("%q is no name for a pin", name)
			}
		}
	})
}
