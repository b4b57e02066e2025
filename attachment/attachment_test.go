// SPDX-License-Identifier: Apache-2.0

package attachment

import (
	"errors"
	"strings"
	"testing"
)

func TestIDValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		id   ID
		ok   bool
	}{
		{"a runtime's", ID{strings.Repeat("0123456789abcdef", 4), "eth0"}, true},
		{"every character allowed", ID{"a_b.c-D9", "net1.100"}, true},
		{"longest interface", ID{"a", "123456789012345"}, true},
		{"no container", ID{"", "eth0"}, false},
		{"begins with a dot", ID{".a", "eth0"}, false},
		{"a path", ID{"../../etc", "eth0"}, false},
		{"a newline at the end", ID{"a\n", "eth0"}, false},
		{"endless", ID{strings.Repeat("a", 201), "eth0"}, false},
		{"no interface", ID{"a", ""}, false},
		{"interface too long", ID{"a", "1234567890123456"}, false},
		{"a slash", ID{"a", "net/1"}, false},
		{"a dot", ID{"a", "."}, false},
		{"two dots", ID{"a", ".."}, false},
		{"a blank", ID{"a", "net 1"}, false},
		{"a colon", ID{"a", "net1:0"}, false},
		{"a pattern", ID{"a", "net%d"}, false},
		{"a control character", ID{"a", "net\x01"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := test.id.Validate()
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
		if id.Validate() != nil {
			return
		}
		for _, name := range []string{id.PinName(), id.LongPinName()} {
			if len(name) > pinNameMax || strings.ContainsAny(name, "./") {
				t.Errorf("%q is no name for a pin", name)
			}
		}
	})
}
